"""Finding work a place: ask the policy, carry out its verdict, tell the others why they wait.

Functions over a Colony; called by nobody else. Late binding: a job gets a worker when a slot is
there and not before.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from rbee.core import ending, supervising, telling
from rbee.core.bars import pinned_elsewhere
from rbee.core.effects import AbortRun, Count, Dispatch, Record, SaveJob
from rbee.core.jobs import Job
from rbee.core.policy import Claim, Refuse, Run, Spawn, Verdict, Wait
from rbee.core.queue import PROMOTE_AFTER
from rbee.protocol.jobs import EventType, JobState, StartedData, StatusData
from rbee.protocol.operations import ModelWork, Priority
from rbee.protocol.workers import WorkerState

if TYPE_CHECKING:
    from rbee.core.colony import Colony
    from rbee.core.fleet import Worker

TOLD_AT_ONCE = 100
"""In a longer line those behind are not told each time what the first waits for."""


def plan(colony: Colony) -> None:
    """Place what can be placed; tell the others why they wait."""
    _unclaim(colony)
    progress = len(colony.queue) > 0 and not colony.stopping
    while progress:
        progress = False
        for job in colony.queue.heads(colony.now):
            progress |= _carry_out(colony, job, colony.policy.route(job, colony.view()))
        if not progress or not colony.queue:
            progress = _unclaim(colony)  # who claimed may be served or refused by now


def _carry_out(colony: Colony, job: Job, verdict: Verdict) -> bool:
    """Whether that changed what others may get."""
    match verdict:
        case Run(worker):
            _record(colony, job, verdict)
            colony.queue.remove(job)
            colony.told.pop(job.demand(), None)
            _dispatch(colony, job, worker)
            return True
        case Wait(reason, worker):
            _tell_group(colony, job, reason, worker)
            _preempt(colony, job)
            return False
        case Claim(victims, reason):
            _record(colony, job, verdict)
            for victim in victims:
                victim.claimed_for = job.demand().model_id
                colony.fleet.touch(victim)
                telling.publish_worker(colony, victim)
            colony.narrate(f"{', '.join(v.id for v in victims)} makes room: {reason}")
            _tell_group(colony, job, reason, None)
            return True
        case Spawn(place, reason):
            assert job.model is not None
            _record(colony, job, verdict)
            for victim in place.evict:
                colony.count("evictions", model=victim.spec.model_id)
                supervising.stop_worker(colony, victim, f"made room for {job.model.id}")
            if place.evict:
                _tell_group(colony, job, reason, None)
                return False
            ctx = min(colony.policy.ctx, job.model.context or 1 << 30)
            fresh = supervising.start_worker(colony, place, job.model, ctx=ctx, why=reason)
            where = f"{fresh.id} on {fresh.hive} {fresh.spec.device}"
            _tell_group(colony, job, f"starting {where} for {job.model.id}", fresh)
            return True
        case Refuse(error):
            _record(colony, job, verdict)
            colony.queue.remove(job)
            ending.fail(colony, job, error)
            return True


def _record(colony: Colony, job: Job, verdict: Verdict) -> None:
    decision = colony.policy.explain(job, colony.view(), verdict, brief=True)
    colony.effects.append(Record(decision))


def _dispatch(colony: Colony, job: Job, worker: Worker) -> None:
    assert worker.url is not None
    colony.experience.dispatched(job, worker, colony.now)
    colony.setbacks.worker(worker.id).sent(colony.now)
    colony.setbacks.hive(worker.hive).sent(colony.now)
    job.life.to(JobState.DISPATCHED, worker.id)
    job.attempt += 1
    job.worker_id, job.hive = worker.id, worker.hive
    job.waiting_for = job.waits_on = None
    job.dispatched_mono = job.moved_mono = colony.now
    job.started_at = job.started_at or colony.utc
    job.tokens_before = job.tokens_out
    worker.jobs.add(job.job_id)
    worker.life.to(WorkerState.BUSY, job.job_id)
    colony.fleet.touch(worker)
    waited = colony.now - job.queued_mono
    telling.append(
        colony,
        job,
        EventType.STARTED,
        StartedData(
            worker_id=worker.id,
            hive=worker.hive,
            model=worker.spec.model_id,
            device=worker.spec.device,
            quant=worker.model.quant,
            queued_ms=round(waited * 1000),
            attempt=job.attempt,
            tokens_before=job.tokens_before,
        ),
    )
    if job.tokens_before:
        job.resumes += 1
        colony.count("resumes", model=worker.spec.model_id)
    if job.attempt == 1:
        colony.effects.append(Count("wait_seconds", waited, {"priority": job.priority}))
    colony.effects += [
        SaveJob(job),
        Dispatch(job, job.attempt, worker.hive, worker.id, worker.url, worker.spec.backend),
    ]
    colony.narrate(f"job {job.job_id} → {worker.id}")
    telling.publish_job(colony, job)
    telling.publish_worker(colony, worker)


def _tell_group(colony: Colony, head: Job, reason: str, worker: Worker | None) -> None:
    """Tell every job of the group once why it waits, and again only when that changes."""
    loading = worker is not None and worker.state is WorkerState.LOADING
    status = StatusData(
        stage="loading" if loading else "waiting",
        message=reason,
        progress=worker.progress if worker is not None and loading else None,
    )
    told = (status, worker.id if worker is not None else None)
    if colony.told.get(head.demand()) == told and head.waiting_for == reason:
        return
    colony.told[head.demand()] = told
    for job in list(islice(colony.queue.members(head.demand()), TOLD_AT_ONCE)):
        telling.waits(colony, job, *told)
    telling.waits(colony, head, *told)


def _unclaim(colony: Colony) -> bool:
    """Let workers take others' work again when nobody waits for their room any more; whether any
    was let."""
    if not colony.queue:
        colony.told.clear()
    claimed = colony.fleet.claimed()
    if not claimed:
        return False
    freed = False
    wanted = {head.demand().model_id for head in colony.queue.heads(colony.now)}
    for worker in claimed:
        if worker.claimed_for not in wanted:
            worker.claimed_for, freed = None, True
            colony.fleet.touch(worker)
            telling.publish_worker(colony, worker)
    return freed


def _preempt(colony: Colony, job: Job) -> None:
    """Put back one running batch job where an interactive one has waited for too long."""
    waited = colony.now - job.queued_mono
    if job.priority is Priority.BATCH or waited < colony.limits.preempt_after:
        return
    demand, request = job.demand(), job.request
    assert isinstance(request, ModelWork)
    pool = colony.fleet.pool(demand.model_id, demand.model_key)
    running = [  # where the slot would be the waiting job's to use
        other
        for worker in (pool.full.members if pool is not None else ())
        if not pinned_elsewhere(worker, request)
        for other in map(colony.jobs.get, worker.jobs)
        if other is not None
        and other.streams_text
        and other.priority is Priority.BATCH
        # Put back, one that counts as interactive would be the next again, and put back again.
        and colony.now - other.queued_mono < PROMOTE_AFTER
    ]
    if not running or any(other.preempted for other in running):
        return
    least = min(running, key=lambda other: (other.tokens_out, other.job_id))
    least.preempted = True
    colony.narrate(f"job {least.job_id} (batch) makes room: {job.job_id} has waited {waited:.0f} s")
    colony.count("preemptions", model=demand.model_id)
    colony.effects.append(AbortRun(least.job_id, least.attempt))
