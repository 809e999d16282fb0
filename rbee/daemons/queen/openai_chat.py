"""A chat completion in OpenAI's words: one body at the end, or chunks as the tokens come.

Format: https://platform.openai.com/docs/api-reference/chat. Each answer is a run of its own; this
tells their streams as the choices of one completion, and decides nothing.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

import msgspec

from rbee.daemons.queen.leftovers import DOWNLOADING
from rbee.daemons.queen.openai_replies import FAILED, Run, failure_of, find, model_of, openai_error
from rbee.daemons.queen.streams import JobStream, read_all
from rbee.errors import InternalError, RbeeError, ShuttingDown
from rbee.protocol.base import encode
from rbee.protocol.jobs import EndData, EventType, MetricsData, StatusData, TokenData
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


_SAID = msgspec.json.Decoder(_Said)


class Chunks:
    """An answer as server-sent events. `usage`: its counts are asked for."""

    def __init__(self, runs: Sequence[Run], *, usage: bool) -> None:
        self.runs = runs
        self._usage = usage
        self._percent = -1
        """Of the model that was on its way, as told."""
        self._head = _head(runs, "chat.completion.chunk")
        # A chunk of text alone differs from the next in nothing else: it is written around it.
        self._around = [
            self._chunk(n, {"content": "\0"}).split(b'"\\u0000"') for n in range(len(runs))
        ]

    def opening(self) -> bytes:
        """What comes first."""
        parts = (
            self._chunk(n, {"role": "assistant", "content": ""}) for n in range(len(self.runs))
        )
        return b"".join(parts)

    def told(self, index: int, events: Sequence[tuple[str, bytes]]) -> bytes:
        """Some events of one choice; of an end in failure, that is all there is to tell."""
        if len(events) == 1:
            return self._told(index, *events[0])
        return b"".join([self._told(index, kind, data) for kind, data in events])

    def failure(self, index: int) -> bytes:
        """The end, when that choice has failed."""
        error = failure_of(self.runs[index].stream) or InternalError("the stream ended")
        return _error(error) + DONE

    def closing(self) -> bytes:
        """The end, when none has."""
        if not all(run.stream.ended for run in self.runs):
            return _error(ShuttingDown("the queen is shutting down")) + DONE
        if not self._usage:
            return DONE
        body = {**self._head, "choices": [], "usage": usage_of(self.runs)}
        return encode_event(encode(body)) + DONE

    def _told(self, index: int, kind: str, data: bytes) -> bytes:
        if kind == EventType.TOKEN:
            said = _SAID.decode(data)
            if not said.logprob:
                before, after = self._around[index]
                return b"%b%b%b" % (before, said.t, after)
            token = msgspec.json.decode(data, type=TokenData)
            return self._chunk(index, {"content": token.t}, logprob=token.logprob)
        if kind == EventType.END:
            end = msgspec.json.decode(data, type=EndData)
            return self._chunk(index, {}, finish=end.finish_reason)
        if kind == EventType.STATUS:
            return self._downloading(data)
        return b""

    def _downloading(self, data: bytes) -> bytes:
        """A comment for each percent of a model that is being fetched; nothing for other news."""
        status = msgspec.json.decode(data, type=StatusData)
        if status.stage != DOWNLOADING or status.progress is None:
            return b""
        percent = int(100 * status.progress)
        if percent == self._percent:
            return b""
        self._percent = percent
        return encode_comment(f"downloading {percent} %")

    def _chunk(
        self,
        index: int,
        delta: dict[str, Any],
        *,
        finish: str | None = None,
        logprob: TokenLogprob | None = None,
    ) -> bytes:
        said = None if logprob is None else _logprobs([logprob])
        choice = {"index": index, "delta": delta, "finish_reason": finish, "logprobs": said}
        extra = {"usage": None} if self._usage else {}
        return encode_event(encode({**self._head, "choices": [choice], **extra}))


async def chunks(told: Chunks, give_up: Callable[[], None]) -> AsyncGenerator[bytes]:
    """The answer as it comes; `give_up` is called when one choice has failed."""
    yield told.opening()
    async for index, batch in read_all([run.stream for run in told.runs]):
        if not batch:
            yield encode_comment("keepalive")
        elif block := told.told(index, batch):
            yield block
        if batch and batch[-1][0] in FAILED:
            give_up()
            yield told.failure(index)
            return
    yield told.closing()


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
