"""The life of jobs: submit, run, cancel, end. Functions over a Colony; called by nobody else."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from rbee.core import (
    ending,
    fetching,
    moving,
    performing,
    supervising,
    telling,
    unloading,
    workers,
)
from rbee.core.effects import AbortRun, Count, SaveJob
from rbee.core.events import (
    Fetched,
    JobSubmitted,
    Loss,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunStarted,
)
from rbee.core.jobs import Job
from rbee.core.states import JOB_ACTIVE, WORKER_READY
from rbee.errors import (
    ContextLengthExceeded,
    DeadlineUnmet,
    DeviceFailed,
    RbeeError,
    ShuttingDown,
    WorkerLost,
)
from rbee.protocol.jobs import EventType, JobState, MetricsData, QueuedData, StatusData
from rbee.protocol.operations import (
    HiveTask,
    ModelCopy,
    ModelDelete,
    ModelDownload,
    ModelPreload,
    ModelUnload,
    ModelVerify,
    ModelWork,
    Priority,
    QueenCheck,
    Status,
    WorkerDrain,
    WorkerSpawn,
    WorkerStop,
)

if TYPE_CHECKING:
    from rbee.core.colony import Colony
    from rbee.core.fleet import Worker

LONG_LINE = 32
"""Jobs of one kind behind which one more changes nothing that the next tick would not see."""
RATE_WEIGHT = 0.3
"""Weight of the newest measurement in a worker's moving average."""


def submit(colony: Colony, event: JobSubmitted) -> None:
    """A new job: queue work for a model, begin anything else."""
    job = event.job
    colony.jobs[job.job_id] = job
    if colony.stopping and event.recovered:
        del colony.jobs[job.job_id]  # the next queen takes it up
        return
    if colony.stopping:
        ending.fail(colony, job, ShuttingDown("the queen is shutting down"))
        return
    if job.fetch_on is not None:
        fetching.begin(colony, job, recovered=event.recovered)
        return
    match job.request:
        case ModelWork():
            _queue(colony, job, recovered=event.recovered)
            colony.unmoved = colony.queue.depth_of(job) > LONG_LINE
        case WorkerSpawn() | ModelPreload():
            _load(colony, job)
        case ModelUnload() as wish:
            _begin(colony, job)
            unloading.begin(colony, job, wish)
        case ModelDownload() | ModelDelete() | ModelVerify() | ModelCopy() | HiveTask():
            _begin(colony, job)
            performing.begin(colony, job)
        case WorkerStop(worker_id=worker_id):
            _begin(colony, job)
            workers.stop(colony, job, worker_id)
        case WorkerDrain(worker_id=worker_id):
            _begin(colony, job)
            workers.drain(colony, job, worker_id)
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


def fetched(colony: Colony, event: Fetched) -> None:
    """The model that a job waited for is there: it goes on as if it came only now, in its turn."""
    job = fetching.fetched(colony, event)
    if job is None:
        return
    if isinstance(job.request, ModelWork):
        _queue(colony, job, recovered=True)
    else:
        _load(colony, job)


def _load(colony: Colony, job: Job) -> None:
    _begin(colony, job)
    workers.load(colony, job)


def _queue(colony: Colony, job: Job, *, recovered: bool) -> None:
    colony.queue.shares.enter(job.client)
    colony.experience.submitted(job, colony.now)
    colony.queue.push(job)
    if isinstance(job.request, ModelWork) and job.request.deadline_ms is not None:
        colony.urgent[job.job_id] = job
    if not recovered:
        position = colony.queue.position(job, colony.now)
        eta = colony.policy.first_token(job, colony.view(), position)
        eta_ms = round(eta * 1000) if eta is not None else None
        data = QueuedData(position=position, eta_ms=eta_ms)
        telling.append(colony, job, EventType.QUEUED, data)
    told = colony.told.get(job.demand())
    if told is not None:  # why its group waits, which is only told again when it changes
        telling.waits(colony, job, *told)
    if recovered or not job.durable:  # else it was accepted as it is
        colony.effects.append(SaveJob(job))
    telling.publish_job(colony, job)


def started(colony: Colony, event: RunStarted) -> None:
    """First token."""
    job = _run_of(colony, event)
    if job is None or job.state is not JobState.DISPATCHED:
        return
    job.life.to(JobState.RUNNING, "first token")
    job.moved_mono = colony.now
    if job.ttft_ms is None:
        job.ttft_ms = event.ttft_ms
        colony.effects.append(Count("first_token_seconds", colony.now - job.queued_mono))
    colony.effects.append(SaveJob(job))
    telling.publish_job(colony, job)


