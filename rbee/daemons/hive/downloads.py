"""The transfers of one hive: each model on its way once, however many ask for it.

Owns which orders run, wait and have ended, and the way of one from its first byte to the catalogue.
How bytes are fetched is `rbee.models.download`'s business, what is kept here the `Shelf`'s.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Protocol

import anyio
import anyio.abc
import anyio.to_thread

from rbee.clock import Clock, SystemClock
from rbee.daemons.hive.transfers import ENDED, Record
from rbee.errors import (
    InternalError,
    ModelCorrupted,
    ModelIncompatible,
    NotFound,
    RbeeError,
    ShuttingDown,
)
from rbee.models.download import fetch, missing_bytes
from rbee.models.reading import look
from rbee.models.transfer_names import check_order, download_id, folder_of, place_of
from rbee.models.transfer_pace import Bandwidth, Limits
from rbee.models.transfer_partial import Folder
from rbee.protocol.hives import ModelInfo
from rbee.protocol.models import (
    CatalogueEntry,
    CatalogueFile,
    DownloadInfo,
    DownloadOrder,
    TransferState,
)
from rbee.settings import ModelSettings

log = logging.getLogger("rbee.hive")
AT_A_TIME = 2
"""Orders; the others wait."""
REMEMBERED = 64
"""Transfers that have ended and can still be asked about."""
HERE = "it was here already"
_BEGIN_LIMIT = 10.0
_LOOK_AGAIN = 1.0
_CANCEL_LIMIT = 30.0
_MB = 1_000_000


class Shelf(Protocol):
    """Where models are kept: `rbee.daemons.hive.models.Models`."""

    async def entry(self, model: str) -> CatalogueEntry:
        """What is kept under a reference. Raises ModelNotFound."""
        ...

    async def find_cached(self, order: DownloadOrder) -> dict[str, Path] | None:
        """Files of this machine that may be what the order wants, by their name in it."""
        ...

    async def refer(self, order: DownloadOrder) -> ModelInfo | None:
        """Use the model where it is, when all of it lies right on another disk of this machine."""
        ...

    async def make_room(self, need: int) -> object:
        """Remove what the quota says must go before `need` more bytes come."""
        ...

    async def publish(
        self, order: DownloadOrder, path: Path, files: list[CatalogueFile], *, provider: str = ...
    ) -> ModelInfo:
        """Put it into the catalogue. Raises ModelCorrupted."""
        ...


class Downloads:
    """Of the hive called `hive`; `folder` is the one for models."""

    def __init__(
        self, *, settings: ModelSettings, folder: Path, shelf: Shelf, hive: str,
        clock: Clock | None = None,
    ) -> None:  # fmt: skip
        self.folder = folder
        self._shelf = shelf
        self._hive = hive
        self._clock = clock or SystemClock()
        self._limits = Limits(transfers=settings.transfers, stall=settings.stall_timeout)
        self._bandwidth = Bandwidth(settings.bandwidth_mb * _MB, clock=self._clock)
        self._records: dict[str, Record] = {}
        self._at_a_time = anyio.Semaphore(AT_A_TIME)
        self._tasks: anyio.abc.TaskGroup | None = None
        self._begun = anyio.Event()

    async def run(
        self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Carry the transfers until cancelled; what has come by then is kept."""
        async with anyio.create_task_group() as self._tasks:
            task_status.started()
            self._begun.set()
            try:
                await anyio.sleep_forever()
            finally:
                self._tasks = None

    async def start(self, order: DownloadOrder) -> DownloadInfo:
        """Fetch it unless it is here or on its way. A transfer that has failed is taken up again.

        Raises ValidationFailed, ShuttingDown.
        """
        check_order(order)
        with anyio.move_on_after(_BEGIN_LIMIT):
            await self._begun.wait()
        record = self._records.get(download_id(order.ref))
        if record is not None and record.state not in ENDED:
            return record.info()
        if self._tasks is None:
            raise ShuttingDown("this hive is on its way out", action="Ask for it again later.")
        fresh = self.record(order)
        with anyio.CancelScope(shield=True):  # others may have joined it meanwhile
            await self._set_off(fresh)
        return fresh.info()

    async def _set_off(self, record: Record) -> None:
        if await self.is_here(record.order):
            record.become(TransferState.DONE, HERE)
        elif self._tasks is None:
            record.become(TransferState.CANCELLED, "the hive stops")
        else:
            self._tasks.start_soon(self._carry, record)

    def record(self, order: DownloadOrder) -> Record:
        """A new one in the list, in place of an older one of that order."""
        record = Record(order, hive=self._hive, clock=self._clock)
        self._records.pop(record.id, None)
        self._records[record.id] = record
        ended = [key for key, known in self._records.items() if known.state in ENDED]
        for key in ended[: max(0, len(ended) - REMEMBERED)]:
            del self._records[key]
        return record

    def infos(self) -> list[DownloadInfo]:
        """All that run or wait, and the last that have ended, in the order they were begun."""
        return [record.info() for record in self._records.values()]

    @property
    def active(self) -> frozenset[str]:
        """Ids of those that run or wait: their partial files are in use."""
        return frozenset(key for key, r in self._records.items() if r.state not in ENDED)

    def watch(self, transfer_id: str) -> AsyncGenerator[DownloadInfo]:
        """See Record.follow. Raises NotFound."""
        return self._known(transfer_id).follow()

    async def wait(self, transfer_id: str) -> DownloadInfo:
        """Return when it has ended. Raises NotFound."""
        record = self._known(transfer_id)
        await record.ended.wait()
        return record.info()

    async def cancel(self, transfer_id: str) -> DownloadInfo:
        """End it, keeping what has come; nothing where it has ended. Raises NotFound."""
        record = self._known(transfer_id)
        if record.state not in ENDED and record.cancel is not None:
            await record.cancel()
            return record.info()
        record.scope.cancel()
        with anyio.move_on_after(_CANCEL_LIMIT):
            await record.ended.wait()
        return record.info()

    def find(self, transfer_id: str) -> Record | None:
        """The record of that id."""
        return self._records.get(transfer_id)

    def _known(self, transfer_id: str) -> Record:
        record = self._records.get(transfer_id)
        if record is None:
            raise NotFound(
                f"no transfer {transfer_id[:64]!r} here",
                action="GET /v1/models/download lists those of this hive.",
            )
        return record

    async def make_room(self, need: int) -> None:
        """See Shelf."""
        await self._shelf.make_room(need)

    async def is_here(self, order: DownloadOrder) -> bool:
        """Whether the catalogue has it, of that very content, and the disk too."""
        try:
            entry = await self._shelf.entry(order.ref)
        except RbeeError:
            return False
        known = {file.name: file for file in entry.files}
        same = all(
            (kept := known.get(file.name)) is not None
            and kept.size == file.size
            and file.sha256 in (None, kept.sha256)
            for file in order.files
        )
        return same and await anyio.to_thread.run_sync(Path(entry.path).exists)

    # ---- one transfer --------------------------------------------------------------------------

    async def _carry(self, record: Record) -> None:
        with record.scope:
            try:
                if self._at_a_time.value == 0:
                    record.message = f"waits until one of {AT_A_TIME} others has ended"
                async with self._at_a_time:
                    await self._fetch(record)
            except RbeeError as exc:
                record.fail(exc)
                log.warning("download failed: %s", exc.message, extra={"model": record.order.ref})
            except Exception:
                log.exception("download failed", extra={"model": record.order.ref})
                record.fail(InternalError("a defect; the log of the hive tells more"))
        if record.scope.cancelled_caught:
            record.become(TransferState.CANCELLED, "cancelled; what has come is kept")

    async def _fetch(self, record: Record) -> None:
        order = record.order
        kept = Folder(folder_of(self.folder, order))
        await self._hold(kept, record)
        try:
            if await self.is_here(order) or await self._shelf.refer(order) is not None:
                await anyio.to_thread.run_sync(kept.remove)
                record.become(TransferState.DONE, HERE)
                return
            missing = await anyio.to_thread.run_sync(missing_bytes, order, kept.path)
            await self._shelf.make_room(missing)
            found = await self._found(order)
            record.become(TransferState.RUNNING)
            log.info("download begins", extra={"model": order.ref, "bytes": missing})
            files = await fetch(
                order, kept.path, report=record.report, limits=self._limits, found=found,
                bandwidth=self._bandwidth, reserved=self._reserved(record), clock=self._clock,
            )  # fmt: skip
            record.become(TransferState.VERIFYING)
            await self.keep(record, kept, files)
        finally:
            kept.release()

    async def _hold(self, kept: Folder, record: Record) -> None:
        while not await anyio.to_thread.run_sync(kept.hold, record.order):
            record.message = "waits for another process of this machine that fetches it"
            await anyio.sleep(_LOOK_AGAIN)

    async def _found(self, order: DownloadOrder) -> dict[str, Path]:
        found = await self._shelf.find_cached(order) or {}
        place = place_of(self.folder, order)
        if len(order.files) == 1:
            kept = {order.files[0].name: place}
        else:
            kept = {file.name: place / file.name for file in order.files}
        lying = await anyio.to_thread.run_sync(
            lambda: {name: path for name, path in kept.items() if path.is_file()}
        )
        return {**found, **lying}

    def _reserved(self, mine: Record) -> int:
        running = (r for r in self._records.values() if r.state == TransferState.RUNNING)
        return sum(record.left for record in running if record is not mine)

    async def keep(
        self, record: Record, kept: Folder, files: list[CatalogueFile], *, provider: str = "hf"
    ) -> None:
        """Whole and right: look at its header, put it in its place and into the catalogue.

        Raises ModelCorrupted and ModelIncompatible; it is removed then.
        """
        order = record.order
        place = place_of(self.folder, order)
        names = kept.path / "files"
        whole = names / order.files[0].name if len(order.files) == 1 else names
        with anyio.CancelScope(shield=True):
            try:
                await anyio.to_thread.run_sync(look, whole)
                await anyio.to_thread.run_sync(kept.publish, place)
                await self._shelf.publish(order, place, files, provider=provider)
            except (ModelCorrupted, ModelIncompatible):
                await anyio.to_thread.run_sync(kept.remove)
                raise
        record.become(TransferState.DONE)
        log.info("download done", extra={"model": order.ref, "bytes": order.size})
