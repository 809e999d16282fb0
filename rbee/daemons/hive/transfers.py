"""One transfer as a hive tells it: its state, how fast it is, and who follows it.

Owns the figures that people see. Never fetches anything.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable

import anyio

from rbee.clock import Clock
from rbee.errors import RbeeError
from rbee.models.download import Progress
from rbee.models.transfer_names import download_id
from rbee.protocol.models import DownloadInfo, DownloadOrder, TransferState

ENDED = frozenset({TransferState.DONE, TransferState.FAILED, TransferState.CANCELLED})
EVERY = 0.25
"""Seconds between two that a follower is told at least."""
ALIVE = 5.0
"""Seconds after which a follower is told the same again."""
WINDOW = 5.0
"""Seconds over which the rate is taken."""


class Record:
    """Of one order. `scope` is that of the work for it."""

    def __init__(self, order: DownloadOrder, *, hive: str, clock: Clock) -> None:
        self.order = order
        self.id = download_id(order.ref)
        self.state = TransferState.WAITING
        self.scope = anyio.CancelScope()
        self.ended = anyio.Event()
        self.cancel: Callable[[], Awaitable[None]] | None = None
        """How it is cancelled, where that is not by its scope."""
        self.message = ""
        self.error: RbeeError | None = None
        self._hive = hive
        self._clock = clock
        self._progress = Progress(done=0, total=order.size)
        self._attempt = 1
        self._seen: deque[tuple[float, int]] = deque()

    @property
    def left(self) -> int:
        """Bytes that are still to come."""
        return max(0, self._progress.total - self._progress.done)

    def become(self, state: TransferState, message: str = "") -> None:
        """Go to another state; the first that ends it is the last."""
        if self.state in ENDED:
            return
        self.state, self.message = state, message
        if state == TransferState.DONE:
            self._progress = Progress(done=self.order.size, total=self.order.size)
        if state in ENDED:
            self.ended.set()

    def fail(self, error: RbeeError) -> None:
        """It has failed."""
        self.error = error
        self.become(TransferState.FAILED, error.message)

    def report(self, progress: Progress) -> None:
        """It has got so far."""
        if progress.done < self._progress.done:
            self._seen.clear()
        self._progress = progress
        self._attempt = max(self._attempt, progress.attempt)
        self.message = progress.message

    def info(self) -> DownloadInfo:
        """As it is now."""
        rate = self._rate() if self.state == TransferState.RUNNING else 0.0
        return DownloadInfo(
            download_id=self.id,
            ref=self.order.ref,
            model_id=self.order.model_id,
            state=self.state,
            bytes_done=self._progress.done,
            bytes_total=self._progress.total,
            rate=round(rate, 1),
            eta_seconds=round(self.left / rate, 1) if rate > 0 else None,
            attempt=self._attempt,
            file=self._progress.file,
            message=self.message,
            error=None if self.error is None else self.error.body()["error"],
            hive=self._hive,
        )

    def _rate(self) -> float:
        now = self._clock.monotonic()
        if not self._seen or now - self._seen[-1][0] >= EVERY:
            self._seen.append((now, self._progress.done))
        while len(self._seen) > 2 and self._seen[1][0] <= now - WINDOW:
            self._seen.popleft()
        at, done = self._seen[0]
        return max(0.0, (self._progress.done - done) / (now - at)) if now > at else 0.0

    async def follow(self) -> AsyncGenerator[DownloadInfo]:
        """As it is, whenever that has changed, at most every `EVERY` seconds; the end is last."""
        told, quiet = self.info(), 0.0
        yield told
        while told.state not in ENDED:
            with anyio.move_on_after(EVERY):
                await self.ended.wait()
            info = self.info()
            quiet += EVERY
            if info != told or quiet >= ALIVE:
                told, quiet = info, 0.0
                yield told
