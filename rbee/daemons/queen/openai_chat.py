"""A chat completion in OpenAI's words: one body at the end, or chunks as the tokens come.

Format: https://platform.openai.com/docs/api-reference/chat. Each answer is a run of its own; this
tells their streams as the choices of one completion, and decides nothing.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

import msgspec

from rbee.daemons.queen.openai_replies import FAILED, Run, failure_of, find, model_of, openai_error
from rbee.daemons.queen.streams import JobStream, read_all
from rbee.errors import InternalError, RbeeError, ShuttingDown
from rbee.protocol.base import encode
from rbee.protocol.jobs import EndData, EventType, MetricsData, TokenData
from rbee.protocol.workers import LikelyToken, TokenLogprob
from rbee.sse import DONE, encode_comment, encode_event


def whole(runs: Sequence[Run]) -> dict[str, Any]:
    """The body of an answer that has ended. Raises ShuttingDown when it has not."""
    if not all(run.stream.ended for run in runs):
        raise ShuttingDown("the queen is shutting down")
    return {
        **_head(runs, "chat.completion"),
        "choices": [_choice(index, run.stream) for index, run in enumerate(runs)],
        "usage": usage_of(runs),
    }


class _Said(msgspec.Struct):
    """TokenData whose text is passed on unread."""

    t: msgspec.Raw
    logprob: msgspec.Raw = msgspec.Raw()


async def chunks(
    runs: Sequence[Run], *, usage: bool, give_up: Callable[[], None]
) -> AsyncGenerator[bytes]:
    """The answer as it comes; `give_up` is called when one choice has failed."""
    head = _head(runs, "chat.completion.chunk")

    def chunk(index: int, delta: dict[str, Any], *, finish: str | None = None,
              logprob: TokenLogprob | None = None) -> bytes:  # fmt: skip
        said = None if logprob is None else _logprobs([logprob])
        choice = {"index": index, "delta": delta, "finish_reason": finish, "logprobs": said}
        extra = {"usage": None} if usage else {}
        return encode_event(encode({**head, "choices": [choice], **extra}))

    # A chunk of text alone differs from the next in nothing else: it is written around the text.
    around = [chunk(n, {"content": "\0"}).split(b'"\\u0000"') for n in range(len(runs))]

    def told(index: int, kind: str, data: bytes) -> bytes:
        if kind == EventType.TOKEN:
            said = msgspec.json.decode(data, type=_Said)
            if not said.logprob:
                before, after = around[index]
                return before + bytes(said.t) + after
            token = msgspec.json.decode(data, type=TokenData)
            return chunk(index, {"content": token.t}, logprob=token.logprob)
        if kind == EventType.END:
            return chunk(index, {}, finish=msgspec.json.decode(data, type=EndData).finish_reason)
        return b""

    yield b"".join(chunk(n, {"role": "assistant", "content": ""}) for n in range(len(runs)))
    async for index, batch in read_all([run.stream for run in runs]):
        if not batch:
            yield encode_comment("keepalive")
        elif block := b"".join(told(index, kind, data) for kind, data in batch):
            yield block
        if batch and batch[-1][0] in FAILED:
            give_up()
            yield _error(failure_of(runs[index].stream) or InternalError("the stream ended"))
            yield DONE
            return
    if not all(run.stream.ended for run in runs):
        yield _error(ShuttingDown("the queen is shutting down"))
    elif usage:
        yield encode_event(encode({**head, "choices": [], "usage": usage_of(runs)}))
    yield DONE


def usage_of(runs: Sequence[Run]) -> dict[str, Any]:
    """Tokens of all choices; the prompt is one, and as much of it was known as for each of them."""
    metrics = [find(run.stream, EventType.METRICS, MetricsData) for run in runs]
    prompt = max((m.prompt_tokens for m in metrics if m), default=0)
    cached = min((m.cached_tokens for m in metrics if m), default=0)
    ends = [find(run.stream, EventType.END, EndData) for run in runs]
    made = sum(end.tokens_out for end in ends if end)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": made,
        "total_tokens": prompt + made,
        "prompt_tokens_details": {"cached_tokens": cached},
        "x_rbee_resumed": sum(m.resumed for m in metrics if m),
    }


def _head(runs: Sequence[Run], kind: str) -> dict[str, Any]:
    job = runs[0].job
    return {
        "id": f"chatcmpl-{job.job_id.removeprefix('j-')}",
        "object": kind,
        "created": int(job.created_at),
        "model": model_of(runs),
    }


def _choice(index: int, stream: JobStream) -> dict[str, Any]:
    tokens = [
        msgspec.json.decode(data, type=TokenData)
        for kind, data in stream.events
        if kind == EventType.TOKEN
    ]
    known = [token.logprob for token in tokens if token.logprob is not None]
    end: EndData = find(stream, EventType.END, EndData)
    text = "".join(token.t for token in tokens)
    return {
        "index": index,
        "message": {"role": "assistant", "content": text, "refusal": None},
        "finish_reason": end.finish_reason,
        "logprobs": _logprobs(known) if known else None,
    }


def _logprobs(tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    content = [{**_likely(t), "top_logprobs": [_likely(o) for o in t.top]} for t in tokens]
    return {"content": content, "refusal": None}


def _likely(token: LikelyToken) -> dict[str, Any]:
    return {"token": token.token, "logprob": token.logprob, "bytes": token.bytes}


def _error(error: RbeeError) -> bytes:
    return encode_event(bytes(openai_error(error).body))
