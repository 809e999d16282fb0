"""Long work on the disk, done in a thread, that tells how far it is and can be cancelled.

Owns the way of its reports back to the event loop. Knows nothing of what the work is.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import anyio.to_thread

T = TypeVar("T")
Report = Callable[[int, int, str], None]
"""`report(done, total, file)`: bytes, and what is at hand."""
EVERY = 0.25
"""Seconds between two reports at least; the last one always comes."""
AT_A_TIME = 2
"""Threads that read and write large files."""
_limiter = anyio.CapacityLimiter(AT_A_TIME)


async def in_thread(
    work: Callable[[Report, threading.Event], T], report: Report | None = None
) -> T:
    """What `work(tell, stop)` gives. `report` is called in this event loop. When this is cancelled
    `stop` is set and nobody waits: the work must look at it often."""
    loop, stop, last = asyncio.get_running_loop(), threading.Event(), -EVERY

    def tell(done: int, total: int, file: str) -> None:
        nonlocal last
        now = time.monotonic()
        if report is None or stop.is_set() or (now - last < EVERY and done < total):
            return
        last = now
        with suppress(RuntimeError):  # the loop has closed
            loop.call_soon_threadsafe(report, done, total, file)

    try:
        return await anyio.to_thread.run_sync(
            lambda: work(tell, stop), abandon_on_cancel=True, limiter=_limiter
        )
    finally:
        stop.set()
