"""The OpenAI-compatible routes: a chat completion is a job whose stream is told in OpenAI's words.

Format: https://platform.openai.com/docs/api-reference/chat. A parameter that would change the
answer and is not supported is refused by name; those that cannot (user, metadata) are ignored.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from rbee.core.events import JobCancelAsked
from rbee.daemons.base import error_headers, json_response
from rbee.daemons.events import EventStream, unless_left
from rbee.errors import (
    BY_CODE,
    InternalError,
    ModelNotFound,
    RbeeError,
    ShuttingDown,
    ValidationFailed,
)
from rbee.protocol.base import decode, encode
from rbee.protocol.jobs import (
    CancelledData,
    EndData,
    ErrorData,
    EventType,
    MetricsData,
    StartedData,
    TokenData,
)
from rbee.protocol.operations import Infer, Message, check_infer
from rbee.sse import DONE, encode_comment, encode_event

if TYPE_CHECKING:
    from rbee.core.jobs import Job
    from rbee.daemons.queen.queen import Queen
    from rbee.daemons.queen.streams import JobStream

IGNORED = frozenset(
    {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key",
     "parallel_tool_calls", "reasoning_effort", "verbosity"}
)  # fmt: skip
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,), "frequency_penalty": (0,), "presence_penalty": (0,), "logprobs": (False,),
    "top_logprobs": (0,), "logit_bias": ({},), "response_format": ({"type": "text"},),
    "tools": ([],), "tool_choice": ("none", "auto"), "modalities": (["text"],),
}  # fmt: skip
"""Accepted only with a value that asks for nothing; null always is."""


Limit = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]


class StreamOptions(msgspec.Struct, frozen=True):
    """`stream_options`"""

    include_usage: bool = False


class ChatRequest(msgspec.Struct, frozen=True):
    """What of POST /v1/chat/completions is understood; `min_p`, `top_k` and the rest are ours."""

    model: str
    messages: list[Message]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Limit | None = None
    max_completion_tokens: Limit | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    stop: Annotated[str, msgspec.Meta(max_length=256)] | list[str] | None = None


class OpenAI:
    """Handlers; errors have OpenAI's body with our code."""

    def __init__(self, queen: Queen) -> None:
        self._queen = queen

    async def models(self, _request: Request) -> Response:
        """GET /v1/models"""
        data = [_model(m.id) for m in self._queen.models() if not m.hidden]
        return json_response({"object": "list", "data": data})

    async def model(self, request: Request) -> Response:
        """GET /v1/models/{id}"""
        wanted = request.path_params["model"]
        if any(m.id == wanted for m in self._queen.models()):
            return json_response(_model(wanted))
        return openai_error(ModelNotFound(f"no model {wanted[:120]!r} in this colony"))

    async def chat(self, request: Request) -> Response:
        """POST /v1/chat/completions"""
        try:
            body = await request.body()
            _refuse_unknown(body)
            chat = decode(body, ChatRequest)
            operation = _operation(chat)
            job = await self._queen.admission.submit(operation, client="openai", durable=False)
        except RbeeError as exc:
            return openai_error(exc)
        stream = await self._queen.streams.get(job.job_id)

        def leave() -> None:
            self._queen.brain.post(JobCancelAsked(job.job_id, "the caller left"))

        if chat.stream:
            usage = chat.stream_options is not None and chat.stream_options.include_usage
            return await self._streamed(request, job, stream, usage, leave)
        return await self._whole(request, job, stream, leave)

    async def _streamed(
        self, request: Request, job: Job, stream: JobStream, usage: bool, leave: Any
    ) -> Response:
        """Headers go out when the run has started, so that earlier failures have their status."""
        head = await unless_left(request, lambda: _until_started(stream))
        if head is None:
            leave()
            return Response(status_code=499)
        failure = _failure(stream)
        if failure is not None and not stream.tokens:
            return openai_error(failure)
        return EventStream(
            _chunks(job, stream, usage), headers=self._served_by(job, stream), on_leave=leave
        )

    async def _whole(self, request: Request, job: Job, stream: JobStream, leave: Any) -> Response:
        events = await unless_left(request, lambda: _events(stream))
        if events is None:
            leave()
            return Response(status_code=499)
        failure = _failure(stream)
        if failure is not None:
            return openai_error(failure)
        text = "".join(msgspec.json.decode(d, type=TokenData).t for k, d in events if k == "token")
        end = _find(events, EventType.END, EndData)
        metrics = _find(events, EventType.METRICS, MetricsData)
        if end is None:
            return openai_error(ShuttingDown("the queen is shutting down"))
        return json_response(
            {
                "id": f"chatcmpl-{job.job_id.removeprefix('j-')}",
                "object": "chat.completion",
                "created": int(job.created_at),
                "model": job.model.id if job.model else "",
                "choices": [
                    {
                        "index": 0,
                        "message": {"role": "assistant", "content": text, "refusal": None},
                        "finish_reason": end.finish_reason,
                        "logprobs": None,
                    }
                ],
                "usage": _usage(metrics, end),
            },
            headers=self._served_by(job, stream),
        )

    def _served_by(self, job: Job, stream: JobStream) -> dict[str, str]:
        started = _find(stream.events, EventType.STARTED, StartedData)
        if started is None:
            return {}
        return {
            "X-Rbee-Job": job.job_id,
            "X-Rbee-Worker": started.worker_id,
            "X-Rbee-Hive": started.hive,
            "X-Rbee-Model": _latin(started.model),
            "X-Rbee-Quant": started.quant or "unknown",
            "X-Rbee-Device": started.device,
            "X-Rbee-Queue-Ms": str(started.queued_ms),
            "X-Rbee-Overhead-Ms": str(self._queen.overhead_ms(job)),
        }


