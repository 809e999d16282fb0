"""What is said to whom: job streams and dashboards. No state is changed here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rbee.core.effects import Append, Publish
from rbee.core.fleet import Worker
from rbee.core.jobs import Job
from rbee.protocol.base import Wire
from rbee.protocol.jobs import EventType, JobState, StatusData
from rbee.protocol.operations import ModelWork

if TYPE_CHECKING:
    from rbee.core.colony import Colony

POSITIONS_UP_TO = 1000
"""In a longer queue positions are not worked out for dashboards: each costs its length."""


def append(colony: Colony, job: Job, kind: EventType, data: Wire | Mapping[str, object]) -> None:
    """One event of the job's stream."""
    colony.effects.append(Append(job.job_id, kind, data))


def publish_job(colony: Colony, job: Job) -> None:
    """The job to the dashboards, if there are any."""
    if not colony.watched:
        return
    waits = (
        job.state is JobState.QUEUED
        and job.job_id not in colony.later
        and isinstance(job.request, ModelWork)
        and len(colony.queue) <= POSITIONS_UP_TO
    )
    position = colony.queue.position(job, colony.now) if waits else None
    colony.effects.append(Publish("job", job.info(position)))


def waits(colony: Colony, job: Job, status: StatusData, waits_on: str | None) -> None:
    """Tell a job once why it does not run yet."""
    job.waits_on = waits_on
    if job.waiting_for != status.message:
        job.waiting_for = status.message
        append(colony, job, EventType.STATUS, status)
        publish_job(colony, job)


def publish_worker(colony: Colony, worker: Worker) -> None:
    """The worker to the dashboards, if there are any."""
    if not colony.watched:
        return
    colony.effects.append(Publish("worker", worker.info(colony.now)))
