"""Answers in Ollama's words: one object at the end, or a line of JSON for each step.

Format: https://github.com/ollama/ollama/blob/main/docs/api.md. Durations are nanoseconds. A call is
told when it is whole, as there; its arguments are an object, so what a model wrote in their place
that is none stays text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from starlette.responses import Response

from rbee.daemons.base import error_headers, json_response
from rbee.daemons.queen.openai_events import STAGES
from rbee.daemons.queen.openai_replies import Run, counts_of, failure_of, find
from rbee.daemons.queen.spoken import Call, Ended, Part, Said, Speech
from rbee.daemons.queen.tool_calls import CallBegun, CallMore
from rbee.daemons.queen.tool_text import object_of
from rbee.errors import InternalError, RbeeError, ShuttingDown
from rbee.protocol.base import encode
from rbee.protocol.jobs import (
    EndData,
    EventType,
    JobState,
    MetricsData,
    StartedData,
    StatusData,
)
from rbee.protocol.workers import TokenLogprob

LINES = "application/x-ndjson"
_TEXT = msgspec.json.Decoder(dict[str, msgspec.Raw])


def error_body(error: RbeeError) -> dict[str, Any]:
    """One sentence, as Ollama has it, and our code."""
    return {"error": f"{error.message.rstrip('.')}. {error.action}", "code": error.code}


def ollama_error(error: RbeeError, headers: Mapping[str, str] | None = None) -> Response:
    """The error in Ollama's form."""
    told = {**(headers or {}), **error_headers(error)}
    return json_response(error_body(error), error.status, told)


def stamp_of(seconds: float) -> str:
    """UTC seconds as RFC 3339."""
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def line(value: object) -> bytes:
    """One line."""
    return encode(value) + b"\n"


class Answer:
    """One answer on its way. `name`: the model as it was asked for; `chat`: said as a message;
    `utc`: the time that each line tells as its own, in seconds."""

    def __init__(self, run: Run, name: str, *, chat: bool, utc: Callable[[], float]) -> None:
        self.run = run
        self._chat = chat
        self._name = name
        self._utc = utc
        self._speech = Speech(run)
        self._call: Call | None = None
        self._calls = 0
        self.reason = "stop"

    def now(self) -> str:
        """When a line is told."""
        return stamp_of(self._utc())

    @property
    def plain(self) -> bool:
        """All that is said is text."""
        return self._speech.calls is None

    def steps(self, kind: str, data: bytes) -> list[dict[str, Any]]:
        """What one event adds."""
        out: list[dict[str, Any]] = []
        for part in self._speech.parts(kind, data):
            out += self._part(part)
        return out

    def step(
        self,
        text: str = "",
        *,
        calls: Sequence[dict[str, Any]] = (),
        logprobs: Sequence[TokenLogprob] = (),
        done: bool = False,
    ) -> dict[str, Any]:
        """One object of the stream."""
        said: dict[str, Any] = {"response": text}
        if self._chat:
            said = {"message": {"role": "assistant", "content": text}}
            if calls:
                said["message"]["tool_calls"] = list(calls)
        told = {"model": self._name, "created_at": self.now(), **said, "done": done}
        if logprobs:
            told["logprobs"] = _logprobs(logprobs)
        return told

    def last(self) -> dict[str, Any]:
        """The object that ends it."""
        return {**self.step(done=True), "done_reason": self.reason, **durations(self.run)}

    def whole(self) -> dict[str, Any]:
        """All of an answer that has ended."""
        text, calls, logprobs = "", list[dict[str, Any]](), list[dict[str, Any]]()
        for kind, data in self.run.stream.events:
            for one in self.steps(kind, data):
                said = one.get("message", {})
                text += said.get("content", "") if self._chat else one["response"]
                calls += said.get("tool_calls", ())
                logprobs += one.get("logprobs", ())
        told = {**self.last(), **self.step(text, calls=calls, done=True)}
        return {**told, "logprobs": logprobs} if logprobs else told

    def _part(self, part: Part) -> list[dict[str, Any]]:
        match part:
            case Said("", ()):
                return []
            case Said(text, logprobs):
                return [*self._called(), self.step(text, logprobs=logprobs)]
            case CallBegun(_, call_id, name):
                before = self._called()
                self._call = Call(call_id, name)
                return before
            case CallMore(_, text):
                assert self._call is not None
                self._call.arguments += text
                return []
            case Ended(reason):
                self.reason = "length" if reason == "length" else "stop"
                return self._called()

    def _called(self) -> list[dict[str, Any]]:
        """The call that is whole now."""
        call, self._call = self._call, None
        if call is None:
            return []
        arguments = object_of(call.arguments)
        if arguments is None:
            return [self.step(f"{call.name}({call.arguments})")]
        function = {"index": self._calls, "name": call.name, "arguments": arguments}
        self._calls += 1
        return [self.step(calls=[{"id": call.id, "function": function}])]


