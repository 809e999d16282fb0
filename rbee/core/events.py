"""What can happen to the colony, and what shall be done about it: the brain's two vocabularies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from enum import StrEnum

from rbee.core.jobs import Job
from rbee.core.limits import Limits
from rbee.core.policy import Policy
from rbee.core.value import value
from rbee.errors import RbeeError
from rbee.protocol.base import Wire
from rbee.protocol.decisions import Decision
from rbee.protocol.hives import AnyHiveEvent, Capabilities, HiveWorker, ModelInfo
from rbee.protocol.jobs import EventType
from rbee.protocol.workers import Usage, WorkerSpec

# ---- events: something happened ----------------------------------------------------------------


@value()
class JobSubmitted:
    """A checked job, already on disk when it is durable.

    `recovered`: an earlier queen accepted it; what it had answered is in its stream.
    """

    job: Job
    recovered: bool = False


@value()
class JobCancelAsked:
    """Somebody wants it to end: the caller left, DELETE, Ctrl+C."""

    job_id: str
    reason: str


@value(kw_only=True)
class RunEvent:
    """Something about one run; `attempt` tells which of the job's runs."""

    job_id: str
    attempt: int
    tokens_out: int = 0
    """Of the whole answer so far, as its readers have it."""


@value(kw_only=True)
class RunStarted(RunEvent):
    """The worker's first token is on its way to the readers."""

    ttft_ms: float


@value(kw_only=True)
class RunCompleted(RunEvent):
    """The worker finished the job."""

    finish_reason: str
    duration_ms: float
    usage: Usage
    stop: str = ""
    """The stop string that ended it, if one did."""


class Loss(StrEnum):
    """How a run was lost through no fault of the job's."""

    BUSY = "busy"
    """No slot was free after all."""
    BROKEN = "broken"
    """The connection broke."""
    STALLED = "stalled"
    """The worker made no progress for too long."""


@value(kw_only=True)
class RunFailed(RunEvent):
    """The run ended with an error."""

    error: RbeeError
    loss: Loss | None = None


@value(kw_only=True)
class RunCancelled(RunEvent):
    """The worker has let go of the job, after so many tokens more than its readers have."""

    wasted: int = 0


@value()
class HiveJoined:
    """A hive is there; `kind`: local, http or ssh. `workers` already run there and are adopted."""

    name: str
    kind: str
    url: str | None
    capabilities: Capabilities
    workers: Sequence[HiveWorker] = ()
    labels: Mapping[str, str] = field(default_factory=dict[str, str])


@value()
class HiveForgotten:
    """A machine was removed: nothing is known of its hive any more."""

    name: str


@value()
class HiveLabelled:
    """What a user says of a hive is this from now on, beside what it says of itself."""

    name: str
    labels: Mapping[str, str]


@value()
class HiveResting:
    """A hive is to take no more work, and its workers end with what they run; or it may again."""

    name: str
    resting: bool


@value()
class HiveLeft:
    """A hive does not answer any more."""

    name: str
    reason: str


@value()
class HiveSaid:
    """A hive's own event."""

    hive: str
    event: AnyHiveEvent


@value()
class ModelLocated:
    """The hive has the model although it does not list it; `model.path` is its path there."""

    hive: str
    model: ModelInfo


@value()
class FetchProgress:
    """How far the model is that a job waits for; `progress` 0..1, None: nobody knows."""

    job_id: str
    message: str
    progress: float | None = None


@value()
class Fetched:
    """The model that a job waits for is on the hive's disk, at `model.path`."""

    job_id: str
    hive: str
    model: ModelInfo


@value()
class FetchFailed:
    """The model that a job waits for cannot be had."""

    job_id: str
    error: RbeeError


@value()
class PerformProgress:
    """How far an operation on models is; `progress` 0..1, None: nobody knows."""

    job_id: str
    stage: str
    message: str
    progress: float | None = None


@value()
class Performed:
    """An operation on models is done; `result` is what its job's stream tells."""

    job_id: str
    result: Mapping[str, object]


@value()
class PerformFailed:
    """An operation on models went wrong."""

    job_id: str
    error: RbeeError


@value()
class PerformCancelled:
    """An operation on models was broken off, as AbortPerform wanted."""

    job_id: str


@value()
class SpawnRefused:
    """The hive could not start the process at all, or knows of none."""

    hive: str
    worker_id: str
    error: RbeeError


@value()
class Tick:
    """Twice a second; `tokens` counts what each running job has produced so far."""

    tokens: Mapping[str, int] = field(default_factory=dict[str, int])
    late: bool = False
    """It comes so late that she can have heard nobody: silence until now proves nothing."""


@value()
class Counted:
    """What each running job has produced so far, told before news that may end runs: of what a lost
    worker's readers have, nothing else tells."""

    tokens: Mapping[str, int]


@value()
class SettingsChanged:
    """The settings were read again; workers that run keep what they were started with."""

    policy: Policy
    limits: Limits


@value()
class ShutdownAsked:
    """The queen is told to go."""

    reason: str


Event = (
    JobSubmitted
    | JobCancelAsked
    | RunStarted
    | RunCompleted
    | RunFailed
    | RunCancelled
    | HiveJoined
    | HiveLabelled
    | HiveForgotten
    | HiveResting
    | HiveLeft
    | HiveSaid
    | ModelLocated
    | FetchProgress
    | Fetched
    | FetchFailed
    | PerformProgress
    | Performed
    | PerformFailed
    | PerformCancelled
    | SpawnRefused
    | Tick
    | Counted
    | SettingsChanged
    | ShutdownAsked
)

# ---- effects: something shall be done ----------------------------------------------------------


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
