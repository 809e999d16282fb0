"""How an operation on a machine looks: a checklist, and where it failed the command and its words.

Pure functions from an Errand to lines; what it is is `errand`'s.
"""

from __future__ import annotations

import textwrap
from typing import Any

from rbee.errors import RbeeError
from rbee.narration import printable
from rbee.tui.errand import Errand, Stand, Step
from rbee.tui.glyphs import Glyphs
from rbee.tui.widgets.lines import Line, Span, width_of

TAIL, BRIEF_TAIL = 10, 4
"""Last lines of a command that failed; where there is little room."""
_ROLES = {
    Stand.AHEAD: "muted",
    Stand.RUNNING: "warn",
    Stand.DONE: "ok",
    Stand.FAILED: "bad",
    Stand.CANCELLED: "muted",
}


def errand_lines(errand: Errand, glyphs: Glyphs, width: int, *, wide: bool) -> list[Line]:
    """Steps below each other where there is room (`wide`), else one after the other."""
    if errand.stand is Stand.DONE:
        return _done(errand, glyphs, width)
    stand, role = glyph(errand.stand, glyphs), _ROLES[errand.stand]
    words = {
        Stand.FAILED: f"{errand.verb} failed",
        Stand.CANCELLED: f"{errand.verb} was cancelled",
    }.get(errand.stand, errand.verb)
    lines: list[Line] = [((" ", "text"), (stand, role), (f" {words}", "strong"))]
    lines += _column(errand, glyphs, width) if wide else _flowing(errand, glyphs, width)
    if errand.error is not None:
        lines += failure(errand.error, glyphs, width, brief=not wide)
    elif not errand.ended:
        lines += [
            line for note in errand.notes for line in wrapped(note, width, "muted", lead="     ")
        ]
    return lines


def glyph(stand: Stand, glyphs: Glyphs) -> str:
    """The sign of a stand."""
    return {
        Stand.AHEAD: glyphs.offline,
        Stand.RUNNING: glyphs.loading,
        Stand.DONE: glyphs.done,
        Stand.FAILED: glyphs.failed,
        Stand.CANCELLED: glyphs.cancelled,
    }[stand]


def failure(error: RbeeError, glyphs: Glyphs, width: int, *, brief: bool) -> list[Line]:
    """What happened and what to do; the command that failed, and its last lines."""
    lines: list[Line] = []
    rows, last = (2, BRIEF_TAIL) if brief else (6, TAIL)
    if error.code != "HOST_KEY_UNKNOWN":
        lines += wrapped(error.message, width, "bad", most=rows)
    command, tail = error.details.get("command"), error.details.get("tail")
    if command:
        lines += wrapped(f"$ {command}", width, "text", more=2, most=rows)
    said: list[Any] = tail[-last:] if isinstance(tail, list) else []
    lines += [((" " * 3, "text"), (glyphs.clip(plain(str(line)), width - 4), "muted"))
              for line in said]  # fmt: skip
    lines += wrapped(f"{glyphs.arrow} {error.action}", width, "text", more=2, most=rows)
    return lines


def plain(text: str) -> str:
    """A text from elsewhere on one line, each character a cell: no control characters, no tabs."""
    return printable(text).replace("\t", " ")


def wrapped(
    text: str, width: int, role: str, *, lead: str = " ", more: int = 0, most: int = 6
) -> list[Line]:
    """Some lines of a text from elsewhere; `more`: cells by which the later ones are moved in."""
    room = max(16, width - len(lead) - 1)
    rows = textwrap.wrap(
        printable(text), room, subsequent_indent=" " * more, max_lines=most, placeholder=" ..."
    )
    return [((lead, "text"), (row, role)) for row in rows]


