"""Texts from outside as lines of a panel: wrapped to its width, without control characters.

Pure; what a line means, and how many of them are kept, belongs to the callers.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from rbee.narration import printable
from rbee.tui.widgets.lines import Line, Span

LONGEST = 4000
"""Characters of one line of a log that are shown."""


def wrapped(text: str, width: int) -> list[str]:
    """One line of text as rows of at most `width` cells; nothing of it is lost."""
    flat = printable(text[:LONGEST]).expandtabs(4)
    return textwrap.wrap(flat, max(8, width), replace_whitespace=False, drop_whitespace=False) or [
        ""
    ]


def paragraphs(text: str, width: int) -> list[str]:
    """A text of many lines as rows."""
    return [row for line in text.split("\n") for row in wrapped(line, width)]


def fact(name: str, value: str, width: int, *, role: str = "text", column: int = 9) -> list[Line]:
    """` name     value`, wrapped beside its name."""
    rows = wrapped(value, width - column - 2)
    first: Line = ((f" {name:<{column}}", "muted"), (rows[0], role))
    return [first, *(((" " * (column + 1), "muted"), (row, role)) for row in rows[1:])]


def spread(name: str, spans: Sequence[Span], *, column: int = 9) -> Line:
    """` name     spans` on one line."""
    return ((f" {name:<{column}}", "muted"), *spans)
