"""Models on their way to hives: one transfer per model and hive, whoever wants it.

Owns the running transfers, who waits for each, what is told of them, and what happens when an
address expires or a hive goes away meanwhile. The hive does the fetching; what is to be fetched
is the desk's word. Decides nothing about where.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING

import anyio
import anyio.abc
import msgspec

from rbee.errors import Cancelled, HiveOffline, InternalError, RbeeError
from rbee.output import amounts, duration, size
from rbee.protocol.hives import ModelInfo
from rbee.protocol.models import DownloadInfo, DownloadOrder, TransferState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rbee.daemons.queen.board import Board
    from rbee.daemons.queen.links import HiveLink
    from rbee.daemons.queen.metrics import Metrics

log = logging.getLogger("rbee.queen")
Watch = Callable[[DownloadInfo], None]
Renew = Callable[[], Awaitable[DownloadOrder]]
RENEWALS = 5
"""New orders for one transfer at most, when addresses expire."""
TOLD_EVERY = 0.5
"""Seconds between what is told to those who wait."""
PUBLISHED_EVERY = 1.0
"""Seconds between what is told to dashboards."""


class Transfer:
    """One on its way. `model` or `error` is there when it is `over`."""

    def __init__(self, hive: str, order: DownloadOrder) -> None:
        self.hive = hive
        self.order = order
        self.over = anyio.Event()
        self.scope = anyio.CancelScope()
        self.watchers: list[Watch] = []
        self.jobs: list[str] = []
        """Of those who watch."""
        self.model: ModelInfo | None = None
        self.error: RbeeError | None = None
        self.heard = time.monotonic()
        """When its hive last told of it."""
        self.info = DownloadInfo(
            download_id="",
            ref=order.ref,
            model_id=order.model_id,
            state=TransferState.WAITING,
            bytes_done=0,
            bytes_total=order.size,
            hive=hive,
        )


class Transfers:
    """`links`: the hives that are connected. `tasks` is set before the first transfer."""

    tasks: anyio.abc.TaskGroup

    def __init__(
        self,
        *,
        links: Mapping[str, HiveLink],
        board: Board,
        metrics: Metrics,
        lease: Callable[[], float],
    ) -> None:
        self._links = links
        self._board = board
        self._metrics = metrics
        self._lease = lease
        self._running: dict[tuple[str, str], Transfer] = {}
        self._shown: dict[str, DownloadInfo] = {}
        """Of copies, by the id of who carries them out."""
        self._came = anyio.Event()
        """A hive has joined; a new one each time."""

    async def fetch(
        self, hive: str, order: DownloadOrder, renew: Renew, watch: Watch, job_id: str
    ) -> ModelInfo:
        """Have the hive fetch the model for a job, or wait for whoever has begun that.

        Cancelling it leaves; the last to leave ends the transfer, whose partial files are kept.
        """
        key = (hive, order.ref)
        transfer = self._running.get(key)
        if transfer is None or transfer.scope.cancel_called:
            transfer = self._running[key] = Transfer(hive, order)
            self.tasks.start_soon(self._run, transfer, renew)
        transfer.watchers.append(watch)
        self._count_in(transfer, [*transfer.jobs, job_id])
        watch(transfer.info)
        try:
            await transfer.over.wait()
        finally:
            transfer.watchers.remove(watch)
            if not transfer.watchers:
                transfer.scope.cancel()
            elif not transfer.over.is_set():
                self._count_in(transfer, [job for job in transfer.jobs if job != job_id])
        if transfer.model is None:
            raise transfer.error or Cancelled(f"the transfer to {hive} was cancelled")
        return transfer.model

    def _count_in(self, transfer: Transfer, jobs: list[str]) -> None:
        transfer.jobs = jobs
        transfer.info = msgspec.structs.replace(transfer.info, jobs=jobs)
        self._board.publish("download", transfer.info)

    def infos(self) -> list[DownloadInfo]:
        """Those that run, copies included, the oldest first."""
        return [*(t.info for t in self._running.values()), *self._shown.values()]

    def show(self, info: DownloadInfo) -> None:
        """A copy, for the dashboards and the listing: told until it has ended."""
        if info.state in _ENDED:
            self._shown.pop(info.download_id, None)
        else:
            self._shown[info.download_id] = info
        self._board.publish("download", info)

    def hive_joined(self) -> None:
        """Transfers that wait for a hive look again."""
        self._came.set()
        self._came = anyio.Event()

    async def until_there(self, hive: str) -> HiveLink:
        """The hive's link, for which it gets its lease. Raises HiveOffline."""
        lease = self._lease()
        with anyio.move_on_after(lease):
            while hive not in self._links:
                await self._came.wait()
        link = self._links.get(hive)
        if link is None:
            raise HiveOffline(
                f"hive {hive} has not come back within {lease:g} s",
                action="What was fetched is kept on its disk: ask again when it is back.",
            )
        return link

    async def _run(self, transfer: Transfer, renew: Renew) -> None:
        with transfer.scope:
            try:
                transfer.model = await self._until_there(transfer, renew)
            except RbeeError as exc:
                transfer.error = exc
            except Exception as exc:  # one hive's defect must not take the queen with it
                log.exception("fetching %s to %s failed", transfer.order.model_id, transfer.hive)
                transfer.error = InternalError(f"fetching {transfer.order.model_id} failed: {exc}")
        key = (transfer.hive, transfer.order.ref)
        if self._running.get(key) is transfer:
            del self._running[key]
        if transfer.error is not None:
            self._metrics.count("downloads_failed", 1.0, {"code": transfer.error.code})
        self._say_end(transfer)
        transfer.over.set()

    async def _until_there(self, transfer: Transfer, renew: Renew) -> ModelInfo:
        order, renewals = transfer.order, 0
        while True:
            link = await self.until_there(transfer.hive)
            try:
                return await link.models.download(order, self._listener(transfer))
            except HiveOffline:
                if time.monotonic() - transfer.heard > self._lease():
                    raise
                self._wait_for(transfer)
                await anyio.sleep(TOLD_EVERY)
            except RbeeError as exc:
                if not exc.details.get("expired") or renewals >= RENEWALS:
                    raise
                renewals += 1
                order = await renew()
                if order.ref != transfer.order.ref:
                    raise

    def _listener(self, transfer: Transfer) -> Watch:
        told = published = -1e9
        counted: int | None = None

        def heard(info: DownloadInfo) -> None:
            nonlocal told, published, counted
            now = transfer.heard = time.monotonic()
            info = msgspec.structs.replace(info, hive=transfer.hive, jobs=transfer.jobs)
            changed = info.state is not transfer.info.state
            if counted is not None and info.bytes_done > counted:
                self._metrics.count("download_bytes", info.bytes_done - counted, {})
            counted = info.bytes_done
            transfer.info = info
            if info.state in _ENDED:
                return  # the end is told once it is certain
            if changed or now - told >= TOLD_EVERY:
                told = now
                _tell(transfer.watchers, info)
            if changed or now - published >= PUBLISHED_EVERY:
                published = now
                self._board.publish("download", info)

        return heard

    def _wait_for(self, transfer: Transfer) -> None:
        why = f"waiting for hive {transfer.hive} to come back"
        transfer.info = msgspec.structs.replace(
            transfer.info, state=TransferState.WAITING, rate=0.0, eta_seconds=None, message=why
        )
        _tell(transfer.watchers, transfer.info)
        self._board.publish("download", transfer.info)

    def _say_end(self, transfer: Transfer) -> None:
        if transfer.model is not None:
            state, error = TransferState.DONE, None
        elif transfer.error is not None:
            state, error = TransferState.FAILED, transfer.error.body()["error"]
        else:
            state, error = TransferState.CANCELLED, None
        transfer.info = msgspec.structs.replace(
            transfer.info, state=state, error=error, rate=0.0, eta_seconds=None
        )
        self._board.publish("download", transfer.info)


_ENDED = frozenset({TransferState.DONE, TransferState.FAILED, TransferState.CANCELLED})


def _tell(watchers: Iterable[Watch], info: DownloadInfo) -> None:
    for watch in list(watchers):
        watch(info)


def sentence(info: DownloadInfo) -> str:
    """`downloading Qwen/…:Q4_K_M to gaming-pc: 412 of 986 MB, 38 MB/s, 15 s left`."""
    what = f"{info.model_id} to {info.hive}"
    if info.state is TransferState.VERIFYING:
        return f"checking {info.model_id} on {info.hive}"
    if info.state is TransferState.WAITING:
        return f"downloading {what}: {info.message or 'about to begin'}"
    parts = [amounts(info.bytes_done, info.bytes_total)]
    if info.rate > 0:
        parts.append(f"{size(info.rate)}/s")
    if info.eta_seconds is not None:
        parts.append(f"{duration(info.eta_seconds)} left")
    text = f"downloading {what}: {', '.join(parts)}"
    return f"{text} ({info.message})" if info.message else text


def progress(info: DownloadInfo) -> float | None:
    """0..1"""
    return info.bytes_done / info.bytes_total if info.bytes_total else None
