"""What all replies in OpenAI's form have in common: errors, headers, and how a stream is read.

Owns no route and starts nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from rbee.daemons.base import error_headers, json_response
from rbee.daemons.direct import wire_of
from rbee.daemons.events import leaving
from rbee.daemons.queen.readers import Reader
from rbee.daemons.queen.streams import JobStream
from rbee.errors import BY_CODE, RbeeError
from rbee.protocol.jobs import (
    CancelledData,
    EndData,
    ErrorData,
    EventType,
    MetricsData,
    StartedData,
)

if TYPE_CHECKING:
    from rbee.core.jobs import Job
    from rbee.daemons.queen.queen import Queen

FAILED = (EventType.ERROR, EventType.CANCELLED)


@dataclass(frozen=True)
class Run:
    """A job that was submitted for a caller, and its stream."""

    job: Job
    stream: JobStream


KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
"""OpenAI's `type` of an error by its status; of others below 500 invalid_request_error."""


def openai_error(error: RbeeError, headers: Mapping[str, str] | None = None) -> Response:
    """The error in OpenAI's form, with our code and suggested action."""
    kind = KINDS.get(
        error.status, "invalid_request_error" if error.status < 500 else "server_error"
    )
    body = {
        "error": {
            "message": f"{error.message.rstrip('.')}. {error.action}",
            "type": kind,
            "param": error.details.get("field"),
            "code": error.code,
            "details": error.details,
        }
    }
    return json_response(body, error.status, {**(headers or {}), **error_headers(error)})


def begun(runs: Sequence[Run]) -> bool:
    """There is a first token, the end of all, or a failure of one: what decides the status. Or a
    model is on its way, for which no caller waits without a word."""
    return any(run.stream.tokens or run.job.fetch_on is not None for run in runs) or over(runs)


def over(runs: Sequence[Run]) -> bool:
    """All have ended, or one has failed, or nothing more will come."""
    ended = True
    for run in runs:
        stream = run.stream
        if stream.ended:
            if stream.log.events[-1][0] in FAILED:
                return True
        elif not stream.closed:
            ended = False
    return ended


async def unless_left(
    request: Request, runs: Sequence[Run], ready: Callable[[Sequence[Run]], bool]
) -> bool:
    """Wait until they are ready; False when the caller left first. Its body must be read."""
    streams = [run.stream for run in runs]
    with Reader(streams, ready=lambda: ready(runs)) as reader:
        wire = wire_of(request.scope)
        if wire is not None:
            wire.watch(reader.stop)
            try:
                return await reader.until()
            finally:
                wire.unwatch(reader.stop)
        async with leaving(request.scope, request.receive, reader.stop):
            return await reader.until()


def failure_of(stream: JobStream) -> RbeeError | None:
    """The error or cancellation a stream ended with."""
    if not stream.events:
        return None
    kind, data = stream.events[-1]
    if kind == EventType.ERROR:
        error = msgspec.json.decode(data, type=ErrorData)
        return RbeeError.from_body({"error": msgspec.to_builtins(error)})
    if kind == EventType.CANCELLED:
        reason = msgspec.json.decode(data, type=CancelledData).reason
        return BY_CODE["CANCELLED"](f"the job was cancelled: {reason}")
    return None


def first_failure(runs: Sequence[Run]) -> RbeeError | None:
    """Of the first run that failed."""
    return next((error for run in runs if (error := failure_of(run.stream))), None)


def find(stream: JobStream, kind: EventType, shape: type[Any]) -> Any:
    """The last event of a kind, None when there is none."""
    for name, data in reversed(stream.events):
        if name == kind:
            return msgspec.json.decode(data, type=shape)
    return None


def served_by(queen: Queen, runs: Sequence[Run]) -> dict[str, str]:
    """Headers that say who does it; of several answers, who does the first that has begun.

    A worker that is lost later is told of in the last chunk only.
    """
    for run in runs:
        started: StartedData | None = find(run.stream, EventType.STARTED, StartedData)
        if started is not None:
            return {
                "X-Rbee-Job": ",".join(one.job.job_id for one in runs),
                "X-Rbee-Worker": started.worker_id,
                "X-Rbee-Hive": started.hive,
                "X-Rbee-Model": _latin(started.model),
                "X-Rbee-Quant": started.quant or "unknown",
                "X-Rbee-Device": started.device,
                "X-Rbee-Queue-Ms": str(started.queued_ms),
                "X-Rbee-Resumed": str(sum(one.job.resumes for one in runs)),
                "X-Rbee-Overhead-Ms": str(queen.overhead_ms(run.job)),
            }
    found = {"X-Rbee-Job": ",".join(run.job.job_id for run in runs)}
    if name := model_of(runs):
        found["X-Rbee-Model"] = _latin(name)
    return found


def counts_of(runs: Sequence[Run], *, each: int | None = None) -> tuple[int, int, int]:
    """Tokens of the prompts, of those what was known, and of the answers.

    `each` answers have the same prompt, all of them when it is None: it counts once, and as much of
    it was known as for each of them.
    """
    prompt = cached = made = 0
    each = each or len(runs)
    for at in range(0, len(runs), each):
        same = [find(run.stream, EventType.METRICS, MetricsData) for run in runs[at : at + each]]
        prompt += max((m.prompt_tokens for m in same if m), default=0)
        cached += min((m.cached_tokens for m in same if m), default=0)
    for run in runs:
        end: EndData | None = find(run.stream, EventType.END, EndData)
        made += end.tokens_out if end is not None else 0
    return prompt, cached, made


def usage_of(runs: Sequence[Run], *, each: int | None = None) -> dict[str, Any]:
    """Tokens of all choices; see counts_of."""
    prompt, cached, made = counts_of(runs, each=each)
    metrics = [find(run.stream, EventType.METRICS, MetricsData) for run in runs]
    return {
        "prompt_tokens": prompt,
        "completion_tokens": made,
        "total_tokens": prompt + made,
        "prompt_tokens_details": {"cached_tokens": cached},
        "x_rbee_resumed": sum(m.resumed for m in metrics if m),
    }


def stamp(kind: str, run: Run) -> str:
    """An id made of the job's."""
    return f"{kind}-{run.job.job_id.removeprefix('j-')}"


def model_of(runs: Sequence[Run]) -> str:
    """The model's id."""
    model = runs[0].job.model
    return model.id if model else ""


def _latin(text: str) -> str:
    return text.encode("latin-1", "replace").decode("latin-1")
