"""Models that come from another machine, piece by piece: what is sent, and what is taken in.

Owns the pieces: their hashes, their order, and where the next begins. The same partial files,
checks and places as a download's; the queen carries the pieces from hive to hive.
"""

from __future__ import annotations

import hashlib
import logging
import re
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

import anyio
import anyio.to_thread

from rbee.clock import Clock, SystemClock
from rbee.daemons.hive.downloads import HERE, Downloads
from rbee.daemons.hive.transfers import ENDED, Record
from rbee.errors import (
    Conflict,
    DownloadFailed,
    InsufficientDisk,
    ModelNotFound,
    NotFound,
    RbeeError,
    ValidationFailed,
)
from rbee.models.download import Progress, check_room, missing_bytes
from rbee.models.transfer_names import check_order, download_id, folder_of
from rbee.models.transfer_partial import Folder, Partial
from rbee.protocol.models import (
    CatalogueEntry,
    CatalogueFile,
    DownloadInfo,
    DownloadOrder,
    TransferState,
)

log = logging.getLogger("rbee.hive")
MAX_PIECE = 8 << 20
IDLE = 120.0
"""Seconds without a piece after which a copy is given up; what has come is kept."""
ORDER_LIMIT = 30.0
"""Seconds that a piece may be ahead of the one before it."""
_HASH = re.compile(r"[0-9a-f]{64}")


class Entries(Protocol):
    """Whose files may be read: `rbee.daemons.hive.models.Models`."""

    async def entry(self, model: str) -> CatalogueEntry:
        """Raises ModelNotFound."""
        ...


async def read_piece(
    entries: Entries, model: str, *, file: str, offset: int, length: int
) -> tuple[bytes, str]:
    """Up to `length` bytes of a model's file from `offset` on, and their SHA-256.

    Only files that the catalogue names for this model. Raises ModelNotFound, ValidationFailed.
    """
    if not 1 <= length <= MAX_PIECE:
        raise ValidationFailed(
            f"length: 1 to {MAX_PIECE}", field="length", constraint=f"1..{MAX_PIECE}"
        )
    entry = await entries.entry(model)
    known = {kept.name: kept.size for kept in entry.files}
    if file not in known:
        raise ModelNotFound(f"{entry.id} has no file {file[:80]!r}", model=entry.id)
    if not 0 <= offset < max(1, known[file]):
        raise ValidationFailed(
            f"offset: {file} has {known[file]} bytes", field="offset", constraint="within the file"
        )
    path = Path(entry.path)
    return await anyio.to_thread.run_sync(_read, path, file, offset, length, entry.id)


def _read(path: Path, file: str, offset: int, length: int, model: str) -> tuple[bytes, str]:
    try:
        if path.is_dir():
            path /= file
        with path.open("rb") as source:
            source.seek(offset)
            data = source.read(length)
    except OSError as exc:
        raise ModelNotFound(
            f"{file} of {model} cannot be read any more: {exc.strerror}", model=model
        ) from exc
    return data, hashlib.sha256(data).hexdigest()


@dataclass
class _Copy:
    """One that is coming in. `turn`: one piece at a time."""

    record: Record
    folder: Folder
    kept: dict[str, Partial]
    touched: float
    turn: anyio.Lock = field(default_factory=anyio.Lock)
    more: anyio.Event = field(default_factory=anyio.Event)


