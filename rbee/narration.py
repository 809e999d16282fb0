"""Narration: what happens and why, on stderr, so that stdout stays data.

Owns how a line looks; strips control characters from what came from outside, so that nothing a
model or a file says can steer the terminal. Never writes to stdout.
"""

from __future__ import annotations

import sys
from typing import TextIO

_ALLOWED = {"\t"}


def printable(text: str) -> str:
    """The text on one line, without control characters."""
    flat = " ".join(text.splitlines())
    return "".join(c for c in flat if c in _ALLOWED or c.isprintable())


class Narrator:
    """Prints lines and, on a terminal, a progress line redrawn in place; nothing when `quiet`."""

    def __init__(self, *, quiet: bool = False, out: TextIO | None = None) -> None:
        self._out = out or sys.stderr
        self._quiet = quiet
        self._live = self._out.isatty()
        self._open = False
        self._last_step = -1
        self._stage = ""

    def say(self, message: str) -> None:
        """One line."""
        if self._quiet:
            return
        self.clear()
        self._out.write(f"rbee: {printable(message)}\n")
        self._out.flush()

    def progress(self, message: str, fraction: float, *, stage: str = "") -> None:
        """Progress 0..1: redrawn in place on a terminal, else one line for every tenth.

        `stage`: of what; each begins with the first tenth again.
        """
        if self._quiet:
            return
        if stage != self._stage:
            self._stage, self._last_step = stage, -1
        text = printable(message)
        if self._live:
            filled = round(max(0.0, min(1.0, fraction)) * 20)
            bar = "━" * filled + "─" * (20 - filled)
            self._out.write(f"\r\x1b[Krbee: {text} {bar} {fraction:4.0%}")
            self._out.flush()
            self._open = True
            return
        step = int(fraction * 10)
        if step > self._last_step:
            self._last_step = step
            self.say(text)

    def clear(self) -> None:
        """Take the progress line away."""
        if self._open:
            self._out.write("\r\x1b[K")
            self._out.flush()
            self._open = False
