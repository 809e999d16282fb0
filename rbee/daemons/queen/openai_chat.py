"""A chat completion in OpenAI's words: one body at the end, or chunks as the tokens come.

Format: https://platform.openai.com/docs/api-reference/chat. Each answer is a run of its own; this
tells their streams as the choices of one completion, and decides nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from rbee.daemons.queen.openai_events import Events
from rbee.daemons.queen.openai_replies import Run, model_of, stamp, usage_of
from rbee.daemons.queen.spoken import Ended, Part, Said, Speech, answer_of
from rbee.daemons.queen.tool_calls import CallBegun, CallMore
from rbee.protocol.base import encode
from rbee.protocol.jobs import EventType
from rbee.protocol.workers import LikelyToken, TokenLogprob
from rbee.sse import encode_event


class _Said(msgspec.Struct):
    """TokenData whose text is passed on unread."""

    t: msgspec.Raw
    logprob: msgspec.Raw = msgspec.Raw()


_SAID = msgspec.json.Decoder(_Said)


def whole(runs: Sequence[Run]) -> dict[str, Any]:
    """The body of an answer that has ended."""
    return {
        **_head(runs, "chat.completion"),
        "choices": [_choice(index, run) for index, run in enumerate(runs)],
        "usage": usage_of(runs),
    }


class Chunks(Events):
    """An answer as server-sent events. `usage`: its counts are asked for."""

    def __init__(self, runs: Sequence[Run], *, usage: bool, late: bool = False) -> None:
        super().__init__(runs, late=late)
        self._usage = usage
        self._head = _head(runs, "chat.completion.chunk")
        self._speeches = [Speech(run) for run in runs]
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

    def ending(self) -> bytes:
        """What comes last, before the mark."""
        if not self._usage:
            return b""
        return encode_event(encode({**self._head, "choices": [], "usage": usage_of(self.runs)}))

    def event(self, index: int, kind: str, data: bytes) -> bytes:
        """One event of one choice."""
        speech = self._speeches[index]
        if kind == EventType.TOKEN and speech.calls is None:
            said = _SAID.decode(data)
            if not said.logprob:
                before, after = self._around[index]
                return b"%b%b%b" % (before, said.t, after)
        return b"".join([self._part(index, part) for part in speech.parts(kind, data)])

    def _part(self, index: int, part: Part) -> bytes:
        match part:
            case Said(text, logprobs):
                return self._chunk(index, {"content": text}, logprobs=logprobs)
            case CallBegun(number, call_id, name):
                function = {"name": name, "arguments": ""}
                call = {"index": number, "id": call_id, "type": "function", "function": function}
                return self._chunk(index, {"tool_calls": [call]})
            case CallMore(number, text):
                call = {"index": number, "function": {"arguments": text}}
                return self._chunk(index, {"tool_calls": [call]})
            case Ended(reason):
                return self._chunk(index, {}, finish=reason)

    def _chunk(
        self,
        index: int,
        delta: dict[str, Any],
        *,
        finish: str | None = None,
        logprobs: Sequence[TokenLogprob] = (),
    ) -> bytes:
        said = _logprobs(logprobs) if logprobs else None
        choice = {"index": index, "delta": delta, "finish_reason": finish, "logprobs": said}
        extra = {"usage": None} if self._usage else {}
        return encode_event(encode({**self._head, "choices": [choice], **extra}))


def _head(runs: Sequence[Run], kind: str) -> dict[str, Any]:
    return {
        "id": stamp("chatcmpl", runs[0]),
        "object": kind,
        "created": int(runs[0].job.created_at),
        "model": model_of(runs),
    }


def _choice(index: int, run: Run) -> dict[str, Any]:
    answer = answer_of(run)
    message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None}
    if answer.calls:
        message["content"] = answer.text or None
        message["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in answer.calls
        ]
    return {
        "index": index,
        "message": message,
        "finish_reason": answer.reason,
        "logprobs": _logprobs(answer.logprobs) if answer.logprobs else None,
    }


def _logprobs(tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    content = [{**_likely(t), "top_logprobs": [_likely(o) for o in t.top]} for t in tokens]
    return {"content": content, "refusal": None}


def _likely(token: LikelyToken) -> dict[str, Any]:
    return {"token": token.token, "logprob": token.logprob, "bytes": token.bytes}
