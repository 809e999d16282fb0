"""What one load of requests on one server gave. Pure but for `run`, which sends them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from bench.client import Request, Stream, together
from bench.dialects import Answer, Ask, Reader, Said, failures, read_answer
from bench.http_bytes import BadReply
from bench.processes import cpu_seconds


class Wrong(Exception):
    """A measurement that is none; the message is told in the table instead of a figure."""


class Target(Protocol):
    """What a load needs of a server."""

    host: str
    port: int

    def read(self, event: dict[str, Any]) -> Said:
        """What one of its events says."""
        ...

    def request(self, ask: Ask) -> Request:
        """The request in the server's words."""
        ...

    def pids(self) -> list[int]:
        """Its processes."""
        ...


@dataclass(frozen=True)
class Load:
    """Requests sent together, their answers in the same order. Times in seconds."""

    answers: tuple[Answer, ...]
    sent: tuple[float, ...]
    cpu: float = 0.0
    """CPU time of the server's processes."""

    @property
    def tokens(self) -> int:
        """Of all answers."""
        return sum(answer.tokens for answer in self.answers)

    @property
    def seconds(self) -> float:
        """From the first request to the last token."""
        return max(answer.times[-1] for answer in self.answers) - min(self.sent)

    @property
    def rate(self) -> float:
        """Tokens per second of all together, the time of the prompts included."""
        return self.tokens / self.seconds

    @property
    def first_tokens(self) -> list[float]:
        """Seconds from each request to its first token."""
        pairs = zip(self.answers, self.sent, strict=True)
        return [answer.times[0] - sent for answer, sent in pairs]

    @property
    def cut(self) -> int:
        """How many answers ended before their length; rows are comparable when none did."""
        return sum(answer.finish != "length" for answer in self.answers)


def load_of(streams: Sequence[Stream], reader: Reader, cpu: float = 0.0) -> Load:
    """Read what ended streams have received. Raises Wrong when any answer failed."""
    try:
        answers = tuple(read_answer(stream.reply(), reader) for stream in streams)
    except BadReply as exc:
        raise Wrong(str(exc)) from exc
    if wrong := failures(answers):
        raise Wrong("; ".join(wrong))
    return Load(answers, tuple(stream.sent_at for stream in streams), cpu)


async def run(server: Target, asks: Sequence[Ask]) -> Load:
    """Send all at once and wait for all. Raises Wrong, OSError, TimeoutError."""
    requests = [server.request(ask) for ask in asks]
    pids = server.pids()
    before = cpu_seconds(pids)
    streams = await together(server.host, server.port, requests)
    return load_of(streams, server.read, cpu_seconds(pids) - before)
