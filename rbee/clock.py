"""Clocks: the one source of time, so that tests can hand in their own.

Owns the two readings everything uses (monotonic for durations, UTC for stamps); never sleeps.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Where the time comes from."""

    def monotonic(self) -> float:
        """Seconds since some fixed point; never goes back. For durations and deadlines."""
        ...

    def utc(self) -> float:
        """Seconds since 1970-01-01T00:00Z. For stamps that people and other machines read."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def monotonic(self) -> float:
        """See Clock."""
        return time.monotonic()

    def utc(self) -> float:
        """See Clock."""
        return time.time()
