"""What an answer says, part by part: words, calls of functions, its end.

Owns the reading of one run's events, for every dialect alike. Calls are looked for only where
functions were offered. Writes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from rbee.daemons.queen.tool_calls import CallBegun, CallMore, CallReader, Words
from rbee.protocol.jobs import EndData, EventType, TokenData
from rbee.protocol.operations import Infer
from rbee.protocol.workers import TokenLogprob

if TYPE_CHECKING:
    from rbee.daemons.queen.openai_replies import Run

CALLED = "tool_calls"
"""The reason of an end at which functions are to be called."""
_TOKEN = msgspec.json.Decoder(TokenData)
_END = msgspec.json.Decoder(EndData)


@dataclass(frozen=True)
class Said:
    """Words, and the log-probabilities of the tokens since the words before, if they were asked."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class Ended:
    """`reason` is `stop`, `length` or `tool_calls`; `tokens` of the whole answer; `stop` is the
    stop string that ended it, if one did."""

    reason: str
    tokens: int
    stop: str = ""


Part: TypeAlias = Said | CallBegun | CallMore | Ended


def functions_of(run: Run) -> list[str]:
    """The names of those that were offered."""
    request = run.job.request
    if not isinstance(request, Infer):
        return []
    return [tool.function.name for tool in request.offered()]


class Speech:
    """Reads one run's events as they come."""

    def __init__(self, run: Run) -> None:
        names = functions_of(run)
        self.calls = CallReader(names) if names else None
        """None: no function was offered, and all text is words."""
        self._logprobs: list[TokenLogprob] = []

    def parts(self, kind: str, data: bytes) -> list[Part]:
        """What one event says; nothing for those that say nothing of the answer."""
        if kind == EventType.TOKEN:
            token = _TOKEN.decode(data)
            if self.calls is None:
                return [Said(token.t, () if token.logprob is None else (token.logprob,))]
            if token.logprob is not None:
                self._logprobs.append(token.logprob)
            return self._with_logprobs(self.calls.feed(token.t))
        if kind == EventType.END:
            end = _END.decode(data)
            left = [] if self.calls is None else self._with_logprobs(self.calls.end())
            called = self.calls is not None and self.calls.count > 0
            reason = CALLED if called and end.finish_reason == "stop" else end.finish_reason
            return [*left, Ended(reason, end.tokens_out, end.stop)]
        return []

    def _with_logprobs(self, parts: Sequence[Words | CallBegun | CallMore]) -> list[Part]:
        found: list[Part] = []
        for part in parts:
            if isinstance(part, Words):
                found.append(Said(part.text, tuple(self._logprobs)))
                self._logprobs = []
            else:
                found.append(part)
        return found


@dataclass
class Call:
    """A whole one; `arguments` is JSON text, as the model wrote it."""

    id: str
    name: str
    arguments: str = ""


@dataclass
class Answer:
    """All that an answer said."""

    text: str = ""
    calls: list[Call] = field(default_factory=list[Call])
    logprobs: list[TokenLogprob] = field(default_factory=list[TokenLogprob])
    reason: str = ""
    tokens: int = 0
    stop: str = ""

    def add(self, part: Part) -> None:
        """One more part."""
        match part:
            case Said(text, logprobs):
                self.text += text
                self.logprobs += logprobs
            case CallBegun(_, call_id, name):
                self.calls.append(Call(call_id, name))
            case CallMore(index, text):
                self.calls[index].arguments += text
            case Ended(reason, tokens, stop):
                self.reason, self.tokens, self.stop = reason, tokens, stop


def answer_of(run: Run) -> Answer:
    """Of a run that has ended well."""
    speech, answer = Speech(run), Answer()
    for kind, data in run.stream.events:
        for part in speech.parts(kind, data):
            answer.add(part)
    return answer
