"""Jobs that lose their worker: they go on elsewhere, are tried again later, or are given up.

What the readers have of an answer stays: the next worker gets the prompt with it and goes on.
Functions over a Colony; called by nobody else.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from rbee.core import ending, fetching, telling
from rbee.core.effects import AbortRun, SaveJob
from rbee.core.jobs import Job
from rbee.core.setbacks import pause, times
from rbee.errors import (
    BadGateway,
    ConnectionTimeout,
    DeviceFailed,
    HiveOffline,
    InferenceTimeout,
    RbeeError,
    ShuttingDown,
    WorkerCrashed,
    WorkerLost,
    WorkerNotReady,
    WorkerStuck,
)
from rbee.protocol.jobs import EventType, JobState, StatusData

if TYPE_CHECKING:
    from rbee.core.colony import Colony

TRANSIENT = (
    BadGateway,
    ConnectionTimeout,
    DeviceFailed,
    HiveOffline,
    InferenceTimeout,
    ShuttingDown,
    WorkerCrashed,
    WorkerLost,
    WorkerNotReady,
    WorkerStuck,
)
"""Errors that say nothing of the job: another worker may well do it."""


def lose(colony: Colony, job: Job, error: RbeeError, *, abort: bool = True) -> None:
    """Its run ended through no fault of its own: on to another worker, or the end of its tries.

    The first loss is made good at once, later ones after a pause. Raises nothing.
    """
    if abort:
        colony.effects.append(AbortRun(job.job_id, job.attempt))
    worker_id = job.worker_id
    ending.release(colony, job)
    if job.cancel_reason is not None:
        ending.end_cancelled(colony, job)
        return
    job.failures += 1
    pinned = getattr(job.request, "worker_id", None) == worker_id and (
        worker_id not in colony.fleet.workers
    )
    if job.failures >= colony.limits.attempts:
        tried = type(error)(f"{error.message} (tried {times(job.failures)})", action=error.action)
        tried.details.update(error.details)
        ending.fail(colony, job, tried, dead=True)
        return
    if pinned or colony.stopping:
        ending.fail(colony, job, error)
        return
    if worker_id is not None:
        job.avoid.add(worker_id)
    rest = pause(job.failures - 1, _jitter(job)) if job.failures > 1 else 0.0
    what = f"goes on after {job.tokens_out} tokens" if job.tokens_out else "is tried again"
    when = f" in {rest:.0f} s" if rest else ""
    colony.count("retries", code=error.code)
    requeue(colony, job, f"{error.message}; it {what}{when}", after=rest, stage="resuming")


def requeue(
    colony: Colony, job: Job, why: str, *, after: float = 0.0, stage: str = "waiting"
) -> None:
    """Back into the queue, before those that came later; not placed for `after` seconds."""
    job.life.to(JobState.QUEUED, why)
    job.worker_id = job.hive = job.waits_on = None
    job.waiting_for = why
    job.preempted = False
    telling.append(colony, job, EventType.STATUS, StatusData(stage=stage, message=why))
    job.not_before = colony.now + after
    if after > 0:
        colony.later[job.job_id] = job
    else:
        colony.queue.push_front(job)
    colony.effects.append(SaveJob(job))
    telling.publish_job(colony, job)


def bring_back(colony: Colony) -> None:
    """Queue those whose pause is over."""
    for job in [j for j in colony.later.values() if j.not_before <= colony.now]:
        del colony.later[job.job_id]
        colony.queue.push_front(job)


def unqueue(colony: Colony, job: Job) -> None:
    """Take a job that waits out of wherever it waits."""
    if colony.later.pop(job.job_id, None) is None and not fetching.leave(colony, job):
        colony.queue.remove(job)


def _jitter(job: Job) -> float:
    """-1 to 1, from the job itself: equal events must lead to equal decisions."""
    return zlib.crc32(f"{job.job_id} {job.failures}".encode()) / (1 << 31) - 1
