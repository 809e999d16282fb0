"""What is measured: each case sends its load to one server for one round and gives its figures.

Owns the loads and their targets, never the order of rounds or who is asked.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import anyio

from bench import prompts
from bench.client import connect
from bench.dialects import Ask
from bench.figures import Target, gaps, percentile
from bench.load import Load, Wrong, load_of, run
from bench.processes import memory
from bench.servers import Server

WORKER, LLAMA_SERVER, LLAMA_CPP, QUEEN, DIRECT = (
    "rbee",
    "llama-server",
    "llama_cpp.server",
    "through the queen",
    "direct",
)
LONG_PROMPT, PREFIX = 3000, 600
"""Tokens."""
LONG_LIMIT = 180.0
COUNTERS = ("steps", "compute_ms", "between_ms", "engine_cpu_ms")
"""Of the worker's GET /v1/stats."""
MIB = 1 << 20
PARITY = Target(1.0, least=True)


@dataclass(frozen=True)
class Size:
    """How long the answers are, in tokens; smaller when it must be quick."""

    answer: int = 128
    after_prefix: int = 48
    beside_long: int = 160
    probes: int = 3
    """Times that a short measurement is made in one round."""


QUICK = Size(answer=32, after_prefix=16, beside_long=64, probes=2)


@dataclass(frozen=True)
class Round:
    """One round on one server: the same salt for all servers, another in each round."""

    server: Server
    salt: random.Random
    size: Size
    notes: set[str]
    """Sentences to tell beside the figures."""

    def check(self, load: Load) -> Load:
        """Note answers that ended by themselves."""
        if load.cut:
            self.notes.add(f"{self.server.name}: some answers ended before their length")
        return load


Figures = dict[str, float]
Measure = Callable[[Round], Awaitable[Figures]]


@dataclass(frozen=True)
class Figure:
    """One row: what of a case's figures it shows. The ratio is `ours` to `theirs`."""

    key: str
    what: str
    unit: str
    target: Target | None = None
    number: str = ""
    """In the table of targets."""


@dataclass(frozen=True)
class Case:
    """A load, who it is sent to, and the rows it makes."""

    name: str
    measure: Measure
    figures: tuple[Figure, ...]
    models: tuple[str, ...] = ("q4_0",)
    servers: tuple[str, ...] = (WORKER, LLAMA_SERVER)
    """The first is ours, the second the one it is compared with."""
    slots: int = 8

    @property
    def one_worker(self) -> bool:
        """Whether both ways lead to the same process."""
        return DIRECT in self.servers


def streams(count: int, *, sampled: bool = False, chat: bool = False) -> Measure:
    """So many short prompts at once, each with an answer of full length."""

    async def measure(turn: Round) -> Figures:
        asks = [
            Ask(prompts.short(turn.salt), turn.size.answer, sampled=sampled, seed=n + 1, chat=chat)
            for n in range(count)
        ]
        load = turn.check(await run(turn.server, asks))
        return {
            "rate": load.rate,
            "first": statistics.median(load.first_tokens) * 1000,
            "cpu": load.cpu / load.tokens * 1000,
        }

    return measure


async def steps(turn: Round) -> Figures:
    """8 streams; what a step costs the worker beside the computing, by its own count."""
    before = await turn.server.stats()
    await streams(8)(turn)
    after = await turn.server.stats()
    if before is None or after is None:
        raise Wrong("this worker does not count its steps (no /v1/stats)")
    return step_costs(before, after)


def step_costs(before: Mapping[str, Any], after: Mapping[str, Any]) -> Figures:
    """Out of two readings of the worker's counters. Raises Wrong when one is missing.

    `engine_cpu_ms` is the CPU time of the engine's thread outside of computing, `between_ms` the
    time from one computing to the next, `loop_s` the CPU time of the thread that writes answers.
    """
    try:
        change = {key: float(after[key]) - float(before[key]) for key in COUNTERS}
    except KeyError as exc:
        raise Wrong(f"the worker does not count {exc}") from exc
    if change["steps"] <= 0:
        raise Wrong("the worker counted no steps")
    steps = change["steps"]
    costs = {
        "engine": change["engine_cpu_ms"] / steps,
        "between": change["between_ms"] / steps,
        "compute": change["compute_ms"] / steps,
    }
    if after.get("loop_s") is not None and before.get("loop_s") is not None:
        loop = (after["loop_s"] - before["loop_s"]) * 1000 / steps
        costs |= {"loop": loop, "python": costs["engine"] + loop}
    return costs


async def prefix_seen(turn: Round) -> Figures:
    """A prefix that was sent before, with other words after it; nobody else is served."""
    prefix = prompts.text(PREFIX, turn.salt)
    await run(turn.server, [Ask(prompts.extended(prefix, turn.salt), 2)])
    waits: list[float] = []
    for _ in range(turn.size.probes):
        load = await run(turn.server, [Ask(prompts.extended(prefix, turn.salt), 4)])
        waits += load.first_tokens
    return {"first": statistics.median(waits) * 1000}


async def prefix_new(turn: Round) -> Figures:
    """8 at once with one prefix that nobody has sent before."""
    prefix = prompts.text(PREFIX, turn.salt)
    asks = [Ask(prompts.extended(prefix, turn.salt), turn.size.after_prefix) for _ in range(8)]
    load = turn.check(await run(turn.server, asks))
    return {
        "rate": load.rate,
        "first": statistics.median(load.first_tokens) * 1000,
        "last": max(load.first_tokens) * 1000,
    }


