"""Texts from outside as lines of a panel: wrapped to its width, without control characters.

Pure; what a line means, and how many of them are kept, belongs to the callers.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from rich.cells import cell_len, chop_cells

from rbee.narration import printable
from rbee.tui.widgets.lines import Line, Span

LONGEST = 4000
"""Characters of one line of a log that are shown."""


def wrapped(text: str, width: int, *, longest: int = LONGEST) -> list[str]:
    """One line of text as rows of at most `width` cells; what is longer says that it was cut."""
    flat = printable(text[:longest].expandtabs(4)) + (" (cut)" if len(text) > longest else "")
    width = max(8, width)
    if cell_len(flat) != len(flat):
        return chop_cells(flat, width)
    return textwrap.wrap(flat, width) or [""]


def paragraphs(text: str, width: int) -> list[str]:
    """A text of many lines as rows, all of it."""
    lines = text.split("\n")
    return [row for line in lines for row in wrapped(line, width, longest=len(line))]


def fact(name: str, value: str, width: int, *, role: str = "text", column: int = 9) -> list[Line]:
    """` name     value`, wrapped beside its name."""
    rows = wrapped(value, width - column - 2)
    first: Line = ((f" {name:<{column}}", "muted"), (rows[0], role))
    return [first, *(((" " * (column + 1), "muted"), (row, role)) for row in rows[1:])]


def spread(name: str, spans: Sequence[Span], *, column: int = 9) -> Line:
    """` name     spans` on one line."""
    return ((f" {name:<{column}}", "muted"), *spans)
