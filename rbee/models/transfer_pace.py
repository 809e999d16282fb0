"""How fast, how often and how long: the limits of transfers, and the bandwidth they share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import anyio

from rbee.clock import Clock, SystemClock

MARGIN = 256 << 20
"""Bytes of the disk that a download leaves free."""
BURST = 0.25
"""Seconds of the bandwidth that may be caught up after a pause."""


@dataclass(frozen=True)
class Limits:
    """Of one order. Seconds and bytes."""

    transfers: int = 4
    """Files at a time."""
    stall: float = 60.0
    """Without a byte for so long a try has failed."""
    tries: int = 6
    """Of one file in a row without getting further."""
    first_pause: float = 0.1
    """Before the second try; doubles."""
    longest_wait: float = 60.0
    """How long a server may ask us to wait."""
    margin: int = MARGIN


class Bandwidth:
    """Bytes a second that all transfers share, first come first served; 0: no limit."""

    def __init__(
        self,
        rate: float = 0.0,
        *,
        clock: Clock | None = None,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        self._rate = rate
        self._clock = clock or SystemClock()
        self._sleep = sleep
        self._paid_until = 0.0
        """On the clock: when all that was taken so far has been paid for."""

    async def take(self, count: int) -> None:
        """Return when `count` more bytes may be taken."""
        if self._rate <= 0:
            return
        now = self._clock.monotonic()
        self._paid_until = max(self._paid_until, now - BURST) + count / self._rate
        if (early := self._paid_until - now) > 0:
            await self._sleep(early)
