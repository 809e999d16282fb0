"""The life of jobs: submit, place, run, end. Functions over a Colony; called by nobody else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rbee.core import ending, supervising, telling
from rbee.core.events import (
    AbortRun,
    Dispatch,
    RunCompleted,
    RunFailed,
    RunStarted,
    SaveJob,
)
from rbee.core.feasibility import Wish, places
from rbee.core.jobs import Job
from rbee.core.policy import Refuse, Run, Spawn, Wait
from rbee.core.states import WORKER_READY
from rbee.errors import DeadlineUnmet, NotFound, ShuttingDown
from rbee.protocol.jobs import (
    EventType,
    JobState,
    MetricsData,
    QueuedData,
    StartedData,
    StatusData,
)
from rbee.protocol.operations import ModelWork, QueenCheck, Status, WorkerSpawn, WorkerStop
from rbee.protocol.workers import WorkerState

if TYPE_CHECKING:
    from rbee.core.colony import Colony
    from rbee.core.fleet import Worker

EXIT_COMES_WITHIN = 1.0
"""Seconds after a broken connection in which the process's end is known if it has ended."""
RATE_WEIGHT = 0.3
"""Weight of the newest measurement in a worker's moving average."""


def submit(colony: Colony, job: Job) -> None:
    """A new job: queue work for a model, begin anything else."""
    colony.jobs[job.job_id] = job
    if colony.stopping:
        ending.fail(colony, job, ShuttingDown("the queen is shutting down"))
        return
    match job.request:
        case ModelWork():
            colony.queue.push(job)
            position = colony.queue.position(job, colony.now)
            telling.append(colony, job, EventType.QUEUED, QueuedData(position=position))
            colony.effects.append(SaveJob(job))
            telling.publish_job(colony, job)
        case WorkerSpawn() as wish:
            _begin(colony, job)
            _spawn(colony, job, wish)
        case WorkerStop(worker_id=worker_id):
            _begin(colony, job)
            _stop(colony, job, worker_id)
        case Status():
            _begin(colony, job)
            telling.append(colony, job, EventType.RESULT, colony.totals())
            ending.complete(colony, job, "stop")
        case QueenCheck():
            _begin(colony, job)
            for n, line in enumerate(("inbox", "brain", "stream")):
                telling.append(
                    colony,
                    job,
                    EventType.STATUS,
                    StatusData(stage=line, message=f"{line} answers", progress=(n + 1) / 3),
                )
            telling.append(colony, job, EventType.RESULT, colony.totals())
            ending.complete(colony, job, "stop")


def _spawn(colony: Colony, job: Job, wish: WorkerSpawn) -> None:
    model = job.model
    assert model is not None
    default = colony.policy.ctx
    ctx = wish.ctx or min(default, model.context or default)
    good, bad = places(
        Wish(
            model=model,
            ctx=ctx,
            slots=wish.slots or colony.policy.slots,
            clamp=wish.slots is None,
            kv_type=colony.policy.kv_type,
            hive=wish.hive,
            device=wish.device,
            backend=wish.backend,
        ),
        colony.fleet,
    )
    if not good:
        ending.fail(colony, job, bad[-1])
        return
    worker = supervising.start_worker(
        colony,
        good[0],
        model,
        ctx=ctx,
        pinned=wish.pin,
        why=f"asked by {job.job_id}",
    )
    job.worker_id, job.hive = worker.id, worker.hive
    telling.append(
        colony,
        job,
        EventType.STATUS,
        StatusData(
            stage="starting", message=f"starting {worker.id} on {worker.hive} {worker.spec.device}"
        ),
    )
    telling.publish_job(colony, job)


def _stop(colony: Colony, job: Job, worker_id: str) -> None:
    worker = colony.fleet.workers.get(worker_id)
    if worker is None or worker.state in (WorkerState.STOPPED, WorkerState.FAILED):
        ending.fail(
            colony,
            job,
            NotFound(
                f"no running worker {worker_id}", action="rbee worker list shows the workers."
            ),
        )
        return
    job.worker_id, job.hive = worker_id, worker.hive
    supervising.stop_worker(colony, worker, f"asked by {job.job_id}")


