"""A model on its way to this machine's disk: all files of one order, several at a time.

Owns the order as a whole: room on the disk, what is here already, progress over all files. Nothing
of it is seen outside its own folder until `publish`. Never asks the hub what there is, and holds no
secret: the order brings addresses that need none.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from rbee.clock import Clock, SystemClock
from rbee.errors import RbeeError
from rbee.models.transfer import Transfer
from rbee.models.transfer_names import check_order
from rbee.models.transfer_pace import MARGIN, Bandwidth, Limits
from rbee.models.transfer_partial import Partial, full
from rbee.protocol.models import CatalogueFile, DownloadOrder

if TYPE_CHECKING:
    import httpx

_CONNECT = 15.0
_REDIRECTS = 5


@dataclass(frozen=True)
class Progress:
    """How far an order is. Bytes over all files."""

    done: int
    total: int
    file: str = ""
    attempt: int = 1
    message: str = ""


Report = Callable[[Progress], None]


async def fetch(
    order: DownloadOrder, folder: Path, *, report: Report, limits: Limits | None = None,
    bandwidth: Bandwidth | None = None, found: Mapping[str, Path] | None = None,
    reserved: int = 0, clock: Clock | None = None,
) -> list[CatalogueFile]:  # fmt: skip
    """Bring every file of the order into `folder`/files, whole and checked, in the order's order.

    `found` are files of this machine that may be what is wanted, `reserved` bytes of the disk that
    others are about to take. Raises ValidationFailed, InsufficientDisk (`required`, `available`)
    and DownloadFailed (`attempts`; `expired`: the addresses are good no more). What has come is
    kept, and the next call goes on from there.
    """
    check_order(order)
    order_wide = _Fetch(order, folder, report, limits or Limits(), clock or SystemClock())
    await anyio.to_thread.run_sync(lambda: order_wide.prepare(found or {}, reserved))
    return await order_wide.run(bandwidth or Bandwidth())


def missing_bytes(order: DownloadOrder, folder: Path) -> int:
    """Bytes of the order that are not in `folder` yet. Blocks on the disk."""
    return sum(max(0, file.size - _here(folder, file.name)) for file in order.files)


def check_room(order: DownloadOrder, folder: Path, more: int = MARGIN) -> None:
    """Raises InsufficientDisk unless what is missing and `more` bytes fit. Blocks on the disk."""
    missing = missing_bytes(order, folder)
    if missing and shutil.disk_usage(folder).free < missing + more:
        raise full(missing + more, folder)


def _here(folder: Path, name: str) -> int:
    for kind in ("files", "part"):
        try:
            return (folder / kind / name).stat().st_size
        except OSError:
            continue
    return 0


def _client(stall: float) -> httpx.AsyncClient:
    """In a thread: with its certificates it takes 30 ms, and the first time httpx itself 140."""
    import httpx

    timeout = httpx.Timeout(stall, connect=min(_CONNECT, stall), pool=None)
    return httpx.AsyncClient(timeout=timeout, follow_redirects=True, max_redirects=_REDIRECTS)


class _Fetch:
    def __init__(
        self, order: DownloadOrder, folder: Path, report: Report, limits: Limits, clock: Clock
    ) -> None:
        self._order = order
        self._folder = folder
        self._report = report
        self._limits = limits
        self._clock = clock
        self._kept = [Partial(folder, file) for file in order.files]
        self._finished: dict[str, CatalogueFile] = {}
        self._failure: RbeeError | None = None

    def prepare(self, found: Mapping[str, Path], reserved: int) -> None:
        """Take what is here and see whether the rest has room. Blocks on the disk."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for kept in self._kept:
            done = kept.already()
            if done is not None:
                self._finished[done.name] = done
                kept.have = done.size
                continue
            if kept.planned.name in found:
                kept.adopt(found[kept.planned.name])
            kept.have = _here(self._folder, kept.planned.name)
        check_room(self._order, self._folder, reserved + self._limits.margin)

    async def run(self, bandwidth: Bandwidth) -> list[CatalogueFile]:
        limits = self._limits
        client = await anyio.to_thread.run_sync(_client, limits.stall)
        at_a_time = anyio.CapacityLimiter(limits.transfers)
        threads = anyio.CapacityLimiter(limits.transfers)

        async def one(kept: Partial) -> None:
            async with at_a_time:
                transfer = Transfer(
                    kept, client=client, limits=limits, bandwidth=bandwidth, threads=threads,
                    clock=self._clock, tell=self._tell,
                )  # fmt: skip
                try:
                    await anyio.to_thread.run_sync(kept.open, limiter=threads)
                    self._finished[kept.planned.name] = await transfer.run()
                except RbeeError as exc:
                    self._failure = self._failure or exc
                    tasks.cancel_scope.cancel()

        async with client, anyio.create_task_group() as tasks:
            for kept in self._kept:
                if kept.planned.name not in self._finished:
                    tasks.start_soon(one, kept)
        if self._failure is not None:
            raise self._failure
        return [self._finished[file.name] for file in self._order.files]

    def _tell(self, transfer: Transfer, message: str) -> None:
        self._report(
            Progress(
                done=sum(kept.have for kept in self._kept),
                total=self._order.size,
                file=transfer.planned.name,
                attempt=transfer.attempt,
                message=message,
            )
        )
