"""What was measured of the queen, and the tables it makes. Pure.

A row shows one figure of one program, beside the same figure of the program it is compared with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from bench.figures import Ratio, Target, ratio, spread
from bench.report import cell, markdown

QUEEN, FLOOR, LITELLM, DIRECT = "queen", "bare proxy", "LiteLLM", "direct"
LONGEST = 200
"""Characters of a reason."""


@dataclass(frozen=True)
class Row:
    """One line of a table."""

    key: str
    what: str
    unit: str
    number: str = ""
    """In the table of targets."""
    against: str = ""
    """The program the ratio is taken to; empty: there is none."""
    target: Target | None = None
    """For the ratio where `of_ratio`, else for the queen's own median."""
    of_ratio: bool = False
    inverse: bool = False
    """The ratio is the other's figure by hers: how many times less she takes."""


class Book:
    """Figures by case, program and key, in the order of rounds; and what is to be said of them."""

    def __init__(self) -> None:
        self._series: dict[tuple[str, str, str], list[float]] = {}
        self.absent: dict[tuple[str, str], str] = {}
        """(case, program) → why it has no figures."""
        self.notes: list[str] = []

    def add(self, case: str, program: str, figures: Mapping[str, float]) -> None:
        """One round of one program."""
        for key, value in figures.items():
            self._series.setdefault((case, program, key), []).append(value)

    def drop(self, case: str, program: str, why: str) -> None:
        """It failed: rounds are paired, half a series would mislead."""
        text = " ".join(why.split())
        self.absent[case, program] = text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
        for known in [known for known in self._series if known[:2] == (case, program)]:
            del self._series[known]

    def note(self, text: str) -> None:
        """A sentence to tell under the table, once."""
        if text not in self.notes:
            self.notes.append(text)

    def series(self, case: str, program: str, key: str) -> list[float]:
        """By rounds; empty when nothing was measured."""
        return self._series.get((case, program, key), [])

    def ratio(self, case: str, row: Row) -> Ratio | None:
        """The queen's figure by the other's."""
        if not row.against:
            return None
        ours = self.series(case, QUEEN, row.key)
        theirs = self.series(case, row.against, row.key)
        return ratio(theirs, ours) if row.inverse else ratio(ours, theirs)

    def met(self, case: str, row: Row) -> bool | None:
        """Whether the target is reached; None where there is none or nothing was measured."""
        if row.target is None:
            return None
        if row.of_ratio:
            found = self.ratio(case, row)
            return None if found is None else row.target.met(found.of_medians)
        ours = self.series(case, QUEEN, row.key)
        return row.target.met(spread(ours).median) if ours else None


Rows = Sequence[tuple[str, Row]]
"""(case, row) in the order of showing."""
HEAD = ("", "what", "unit", "queen", "beside her", "ratio", "by rounds", "target", "met")


def table(book: Book, rows: Rows) -> str:
    """Markdown: the rows, then what is to be said of them."""
    lines = [f"- {text}" for text in remarks(book)]
    parts = [markdown(HEAD, [line(book, case, row) for case, row in rows])]
    return "\n\n".join([*parts, "\n".join(lines)] if lines else parts)


def line(book: Book, case: str, row: Row) -> list[str]:
    """The cells of one row."""
    ours = book.series(case, QUEEN, row.key)
    theirs = book.series(case, row.against, row.key) if row.against else []
    found = book.ratio(case, row)
    met = book.met(case, row)
    target = "" if row.target is None else f"{'ratio ' if row.of_ratio else ''}{row.target}"
    verdict = {True: "yes", False: "**no**", None: "not measured" if row.target else ""}
    return [
        row.number,
        row.what,
        row.unit,
        cell(spread(ours)) if ours else "–",
        f"{row.against}: {cell(spread(theirs)) if theirs else '–'}" if row.against else "",
        f"{found.of_medians:.2f}" if found else "",
        f"{found.per_round:.2f} ({found.low:.2f}–{found.high:.2f})" if found else "",
        target,
        verdict[met],
    ]


def remarks(book: Book) -> list[str]:
    """Why cells are empty, and what to know of figures."""
    said: dict[str, list[str]] = {}
    for (case, program), why in book.absent.items():
        said.setdefault(f"{program} was not measured: {why}", []).append(case)
    return [f"{text} ({', '.join(cases)})" for text, cases in said.items()] + book.notes


def as_json(facts: Mapping[str, str], plan: Mapping[str, Any], book: Book, rows: Rows) -> Any:
    """Everything, each round's figures included."""
    found: list[dict[str, Any]] = []
    for case, row in rows:
        compared = book.ratio(case, row)
        programs = [QUEEN, row.against] if row.against else [QUEEN]
        found.append({
            "case": case,
            "number": row.number,
            "figure": row.key,
            "what": row.what,
            "unit": row.unit,
            "rounds": {name: book.series(case, name, row.key) for name in programs},
            "ratio": asdict(compared) if compared is not None else None,
            "target": str(row.target) if row.target else None,
            "target_is_of": "ratio" if row.of_ratio else "value",
            "met": book.met(case, row),
        })  # fmt: skip
    return {"about": dict(facts), "plan": dict(plan), "rows": found, "notes": remarks(book)}


@dataclass(frozen=True)
class Size:
    """How much is measured in one round."""

    cpu: float = 0.6
    """Seconds of CPU time that one round of one program is to take, so that it is seen exactly."""
    events: tuple[int, int] = (20, 420)
    """Tokens of the short and of the long answers whose difference tells what one event costs."""
    latencies: int = 300
    throughput: float = 3.0
    """Seconds that one round of one program may take."""
    queued: int = 10_000
    admitted: int = 2000
    streams: tuple[int, ...] = (500, 10_000)
    deaths: int = 3
    hives: int = 1000
    workers: int = 100
    """Of each hive, of the colony that is only told of."""
    listened: float = 10.0
    """Seconds that the queen is watched listening to it."""
    fleets: tuple[int, ...] = field(default=(100, 1_000, 100_000))
    """Workers that one decision is made among."""


QUICK = Size(
    cpu=0.3, events=(20, 220), latencies=100, throughput=1.5, queued=2000, admitted=1000,
    streams=(500,), deaths=1, hives=200, workers=100, listened=5.0, fleets=(100, 1_000),
)  # fmt: skip
