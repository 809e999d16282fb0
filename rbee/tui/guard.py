"""Guard: the last look at every line before the terminal gets it.

Owns two rules: no character that steers a terminal leaves the screens, whatever widget made the
line and wherever its text came from; and where ASCII was asked for, no sign of ours that is none
does. It changes no width.
"""

from __future__ import annotations

from functools import lru_cache

from rich.cells import cell_len
from rich.segment import Segment
from textual.color import Color
from textual.filter import LineFilter

_PLAIN = str.maketrans(
    "·…→←↑↓▌–—✓✗⬢▾•▏×▸›▁▂▃▄▅▆▇█°",
    "|~><^v>--+x#v*|x>>.:-=+*## ",
)


class Guard(LineFilter):
    """Takes control and format characters out of every segment."""

    def __init__(self, *, plain: bool = False) -> None:
        """`plain`: signs are drawn in ASCII; letters stay what they are."""
        super().__init__()
        self._plain = plain

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        """As Textual asks for it; Textual keeps what comes back."""
        if self._plain and not all(segment.text.isascii() for segment in segments):
            segments = [
                segment
                if segment.control or segment.text.isascii()
                else Segment(segment.text.translate(_PLAIN), segment.style)
                for segment in segments
            ]
        if all(segment.text.isprintable() for segment in segments):
            return segments
        return [
            segment
            if segment.control or segment.text.isprintable()
            else Segment(harmless(segment.text), segment.style)
            for segment in segments
        ]


@lru_cache(maxsize=1024)
def harmless(text: str) -> str:
    """The text without what steers a terminal, and as many cells wide."""
    kept = "".join(c if c.isprintable() else " " * cell_len(c) for c in text)
    return kept + " " * max(0, cell_len(text) - cell_len(kept))
