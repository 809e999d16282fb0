"""Answers in Anthropic's words: one message at the end, or events as the tokens come.

Format: https://docs.anthropic.com/en/api/messages-streaming. How many tokens a prompt has is known
when a worker has computed it: a stream says it in `message_delta`, and 0 in `message_start`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from starlette.responses import Response

from rbee.daemons.base import error_headers, json_response
from rbee.daemons.queen.openai_events import Events
from rbee.daemons.queen.openai_replies import Run, counts_of
from rbee.daemons.queen.spoken import Ended, Part, Said, Speech, answer_of
from rbee.daemons.queen.tool_calls import CallBegun, CallMore
from rbee.daemons.queen.tool_text import object_of
from rbee.errors import RbeeError
from rbee.protocol.base import encode
from rbee.sse import encode_event

KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
"""Anthropic's `type` of an error by its status; of others below 500 invalid_request_error."""
REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}


def error_body(error: RbeeError) -> dict[str, Any]:
    """With our code and details beside Anthropic's type and message."""
    kind = KINDS.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
    message = f"{error.message.rstrip('.')}. {error.action}"
    told = {"type": kind, "message": message, "code": error.code, "details": error.details}
    return {"type": "error", "error": told}


def anthropic_error(error: RbeeError, headers: Mapping[str, str] | None = None) -> Response:
    """The error in Anthropic's form."""
    told = {**(headers or {}), **error_headers(error)}
    return json_response(error_body(error), error.status, told)


def whole(run: Run, model: str) -> dict[str, Any]:
    """The message of an answer that has ended; `model` as it was asked for."""
    answer = answer_of(run)
    content: list[dict[str, Any]] = [{"type": "text", "text": answer.text}] if answer.text else []
    content += [
        {**_use(call.id, call.name), "input": _input(call.arguments)} for call in answer.calls
    ]
    ended = _ended(answer.reason, answer.stop)
    return {**_head(run, model), "content": content, **ended, "usage": usage_of(run)}


def usage_of(run: Run) -> dict[str, int]:
    """Tokens; those of the prompt that were known are not among `input_tokens`, as there."""
    prompt, cached, made = counts_of([run])
    return {
        "input_tokens": prompt - cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": made,
    }


class MessageEvents(Events):
    """The message as server-sent events."""

    mark = b""

    def __init__(self, runs: Sequence[Run], model: str, *, late: bool = False) -> None:
        super().__init__(runs, late=late)
        self._model = model
        self._speech = Speech(runs[0])
        self._block = -1
        self._kind = ""
        """Of the block that is open; empty: none is."""
        self._how = _ended("stop", "")

    def opening(self) -> bytes:
        """The message, with nothing in it yet."""
        usage = {"input_tokens": 0, "output_tokens": 0}
        message = {**_head(self.runs[0], self._model), "content": [], "usage": usage}
        return self._sent("message_start", message=message) + self._sent("ping")

    def event(self, index: int, kind: str, data: bytes) -> bytes:
        """One event of the run."""
        return b"".join([self._part(part) for part in self._speech.parts(kind, data)])

    def ending(self) -> bytes:
        """How it ended, and the counts."""
        delta = self._sent("message_delta", delta=self._how, usage=usage_of(self.runs[0]))
        return delta + self._sent("message_stop")

    def broken(self, error: RbeeError) -> bytes:
        """It has failed."""
        return encode_event(encode(error_body(error)), event="error")

    def silence(self) -> bytes:
        """What keeps the connection known alive, and why it waits."""
        return self._sent("ping") + super().silence()

    def _part(self, part: Part) -> bytes:
        match part:
            case Said("", _):
                return b""
            case Said(text, _):
                begun = b"" if self._kind == "text" else self._begin({"type": "text", "text": ""})
                return begun + self._delta({"type": "text_delta", "text": text})
            case CallBegun(_, call_id, name):
                return self._begin(_use(call_id, name))
            case CallMore(_, text):
                return self._delta({"type": "input_json_delta", "partial_json": text})
            case Ended(reason, _, stop):
                self._how = _ended(reason, stop)
                return self._end()

    def _begin(self, block: dict[str, Any]) -> bytes:
        before = self._end()
        self._block += 1
        self._kind = block["type"]
        return before + self._sent("content_block_start", index=self._block, content_block=block)

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return self._sent("content_block_delta", index=self._block, delta=delta)

    def _end(self) -> bytes:
        if not self._kind:
            return b""
        self._kind = ""
        return self._sent("content_block_stop", index=self._block)

    def _sent(self, kind: str, **more: Any) -> bytes:
        return encode_event(encode({"type": kind, **more}), event=kind)


def _head(run: Run, model: str) -> dict[str, Any]:
    return {
        "id": f"msg_{run.job.job_id.removeprefix('j-')}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
    }


def _ended(reason: str, stop: str) -> dict[str, str | None]:
    if stop and reason == "stop":
        return {"stop_reason": "stop_sequence", "stop_sequence": stop}
    return {"stop_reason": REASONS.get(reason, "end_turn"), "stop_sequence": None}


def _use(call_id: str, name: str) -> dict[str, Any]:
    use_id = f"toolu_{call_id.removeprefix('call_')}"
    return {"type": "tool_use", "id": use_id, "name": name, "input": {}}


def _input(arguments: str) -> Any:
    """The arguments as an object; text that is none stands under `_raw`."""
    found = object_of(arguments)
    return {"_raw": arguments} if found is None else found
