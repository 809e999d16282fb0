"""Runs the cases: starts the servers that a group of cases needs, measures in turn, ends them.

Owns the order: in each round every server is measured once, A B A B …, so that what slows the
machine for a while slows both. A server that does not start or answer costs its own cells only.
"""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import anyio

from bench.cases import DIRECT, LLAMA_CPP, LLAMA_SERVER, QUEEN, WORKER, Case, Figures, Round, Size
from bench.load import Wrong
from bench.processes import ServerDied
from bench.servers import LlamaCppServer, LlamaServer, Server, Setup
from bench.servers_rbee import Queen, Sink, Worker

Say = Callable[[str], None]
LONGEST = 200
"""Characters of a reason."""


@dataclass(frozen=True)
class Tools:
    """What the servers are started with; None with a reason where one cannot be had."""

    llama_server: Path | None
    llama_cpp: Path | None
    absent: dict[str, str]
    """Server name → why there is none."""
    models: dict[str, Path]


@dataclass(frozen=True)
class Plan:
    """How much is measured, and with what settings."""

    cases: list[Case]
    rounds: int
    size: Size
    threads: int
    ctx: int = 4096


@dataclass
class Measured:
    """One case on one model: what each server gave in each round."""

    case: Case
    model: str
    values: dict[str, list[Figures]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    """Server → why it has no figures."""
    notes: set[str] = field(default_factory=set)

    def series(self, server: str, key: str) -> list[float]:
        """One figure of one server, by rounds."""
        return [figures[key] for figures in self.values.get(server, []) if key in figures]


class Session:
    """One run of a plan; `run` fills `measured` case by case."""

    def __init__(self, plan: Plan, tools: Tools, say: Say) -> None:
        self._plan = plan
        self._tools = tools
        self._say = say
        self._sink = Sink()
        self._began = time.monotonic()
        self._salt = f"{time.time_ns()}"
        self.measured: list[Measured] = []

    async def run(self) -> list[Measured]:
        """All groups, one after another."""
        async with anyio.create_task_group() as tasks:
            await tasks.start(lambda *, task_status: self._sink.serve(task_status=task_status))
            for model, slots, queen in groups(self._plan.cases):
                group = (model, slots, queen)
                cases = [case for case in self._plan.cases if group in groups([case])]
                await self._group(cases, model, slots)
            tasks.cancel_scope.cancel()
        return self.measured

    async def _group(self, cases: list[Case], model: str, slots: int) -> None:
        setup = Setup(self._tools.models[model], slots, self._plan.ctx, self._plan.threads)
        wanted = list(dict.fromkeys(name for case in cases for name in case.servers))
        self._tell(f"{model}, {slots} slots: starting {', '.join(wanted)}")
        running: dict[str, Server] = {}
        absent = dict(self._tools.absent)
        try:
            for name in wanted:
                if name != DIRECT and name not in absent:
                    await self._start(name, setup, running, absent)
            for case in cases:
                await self._case(case, model, running, absent)
        finally:
            for server in running.values():
                await server.stop()

    async def _start(
        self, name: str, setup: Setup, running: dict[str, Server], absent: dict[str, str]
    ) -> None:
        try:
            server = await self._starter(name)(setup)
            running[name] = server
            if isinstance(server, Queen):
                running[DIRECT] = server.direct
            await server.warm(chat=isinstance(server, Queen))
        except (Wrong, OSError, TimeoutError) as exc:
            absent[name] = reason(exc)
            self._tell(f"  {name}: {absent[name]}")
            if (failed := running.pop(name, None)) is not None:
                await failed.stop()
            if name == QUEEN:
                running.pop(DIRECT, None)
                absent[DIRECT] = "it is the queen's worker, and she did not start"

    def _starter(self, name: str) -> Callable[[Setup], Awaitable[Server]]:
        tools = self._tools
        if name == LLAMA_SERVER and (binary := tools.llama_server) is not None:
            return lambda setup: LlamaServer.start(binary, setup)
        if name == LLAMA_CPP and (python := tools.llama_cpp) is not None:
            return lambda setup: LlamaCppServer.start(python, setup)
        if name == WORKER:
            return lambda setup: Worker.start(setup, self._sink.url)
        if name == QUEEN:
            return Queen.start
        raise Wrong(f"there is no way to start {name}")

    async def _case(
        self, case: Case, model: str, running: dict[str, Server], absent: dict[str, str]
    ) -> None:
        result = Measured(case, model)
        for name in case.servers:
            if name not in running:
                result.absent[name] = absent.get(name, "it was not started")
        self.measured.append(result)
        for number in range(self._plan.rounds):
            for name in case.servers:
                if name in running and name not in result.absent:
                    await self._measure(result, running[name], name, number)
        key = case.figures[0].key
        medians = ", ".join(
            f"{name} {sorted(series)[len(series) // 2]:.1f}"
            for name in case.servers
            if (series := result.series(name, key))
        )
        self._tell(f"  {case.name}: {medians or 'nothing'} {case.figures[0].unit}")
        for name, why in result.absent.items():
            if name in running:
                self._tell(f"    {name}: {why}")

    async def _measure(self, result: Measured, server: Server, name: str, number: int) -> None:
        # Two ways to one worker must not find each other's prompts in its cache.
        way = f"/{name}" if result.case.one_worker else ""
        salt = random.Random(f"{self._salt}/{result.case.name}/{result.model}/{number}{way}")
        turn = Round(server, salt, self._plan.size, result.notes)
        try:
            server.process.check()
            result.values.setdefault(name, []).append(await result.case.measure(turn))
        except (Wrong, ServerDied, OSError, TimeoutError) as exc:
            result.absent[name] = reason(exc)
            result.values.pop(name, None)  # rounds are paired: half a series would mislead

    def _tell(self, text: str) -> None:
        self._say(f"{time.monotonic() - self._began:6.0f} s  {text}")


def groups(cases: Iterable[Case]) -> list[tuple[str, int, bool]]:
    """(model, slots, whether through the queen): each is one start of the servers."""
    found = {
        (model, case.slots, QUEEN in case.servers): None for case in cases for model in case.models
    }
    return sorted(found, key=lambda group: (group[2], group[0], group[1]))


def reason(exc: BaseException) -> str:
    """One line to show in a cell's place: the end of what was said, where reasons stand."""
    text = " ".join(str(exc).split()) or type(exc).__name__
    return text if len(text) <= LONGEST else "…" + text[-LONGEST:]