def _done(errand: Errand, glyphs: Glyphs, width: int) -> list[Line]:
    version = errand.result.get("version") if "install" in errand.operation else None
    upgraded = errand.operation == "hive_upgrade"
    before = errand.result.get("before")
    words = errand.verb
    if version:
        words += f": rbee {version}"
        words += f" after {before}" if before else ""
    if errand.result.get("already"):
        words += ", as it was" if not upgraded else ", already"
    extras = errand.result.get("extras")
    if isinstance(extras, list) and extras:
        words += f", with {' and '.join(str(extra) for extra in extras)}"
    seconds = sum(step.seconds or 0.0 for step in errand.steps)
    took = f"  {_time(seconds)}" if seconds >= 0.1 else ""
    first: Line = ((" ", "text"), (glyphs.done, "ok"),
                   (f" {glyphs.clip(plain(words), width - 12)}", "text"),
                   (took, "muted"))  # fmt: skip
    steps = errand.result.get("steps")
    if not isinstance(steps, list):
        return [first]
    return [first, *(_checked(step, glyphs, width) for step in steps[:20])]


def _checked(step: Any, glyphs: Glyphs, width: int) -> Line:
    told: dict[str, Any] = step if isinstance(step, dict) else {}
    ms = told.get("ms")
    title = glyphs.clip(plain(str(told.get("step", ""))), max(8, width - 18))
    took = f"{ms:.1f} ms" if isinstance(ms, int | float) else ""
    return (("   ", "text"), (glyphs.done, "ok"), (f" {title}", "text"), (f"  {took}", "muted"))


def _column(errand: Errand, glyphs: Glyphs, width: int) -> list[Line]:
    steps = _with_ahead(errand)
    room = max(12, width - 30)
    lines: list[Line] = []
    for step in steps:
        bar = step.stand is Stand.RUNNING and step.progress is not None
        lines.append(
            (
                ("   ", "text"),
                (glyph(step.stand, glyphs), _ROLES[step.stand]),
                (f" {glyphs.clip(step.title, room):<{room}} ", _word(step)),
                (f"{step.progress:.0%}" if bar else _figures(step), "muted"),
            )
        )
        if step.stand is Stand.RUNNING and step.message:
            lines.append(
                ((" " * 5, "text"), (glyphs.clip(step.message, max(8, width - 6)), "muted"))
            )
        if bar:
            full, rest = glyphs.meter(step.progress, max(8, room - 8))
            tail = f" {step.figures}"
            lines.append(((" " * 5, "text"), (full, "warn"), (rest, "track"), (tail, "muted")))
    return lines


def _flowing(errand: Errand, glyphs: Glyphs, width: int) -> list[Line]:
    lines: list[Line] = []
    row: list[Span] = [("  ", "text")]
    steps = _with_ahead(errand)
    if errand.stand is Stand.FAILED and len(errand.steps) > 2:
        # The command's last lines matter more than what went well.
        before = len(errand.steps) - 1
        steps = [Step(f"{before} steps before", Stand.DONE), errand.steps[-1]]
    for step in steps:
        spans = _short(step, glyphs)
        if width_of(tuple(row)) + width_of(tuple(spans)) > width - 1 and len(row) > 1:
            lines.append(tuple(row))
            row = [("  ", "text")]
        row += spans
    lines.append(tuple(row))
    running = errand.steps[-1] if errand.steps and not errand.ended else None
    if running is not None and running.message:
        lines.append(((" " * 4, "text"), (glyphs.clip(running.message, width - 5), "muted")))
    return lines if errand.steps else [((" " * 4, "text"), ("waiting for the queen", "muted"))]


def _short(step: Step, glyphs: Glyphs) -> list[Span]:
    spans: list[Span] = [
        (" ", "text"),
        (glyph(step.stand, glyphs), _ROLES[step.stand]),
        (f" {glyphs.clip(step.title, 40)}", _word(step)),
    ]
    if step.stand is Stand.RUNNING and step.progress is not None:
        full, rest = glyphs.meter(step.progress, 16)
        spans += [(" ", "text"), (full, "warn"), (rest, "track"), (f" {step.progress:.0%}", "text")]
    elif figures := _figures(step):
        spans.append((f" {figures}", "muted"))
    return [*spans, (" ", "text")]


def _with_ahead(errand: Errand) -> list[Step]:
    return [*errand.steps, *(Step(title, Stand.AHEAD) for title in errand.ahead)]


def _word(step: Step) -> str:
    return "muted" if step.stand is Stand.AHEAD else "text"


def _figures(step: Step) -> str:
    if step.seconds is not None and step.seconds >= 0.05:
        return _time(step.seconds)
    return step.figures


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds) // 60}m{int(seconds) % 60:02d}s"
