"""When nothing can be done now: whether to wait, for how long, or what to refuse it with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rbee.core.bars import Bar
from rbee.core.costs import Facts
from rbee.core.fleet import HiveState, Worker
from rbee.core.policy import Refuse, Verdict, View, Wait
from rbee.core.states import WORKER_LIVE
from rbee.core.surveying import Survey
from rbee.errors import AllSlotsBusy, CircuitBreakerOpen, NotFound, NoWorkers, RbeeError

_NEAREST = {
    "INSUFFICIENT_VRAM": 0,
    "INSUFFICIENT_RAM": 0,
    "INSUFFICIENT_DISK": 0,
    "HIVE_NOT_FOUND": 0,
    "HIVE_OFFLINE": 2,
    "MODEL_NOT_FOUND": 3,
}
"""How telling an error is, by its code; 1: any other."""


def busy(facts: Facts, view: View) -> Refuse:
    """It does not want to wait and all slots are taken."""
    demand, request = facts.demand, facts.request
    pool = view.fleet.pool(demand.model_id, demand.model_key)
    total = count = workers = 0
    if pool is not None and not any(
        (request.hive, request.worker_id, request.device, request.backend)
    ):
        total, count, workers = pool.slots, pool.busy, pool.ready
    elif pool is not None:
        asked: Iterable[Worker] = pool.workers.values()
        if request.hive is not None:
            asked = pool.hives.get(request.hive, {}).values()
        for worker in asked:
            if (
                worker.slots_total
                and request.worker_id in (None, worker.id)
                and request.device in (None, worker.spec.device, worker.kind)
                and request.backend in (None, worker.spec.backend)
            ):
                total += worker.slots_total
                count += len(worker.jobs)
                workers += 1
    return Refuse(
        AllSlotsBusy(
            f"all {total} slot(s) of {workers} worker(s) with {demand.model_id} are busy",
            slots_total=total,
            slots_busy=count,
        )
    )


def displaced(facts: Facts, what: str, victims: Sequence[Worker] = ()) -> Refuse:
    """It does not want to wait and would have to take others' place."""
    total = sum(w.slots_total for w in victims)
    return Refuse(
        AllSlotsBusy(
            f"no worker has {facts.demand.model_id}, and it would have to wait for {what}",
            slots_total=total,
            slots_busy=sum(min(len(w.jobs), w.slots_total) for w in victims),
        )
    )


def pinned(facts: Facts, bars: list[Bar], view: View) -> Verdict:
    """It names a worker that may not be used."""
    for bar in bars:
        if bar.worker is not None:
            return _held(facts, [bar])
        if bar.error is not None:
            return Refuse(bar.error)
    worker_id, model_id = facts.request.worker_id or "", facts.demand.model_id
    worker = view.fleet.workers.get(worker_id)
    if worker is None:
        return Refuse(
            NotFound(f"no worker {worker_id}", action="rbee worker list shows the workers.")
        )
    if worker.spec.model_id == model_id:
        where = f"{worker.hive} {worker.spec.device}"
        state = worker.state if worker.state not in WORKER_LIVE else "up"
        return Refuse(
            NotFound(
                f"worker {worker_id} is {state} on {where}, which is not what was asked for",
                action="Leave out the worker, the hive or the device.",
            )
        )
    return Refuse(
        NotFound(
            f"worker {worker_id} has {worker.spec.model_id}, not {model_id}",
            action="Leave the worker out, or name one that has the model.",
        )
    )


def later_or_never(facts: Facts, bars: list[Bar], found: Survey, view: View) -> Verdict:
    """No live worker may be used and none can be started now."""
    held = [b for b in bars if b.error is None and b.worker is not None]
    blocked = [b for _, _, b in found.bars if b.error is None]
    waits = held + [b for b in blocked if b.worker is None]
    if waits:
        return _held(facts, waits)
    if blocked:  # a worker that this job cannot use stands where another could be started
        return Wait(blocked[0].reason, blocked[0].worker)
    never = [b.error for b in bars if b.error is not None] + found.never
    own = list(facts.job.failed_places.values())
    if own:
        return Refuse(own[-1], never)
    away = _away(facts, view)
    if away is not None and facts.request.wait:
        limit = view.limits.hive_return
        return Wait(f"hive {away.name} is offline; its return is waited for, up to {limit:g} s")
    if not never:
        model_id = facts.demand.model_id
        most = view.limits.most_workers(model_id)
        never = [
            NoWorkers(
                f"{model_id} has all the {most:g} worker(s) it may have, none of them as asked",
                action="Leave out the hive and the device, or raise max_workers of the model.",
            )
        ]
    return Refuse(choose_error(never), never)


def _away(facts: Facts, view: View) -> HiveState | None:
    """A hive that went a moment ago and may come back with its workers."""
    for hive in view.fleet.hives.values():
        if (
            not hive.online
            and hive.left_mono is not None
            and facts.demand.model_key in hive.paths
            and facts.request.hive in (None, hive.name)
            and view.now - hive.left_mono < view.limits.hive_return
        ):
            return hive
    return None


def choose_error(errors: Sequence[RbeeError]) -> RbeeError:
    """The most telling one; among amounts, those of the place that was nearest to fitting."""
    return min(
        errors,
        key=lambda e: (
            _NEAREST.get(e.code, 1),
            e.details.get("required", 0) - e.details.get("available", 0),
        ),
    )


def _held(facts: Facts, bars: list[Bar]) -> Verdict:
    """Wait for what is over first; refuse a job that does not wait."""
    first = min(bars, key=lambda b: (b.until is None, b.until or 0.0))
    if not facts.request.wait:
        until = min((b.until for b in bars if b.until is not None), default=None)
        if until is not None and all(b.until is not None for b in bars):
            return Refuse(CircuitBreakerOpen(first.reason, retry_after=max(1, round(until))))
        if any(b.until is None and b.worker is not None for b in bars):
            return Refuse(AllSlotsBusy(first.reason, slots_total=0, slots_busy=0))
    return Wait(first.reason, first.worker)
