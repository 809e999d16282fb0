"""Transfers, checks and deletions as rows, and what is said of the one under the cursor.

Pure functions from carriages to rows and lines; layout and keys belong to the screen.
"""

from __future__ import annotations

import shlex

from rbee.output import amounts, size
from rbee.tui.carriage import Carriage, Stand
from rbee.tui.glyphs import Glyphs, duration
from rbee.tui.rows import model_name
from rbee.tui.texts import wrapped
from rbee.tui.widgets.lines import Line, Span
from rbee.tui.widgets.table import Column, Row

SHORT_BAR, BAR, WIDE_BAR = 10, 17, 21
"""Cells of the bar's column, gap included."""
_ROLES = {
    Stand.WAITING: "warn",
    Stand.RUNNING: "ok",
    Stand.CHECKING: "warn",
    Stand.DONE: "ok",
    Stand.FAILED: "bad",
    Stand.CANCELLED: "muted",
}
PROBLEMS = 4


def columns(bar: int) -> tuple[Column, ...]:
    """With a bar of so many cells."""
    return (
        Column("what", "what", 22, grow=True, least=12),
        Column("bar", "", bar),
        Column("part", "", 5),
        Column("amount", "", 15),
        Column("left", "left", 11),
        Column("rate", "rate", 9, extra=True),
    )


def row(one: Carriage, glyphs: Glyphs, bar: int) -> Row:
    """One of them."""
    fraction = one.done / one.total if one.total else None
    full, rest = glyphs.meter(fraction, bar - 1)
    shown = one.active and one.total > 0
    role = _ROLES[one.stand]
    return Row(
        key=one.key,
        mark=(_glyph(one.stand, glyphs), role),
        command=_command(one),
        cells={
            "what": (what(one, glyphs), "text"),
            "bar": (full + rest if shown else "", "bar"),
            "part": (f"{fraction:.0%}".rjust(4) if shown and fraction is not None else "", "text"),
            "amount": (amounts(one.done, one.total) if shown else "", "text"),
            "left": (left(one), "muted" if one.active else role),
            "rate": (f"{size(one.rate)}/s" if shown and one.rate > 0 else "", "muted"),
        },
    )


def what(one: Carriage, glyphs: Glyphs) -> str:
    """`whisper-large-v3 → mule`, `verify bge-m3 on mule`"""
    name = model_name(one.model).partition(":")[0]
    if one.verb in ("download", "copy"):
        return f"{name} {glyphs.arrow} {one.hive}" if one.hive else name
    place = {"verify": "on", "delete": "from"}[one.verb]
    return f"{one.verb} {name} {place} {one.hive}" if one.hive else f"{one.verb} {name}"


def left(one: Carriage) -> str:
    """How long it takes yet, or one word."""
    if one.stand is Stand.RUNNING and one.eta is not None:
        return f"{duration(one.eta)} left"
    if one.stand is Stand.RUNNING:
        return "" if one.total else "under way"
    return one.stand.value


def words(one: Carriage, glyphs: Glyphs, width: int) -> list[Line]:
    """What there is to say of it: how it stands, or what went wrong and what helps."""
    if one.error is not None:
        lines = _text(one.error.message, "bad", width)
        return lines + _text(f"{glyphs.arrow} {one.error.action}", "text", width)
    if one.result.get("problems"):
        told = one.result["problems"]
        problems = [str(each) for each in told][:PROBLEMS] if isinstance(told, list) else []
        lines = [line for each in problems for line in _text(each, "bad", width)]
        helps = "delete it there and download it again"
        return lines + _text(f"{glyphs.arrow} {helps}", "text", width)
    of = ", ".join((one.model, *one.jobs)) if one.own else one.model
    return _text(": ".join(part for part in (of, sentence(one)) if part), "muted", width)


def sentence(one: Carriage) -> str:
    """How it stands."""
    if one.stand is Stand.DONE:
        return _done(one)
    if one.stand is Stand.CANCELLED:
        kept = "; what has come is kept, and goes on from there when it is asked for again"
        return "cancelled" + (kept if one.verb == "download" else "")
    if one.stand is Stand.CHECKING:
        return one.message or "all of it is there; its hashes are compared"
    if one.stand is Stand.WAITING:
        return one.message or "about to begin"
    after = "its hashes are compared when all of it is there" if one.total else ""
    return "; ".join(part for part in (one.message, after) if part)


def _done(one: Carriage) -> str:
    result = one.result
    match one.verb:
        case "verify":
            files = result.get("files")
            if not files:
                return "checked"
            return "its file is as it should be" if files == 1 else f"all {files} files are well"
        case "delete":
            freed = result.get("freed")
            amount = f"{size(freed)} freed" if isinstance(freed, int | float) else "deleted"
            return "; ".join(part for part in (amount, str(result.get("message") or "")) if part)
        case _:
            bytes_ = result.get("bytes")
            amount = size(bytes_) if isinstance(bytes_, int | float) else ""
            already = "it was there already" if result.get("already") else "it is there"
            return f"{already}: {amount}" if amount else already


def _glyph(stand: Stand, glyphs: Glyphs) -> str:
    return {
        Stand.WAITING: glyphs.queued,
        Stand.RUNNING: glyphs.running,
        Stand.CHECKING: glyphs.loading,
        Stand.DONE: glyphs.done,
        Stand.FAILED: glyphs.failed,
        Stand.CANCELLED: glyphs.cancelled,
    }[stand]


def _command(one: Carriage) -> str:
    model = shlex.quote(one.model)
    if one.verb == "copy":
        return f"rbee model copy {model} --to {one.hive}"
    hive = f" --hive {one.hive}" if one.hive else ""
    return f"rbee model {one.verb} {model}{hive}"


def _text(text: str, role: str, width: int) -> list[Line]:
    return [((f"  {each}", role),) for each in wrapped(text, width - 4) if text]


def bar_spans(text: str, glyphs: Glyphs) -> list[Span]:
    """The filled part of a bar in one colour, the rest in another."""
    full = text.rstrip().count(glyphs.bar)
    return [(text[:full], "ok"), (text[full:], "track")]