def completed(colony: Colony, event: RunCompleted) -> None:
    """The worker is done with it."""
    job = _run_of(colony, event)
    if job is None:
        return
    if job.state is JobState.DISPATCHED:
        job.life.to(JobState.RUNNING, "answer without text")
    usage = event.usage
    job.tokens_out = event.tokens_out
    job.prompt_tokens, job.cached_tokens = usage.prompt_tokens, usage.cached_tokens
    made = max(0, usage.completion_tokens - job.tokens_before)
    rate = made * 1000 / usage.decode_ms if usage.decode_ms > 0 else 0.0
    job.tokens_per_second = round(rate, 2)
    worker = colony.fleet.workers.get(job.worker_id or "")
    if worker is not None:
        colony.experience.completed(job, worker, usage, len(worker.jobs), colony.now)
        colony.setbacks.worker(worker.id).succeeded()
        colony.setbacks.hive(worker.hive).succeeded()
        if made >= 8:
            old = worker.decode_rate
            worker.decode_rate = rate if old is None else old + RATE_WEIGHT * (rate - old)
    _charge(colony, job, usage.prompt_tokens)
    colony.count("tokens", usage.prompt_tokens, kind="prompt", model=_model(job))
    colony.count("tokens", usage.cached_tokens, kind="cached", model=_model(job))
    ending.release(colony, job)
    told = MetricsData(
        tokens_per_second=round(rate, 2),
        ttft_ms=round(job.ttft_ms or 0.0, 1),
        prompt_tokens=usage.prompt_tokens,
        cached_tokens=usage.cached_tokens,
        resumed=job.resumes,
    )
    telling.append(colony, job, EventType.METRICS, told)
    ending.complete(
        colony, job, event.finish_reason, duration_ms=event.duration_ms, stop=event.stop
    )


def failed(colony: Colony, event: RunFailed) -> None:
    """The run broke: through no fault of the job's it is moved, else it ends."""
    job = _run_of(colony, event)
    if job is None:
        return
    job.tokens_out = event.tokens_out
    worker = colony.fleet.workers.get(job.worker_id or "")
    if event.loss is Loss.BUSY:
        if worker is not None:
            supervising.doubt(colony, worker)
        ending.release(colony, job)
        if job.cancel_reason is not None:
            ending.end_cancelled(colony, job)
        else:
            moving.requeue(colony, job, "its worker was busy after all")
        return
    error = event.error
    if worker is not None and _fits_elsewhere(colony, job, worker, error):
        ending.release(colony, job)
        if job.cancel_reason is not None:
            ending.end_cancelled(colony, job)
        else:
            moving.requeue(colony, job, f"{worker.id}: {error.message}; another has more room")
        return
    if job.tokens_before and str(error.details.get("field", "")).startswith("emitted"):
        error = WorkerLost(f"{job.worker_id} cannot go on with the answer: {error.message}")
        event = replace(event, error=error, loss=None)
    transient = event.loss is not None or isinstance(event.error, moving.TRANSIENT)
    dead = event.loss is Loss.BROKEN or isinstance(event.error, DeviceFailed)
    if transient and worker is not None and not (dead and worker.blamed):
        _blame(colony, worker.id, worker.hive)  # one death is one failure, however many it served
    if event.loss is Loss.STALLED and worker is not None:
        supervising.hung(colony, worker, event.error.message)
    elif dead and worker is not None:
        worker.blamed = True
        supervising.doubt(colony, worker, dying=event.loss is not Loss.BROKEN)
    if transient and job.state in JOB_ACTIVE:
        moving.lose(colony, job, event.error, abort=False)
        return
    if job.state in JOB_ACTIVE:
        ending.release(colony, job)
        if job.cancel_reason is not None:
            ending.end_cancelled(colony, job)
        else:
            ending.fail(colony, job, event.error)


def _fits_elsewhere(colony: Colony, job: Job, worker: Worker, error: RbeeError) -> bool:
    """Whether a live worker has the context that this one lacks; the job then asks for it."""
    if not isinstance(error, ContextLengthExceeded) or job.model is None:
        return False
    required = error.details.get("required")
    least = required if isinstance(required, int) else worker.ctx + 1
    others = colony.fleet.of_model(job.model.id, job.model.key)
    if worker.ctx >= least or not any(other.spec.ctx >= least for other in others):
        return False
    job.least_ctx = least
    return True


def _blame(colony: Colony, worker_id: str, hive: str) -> None:
    if colony.setbacks.worker(worker_id).failed(colony.now):
        colony.narrate(f"{worker_id} failed too often in a row: nothing is sent there", source=hive)
    if colony.setbacks.hive(hive).failed(colony.now):
        colony.narrate("failed too often in a row: nothing is sent there", source=hive)