def plan(colony: Colony) -> None:
    """Place what can be placed; tell the others why they wait."""
    if colony.stopping:
        return
    progress = True
    while progress:
        progress = False
        for job in colony.queue.heads(colony.now):
            match colony.policy.route(job, colony.fleet, colony.now):
                case Run(worker):
                    colony.queue.remove(job)
                    _dispatch(colony, job, worker.id)
                    progress = True
                case Wait(reason, worker):
                    _tell_group(colony, job, reason, worker)
                case Spawn(place, reason):
                    assert job.model is not None
                    for victim in place.evict:
                        supervising.stop_worker(
                            colony, victim, f"made room for {job.model.id}", force=False
                        )
                    if place.evict:
                        _tell_group(colony, job, reason, None)
                        continue
                    ctx = min(colony.policy.ctx, job.model.context or 1 << 30)
                    fresh = supervising.start_worker(
                        colony, place, job.model, ctx=ctx, pinned=False, why=reason
                    )
                    where = f"{fresh.id} on {fresh.hive} {fresh.spec.device}"
                    _tell_group(colony, job, f"starting {where} for {job.model.id}", fresh)
                    progress = True
                case Refuse(error):
                    colony.queue.remove(job)
                    ending.fail(colony, job, error)
                    progress = True


def _dispatch(colony: Colony, job: Job, worker_id: str) -> None:
    worker = colony.fleet.workers[worker_id]
    assert worker.url is not None
    job.life.to(JobState.DISPATCHED, worker_id)
    job.worker_id, job.hive, job.waiting_for = worker_id, worker.hive, None
    job.dispatched_mono, job.started_at = colony.now, colony.utc
    worker.jobs.add(job.job_id)
    worker.life.to(WorkerState.BUSY, job.job_id)
    queued_ms = round((colony.now - job.queued_mono) * 1000)
    telling.append(
        colony,
        job,
        EventType.STARTED,
        StartedData(
            worker_id=worker_id,
            hive=worker.hive,
            model=worker.spec.model_id,
            device=worker.spec.device,
            quant=worker.model.quant,
            queued_ms=queued_ms,
        ),
    )
    colony.effects += [
        SaveJob(job),
        Dispatch(job, worker_id, worker.url, worker.spec.device, worker.model.quant, queued_ms),
    ]
    colony.narrate(f"job {job.job_id} → {worker_id}")
    telling.publish_job(colony, job)
    telling.publish_worker(colony, worker)


def _tell_group(colony: Colony, head: Job, reason: str, worker: Worker | None) -> None:
    """Tell every job of the group once why it waits, and again only when that changes."""
    loading = worker is not None and worker.state is WorkerState.LOADING
    data = StatusData(
        stage="loading" if loading else "waiting",
        message=reason,
        progress=worker.progress if worker is not None and loading else None,
    )
    for job in colony.queue.members(head.demand()):
        job.waits_on = worker.id if worker is not None else None
        if job.waiting_for == reason:
            continue
        job.waiting_for = reason
        telling.append(colony, job, EventType.STATUS, data)
        telling.publish_job(colony, job)


def started(colony: Colony, event: RunStarted) -> None:
    """First token."""
    job = colony.jobs.get(event.job_id)
    if job is None or job.state is not JobState.DISPATCHED:
        return
    job.life.to(JobState.RUNNING, "first token")
    job.ttft_ms = event.ttft_ms
    colony.effects.append(SaveJob(job))
    telling.publish_job(colony, job)


def completed(colony: Colony, event: RunCompleted) -> None:
    """The worker is done with it."""
    job = colony.jobs.get(event.job_id)
    if job is None:
        return
    if job.state is JobState.DISPATCHED:
        job.life.to(JobState.RUNNING, "answer without text")
    usage = event.usage
    job.tokens_out = event.tokens_out
    job.prompt_tokens, job.cached_tokens = usage.prompt_tokens, usage.cached_tokens
    rate = usage.completion_tokens * 1000 / usage.decode_ms if usage.decode_ms > 0 else 0.0
    job.tokens_per_second = round(rate, 2)
    worker = colony.fleet.workers.get(job.worker_id or "")
    if worker is not None and usage.completion_tokens >= 8:
        old = worker.decode_rate
        worker.decode_rate = rate if old is None else old + RATE_WEIGHT * (rate - old)
    ending.release(colony, job)
    telling.append(
        colony,
        job,
        EventType.METRICS,
        MetricsData(
            tokens_per_second=round(rate, 2),
            ttft_ms=round(job.ttft_ms or 0.0, 1),
            prompt_tokens=usage.prompt_tokens,
            cached_tokens=usage.cached_tokens,
        ),
    )
    ending.complete(colony, job, event.finish_reason, duration_ms=event.duration_ms)


