"""What cases are measured with: the plan, the book they write into, and the programs they share.

Owns starting the proxies once, for all cases that compare them, and ending them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from bench.load import Wrong
from bench.processes import ServerDied
from bench.queen.book import LITELLM, Book, Size
from bench.queen.clients import closed_loop
from bench.queen.programs import HOST, Fleet, Floor, LiteLlm, Program, Queen, StandIn

FAILURES = (Wrong, ServerDied, OSError, TimeoutError)


@dataclass(frozen=True)
class Proxies:
    """The queen, what she is compared with, and the stand-in for workers behind all of them."""

    queen: Queen
    floor: Floor
    direct: StandIn
    litellm: LiteLlm | None

    def all(self) -> list[Program]:
        """In the order of measuring."""
        found: list[Program] = [self.queen, self.floor]
        return [*found, self.litellm] if self.litellm is not None else found


@dataclass
class Context:
    """One run."""

    rounds: int
    size: Size
    say: Callable[[str], None]
    litellm: Path | None
    no_litellm: str = ""
    """Why there is none."""
    book: Book = field(default_factory=Book)
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    _proxies: Proxies | None = None
    _began: float = field(default_factory=time.monotonic)

    def tell(self, text: str) -> None:
        """Narrate."""
        self.say(f"{time.monotonic() - self._began:6.0f} s  {text}")

    async def proxies(self) -> Proxies:
        """Started at the first call, warm. Raises Wrong."""
        if self._proxies is None:
            queen = await Queen.start()
            self.stack.push_async_callback(queen.stop)
            direct = await StandIn.start(Fleet(), queen)
            self.stack.push_async_callback(direct.stop)
            floor = await Floor.start(direct)
            self.stack.push_async_callback(floor.stop)
            litellm = await self._litellm(direct)
            self._proxies = Proxies(queen, floor, direct, litellm)
            await queen.workers(1)
            for program in (*self._proxies.all(), direct):
                await answers(program, count=40, clients=8, tokens=20, stream=True)
                await answers(program, count=40, clients=8, tokens=8, stream=False)
        return self._proxies

    async def _litellm(self, direct: StandIn) -> LiteLlm | None:
        if self.litellm is None:
            return None
        try:
            program = await LiteLlm.start(self.litellm, direct)
        except FAILURES as exc:
            self.no_litellm = f"it did not start ({str(exc)[:160]})"
            return None
        self.stack.push_async_callback(program.stop)
        return program

    async def close(self) -> None:
        """End what was started."""
        await self.stack.aclose()

    def missing(self, case: str) -> None:
        """Say why LiteLLM has no figures in this case."""
        if self._proxies is not None and self._proxies.litellm is None:
            self.book.drop(case, LITELLM, self.no_litellm or "it was left out")


@dataclass(frozen=True)
class Cost:
    """What answering so many requests took."""

    requests: int
    cpu: float
    seconds: float

    @property
    def each(self) -> float:
        """Seconds of CPU time a request."""
        return self.cpu / self.requests


async def answers(program: Program, *, count: int, clients: int, tokens: int, stream: bool) -> Cost:
    """So many chat completions, and what they took of the program. Raises Wrong."""
    request = program.chat(tokens, stream=stream)
    before = program.cpu()
    sent = await closed_loop(HOST, program.port, lambda _: request, count=count, clients=clients)
    return Cost(count, program.cpu() - before, sent.seconds)
