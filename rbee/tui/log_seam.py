"""Seam: joins a log that is read anew to what was read of it before.

A log is asked for by its last lines only. What of them is known is found by laying them over the
end of what was read: the longest overlap is taken. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence


class Seam:
    """Feed it lines; it gives back those that are new. `gap`: lines between were not read."""

    def __init__(self, known: Sequence[int]) -> None:
        """`known`: hashes of the last lines that were read, the oldest first."""
        self._known = known
        self._starts = list(range(len(known)))
        self._held: list[str] = []
        self._joined: int | None = None
        """So many of the held lines are known."""
        self.done = not known
        self.gap = False

    def feed(self, line: str) -> list[str]:
        """Lines that are new for certain."""
        if self.done:
            return [line]
        at, mark = len(self._held), hash(line)
        self._held.append(line)
        known, size = self._known, len(self._known)
        self._starts = [s for s in self._starts if s + at < size and known[s + at] == mark]
        if self._starts and self._starts[-1] + at == size - 1:
            self._joined = at + 1
            self._starts.pop()
        if self._starts:
            return []
        self.done = True
        self.gap = self._joined is None
        return self._held[self._joined or 0 :]