def failed(colony: Colony, event: RunFailed) -> None:
    """The run broke. A busy worker's refusal puts the job back in front."""
    job = colony.jobs.get(event.job_id)
    if job is None:
        return
    job.tokens_out = event.tokens_out
    worker = colony.fleet.workers.get(job.worker_id or "")
    if event.lost and worker is not None:
        worker.suspect = True
        job.lost, job.lost_mono = event.error, colony.now
        return
    ending.release(colony, job)
    if job.cancel_reason is not None:
        ending.end_cancelled(colony, job)
    elif event.busy and job.state is JobState.DISPATCHED:
        job.life.to(JobState.QUEUED, "worker was busy after all")
        job.worker_id = job.hive = None
        if worker is not None:
            worker.suspect = True
        colony.queue.push_front(job)
    else:
        ending.fail(colony, job, event.error)


def end_overdue(colony: Colony) -> None:
    """Jobs whose caller's deadline passed before work began."""
    for job in list(colony.queue):
        request = job.request
        assert isinstance(request, ModelWork)
        waited = (colony.now - job.queued_mono) * 1000
        if request.deadline_ms is not None and waited > request.deadline_ms:
            colony.queue.remove(job)
            error = DeadlineUnmet(
                f"waited {waited:.0f} ms, the deadline was {request.deadline_ms} ms"
                + (f": {job.waiting_for}" if job.waiting_for else ""),
                waited_ms=round(waited),
                deadline_ms=request.deadline_ms,
            )
            ending.fail(colony, job, error)


def end_lost(colony: Colony) -> None:
    """Jobs whose connection broke and whose worker's exit did not come to explain it."""
    for job in list(colony.jobs.values()):
        if job.lost is not None and colony.now - job.lost_mono >= EXIT_COMES_WITHIN:
            ending.release(colony, job)
            if job.cancel_reason is not None:
                ending.end_cancelled(colony, job)
            else:
                ending.fail(colony, job, job.lost)


def cancel(colony: Colony, job_id: str, reason: str) -> None:
    """Cancel wherever it is; a job that has ended is left alone."""
    job = colony.jobs.get(job_id)
    if job is None or job.cancel_reason is not None:
        return
    job.cancel_reason = reason
    if job.state is JobState.QUEUED:
        colony.queue.remove(job)
        ending.end_cancelled(colony, job)
    elif isinstance(job.request, ModelWork):
        colony.effects.append(AbortRun(job_id))
    else:
        worker = colony.fleet.workers.get(job.worker_id or "")
        if isinstance(job.request, WorkerSpawn) and worker and worker.state not in WORKER_READY:
            supervising.stop_worker(colony, worker, "its start was cancelled", force=True)
        ending.end_cancelled(colony, job)


def cancelled(colony: Colony, job_id: str, tokens_out: int) -> None:
    """The worker has let go."""
    job = colony.jobs.get(job_id)
    if job is None:
        return
    job.tokens_out = tokens_out
    job.cancel_reason = job.cancel_reason or "cancelled"
    ending.release(colony, job)
    ending.end_cancelled(colony, job)


def shut_down(colony: Colony) -> None:
    """End what runs; durable jobs still in the queue stay on disk and run after the next start."""
    for job in list(colony.jobs.values()):
        if job.state is JobState.QUEUED and job.durable:
            continue
        if job.state is JobState.QUEUED:
            colony.queue.remove(job)
        elif isinstance(job.request, ModelWork):
            colony.effects.append(AbortRun(job.job_id))
            ending.release(colony, job)
        ending.fail(colony, job, ShuttingDown("the queen is shutting down"))


def _begin(colony: Colony, job: Job) -> None:
    job.life.to(JobState.DISPATCHED, "queen")
    job.life.to(JobState.RUNNING, "queen")
    job.started_at, job.dispatched_mono = colony.utc, colony.now
    colony.effects.append(SaveJob(job))
    telling.publish_job(colony, job)
