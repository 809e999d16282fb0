"""What is asked, one request at a time: drawn from a trace's streams, or as it lists them.

Owns the dice (one for each client, from the trace's seed, so that nothing about one client changes
another) and what a prompt consists of. Equal trace and seed, equal requests.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

from rbee.protocol.messages import Message
from rbee.protocol.operations import Infer, Priority
from rbee.sim.traces import Arrival, Length, StreamSpec, TraceSpec, bounds

CHARACTERS = 3.7
"""Of text for each token: English, a vocabulary of 128 k. The brain starts from 4 and learns."""

Segment = tuple[str, int]
"""A stretch of a prompt: what it is, and its tokens. Equal names, equal text."""


@dataclass(frozen=True)
class Ask:
    """One request."""

    ask_id: str
    client: str
    model: str
    segments: tuple[Segment, ...]
    """The whole prompt."""
    answer: Segment
    """What the model will say."""
    priority: Priority
    deadline_ms: int | None
    max_tokens: int | None

    @property
    def cut(self) -> bool:
        """Whether the model had more to say than it was allowed."""
        return self.answer[1] == self.max_tokens

    @property
    def prompt(self) -> int:
        """Tokens."""
        return sum(tokens for _, tokens in self.segments)

    def operation(self) -> Infer:
        """As a client sends it."""
        said = [
            Message(role=_role(name), content=_text(name, tokens)) for name, tokens in self.segments
        ]
        return Infer(
            model=self.model,
            messages=said,
            priority=self.priority,
            deadline_ms=self.deadline_ms,
            max_tokens=self.max_tokens,
        )


@dataclass(frozen=True)
class Turn:
    """An ask, and when: `after` seconds from the beginning, or from the end of the one before."""

    after: float
    ask: Ask


Conversation = list[Turn]


def conversations(trace: TraceSpec, seed: int) -> Iterator[Conversation]:
    """All of them, in no order; the first turn's `after` counts from the beginning."""
    for n, stream in enumerate(trace.stream):
        for c in range(stream.clients):
            client = f"{stream.client}-{c + 1}" if stream.clients > 1 else stream.client
            yield from _drawn(stream, f"{n}.{c}", client, c, random.Random(f"{seed}/{n}/{c}"))
    known: dict[str, tuple[Segment, ...]] = {}
    for n, asked in enumerate(trace.request):
        name = f"l{n}"
        before = known.get(asked.conversation, ()) if asked.conversation else ()
        segments = (*before, (f"{name}/user", asked.prompt))
        answer = (f"{name}/assistant", min(asked.answer, asked.max_tokens or asked.answer))
        if asked.conversation:
            known[asked.conversation] = (*segments, answer)
        ask = Ask(
            name,
            asked.client,
            asked.model,
            segments,
            answer,
            asked.priority,
            asked.deadline_ms,
            asked.max_tokens,
        )
        yield [Turn(asked.at, ask)]


def _drawn(
    stream: StreamSpec, key: str, client: str, first: int, dice: random.Random
) -> Iterator[Conversation]:
    models = [stream.model] if isinstance(stream.model, str) else stream.model
    shared: tuple[Segment, ...] = (
        ((f"{stream.client}/system", stream.system),) if stream.system else ()
    )
    # Clients of a regular stream are spread over the interval, or all would come at once.
    at = stream.begin + (
        stream.every * first / stream.clients
        if stream.arrival is Arrival.REGULAR
        else dice.expovariate(1 / stream.every)
    )
    count = 0
    while at < stream.end:
        for _ in range(stream.at_once):
            model = models[(first + count) % len(models)]
            yield _conversation(stream, f"{key}.{count}", client, model, shared, at, dice)
            count += 1
        random_gap = stream.arrival is Arrival.POISSON
        at += dice.expovariate(1 / stream.every) if random_gap else stream.every


def _conversation(
    stream: StreamSpec,
    key: str,
    client: str,
    model: str,
    shared: tuple[Segment, ...],
    at: float,
    dice: random.Random,
) -> Conversation:
    found: Conversation = []
    said = shared
    for turn in range(stream.turns):
        said = (*said, (f"{key}.{turn}/user", _draw(stream.prompt, dice)))
        length = _draw(stream.answer, dice)
        answer = (f"{key}.{turn}/assistant", min(length, stream.max_tokens or length))
        ask = Ask(
            f"{key}.{turn}",
            client,
            model,
            said,
            answer,
            stream.priority,
            stream.deadline_ms,
            stream.max_tokens,
        )
        pause = dice.expovariate(1 / stream.think) if turn and stream.think else 0.0
        found.append(Turn(pause if turn else at, ask))
        said = (*said, answer)
    return found


def _draw(length: Length, dice: random.Random) -> int:
    low, high = bounds(length)
    return round(math.exp(dice.uniform(math.log(low), math.log(high))))


def _role(name: str) -> str:
    return name.rpartition("/")[2]


def _text(name: str, tokens: int) -> str:
    size = max(1, round(tokens * CHARACTERS))
    return (f"{name} " * (size // (len(name) + 1) + 1))[:size]
