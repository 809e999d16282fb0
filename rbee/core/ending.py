"""How jobs end: well, badly, cancelled, or with their worker. One terminal event each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rbee.core import telling
from rbee.core.effects import SaveJob
from rbee.core.jobs import Job
from rbee.errors import HiveOffline, RbeeError, WorkerStuck
from rbee.protocol.jobs import CancelledData, EndData, ErrorData, EventType, JobState, StatusData
from rbee.protocol.operations import (
    ModelPreload,
    ModelWork,
    WorkerDrain,
    WorkerSpawn,
    WorkerStop,
)
from rbee.protocol.workers import WorkerState

if TYPE_CHECKING:
    from rbee.core.colony import Colony
    from rbee.core.fleet import Worker


def complete(
    colony: Colony,
    job: Job,
    finish_reason: str,
    *,
    duration_ms: float | None = None,
    stop: str = "",
) -> None:
    """A good end; by that stop string, if one did it."""
    since = job.dispatched_mono if job.dispatched_mono is not None else job.queued_mono
    took = duration_ms if duration_ms is not None else (colony.now - since) * 1000
    job.finish_reason = finish_reason
    job.life.to(JobState.COMPLETED, finish_reason)
    told = EndData(
        finish_reason=finish_reason, tokens_out=job.tokens_out, duration_ms=round(took), stop=stop
    )
    telling.append(colony, job, EventType.END, told)
    _finish(colony, job)


def fail(colony: Colony, job: Job, error: RbeeError, *, dead: bool = False) -> None:
    """A bad end, with its code. `dead`: it was tried as often as is allowed."""
    job.dead = dead and job.durable
    job.error_code, job.error_message = error.code, error.message
    job.life.to(JobState.FAILED, error.code)
    details = dict(error.details)
    if job.tokens_out:
        details["tokens_out"] = job.tokens_out
    if job.dead:
        details["dead"] = True
    telling.append(
        colony,
        job,
        EventType.ERROR,
        ErrorData(code=error.code, message=error.message, details=details),
    )
    colony.narrate(f"job {job.job_id} failed: {error.code} {error.message}", level="error")
    _finish(colony, job)


def load_failed(colony: Colony, worker: Worker, error: RbeeError) -> None:
    """A worker did not come up: its place is ruled out for those that counted on it."""
    where = worker.where
    for job in list(colony.queue):
        if job.model is not None and (job.model.id, job.model.key) == where[:2]:
            job.failed_places[where] = error
            job.waits_on = None
    fail_spawns(colony, worker.id, error)


def fail_spawns(colony: Colony, worker_id: str, error: RbeeError) -> None:
    """Who asked for a worker that does not come up hears why."""
    for job in list(colony.jobs.values()):
        if isinstance(job.request, WorkerSpawn | ModelPreload) and job.worker_id == worker_id:
            fail(colony, job, error)


def worker_gone(colony: Colony, worker_id: str, error: RbeeError) -> None:
    """What ran on a worker goes on elsewhere; what was about the worker has its end."""
    from rbee.core import moving  # which ends jobs by this module

    for job in [j for j in colony.jobs.values() if worker_id in j.unloading]:
        unloaded(colony, job, worker_id, error)
    for job in [j for j in colony.jobs.values() if j.worker_id == worker_id]:
        match job.request:
            case WorkerStop() | WorkerDrain() if isinstance(error, WorkerStuck | HiveOffline):
                fail(colony, job, error)
            case WorkerStop() | WorkerDrain():
                gone = {"worker_id": worker_id, "state": "stopped"}
                telling.append(colony, job, EventType.RESULT, gone)
                complete(colony, job, "stop")
            case ModelWork():
                moving.lose(colony, job, error)
            case _:
                fail(colony, job, error)


def unloaded(colony: Colony, job: Job, worker_id: str, error: RbeeError) -> None:
    """One of the workers that the job ends is gone; with the last one it has its result."""
    if isinstance(error, WorkerStuck | HiveOffline):
        fail(colony, job, error)
        return
    job.unloading[worker_id] = True
    if all(job.unloading.values()):
        telling.append(colony, job, EventType.RESULT, {"workers": list(job.unloading)})
        complete(colony, job, "stop")


def worker_ready(colony: Colony, worker_id: str) -> None:
    """Jobs that asked for this worker have their result."""
    worker = colony.fleet.workers[worker_id]
    for job in [j for j in colony.jobs.values() if j.worker_id == worker_id]:
        if isinstance(job.request, WorkerSpawn | ModelPreload):
            telling.append(colony, job, EventType.RESULT, worker.info(colony.now))
            complete(colony, job, "stop")


def worker_progress(colony: Colony, worker_id: str, message: str, progress: float | None) -> None:
    """Load progress for jobs that asked for this worker."""
    for job in colony.jobs.values():
        if (
            isinstance(job.request, WorkerSpawn | ModelPreload)
            and job.worker_id == worker_id
            and job.waiting_for != message
        ):
            job.waiting_for = message
            telling.append(
                colony,
                job,
                EventType.STATUS,
                StatusData(stage="loading", message=message, progress=progress),
            )


def release(colony: Colony, job: Job) -> None:
    """Its worker's slot is free; what it was to find out of a breaker is known or never will be."""
    if job.worker_id is not None and job.hive is not None:
        colony.setbacks.worker(job.worker_id).forgotten()
        colony.setbacks.hive(job.hive).forgotten()
    worker = colony.fleet.workers.get(job.worker_id or "")
    if worker is None or job.job_id not in worker.jobs:
        return
    worker.jobs.discard(job.job_id)
    if not worker.jobs:
        worker.idle_since = colony.now
        if worker.state is WorkerState.BUSY:
            worker.life.to(WorkerState.IDLE, "last job ended")
    colony.fleet.touch(worker)
    telling.publish_worker(colony, worker)


def end_cancelled(colony: Colony, job: Job) -> None:
    """The end that was asked for."""
    job.life.to(JobState.CANCELLED, job.cancel_reason or "")
    telling.append(colony, job, EventType.CANCELLED, CancelledData(reason=job.cancel_reason or ""))
    _finish(colony, job)


def _finish(colony: Colony, job: Job) -> None:
    job.finished_at, job.waiting_for = colony.utc, None
    colony.tokens_done += job.tokens_out
    del colony.jobs[job.job_id]
    if isinstance(job.request, ModelWork) and job.fetch_on is None:
        colony.queue.shares.leave(job.client)
    colony.count("tokens", job.tokens_out, kind="answer", model=job.model.id if job.model else "")
    outcome = job.error_code or job.state
    colony.count("requests", operation=job.operation, outcome=outcome)
    colony.effects.append(SaveJob(job))
    telling.publish_job(colony, job)
