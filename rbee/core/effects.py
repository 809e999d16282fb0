"""What shall be done about it: all that the brain wants. What it is told is in `events`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field

from rbee.core.jobs import Job
from rbee.core.value import value
from rbee.protocol.base import Wire
from rbee.protocol.decisions import Decision
from rbee.protocol.jobs import EventType
from rbee.protocol.workers import WorkerSpec


@value()
class Dispatch:
    """Run the job on the worker and relay its tokens."""

    job: Job
    attempt: int
    hive: str
    worker_id: str
    url: str
    backend: str


@value()
class AbortRun:
    """Stop relaying this run, tell the worker to drop it."""

    job_id: str
    attempt: int


@value()
class StartWorker:
    """Have the hive start the process."""

    hive: str
    spec: WorkerSpec


@value()
class StopWorker:
    """Have the hive end the process; `force` skips asking it politely."""

    hive: str
    worker_id: str
    force: bool = False


@value()
class FetchModel:
    """Bring `job.model` to the hive and tell how far it is: FetchProgress at most four times a
    second, then Fetched or FetchFailed. Jobs that wait for one model share its transfer."""

    job_id: str
    hive: str
    job: Job


@value()
class AbortFetch:
    """The job waits for its model no more; the transfer ends when nobody else does. Nothing is to
    be told of it."""

    job_id: str


@value()
class Perform:
    """Carry out `job.request`, one on models: PerformProgress at most four times a second, then
    Performed, PerformFailed or, after AbortPerform, perhaps PerformCancelled."""

    job_id: str
    job: Job


@value()
class AbortPerform:
    """Break it off: PerformCancelled, or Performed when it was too late, within 5 s."""

    job_id: str


@value()
class Append:
    """Add to the job's stream."""

    job_id: str
    type: EventType
    data: Wire | Mapping[str, object]


@value()
class SaveJob:
    """Write the job's present state."""

    job: Job


@value()
class Publish:
    """Tell the dashboards. `name` is a key of rbee.protocol.colony.EVENTS."""

    name: str
    data: Wire


@value()
class Narrate:
    """Say who did what and why."""

    source: str
    message: str
    level: str = "info"


@value()
class Record:
    """Keep a decision for those who ask why."""

    decision: Decision


@value()
class Count:
    """Add to a metric, or observe a value; see rbee.daemons.queen.metrics for the names."""

    name: str
    amount: float = 1.0
    labels: Mapping[str, str] = field(default_factory=dict[str, str])


Effect = (
    Dispatch
    | AbortRun
    | StartWorker
    | StopWorker
    | FetchModel
    | AbortFetch
    | Perform
    | AbortPerform
    | Append
    | SaveJob
    | Publish
    | Narrate
    | Record
    | Count
)
