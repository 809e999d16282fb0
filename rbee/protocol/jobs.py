"""A job, its states on the wire, and the events of its stream."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from rbee.protocol.base import Wire
from rbee.protocol.workers import EmbeddingUsage, TokenLogprob


class JobState(StrEnum):
    """queued → dispatched → running → completed | failed | cancelled."""

    QUEUED = "queued"
    DISPATCHED = "dispatched"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class EventType(StrEnum):
    """The `event:` names of a job stream."""

    QUEUED = "queued"
    STATUS = "status"
    STARTED = "started"
    TOKEN = "token"
    RESULT = "result"
    METRICS = "metrics"
    END = "end"
    ERROR = "error"
    CANCELLED = "cancelled"


TERMINAL_EVENTS = frozenset({EventType.END, EventType.ERROR, EventType.CANCELLED})


class JobInfo(Wire, frozen=True, kw_only=True):
    """A job as listed. Times are UTC seconds since the epoch, durations milliseconds."""

    job_id: str
    operation: str
    state: JobState
    model: str | None = None
    worker_id: str | None = None
    hive: str | None = None
    priority: str = "interactive"
    client: str = ""
    created_at: float = 0.0
    started_at: float | None = None
    finished_at: float | None = None
    queue_position: int | None = None
    waiting_for: str | None = None
    """One sentence: why it is not running yet."""
    tokens_out: int = 0
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    ttft_ms: float | None = None
    tokens_per_second: float | None = None
    finish_reason: str | None = None
    error_code: str | None = None
    error_message: str | None = None
    attempts: int = 0
    """How often it was given to a worker."""
    resumes: int = 0
    """How often another worker went on where one was lost."""
    dead: bool = False
    """Failed although it was tried as often as allowed: see `rbee job retry`."""
    retry_of: str | None = None
    correlation_id: str = ""
    eta_ms: int | None = None
    """Until its first token, while it waits; None: nobody can say."""


class JobAccepted(Wire, frozen=True, kw_only=True):
    """Reply to a submission (202)."""

    job_id: str
    status: JobState
    stream_url: str
    queue_position: int | None


class QueuedData(Wire, frozen=True, kw_only=True):
    """`queued`"""

    position: int
    eta_ms: int | None = None


class StatusData(Wire, frozen=True, kw_only=True):
    """`status`: narration for people; progress 0..1 when known."""

    stage: str
    message: str
    progress: float | None = None


class StartedData(Wire, frozen=True, kw_only=True):
    """`started`"""

    worker_id: str
    hive: str
    model: str
    device: str
    quant: str | None
    queued_ms: int
    attempt: int = 1
    tokens_before: int = 0
    """Of the answer, from a worker that was lost; this one goes on after them."""


class TokenData(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """`token`: text and its index, and its log-probability when that was asked for."""

    t: str
    i: int
    logprob: TokenLogprob | None = None


class EmbedData(Wire, frozen=True, kw_only=True):
    """`result` of an embed job: one vector per text, in order."""

    vectors: list[list[float]]
    usage: EmbeddingUsage
    model: str


class MetricsData(Wire, frozen=True, kw_only=True):
    """`metrics`, just before `end`."""

    tokens_per_second: float
    ttft_ms: float
    prompt_tokens: int
    cached_tokens: int
    resumed: int = 0
    """How often another worker went on where one was lost."""


class EndData(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """`end`"""

    finish_reason: str
    tokens_out: int
    duration_ms: int
    stop: str = ""
    """The stop string that ended the answer, if one did."""


class ErrorData(Wire, frozen=True, kw_only=True):
    """`error`"""

    code: str
    message: str
    details: dict[str, Any]


class CancelledData(Wire, frozen=True, kw_only=True):
    """`cancelled`"""

    reason: str
