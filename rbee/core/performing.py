"""Operations beside the queue: on models (download, delete, verify, copy) and on machines.

Owns their way from the effect that begins them to their one terminal event, and the limit of what
a cancelled one may take. Never touches a file or a machine. Functions over a Colony; called by
nobody else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rbee.core import ending, telling
from rbee.core.effects import AbortPerform, Perform, SaveJob
from rbee.core.events import Performed, PerformFailed, PerformProgress
from rbee.core.jobs import Job
from rbee.errors import Cancelled
from rbee.protocol.jobs import EventType, StatusData
from rbee.protocol.operations import (
    HiveAdd,
    HiveTask,
    ModelCopy,
    ModelDelete,
    ModelDownload,
    ModelVerify,
    Operation,
)

if TYPE_CHECKING:
    from rbee.core.colony import Colony

CLEANUP = 5.0
"""Seconds after which a cancelled operation has ended, whatever is still cleared away."""


def begin(colony: Colony, job: Job) -> None:
    """Have it done."""
    request = job.request
    job.hive = _hive(request)
    colony.performing[job.job_id] = job
    colony.effects += [SaveJob(job), Perform(job.job_id, job)]
    telling.publish_job(colony, job)


def _hive(request: Operation) -> str | None:
    match request:
        case ModelCopy():
            return request.to_hive
        case HiveAdd():
            return request.name
        case HiveTask() | ModelDownload() | ModelDelete() | ModelVerify():
            return request.hive
        case _:
            raise AssertionError(request)


def progressed(colony: Colony, event: PerformProgress) -> None:
    """How far it is."""
    job = colony.performing.get(event.job_id)
    if job is None:
        return
    job.waiting_for = event.message
    status = StatusData(stage=event.stage, message=event.message, progress=event.progress)
    telling.append(colony, job, EventType.STATUS, status)
    telling.publish_job(colony, job)


def done(colony: Colony, event: Performed) -> None:
    """It is done, although it may have been cancelled meanwhile: what was done is told."""
    job = colony.performing.pop(event.job_id, None)
    if job is None:
        return
    hive = event.result.get("to_hive") or event.result.get("hive")
    if isinstance(hive, str):
        job.hive = hive
    telling.append(colony, job, EventType.RESULT, event.result)
    ending.complete(colony, job, "stop")


def failed(colony: Colony, event: PerformFailed) -> None:
    """It went wrong, or ended as it was wanted to."""
    job = colony.performing.pop(event.job_id, None)
    if job is None:
        return
    if job.cancel_reason is not None and isinstance(event.error, Cancelled):
        ending.end_cancelled(colony, job)
    else:
        ending.fail(colony, job, event.error)


def cancel(colony: Colony, job: Job) -> None:
    """Have it broken off; it ends when that is done, or CLEANUP seconds from now."""
    colony.effects.append(AbortPerform(job.job_id))
    status = StatusData(stage="cancelling", message=job.cancel_reason or "")
    telling.append(colony, job, EventType.STATUS, status)


def cancelled(colony: Colony, job_id: str) -> None:
    """It was broken off. One that nobody cancelled was by somebody else, at its hive."""
    job = colony.performing.pop(job_id, None)
    if job is None:
        return
    job.cancel_reason = job.cancel_reason or "broken off at its hive"
    ending.end_cancelled(colony, job)


def end_cancelled(colony: Colony) -> None:
    """Those that were to be broken off long enough ago."""
    for job in list(colony.performing.values()):
        if job.cancelled_mono is not None and colony.now - job.cancelled_mono >= CLEANUP:
            cancelled(colony, job.job_id)


def shut_down(colony: Colony, job: Job) -> bool:
    """The queen goes: it is broken off. Whether the next one begins it again: a download goes on
    with what is there."""
    del colony.performing[job.job_id]
    colony.effects.append(AbortPerform(job.job_id))
    if job.cancel_reason is not None:
        ending.end_cancelled(colony, job)
        return True
    if job.durable and isinstance(job.request, ModelDownload):
        del colony.jobs[job.job_id]
        return True
    return False
