"""What came out of a simulation: each request's times, and the figures made of them.

Owns the arithmetic of percentiles and fairness; counts only what it is told.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import msgspec

from rbee.protocol.jobs import EventType
from rbee.protocol.operations import Priority
from rbee.sim.asks import Ask

INPUT_WEIGHT, OUTPUT_WEIGHT = 1, 2
"""Of a token in a client's share, as rbee.core.fairness counts."""


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds. Percentiles by nearest rank; all 0 when there is nothing."""

    p50: float
    p95: float
    mean: float
    most: float


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """The requests of one class that were answered."""

    requests: int
    completed: int
    first_token: Figures
    total: Figures


class Fairness(msgspec.Struct, frozen=True, kw_only=True):
    """Between clients: weighted tokens (1 × input + 2 × output) they got for each second during
    which they had a request open. Interactive clients, if there are at least two of them, else all.
    """

    clients: int
    most_to_least: float
    """1: all the same. 0: a client got nothing."""
    jain: float
    """Jain's index, 1/n..1: (Σx)² / n Σx² (R. Jain et al., DEC-TR-301, 1984)."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """One simulation."""

    trace: str
    fleet: str
    policy: str
    seed: int
    seconds: float
    """Virtual, until the last request had ended."""
    requests: int
    completed: int
    failed: int
    refused: int
    """Not taken, of `failed`: a deadline that could not be met, a prompt that fits nowhere."""
    unfinished: int
    """Of `failed`: still open when the simulation was given up."""
    errors: dict[str, int]
    first_token: Figures
    total: Figures
    classes: dict[str, Group]
    loads: int
    """Models that were loaded."""
    load_gb: float
    evictions: int
    resumes: int
    """Answers that another run went on with."""
    retries: int
    preemptions: int
    prompt_tokens: int
    cached_tokens: int
    answer_tokens: int
    fairness: Fairness
    turned_away: int
    """Runs sent to a worker without a free slot: the brain's ledger was wrong."""
    out_of_memory: int
    """Loads that did not fit after all: the brain's memory estimate was wrong."""


@dataclass
class Record:
    """One request."""

    ask: Ask
    began: float
    first: float | None = None
    ended: float | None = None
    end: EventType | None = None
    code: str | None = None
    terminals: int = 0
    """Ends its stream was given; anything but one is a defect."""


@dataclass
class Tally:
    """Everything that is counted."""

    records: dict[str, Record] = field(default_factory=dict[str, Record])
    open: int = 0
    refused: int = 0
    loads: int = 0
    load_bytes: int = 0
    turned_away: int = 0
    out_of_memory: int = 0
    cached_tokens: int = 0
    counts: dict[str, float] = field(default_factory=dict[str, float])
    """The brain's own metrics."""

    def begun(self, ask: Ask, now: float) -> None:
        """It was sent."""
        self.records[ask.ask_id] = Record(ask, now)
        self.open += 1

    def first_token(self, ask_id: str, now: float) -> None:
        """Of its first run, or of a later one when the first had none."""
        record = self.records[ask_id]
        if record.first is None:
            record.first = now

    def ended(self, ask_id: str, end: EventType, now: float, code: str | None = None) -> None:
        """Its stream has ended."""
        record = self.records[ask_id]
        record.terminals += 1
        if record.terminals == 1:
            record.ended, record.end, record.code = now, end, code
            self.open -= 1

    def outcome(self, *, trace: str, fleet: str, policy: str, seed: int, seconds: float) -> Outcome:
        """The figures."""
        records = list(self.records.values())
        good = [r for r in records if r.end is EventType.END]
        errors: dict[str, int] = {}
        for record in records:
            if record.end is not EventType.END:
                code = record.code or (record.end or "unfinished").upper()
                errors[code] = errors.get(code, 0) + 1
        classes = {
            str(p): _group([r for r in records if r.ask.priority is p])
            for p in Priority
            if any(r.ask.priority is p for r in records)
        }
        everything = _group(records)
        count = self.counts.get
        return Outcome(
            trace=trace,
            fleet=fleet,
            policy=policy,
            seed=seed,
            seconds=round(seconds, 3),
            requests=len(records),
            completed=len(good),
            failed=len(records) - len(good),
            refused=self.refused,
            unfinished=sum(1 for r in records if r.end is None),
            errors=errors,
            first_token=everything.first_token,
            total=everything.total,
            classes=classes,
            loads=self.loads,
            load_gb=round(self.load_bytes / 1e9, 1),
            evictions=round(count("evictions", 0)),
            resumes=round(count("resumes", 0)),
            retries=round(count("retries", 0)),
            preemptions=round(count("preemptions", 0)),
            prompt_tokens=sum(r.ask.prompt for r in good),
            cached_tokens=self.cached_tokens,
            answer_tokens=sum(r.ask.answer[1] for r in good),
            fairness=fairness(records),
            turned_away=self.turned_away,
            out_of_memory=self.out_of_memory,
        )


def figures(values: Iterable[float]) -> Figures:
    """Of some seconds."""
    sample = sorted(values)
    if not sample:
        return Figures(p50=0.0, p95=0.0, mean=0.0, most=0.0)
    return Figures(
        p50=round(_rank(sample, 0.5), 3),
        p95=round(_rank(sample, 0.95), 3),
        mean=round(math.fsum(sample) / len(sample), 3),
        most=round(sample[-1], 3),
    )


def fairness(records: Sequence[Record]) -> Fairness:
    """See Fairness."""
    clients: dict[str, list[Record]] = {}
    urgent = [r for r in records if r.ask.priority is Priority.INTERACTIVE]
    several = len({r.ask.client for r in urgent}) > 1
    for record in urgent if several else records:
        clients.setdefault(record.ask.client, []).append(record)
    rates: list[float] = []
    for own in clients.values():
        tokens = sum(
            INPUT_WEIGHT * r.ask.prompt + OUTPUT_WEIGHT * r.ask.answer[1]
            for r in own
            if r.end is EventType.END
        )
        seconds = _covered([(r.began, r.ended if r.ended is not None else math.inf) for r in own])
        rates.append(tokens / seconds if seconds else 0.0)
    squares = math.fsum(r * r for r in rates)
    most, least = max(rates, default=0.0), min(rates, default=0.0)
    return Fairness(
        clients=len(rates),
        most_to_least=round(most / least, 3) if least else 0.0,
        jain=round(math.fsum(rates) ** 2 / (len(rates) * squares), 4) if squares else 0.0,
    )


def _covered(spans: list[tuple[float, float]]) -> float:
    """Seconds that are in at least one of the spans."""
    total, until = 0.0, -math.inf
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, until))
        until = max(until, end)
    return total


def _group(records: list[Record]) -> Group:
    good = [r for r in records if r.end is EventType.END and r.ended is not None]
    return Group(
        requests=len(records),
        completed=len(good),
        first_token=figures(r.first - r.began for r in good if r.first is not None),
        total=figures(r.ended - r.began for r in good if r.ended is not None),
    )


def _rank(ordered: list[float], share: float) -> float:
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
