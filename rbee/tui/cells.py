"""Texts from elsewhere as cells: nothing steers the terminal, nothing moves its neighbours.

Pure. `safe` decides what of a text may be written, `width`, `clip` and `pad` count what is left in
cells as the renderer does. What a text means belongs to the callers.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache

from rich.cells import cell_len, chop_cells

MARKS = 2
"""Combining marks that one letter keeps: more of them grow into the rows above and below."""
_VARIANTS = frozenset({*range(0xFE00, 0xFE10), *range(0x1F3FB, 0x1F400), *range(0xE0100, 0xE01F0)})
"""Terminals disagree about how many cells a character with one of these behind it takes."""


def safe(text: str) -> str:
    """On one line, without control, format and surplus combining characters."""
    if text.isascii() and text.isprintable():
        return text
    return _cleaned(text)


def width(text: str) -> int:
    """Cells of a safe text."""
    return len(text) if text.isascii() else cell_len(text)


def clip(text: str, room: int, more: str = "…") -> str:
    """A safe text in at most `room` cells, with `more` where something was left out."""
    if width(text) <= room:
        return text
    if room <= width(more):
        return more[: max(0, room)]
    kept = chop_cells(text, room - width(more))
    # A character wider than all the room is cut by nobody.
    return (kept[0] if kept and width(kept[0]) <= room - width(more) else "") + more


def pad(text: str, room: int) -> str:
    """A safe text with spaces behind it up to `room` cells."""
    return text + " " * max(0, room - width(text))


@lru_cache(maxsize=8192)
def _cleaned(text: str) -> str:
    kept: list[str] = []
    marks = MARKS
    for character in unicodedata.normalize("NFC", text):
        kind = unicodedata.category(character)
        if ord(character) in _VARIANTS:
            continue
        if kind in ("Mn", "Me"):
            marks += 1
            if marks <= MARKS:
                kept.append(character)
        elif kind.startswith("Z") or character in "\t\n\r\v\f\x85":
            kept.append(" ")
            marks = MARKS
        elif character.isprintable() and cell_len(character) > 0:
            kept.append(character)
            marks = 0
    return "".join(kept)
