"""Tables whose first column is a name that must stay whole: people copy it into the next command.

Owns how such a table is laid out in so many columns; prints nothing.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence

from rbee.narration import printable

_GAP = "  "
_INDENT = "    "


def room() -> int | None:
    """Columns of the terminal that stdout is; None: it is none, and lines may have any length."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, width: int | None = None
) -> list[str]:
    """Aligned lines, the header first.

    Where a line is wider than `width`, each row has two lines: the name, and the rest under it.
    """
    clean = [[printable(cell) for cell in row] for row in rows]
    header = [column.upper() for column in columns]
    whole = _aligned([header, *clean])
    if width is None or max(map(len, whole)) <= width:
        return whole
    rest = _aligned([header[1:], *(row[1:] for row in clean)])
    out = [header[0], clip(_INDENT + rest[0], width)]
    for row, line in zip(clean, rest[1:], strict=True):
        out += [row[0], clip(_INDENT + line, width)]
    return out


def clip(line: str, width: int | None) -> str:
    """What does not fit ends with `…`."""
    return line if width is None or len(line) <= width else line[: width - 1] + "…"


def names(given: Sequence[str], width: int | None) -> str:
    """`a, b and 3 more`, as many as fit, at least one."""
    for shown in range(len(given), 1, -1):
        text = _some(given, shown)
        if width is None or len(text) <= width:
            return text
    return _some(given, min(1, len(given)))


def _some(given: Sequence[str], shown: int) -> str:
    more = len(given) - shown
    return ", ".join(given[:shown]) + (f" and {more} more" if more else "")


def _aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        _GAP.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
