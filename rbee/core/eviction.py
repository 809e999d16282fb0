"""Which idle workers go to make room: pure, never a busy or a pinned one."""

from __future__ import annotations

from collections.abc import Iterable

from rbee.core.fleet import Fleet, Worker
from rbee.core.limits import Limits
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


def overdue(fleet: Fleet, now: float, limits: Limits) -> list[Worker]:
    """Workers idle for longer than their model's keep_alive, but pinned and least ones."""
    found: list[Worker] = []
    going: dict[str, int] = {}
    for worker in fleet.workers.values():
        if worker.state is not WorkerState.IDLE or worker.jobs or worker.pinned:
            continue
        model = worker.spec.model_id
        if now - worker.idle_since < limits.keep_alive_of(model):
            continue
        left = fleet.live_count(model) - going.get(model, 0)
        if left > limits.min_workers.get(model, 0):
            going[model] = going.get(model, 0) + 1
            found.append(worker)
    return found
