"""What can happen to the colony: all that the brain is told. What it wants done is in `effects`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from enum import StrEnum

from rbee.core.jobs import Job
from rbee.core.limits import Limits
from rbee.core.policy import Policy
from rbee.core.value import value
from rbee.errors import RbeeError
from rbee.protocol.hives import AnyHiveEvent, Capabilities, HiveWorker, ModelInfo
from rbee.protocol.workers import Usage


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
