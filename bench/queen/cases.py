"""All cases and their rows, in the order of measuring and showing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from bench.figures import Target
from bench.queen import death_cases, decision_case, load_cases, proxy_cases
from bench.queen.book import FLOOR, LITELLM, Row, Rows
from bench.queen.context import Context


@dataclass(frozen=True)
class Case:
    """`measure` fills the context's book under this name (or those that rows name)."""

    name: str
    measure: Callable[[Context], Awaitable[None]]
    rows: tuple[Row, ...]
    under: str = ""
    """Where its figures stand, when several cases are measured in one go."""


def most(limit: float) -> Target:
    """At most."""
    return Target(limit, least=False)


def least(limit: float) -> Target:
    """At least."""
    return Target(limit, least=True)


def _cpu(what: str, unit: str = "µs") -> tuple[Row, Row]:
    return (
        Row("cpu", what, unit, "P4", FLOOR, most(2.0), of_ratio=True),
        Row(
            "cpu",
            "the same: how many times less than LiteLLM",
            unit,
            "P4",
            LITELLM,
            least(15),
            of_ratio=True,
            inverse=True,
        ),
    )


CASES: tuple[Case, ...] = (
    Case("short", proxy_cases.short, _cpu("CPU time of an answer of 8 tokens in one body")),
    Case("streamed", proxy_cases.streamed, _cpu("CPU time of an answer of 20 tokens, streamed")),
    Case(
        "events",
        proxy_cases.events,
        (
            Row("cpu", "CPU time of one streamed event", "µs", "P5", FLOOR, most(20)),
            Row("cpu", "the same: how many times less than LiteLLM", "µs", "", LITELLM,
                inverse=True),
        ),
    ),
    Case(
        "latency",
        proxy_cases.latency,
        (
            Row("added_p50", "added to a call that takes no time, median", "ms", "P6", FLOOR,
                most(1.0)),
            Row("added_p99", "the same, p99", "ms", "P6", FLOOR, most(3.0)),
            Row("added_p50", "the same beside LiteLLM, median", "ms", "", LITELLM),
        ),
    ),
    Case(
        "throughput",
        proxy_cases.throughput,
        (
            Row("rate", "answers of 20 tokens a second on one core, 16 clients", "1/s", "P7",
                FLOOR, least(1500)),
            Row("rate", "the same beside LiteLLM", "1/s", "P7", LITELLM, least(15), of_ratio=True),
            Row("by_cpu", "the same by CPU time (its inverse)", "1/s", "", FLOOR),
            Row("busy", "how busy the core was", "%", "", FLOOR),
        ),
    ),
    Case(
        "decision",
        decision_case.decision,
        tuple(
            row
            for count, limit in ((100, 0.2), (1_000, 0.5), (100_000, 1.0))
            for row in (
                Row(f"p95_{count}", f"one decision among {count} workers, p95", "ms", "P8", "",
                    most(limit)),
                Row(f"whole_{count}", "the same with all that follows from a submission", "ms"),
            )
        ),
    ),
    Case(
        "admission",
        load_cases.admission,
        (
            Row("p95", "a job taken (202, on disk) while 10 000 wait, one client, p95", "ms", "P9",
                "", most(10)),
            Row("p50", "the same, median", "ms"),
            Row("rate", "the same, 16 clients", "1/s", "P9", "", least(5000)),
            Row("p95_many", "the same, 16 clients, p95", "ms"),
            Row("cpu", "the same, CPU time of a job", "µs"),
        ),
    ),
    *(
        Case(
            f"streams-{count}",
            load_cases.streams,
            (
                Row("unanswered", f"{count} streams open at once: without a whole answer",
                    "streams", "P10", "", most(0)),
                Row("memory", "memory of the queen for each of them", "kB", "P10", "", most(25)),
                Row("cpu", "CPU time of each, from its begin to its end", "µs"),
            ),
            under="streams",
        )
        for count in (500, 10_000)
    ),
    Case(
        "dead",
        death_cases.dead,
        (Row("seconds", "a worker is killed: until its stream goes on", "s", "P13", "", most(1)),),
    ),
    Case(
        "silent",
        death_cases.silent,
        (Row("seconds", "a worker falls silent: until its stream goes on", "s", "P13", "",
             most(6)),),
    ),
    Case(
        "lost",
        death_cases.lost_streams,
        (Row("streams", "a worker of two is killed while 20 stream: lost", "streams", "P14", "",
             most(0)),),
    ),
    Case(
        "tree",
        death_cases.tree,
        (
            Row("seconds", "the queen is killed: until all she started is gone", "s", "P15", "",
                most(3)),
            Row("processes", "the same: processes", ""),
        ),
    ),
    Case(
        "colony",
        load_cases.colony,
        (
            Row("message", "CPU time of one message of a hive", "µs"),
            Row("rate", "messages a second", "1/s"),
            Row("share", "share of one core that they take", "%"),
            Row("scaled", "the same for 1 000 hives of 100 workers", "%", "P16", "", most(10)),
            Row("memory", "memory of the queen for each worker", "kB"),
        ),
    ),
)  # fmt: skip


def chosen(names: Sequence[str]) -> list[Case]:
    """The cases of these names; all when there are none."""
    return [case for case in CASES if not names or name_of(case) in names or case.name in names]


def name_of(case: Case) -> str:
    """What it is asked for by."""
    return case.under or case.name


def rows_of(cases: Sequence[Case]) -> Rows:
    """Their rows."""
    return [(case.name, row) for case in cases for row in case.rows]