async def long_prompt(turn: Round) -> Figures:
    """4 streams run; a long prompt comes. The gaps counted are those that end after it was sent."""
    server = turn.server
    asks = [Ask(prompts.short(turn.salt), turn.size.beside_long) for _ in range(4)]
    late = Ask(prompts.text(LONG_PROMPT, turn.salt), 4)
    running = [await connect(server.host, server.port) for _ in asks]
    arriving = await connect(server.host, server.port)
    try:
        for stream, ask in zip(running, asks, strict=True):
            stream.expect(8)
            stream.send(server.request(ask).encode(server.host, server.port))
        with anyio.fail_after(LONG_LIMIT):
            for stream in running:
                await stream.reached()
            arriving.send(server.request(late).encode(server.host, server.port))
            for stream in (*running, arriving):
                await stream.done()
    finally:
        for stream in (*running, arriving):
            stream.close()
    load = turn.check(load_of(running, server.read))
    since = arriving.sent_at
    waits = [gap for answer in load.answers for gap in gaps(answer.times, since)]
    if not waits:
        raise Wrong("the streams ended before the long prompt was sent")
    return {
        "worst": max(waits) * 1000,
        "p95": percentile(waits, 0.95) * 1000,
        "first": load_of([arriving], server.read).first_tokens[0] * 1000,
    }


async def footprint(turn: Round) -> Figures:
    """Memory after 8 streams, on top of all that was done before by both alike."""
    await run(turn.server, [Ask(prompts.short(turn.salt), 32) for _ in range(8)])
    now = memory(turn.server.pids())
    return {"rss": now.rss / MIB} | ({"pss": now.pss / MIB} if now.pss else {})


def _generation() -> list[Case]:
    cases: list[Case] = []
    for count in (1, 8, 16):
        for sampled in (False, True):
            how = "sampled" if sampled else "greedy"
            plural = "stream" if count == 1 else "streams at once"
            rate = Figure(
                "rate",
                f"{count} {plural}, {how}",
                "tokens/s",
                PARITY,
                "P1" if count == 1 else "P2",
            )
            cpu = Figure("cpu", f"{count} {plural}: CPU of the server", "ms a token")
            third = not sampled and count < 16
            case = Case(
                f"{count}-{how}",
                streams(count, sampled=sampled),
                (rate, cpu) if count == 8 and not sampled else (rate,),
                models=("q4_0", "q4_1"),
                servers=(WORKER, LLAMA_SERVER, LLAMA_CPP) if third else (WORKER, LLAMA_SERVER),
                slots=16 if count == 16 else 8,
            )
            cases.append(case)
    return cases


def _queen(count: int) -> Case:
    plural = "stream" if count == 1 else "streams at once"
    figures = (
        Figure("rate", f"{count} {plural}, greedy, chat", "tokens/s"),
        Figure("first", f"{count} {plural}: first token", "ms"),
    )
    return Case(f"queen-{count}", streams(count, chat=True), figures, servers=(QUEEN, DIRECT))


CASES: tuple[Case, ...] = (
    *_generation(),
    Case(
        "4-on-8",
        streams(4),
        (Figure("rate", "4 streams on 8 slots, greedy", "tokens/s", PARITY, "P2"),),
    ),
    Case(
        "prefix-seen",
        prefix_seen,
        (
            Figure(
                "first", f"{PREFIX}-token prefix seen before: first token", "ms",
                Target(1.0, least=False), "P3",
            ),
        ),
        models=("q4_0", "q4_1"),
        servers=(WORKER, LLAMA_SERVER, LLAMA_CPP),
    ),
    Case(
        "prefix-new",
        prefix_new,
        (
            Figure(
                "rate", f"8 at once sharing a new {PREFIX}-token prefix", "tokens/s",
                Target(2.5, least=True), "P3a",
            ),
            Figure("first", "the same: first token, median of the 8", "ms"),
            Figure("last", "the same: first token, latest of the 8", "ms"),
        ),
    ),
    Case(
        "long-prompt",
        long_prompt,
        (
            Figure(
                "worst", f"a {LONG_PROMPT}-token prompt comes while 4 stream: worst gap", "ms",
                Target(0.2, least=False), "P3b",
            ),
            Figure("p95", "the same: p95 of the gaps from then on", "ms"),
            Figure("first", "the same: first token of the long prompt", "ms"),
        ),
    ),
    Case(
        "steps",
        steps,
        (
            Figure("python", "8 streams: Python's CPU outside llama_decode", "ms a step"),
            Figure("engine", "of it the engine's thread", "ms a step"),
            Figure("loop", "of it the event loop's thread", "ms a step"),
            Figure("between", "8 streams: time between two llama_decode", "ms a step"),
            Figure("compute", "8 streams: time in llama_decode", "ms a step"),
        ),
        servers=(WORKER,),
    ),
    Case(
        "memory",
        footprint,
        (Figure("pss", "memory, PSS", "MiB"), Figure("rss", "memory, RSS", "MiB")),
    ),
    _queen(1),
    _queen(8),
)  # fmt: skip
"""In the order of measuring within one start of the servers; memory comes after all other work."""


def chosen(names: list[str], models: list[str]) -> list[Case]:
    """The cases of these names and models; all when a list is empty."""
    found: list[Case] = []
    for case in CASES:
        kinds = tuple(kind for kind in case.models if not models or kind in models)
        if kinds and (not names or case.name in names):
            found.append(replace(case, models=kinds))
    return found
