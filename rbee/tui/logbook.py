"""LogBook: narration and log lines of many sources in one order, bounded.

Owns the merge by time, the ring and what was dropped from it. Pure: it reads no log, knows no clock
and no widget.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from dataclasses import dataclass
from enum import IntEnum, StrEnum

LINES = 10_000
"""Lines of logs that are kept."""
SLACK = 500
"""So many more before the oldest go, so that this is not done for every line."""
CHARACTERS = 16 << 20
"""All lines together: 10 000 of the longest would be 40 MB."""
TOLD = 1000
"""Lines of narration that stay when the log lines around them go."""

Key = tuple[float, int]


class Level(IntEnum):
    """How much a line matters; `OUTPUT` is what a process wrote without saying."""

    OUTPUT = 0
    DEBUG = 10
    INFO = 20
    WARN = 30
    ERROR = 40


class Shown(StrEnum):
    """What of the book is shown."""

    NARRATION = "narration"
    INFO = "info"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Entry:
    """A line. `at`: UTC seconds, whole ones where `fine` is False; `told`: it is narration."""

    at: float
    order: int
    source: str
    level: Level
    text: str
    told: bool = False
    fine: bool = True

    @property
    def key(self) -> Key:
        """Its place among all lines."""
        return self.at, self.order


class LogBook:
    """`entries` in the order of time; of the same time, as they came."""

    def __init__(self, *, lines: int = LINES) -> None:
        self._limit = lines
        self.entries: list[Entry] = []
        self.dropped = 0
        self.generation = 0
        """Rises when older entries have gone."""
        self._fresh: list[Entry] = []
        self._orders = 0
        self._characters = 0
        self._told: set[tuple[str, str, int]] = set()

    def add(
        self,
        at: float,
        source: str,
        level: Level,
        text: str,
        *,
        told: bool = False,
        fine: bool = True,
    ) -> bool:
        """Take in a line; False for narration that is there already, from the queen's log or from
        her events."""
        if told:
            second = int(at)
            if any((source, text, second + off) in self._told for off in (-1, 0, 1)):
                return False
            self._told.add((source, text, second))
        self._orders += 1
        entry = Entry(at, self._orders, source, level, text, told, fine)
        if not self.entries or self.entries[-1].at <= at:
            self.entries.append(entry)
        else:
            insort(self.entries, entry, key=_key)
        self._fresh.append(entry)
        self._characters += len(text)
        if len(self.entries) > self._limit + SLACK or self._characters > CHARACTERS:
            self._trim()
        return True

    def take(self) -> list[Entry]:
        """What has come since the last call, in order; part of it may have gone again."""
        fresh, self._fresh = sorted(self._fresh, key=_key), []
        return fresh

    def after(self, key: Key) -> int:
        """Index of the first entry behind this place."""
        return bisect_right(self.entries, key, key=_key)

    def _trim(self) -> None:
        """The oldest log lines go, some at a time; narration stays longer."""
        logs = max(len(self.entries) - self._limit, len(self.entries) // 20)
        told = sum(entry.told for entry in self.entries) - TOLD
        kept: list[Entry] = []
        for entry in self.entries:
            if entry.told and told > 0:
                told -= 1
                self._told.discard((entry.source, entry.text, int(entry.at)))
            elif not entry.told and logs > 0:
                logs -= 1
            else:
                kept.append(entry)
        self.dropped += len(self.entries) - len(kept)
        self.entries = kept
        self._characters = sum(len(entry.text) for entry in kept)
        self.generation += 1
        del self._fresh[: -self._limit]


def _key(entry: Entry) -> Key:
    return entry.key