class Lines:
    """See `answer_stream.Telling`: an answer line by line."""

    def __init__(self, answer: Answer, *, ended: Callable[[], None] | None = None) -> None:
        """`ended` is called when the answer has ended well."""
        self._ended = ended
        self.runs: Sequence[Run] = [answer.run]
        self._answer = answer
        # Lines of text alone differ in nothing but it and their time: they are written around both.
        blank = {**answer.step("\0"), "created_at": "\0"}
        self._before, self._between, self._after = line(blank).split(b'"\\u0000"')

    def opening(self) -> bytes:
        """See Telling."""
        return b""

    def told(self, index: int, events: Sequence[tuple[str, bytes]]) -> bytes:
        """See Telling."""
        return b"".join([self._told(kind, data) for kind, data in events])

    def failure(self, index: int) -> bytes:
        """See Telling."""
        error = failure_of(self._answer.run.stream) or InternalError("the stream ended")
        return line(error_body(error))

    def closing(self) -> bytes:
        """See Telling."""
        if not self._answer.run.stream.ended:
            return line(error_body(ShuttingDown("the queen is shutting down")))
        if self._ended is not None:
            self._ended()
        return line(self._answer.last())

    def silence(self) -> bytes:
        """Nothing that is said, in a line of its own, and why: there are no comments."""
        job = self._answer.run.job
        why = {"status": job.waiting_for} if job.state is JobState.QUEUED else {}
        return line({**self._answer.step(), **why})

    def _told(self, kind: str, data: bytes) -> bytes:
        if kind == EventType.TOKEN and self._answer.plain:
            said = _TEXT.decode(data)
            if "logprob" not in said:
                now = encode(self._answer.now())
                return b"".join((self._before, now, self._between, said["t"], self._after))
        if kind in (EventType.TOKEN, EventType.END):
            return b"".join([line(one) for one in self._answer.steps(kind, data)])
        if kind == EventType.STATUS:
            status = msgspec.json.decode(data, type=StatusData)
            if status.stage in STAGES and status.progress is not None:
                return line({**self._answer.step(), "status": status.message})
        return b""


def durations(run: Run) -> dict[str, int]:
    """Counts, and nanoseconds: `load_duration` is all that was before a worker had it."""
    started: StartedData | None = find(run.stream, EventType.STARTED, StartedData)
    metrics: MetricsData | None = find(run.stream, EventType.METRICS, MetricsData)
    end: EndData | None = find(run.stream, EventType.END, EndData)
    before = started.queued_ms if started is not None else 0
    took = end.duration_ms if end is not None else 0
    first = min(metrics.ttft_ms if metrics is not None else 0.0, took)
    prompt, _, made = counts_of([run])
    return {
        "total_duration": _ns(before + took),
        "load_duration": _ns(before),
        "prompt_eval_count": prompt,
        "prompt_eval_duration": _ns(first),
        "eval_count": made,
        "eval_duration": _ns(took - first),
    }


def _ns(milliseconds: float) -> int:
    return round(milliseconds * 1_000_000)


def _logprobs(tokens: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
    return [
        {
            "token": one.token,
            "logprob": one.logprob,
            "bytes": one.bytes,
            "top_logprobs": [
                {"token": top.token, "logprob": top.logprob, "bytes": top.bytes} for top in one.top
            ],
        }
        for one in tokens
    ]