class Receiving:
    """Copies that come to this hive; `downloads` publishes them and lists them with its own."""

    def __init__(self, downloads: Downloads, *, clock: Clock | None = None) -> None:
        self._downloads = downloads
        self._clock = clock or SystemClock()
        self._copies: dict[str, _Copy] = {}
        self._opening = anyio.Lock()

    async def run(self) -> None:
        """Give up the copies that nobody goes on with, until cancelled."""
        try:
            while True:
                await anyio.sleep(IDLE / 4)
                for copy in list(self._copies.values()):
                    if self._clock.monotonic() - copy.touched > IDLE and not copy.turn.locked():
                        self._end(copy, TransferState.CANCELLED, "nothing came any more")
        finally:
            with anyio.CancelScope(shield=True):
                for copy in list(self._copies.values()):
                    async with copy.turn:
                        self._end(copy, TransferState.CANCELLED, "the hive stops")

    async def begin(self, order: DownloadOrder) -> tuple[str, dict[str, int]]:
        """Its id, and how many bytes of each file are here already; a begun one is taken up.

        Raises ValidationFailed, Conflict (it is being downloaded), InsufficientDisk.
        """
        check_order(order, urls=False)
        async with self._opening:
            record = self._downloads.find(download_id(order.ref))
            if record is not None and record.id in self._copies:
                copy = self._copies[record.id]
                copy.touched = self._clock.monotonic()
                return record.id, _offsets(copy)
            if record is not None and record.state not in ENDED:
                raise Conflict(f"{order.model_id} is on its way to this hive from the hub")
            if await self._downloads.is_here(order):
                record = self._downloads.record(order)
                record.become(TransferState.DONE, HERE)
                return record.id, {file.name: file.size for file in order.files}
            return await self._open(order)

    async def _open(self, order: DownloadOrder) -> tuple[str, dict[str, int]]:
        folder = Folder(folder_of(self._downloads.folder, order))
        if not await anyio.to_thread.run_sync(folder.hold, order):
            raise Conflict(f"another process of this machine fetches {order.model_id}")
        try:
            missing = await anyio.to_thread.run_sync(missing_bytes, order, folder.path)
            await self._downloads.make_room(missing)
            await anyio.to_thread.run_sync(check_room, order, folder.path)
            kept = await anyio.to_thread.run_sync(_open_all, order, folder.path)
        except BaseException:
            folder.release()
            raise
        record = self._downloads.record(order)
        record.become(TransferState.RUNNING)
        copy = _Copy(record, folder, kept, self._clock.monotonic())
        self._copies[record.id] = copy
        record.cancel = partial(self._cancel, copy)
        self._report(copy, "")
        log.info("copy begins", extra={"model": order.ref, "bytes": missing})
        return record.id, _offsets(copy)

    async def take(
        self, copy_id: str, *, file: str, offset: int, data: bytes, sha256: str
    ) -> dict[str, int]:
        """Append one piece; how many bytes of each file are here then.

        A piece that is here already changes nothing; one ahead of its turn waits for it. Raises
        NotFound, ValidationFailed (the hash), Conflict (`offsets`: go on there), InsufficientDisk.
        """
        copy = self._known(copy_id)
        kept = copy.kept.get(file)
        if kept is None:
            raise NotFound(f"{copy.record.order.model_id} has no file {file[:80]!r}")
        if len(data) > MAX_PIECE or offset + len(data) > kept.planned.size:
            raise ValidationFailed(
                f"{file} has {kept.planned.size} bytes; a piece at {offset} of {len(data)} is too"
                " long",
                field="offset",
                constraint="within the file",
            )
        await _check(data, sha256, file)
        copy.touched = self._clock.monotonic()
        with anyio.move_on_after(ORDER_LIMIT):
            while kept.have < offset and copy.record.state not in ENDED:
                await copy.more.wait()
        async with copy.turn:
            if kept.have < offset or copy.record.state in ENDED:
                raise Conflict(
                    f"{file} has {kept.have} bytes here; a piece at {offset} leaves a hole",
                    action="Go on where it ends.",
                    offsets=_offsets(copy),
                )
            if kept.have < offset + len(data):
                await self._write(copy, kept, data[kept.have - offset :])
        return _offsets(copy)

    async def _write(self, copy: _Copy, kept: Partial, data: bytes) -> None:
        try:
            await anyio.to_thread.run_sync(kept.write, [data])
        except (InsufficientDisk, DownloadFailed) as exc:
            copy.record.fail(exc)
            self._end(copy, TransferState.FAILED)
            raise
        if kept.complete:
            kept.close()  # a model may have more files than a process may open
        copy.touched = self._clock.monotonic()
        copy.more.set()
        copy.more = anyio.Event()
        self._report(copy, kept.planned.name)

    async def finish(self, copy_id: str) -> DownloadInfo:
        """All pieces have come: compare the hashes of whole files, publish.

        Raises NotFound, Conflict (`offsets`: something is missing), DownloadFailed (a file was
        wrong; it is gone and can be sent again), ModelCorrupted.
        """
        record = self._downloads.find(copy_id)
        if record is not None and record.state == TransferState.DONE:
            return record.info()
        copy = self._known(copy_id)
        async with copy.turn:
            if copy.record.state in ENDED:
                return copy.record.info()
            if not all(kept.complete for kept in copy.kept.values()):
                raise Conflict(
                    f"{copy.record.left} bytes of {copy.record.order.model_id} are missing",
                    action="Send the rest first.",
                    offsets=_offsets(copy),
                )
            for kept in copy.kept.values():
                await self._compare(copy, kept)
            files = await anyio.to_thread.run_sync(_finish_all, copy)
            copy.record.become(TransferState.VERIFYING)
            try:
                await self._downloads.keep(copy.record, copy.folder, files, provider="copy")
            except RbeeError as exc:
                copy.record.fail(exc)
                raise
            finally:
                self._end(copy, TransferState.FAILED)
        return copy.record.info()

    async def _compare(self, copy: _Copy, kept: Partial) -> None:
        while not await anyio.to_thread.run_sync(kept.hash_more):
            copy.touched = self._clock.monotonic()
        kept.close()
        if (difference := kept.difference()) is None:
            return
        await anyio.to_thread.run_sync(kept.restart)
        self._report(copy, kept.planned.name)
        expected, got = difference
        raise DownloadFailed(
            f"{kept.planned.name} came with wrong bytes: its hash is {got}, not {expected}",
            action="Copy it again; check the model on the other machine with `rbee model verify`.",
            attempts=1,
            expired=False,
            expected=expected,
            got=got,
        )

    async def _cancel(self, copy: _Copy) -> None:
        async with copy.turn:
            self._end(copy, TransferState.CANCELLED, "cancelled; what has come is kept")

    def _end(self, copy: _Copy, state: TransferState, message: str = "") -> None:
        """What has ended already keeps its state."""
        copy.record.become(state, message)
        self._copies.pop(copy.record.id, None)
        for kept in copy.kept.values():
            kept.close()
        copy.folder.release()
        copy.more.set()

    def _known(self, copy_id: str) -> _Copy:
        copy = self._copies.get(copy_id)
        if copy is None:
            raise NotFound(
                f"no copy {copy_id[:64]!r} comes in here",
                action="Begin it again with POST /v1/models/receive; what has come is kept.",
            )
        return copy

    def _report(self, copy: _Copy, file: str) -> None:
        done = sum(kept.have for kept in copy.kept.values())
        copy.record.report(Progress(done=done, total=copy.record.order.size, file=file))


def _open_all(order: DownloadOrder, folder: Path) -> dict[str, Partial]:
    opened: dict[str, Partial] = {}
    for file in order.files:
        kept = opened[file.name] = Partial(folder, file)
        kept.open()
        kept.close()
    return opened


def _finish_all(copy: _Copy) -> list[CatalogueFile]:
    return [kept.finish() for kept in copy.kept.values()]


def _offsets(copy: _Copy) -> dict[str, int]:
    return {name: kept.have for name, kept in copy.kept.items()}


async def _check(data: bytes, sha256: str, file: str) -> None:
    if _HASH.fullmatch(sha256) is None:
        raise ValidationFailed(
            "X-Rbee-Sha256: 64 hex digits", field="X-Rbee-Sha256", constraint="sha256"
        )
    got = await anyio.to_thread.run_sync(lambda: hashlib.sha256(data).hexdigest())
    if got != sha256:
        raise ValidationFailed(
            f"the piece of {file} was changed on its way: its hash is {got}, not {sha256}",
            field="X-Rbee-Sha256",
            constraint="the hash of the body",
        )
