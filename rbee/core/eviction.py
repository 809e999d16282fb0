"""Which idle workers go to make room: pure, never a busy or a pinned one."""

from __future__ import annotations

from collections.abc import Iterable

from rbee.core.fleet import Worker
from rbee.protocol.workers import WorkerState


def evict_for(missing: int, workers: Iterable[Worker]) -> list[Worker] | None:
    """Idle, unpinned workers that hold `missing` bytes, longest idle first; None: not enough."""
    chosen: list[Worker] = []
    idle = (w for w in workers if w.state is WorkerState.IDLE and not w.jobs and not w.pinned)
    for worker in sorted(idle, key=lambda w: w.idle_since):
        if missing <= 0:
            break
        chosen.append(worker)
        missing -= max(worker.rss_bytes, worker.memory_bytes)
    return chosen if missing <= 0 else None


def overdue(workers: Iterable[Worker], now: float, keep_alive: float) -> list[Worker]:
    """Workers idle for `keep_alive` seconds or more, pinned ones never."""
    return [
        w
        for w in workers
        if w.state is WorkerState.IDLE
        and not w.jobs
        and not w.pinned
        and now - w.idle_since >= keep_alive
    ]