def openai_error(error: RbeeError) -> Response:
    """The error in OpenAI's form, with our code and suggested action."""
    kind = "invalid_request_error" if error.status < 500 else "server_error"
    body = {
        "error": {
            "message": f"{error.message} {error.action}",
            "type": kind,
            "param": error.details.get("field"),
            "code": error.code,
            "details": error.details,
        }
    }
    return json_response(body, error.status, error_headers(error))


def _refuse_unknown(body: bytes) -> None:
    raw = decode(body, dict[str, Any])
    known = {field.name for field in msgspec.structs.fields(ChatRequest)}
    for name, value in raw.items():
        if name in known or name in IGNORED or value is None:
            continue
        if name in NEUTRAL and value in NEUTRAL[name]:
            continue
        raise ValidationFailed(
            f"{name[:80]}: not supported by this version" if name in NEUTRAL
            else f"{name[:80]}: unknown parameter",
            field=name[:80], constraint="a supported parameter",
        )  # fmt: skip


def _operation(chat: ChatRequest) -> Infer:
    given: dict[str, Any] = {
        "model": chat.model,
        "messages": chat.messages,
        "max_tokens": chat.max_completion_tokens or chat.max_tokens,
        "temperature": 1.0 if chat.temperature is None else chat.temperature,
        "top_p": chat.top_p,
        "top_k": chat.top_k,
        "min_p": chat.min_p,
        "repetition_penalty": chat.repetition_penalty,
        "seed": chat.seed,
        "stop": [chat.stop] if isinstance(chat.stop, str) else chat.stop,
    }
    present = {name: value for name, value in given.items() if value is not None}
    present["operation"] = "infer"
    operation = decode(encode(present), Infer)
    check_infer(operation)
    return operation


async def _until_started(stream: JobStream) -> AsyncIterator[tuple[str, bytes]]:
    """Up to the first token or the end: what decides between an error status and a stream."""
    async for _, batch in stream.read():
        for event in batch:
            yield event
            if event[0] in (EventType.TOKEN, EventType.METRICS):
                return


async def _events(stream: JobStream) -> AsyncIterator[tuple[str, bytes]]:
    async for _, batch in stream.read():
        for event in batch:
            yield event


async def _chunks(job: Job, stream: JobStream, usage: bool) -> AsyncGenerator[bytes]:
    head = {
        "id": f"chatcmpl-{job.job_id.removeprefix('j-')}",
        "object": "chat.completion.chunk",
        "created": int(job.created_at),
        "model": job.model.id if job.model else "",
    }

    def chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        extra = {"usage": None} if usage else {}
        return encode_event(encode({**head, "choices": [choice], **extra}))

    yield chunk({"role": "assistant", "content": ""})
    metrics: MetricsData | None = None
    async for _, batch in stream.read():
        out: list[bytes] = []
        for kind, data in batch:
            if kind == EventType.TOKEN:
                out.append(chunk({"content": msgspec.json.decode(data, type=TokenData).t}))
            elif kind == EventType.METRICS:
                metrics = msgspec.json.decode(data, type=MetricsData)
            elif kind == EventType.END:
                end = msgspec.json.decode(data, type=EndData)
                out.append(chunk({}, end.finish_reason))
                if usage:
                    total = {**head, "choices": [], "usage": _usage(metrics, end)}
                    out.append(encode_event(encode(total)))
            elif kind in (EventType.ERROR, EventType.CANCELLED):
                failure = _failure(stream) or InternalError("the stream ended")
                out.append(encode_event(bytes(openai_error(failure).body)))
        yield b"".join(out) if batch else encode_comment("keepalive")
    if not stream.events or stream.events[-1][0] in (EventType.TOKEN, EventType.STARTED):
        yield encode_event(bytes(openai_error(ShuttingDown("the queen is shutting down")).body))
    yield DONE


def _failure(stream: JobStream) -> RbeeError | None:
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


def _find(events: list[tuple[str, bytes]], kind: EventType, shape: type[Any]) -> Any:
    for name, data in events:
        if name == kind:
            return msgspec.json.decode(data, type=shape)
    return None


def _usage(metrics: MetricsData | None, end: EndData) -> dict[str, Any]:
    prompt = metrics.prompt_tokens if metrics else 0
    return {
        "prompt_tokens": prompt,
        "completion_tokens": end.tokens_out,
        "total_tokens": prompt + end.tokens_out,
        "prompt_tokens_details": {"cached_tokens": metrics.cached_tokens if metrics else 0},
    }


def _model(model_id: str) -> dict[str, Any]:
    return {"id": model_id, "object": "model", "created": int(time.time()), "owned_by": "rbee"}


def _latin(text: str) -> str:
    return text.encode("latin-1", "replace").decode("latin-1")
