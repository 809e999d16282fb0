"""Which workers go to make room: pure, never a pinned one, never a busy one before it has ended."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from rbee.core.limits import Limits
from rbee.core.states import WORKER_READY
from rbee.core.value import value
from rbee.protocol.workers import WorkerState

if TYPE_CHECKING:
    from rbee.core.fleet import Fleet, Worker


def idle_for_longest(worker: Worker) -> float:
    """Ranks workers when nobody knows what losing them would cost: less goes first."""
    return worker.idle_since


def nothing_kept(model_id: str) -> float:
    """All workers of every model may go."""
    return math.inf


@value()
class Room:
    """How memory may be made for a model."""

    losing: Callable[[Worker], float] = idle_for_longest
    """Seconds that others lose with a worker, or any other rank: less goes first."""
    spare: Callable[[str], float] = nothing_kept
    """Model id → how many of its workers may go."""
    later: bool = False
    """Places that are there once busy workers have ended are places as well."""
    model_id: str = ""
    """Whom the room is for: what is claimed for others is not touched."""


def spare_of(fleet: Fleet, limits: Limits) -> Callable[[str], float]:
    """By `min_workers`."""

    def spare(model_id: str) -> float:
        least = limits.min_workers.get(model_id, 0)
        return fleet.live_count(model_id) - least if least else math.inf

    return spare


def may_go(worker: Worker, room: Room) -> bool:
    """Whether it may be stopped once it has nothing to do."""
    return (
        worker.state in WORKER_READY
        and not worker.pinned
        and worker.claimed_for in (None, room.model_id)
    )


def evict_for(
    missing: int, workers: Iterable[Worker], room: Room | None = None
) -> list[Worker] | None:
    """Idle workers that hold `missing` bytes, the least missed first; None: not enough.

    Greedy by `room.losing`, then whoever turns out not to be needed stays, the most missed first.
    """
    room = room or Room()
    return _choose(missing, [w for w in workers if may_go(w, room) and not w.jobs], room)


def claim_for(missing: int, workers: Iterable[Worker], room: Room) -> list[Worker] | None:
    """The same among busy ones too, who would have to end first."""
    return _choose(missing, [w for w in workers if may_go(w, room)], room)


def could_ever(missing: int, workers: Iterable[Worker], room: Room) -> bool:
    """Whether there is room when everybody has ended who is not kept for ever."""
    gone = [w for w in workers if not w.pinned]
    return _choose(missing, gone, room) is not None


def overdue(fleet: Fleet, now: float, limits: Limits) -> list[Worker]:
    """Workers idle for their model's keep_alive or longer; pinned ones and the last few, never."""
    spare = spare_of(fleet, limits)
    found: list[Worker] = []
    leaving: dict[str, int] = {}
    for name, resting in fleet.index.idle.items():
        keep = limits.keep_alive_of(name)
        for worker in resting.values():
            if now - worker.idle_since < keep or leaving.get(name, 0) >= spare(name):
                break
            if worker.state is WorkerState.IDLE and not worker.jobs and not worker.pinned:
                leaving[name] = leaving.get(name, 0) + 1
                found.append(worker)
    return found


def _choose(missing: int, candidates: list[Worker], room: Room) -> list[Worker] | None:
    chosen: list[Worker] = []
    taken: dict[str, int] = {}
    for worker in sorted(candidates, key=lambda w: (room.losing(w), w.idle_since, w.id)):
        if missing <= 0:
            break
        name = worker.spec.model_id
        if taken.get(name, 0) >= room.spare(name):
            continue
        taken[name] = taken.get(name, 0) + 1
        chosen.append(worker)
        missing -= worker.held_bytes
    if missing > 0:
        return None
    for worker in reversed(chosen[:]):
        if missing + worker.held_bytes <= 0:
            chosen.remove(worker)
            missing += worker.held_bytes
    return chosen
