"""One reader of job streams, and how it waits for what they get.

Owns the waiting only: one future at a time and a timer that is set again when it fires, so that a
token costs neither a task nor a timer. What there is to read stays with the streams.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rbee.daemons.queen.streams import JobStream

EARLY = 0.001
"""Seconds a timer may fire too soon."""


class Reader:
    """Waits for news, between `with` and its end; whoever calls has looked at what there is before.

    With `ready`, news is what makes that true. `silence`: seconds; see `news`.
    """

    __slots__ = (
        "_future", "_heard", "_loop", "_ready", "_silence", "_stopped", "_streams", "_timer",
        "_told",
    )  # fmt: skip

    def __init__(
        self,
        streams: Sequence[JobStream],
        *,
        silence: float = 0.0,
        ready: Callable[[], bool] | None = None,
    ) -> None:
        self._streams = streams
        self._silence = silence
        self._ready = ready
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[bool] | None = None
        self._stopped = False
        self._heard = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._told = self._wake  # one object: who reads several streams is one reader

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        del self._told  # it holds this object: leave nothing for the collector

    async def news(self) -> bool:
        """Wait until something happens to one of them; False after `silence` seconds without."""
        self._heard = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_later(self._silence, self._check)
        return await self._wait()

    async def until(self) -> bool:
        """Wait until `ready` is true, however long; False when it was stopped before that."""
        if self._ready is None or self._ready():
            return True
        return not self._stopped and await self._wait()

    def stop(self) -> None:
        """Nobody needs to wait any more."""
        self._stopped = True
        self._tell(False)

    async def _wait(self) -> bool:
        self._future = self._loop.create_future()
        for stream in self._streams:
            stream.watch(self._told)
        try:
            return await self._future
        finally:
            self._future = None
            for stream in self._streams:
                stream.unwatch(self._told)

    def _wake(self) -> None:
        if self._ready is None or self._ready():
            self._tell(True)

    def _tell(self, news: bool) -> None:
        if self._future is not None and not self._future.done():
            self._future.set_result(news)

    def _check(self) -> None:
        """It may have been heard of something since the timer was set: then it is set again."""
        self._timer = None
        if self._future is None:
            return
        left = self._heard + self._silence - self._loop.time()
        if left <= EARLY:
            self._tell(False)
        else:
            self._timer = self._loop.call_later(left, self._check)
