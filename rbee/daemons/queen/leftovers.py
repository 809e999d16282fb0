"""Leftovers: what an earlier queen's unfinished jobs tell, and what those that wait are told.

Owns how an old job and its stream are read and the words for what it lacks. Decides nothing and
changes nothing.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import msgspec

from rbee.errors import (
    HiveNotFound,
    HiveOffline,
    ModelNotFound,
    NoWorkers,
    RbeeError,
    ValidationFailed,
)
from rbee.protocol.base import decode
from rbee.protocol.jobs import EndData, ErrorData, EventType, JobInfo, JobState, MetricsData
from rbee.protocol.operations import Embed, Infer, ModelDownload, ModelPreload, WorkerSpawn

if TYPE_CHECKING:
    from rbee.daemons.queen.store import Unfinished
    from rbee.daemons.queen.streams import JobStream

log = logging.getLogger("rbee.queen")
T = TypeVar("T")
Wish = tuple[str, str | None]
"""A model's reference and the hive that it is asked of."""
Resumable = Infer | Embed | WorkerSpawn | ModelPreload | ModelDownload
"""Operations that another queen can go on with."""
DOWNLOADING = "downloading"
"""The stage of a status while a job waits for its model."""
_ENDS = {
    EventType.END: JobState.COMPLETED,
    EventType.ERROR: JobState.FAILED,
    EventType.CANCELLED: JobState.CANCELLED,
}


@dataclass(frozen=True)
class Waiting:
    """One that is to go on. `fetching`: its model was on its way, to `left.info.hive`."""

    left: Unfinished
    operation: Resumable
    fetching: bool = False

    @property
    def job_id(self) -> str:
        """Its id."""
        return self.left.info.job_id

    @property
    def wish(self) -> Wish:
        """What it asks for."""
        return self.operation.model, self.operation.hive


def missing(operation: Resumable, error: RbeeError) -> str:
    """What it waits for, one sentence."""
    match error:
        case HiveNotFound() | HiveOffline() if operation.hive is not None:
            return f"hive {operation.hive} has not come back since the queen was started"
        case NoWorkers():
            return "no hive that could run it has come back since the queen was started"
        case _:
            return f"{error.message}; a hive that can do it may still come back"


def in_vain(operation: Resumable, error: RbeeError, lease: float) -> RbeeError:
    """How it ends when what it waited for did not come."""
    when = f"within {lease:g} s of the queen's start"
    match error:
        case HiveNotFound() | HiveOffline() if operation.hive is not None:
            return HiveOffline(f"hive {operation.hive} did not come back {when}")
        case NoWorkers():
            why = f"no hive that could run {operation.model} came back {when}"
            return NoWorkers(why, action="See `rbee hive list`.")
        case ModelNotFound():
            why = f"{error.message}; no hive that has it came back {when}"
            return ModelNotFound(why, action=error.action)
        case _:
            return error


def may_go_on(left: Unfinished, stream: JobStream, *, known: bool) -> bool:
    """Whether all that its readers have is known, or they have none of its answer."""
    begun = left.info.state is JobState.RUNNING or stream.log.has(EventType.TOKEN)
    return not begun or (known and stream.log.whole)


def told(info: JobInfo, stream: JobStream, utc: float) -> JobInfo:
    """A job's state as the events of its ended stream tell it."""
    kind = EventType(stream.events[-1][0])
    end = last(stream, EventType.END, EndData)
    error = last(stream, EventType.ERROR, ErrorData)
    metrics = last(stream, EventType.METRICS, MetricsData)
    if metrics is not None:
        info = msgspec.structs.replace(
            info,
            prompt_tokens=metrics.prompt_tokens,
            cached_tokens=metrics.cached_tokens,
            tokens_per_second=metrics.tokens_per_second,
            ttft_ms=metrics.ttft_ms,
            resumes=metrics.resumed,
        )
    return msgspec.structs.replace(
        info,
        state=_ENDS[kind],
        finished_at=utc,
        waiting_for=None,
        tokens_out=end.tokens_out if end is not None else stream.tokens,
        finish_reason=end.finish_reason if end is not None else info.finish_reason,
        error_code=error.code if error is not None else None,
        error_message=error.message if error is not None else None,
        dead=error is not None and error.details.get("dead") is True,
    )


def last(stream: JobStream, kind: EventType, shape: type[T], **told: object) -> T | None:
    """The data of the last such event, or of the last that says what was `told`."""
    for name, data in reversed(stream.events):
        if name != kind:
            continue
        try:
            found = decode(data, shape)
        except ValidationFailed as exc:
            log.warning("a %s event of an earlier queen is unreadable: %s", kind, exc)
            continue
        if all(getattr(found, key) == value for key, value in told.items()):
            return found
    return None
