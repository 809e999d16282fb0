"""A verdict with everything that was looked at, as `rbee why` prints it. Not for the hot path."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain, islice

from rbee.core import backends, bars, costs
from rbee.core.bars import Bar, busy_sentence
from rbee.core.costs import Facts, Terms
from rbee.core.feasibility import Place
from rbee.core.fleet import Worker
from rbee.core.policy import Claim, Refuse, Run, Spawn, Verdict, View, Wait
from rbee.core.surveying import Survey
from rbee.protocol.decisions import Decision, Option

MOST = 32
"""Options of a decision."""
FEW = 4
"""Workers, and places for others, in a decision that is recorded in a large colony: each is worked
out once more, on the way of every job."""
LARGE = 16
"""Workers of the model, or hives, from which on a colony counts as large for that."""


def options_of(facts: Facts, view: View) -> int:
    """How many options there should be of each kind in a decision that is recorded."""
    pool = view.fleet.pool(facts.demand.model_id, facts.demand.model_key)
    known = len(pool.workers) if pool is not None else 0
    return FEW if known > LARGE or len(view.fleet.hives) > LARGE else MOST


def explain(
    facts: Facts,
    verdict: Verdict,
    view: View,
    found: Survey,
    policy: str,
    most: int,
    seen: Mapping[str, Bar | Terms],
) -> Decision:
    """The decision; `found`: the places there are for the job; at most so many workers, of which
    `seen` tells what is known already."""
    job, demand = facts.job, facts.demand
    pool = view.fleet.pool(demand.model_id, demand.model_key)
    workers: dict[str, Worker] = {}
    if isinstance(verdict, Run | Wait) and verdict.worker is not None:
        workers[verdict.worker.id] = verdict.worker
    if pool is not None:
        known = (pool.workers[name] for name in facts.hits if name in pool.workers)
        for worker in islice(chain(known, pool.workers.values()), 2 * most):
            if len(workers) >= most:
                break
            workers.setdefault(worker.id, worker)
    shown = sum(1 for w in workers if w in pool.workers) if pool is not None else 0
    unseen = len(pool.workers) - shown if pool is not None else 0
    options = [_worker(facts, w, view, seen.get(w.id)) for w in workers.values()]
    options += [_place(facts, place, terms) for _, place, terms in found.places]
    options += [
        Option(kind="start", hive=hive, device=device, passed=False, why=bar.reason)
        for hive, device, bar in found.bars
    ]
    told = {bar.error for _, _, bar in found.bars}
    options += [
        Option(kind="start", hive="", passed=False, why=error.message)
        for error in found.never
        if error not in told
    ]
    options.sort(key=_rank)
    kind, chosen, reason, evicted = _said(verdict)
    return Decision(
        job_id=job.job_id,
        at=view.utc,
        attempt=job.attempt,
        policy=policy,
        model=demand.model_id,
        verdict=kind,
        chosen=chosen,
        reason=reason,
        waited_ms=max(0, round((view.now - job.queued_mono) * 1000)),
        options=options[:MOST],
        left_out=max(0, len(options) - MOST) + unseen + found.unseen,
        evicted=evicted,
    )


def _said(verdict: Verdict) -> tuple[str, str | None, str, list[str]]:
    """Kind, what was chosen, why, who goes."""
    match verdict:
        case Run(worker, reason):
            return "run", worker.id, reason, []
        case Wait(reason, worker):
            return "wait", worker.id if worker is not None else None, reason, []
        case Spawn(place, reason):
            where = f"{place.hive.name} {place.device.name}"
            return "start", where, reason, _ids(place.evict)
        case Claim(victims, reason):
            return "claim", None, reason, _ids(victims)
        case Refuse(error):
            return "refuse", None, error.message, []


def _worker(facts: Facts, worker: Worker, view: View, known: Bar | Terms | None) -> Option:
    found = known or bars.of_worker(facts, worker, view) or costs.of_worker(facts, worker, view)
    score = None
    if isinstance(found, Bar):
        why = found.reason
    else:
        score = found.score()
        free = worker.free_slots
        why = f"{free} of {worker.slots_total} slot(s) free" if free else busy_sentence(worker)
        if worker.id in facts.job.avoid:
            why += "; this job was lost there before"
    return Option(
        kind="worker",
        worker_id=worker.id,
        hive=worker.hive,
        device=worker.spec.device,
        backend=worker.spec.backend,
        passed=score is not None,
        why=why,
        score=score,
    )


def _place(facts: Facts, place: Place, terms: Terms) -> Option:
    why = f"{place.slots} slot(s) fit"
    if place.claim:
        why += f" once {', '.join(_ids(place.claim))} has ended what it does and is stopped"
    elif place.evict:
        why += f" after stopping idle {', '.join(_ids(place.evict))}"
    elif place.leaving:
        why += f" once {', '.join(_ids(place.leaving))} is gone"
    elif place.until:
        why += f" once there is {place.until}"
    if facts.job.model is not None:
        chosen = backends.why(
            facts.job.model, place.hive, place.device, place.backend.name, facts.request.backend
        )
        why += f"; {chosen}"
    return Option(
        kind="start",
        hive=place.hive.name,
        device=place.device.name,
        backend=place.backend.name,
        passed=True,
        why=why,
        score=terms.score(),
        evicts=_ids((*place.evict, *place.claim)),
    )


def _ids(workers: Iterable[Worker]) -> list[str]:
    return [w.id for w in workers]


def _rank(option: Option) -> tuple[bool, float]:
    return (not option.passed, option.score.total if option.score is not None else 0.0)
