"""Decisions as rows, and the policy in words. Pure; asking the queen belongs to the screen."""

from __future__ import annotations

from collections.abc import Iterable

from rbee.narration import printable
from rbee.protocol.decisions import Decision, PolicyInfo
from rbee.tui.decision_lines import summary
from rbee.tui.glyphs import Glyphs, wall_time
from rbee.tui.rows import model_name
from rbee.tui.texts import fact, wrapped
from rbee.tui.widgets.lines import Line, Span
from rbee.tui.widgets.table import Column, Row

COLUMNS = (
    Column("at", "at", 9),
    Column("job", "job", 8, grow=True),
    Column("model", "model", 16, grow=True, extra=True),
    Column("chosen", "chosen", 14, grow=True, least=8),
    Column("why", "why", 30, grow=True, least=10),
)
NO_SCRIPTS = (
    "This version has no scripts of your own: the built-in policy decides. What it reckons with is "
    "set in 9 Conf, under Scheduling, Workers and Models."
)


def decision_key(one: Decision) -> str:
    """Distinct among the decisions about a job."""
    return f"{one.job_id} {one.at}"


def rows(decisions: Iterable[Decision], glyphs: Glyphs) -> list[Row]:
    """Each decision in one line, as they come."""
    return [_row(one, glyphs) for one in decisions]


def _row(one: Decision, glyphs: Glyphs) -> Row:
    return Row(
        key=decision_key(one),
        cells={
            "at": (wall_time(one.at), "muted"),
            "job": (one.job_id, "text"),
            "model": (model_name(one.model), "text"),
            "chosen": (one.chosen or glyphs.na, "name" if one.chosen else "muted"),
            "why": (printable(summary(one)), "text"),
        },
        mark=_mark(one, glyphs),
        command=f"rbee why {one.job_id}",
    )


def _mark(one: Decision, glyphs: Glyphs) -> Span:
    marks: dict[str, Span] = {
        "run": (glyphs.running, "ok"),
        "start": (glyphs.loading, "warn"),
        "claim": (glyphs.loading, "warn"),
        "wait": (glyphs.queued, "warn"),
        "refuse": (glyphs.failed, "bad"),
    }
    return marks.get(one.verdict, (glyphs.na, "muted"))


def policy_lines(policy: PolicyInfo, width: int) -> list[Line]:
    """Its name, its rules, and what it reckons with."""
    lines: list[Line] = [((" policy ", "muted"), (printable(policy.name), "key")), ()]
    for number, rule in enumerate(policy.rules, 1):
        first, *rest = wrapped(rule, width - 5)
        lines.append(((f" {number}  ", "muted"), (first, "text")))
        lines += [(("    ", "muted"), (row, "text")) for row in rest]
    lines.append(())
    column = max((len(name) for name in policy.figures), default=0) + 2
    for name, value in policy.figures.items():
        lines += fact(printable(name), value, width, column=column)
    lines.append(())
    lines += [((f" {row}", "muted"),) for row in wrapped(NO_SCRIPTS, width - 2)]
    return lines