def end_overdue(colony: Colony) -> None:
    """Jobs whose caller's deadline passed before work began."""
    for job in list(colony.urgent.values()):
        request = job.request
        if job.attempt or job.job_id not in colony.jobs:
            del colony.urgent[job.job_id]
            continue
        assert isinstance(request, ModelWork)
        assert request.deadline_ms is not None
        waited = (colony.now - job.queued_mono) * 1000
        if waited > request.deadline_ms:
            del colony.urgent[job.job_id]
            moving.unqueue(colony, job)
            error = DeadlineUnmet(
                f"waited {waited:.0f} ms, the deadline was {request.deadline_ms} ms"
                + (f": {job.waiting_for}" if job.waiting_for else ""),
                waited_ms=round(waited),
                deadline_ms=request.deadline_ms,
            )
            ending.fail(colony, job, error)


def cancel(colony: Colony, job_id: str, reason: str) -> None:
    """Cancel wherever it is; a job that has ended is left alone."""
    job = colony.jobs.get(job_id)
    if job is None or job.cancel_reason is not None:
        return
    job.cancel_reason, job.cancelled_mono = reason, colony.now
    if job.state is JobState.QUEUED:
        moving.unqueue(colony, job)
        ending.end_cancelled(colony, job)
    elif isinstance(job.request, ModelWork):
        colony.effects.append(AbortRun(job_id, job.attempt))
    elif job_id in colony.performing:
        performing.cancel(colony, job)
    else:
        worker = colony.fleet.workers.get(job.worker_id or "")
        starts = isinstance(job.request, WorkerSpawn | ModelPreload) and not job.attached
        if starts and worker and worker.state not in WORKER_READY:
            supervising.stop_worker(colony, worker, "its start was cancelled", force=True)
        if isinstance(job.request, WorkerDrain) and worker and worker.state in WORKER_READY:
            worker.draining = False
            colony.fleet.touch(worker)
            telling.publish_worker(colony, worker)
        unloading.cancel(colony, job)
        ending.end_cancelled(colony, job)


def cancelled(colony: Colony, event: RunCancelled) -> None:
    """The worker has let go."""
    if event.wasted:
        colony.count("wasted_tokens", event.wasted)
    job = _run_of(colony, event)
    if job is None:
        return
    job.tokens_out = event.tokens_out
    worker = colony.fleet.workers.get(job.worker_id or "")
    ending.release(colony, job)
    if job.preempted and job.cancel_reason is None:
        moving.requeue(colony, job, f"put back after {job.tokens_out} tokens: others matter more")
        return
    if job.cancel_reason is not None:
        ending.end_cancelled(colony, job)
    elif not colony.stopping:  # else the next queen goes on with it
        if worker is not None:
            supervising.doubt(colony, worker)
        error = WorkerLost(f"{job.worker_id} let go of it", worker_id=job.worker_id)
        moving.lose(colony, job, error, abort=False)


def shut_down(colony: Colony) -> None:
    """End what runs; what waits, and batch work that runs, goes on after the next start."""
    for job in list(colony.jobs.values()):
        waits = job.state is JobState.QUEUED
        if waits and job.durable and isinstance(job.request, ModelWork):
            continue
        if waits:
            moving.unqueue(colony, job)
        elif job.job_id in colony.performing:
            if performing.shut_down(colony, job):
                continue
        elif isinstance(job.request, ModelWork):
            colony.effects.append(AbortRun(job.job_id, job.attempt))
            ending.release(colony, job)
            if job.cancel_reason is not None:
                ending.end_cancelled(colony, job)
                continue
            if job.durable and job.priority is Priority.BATCH:
                del colony.jobs[job.job_id]  # what its run or its worker still says would end it
                continue
        ending.fail(colony, job, ShuttingDown("the queen is shutting down"))


def _run_of(
    colony: Colony, event: RunStarted | RunCompleted | RunFailed | RunCancelled
) -> Job | None:
    """The job, when this is about its present run: an earlier one may still be heard of."""
    job = colony.jobs.get(event.job_id)
    if job is None or job.attempt != event.attempt or job.state not in JOB_ACTIVE:
        return None
    return job


def _charge(colony: Colony, job: Job, prompt_tokens: int) -> None:
    colony.queue.shares.charge(
        job.client, input_tokens=prompt_tokens, output_tokens=job.tokens_out - job.tokens_charged
    )
    job.tokens_charged = job.tokens_out


def progressed(colony: Colony, job: Job, tokens: int) -> None:
    """What a tick says of a running job."""
    if tokens <= job.tokens_out:
        return
    job.tokens_out, job.moved_mono = tokens, colony.now
    colony.queue.shares.charge(job.client, output_tokens=tokens - job.tokens_charged)
    job.tokens_charged = tokens
    telling.publish_job(colony, job)


def _model(job: Job) -> str:
    return job.model.id if job.model is not None else ""


def _begin(colony: Colony, job: Job) -> None:
    job.life.to(JobState.DISPATCHED, "queen")
    job.life.to(JobState.RUNNING, "queen")
    job.started_at, job.dispatched_mono = colony.utc, colony.now
    colony.effects.append(SaveJob(job))
    telling.publish_job(colony, job)
