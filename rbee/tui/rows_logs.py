"""The sources of logs as a tree, what of the book belongs to one, and lines as they are saved.

Pure functions from the store's values and the book's entries; layout belongs to the widgets.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass

from rbee.errors import RbeeError
from rbee.tui.glyphs import Glyphs, wall_time
from rbee.tui.logbook import Entry, Level, Shown
from rbee.tui.store import ColonyStore, Link
from rbee.tui.texts import wrapped
from rbee.tui.widgets.lines import Line

ALL = ""
"""The key of all sources together."""
QUEEN = "queen"
NOTE_ROWS = 3
"""Rows under a source; all of it stands beside the tree when the source is chosen."""
LEVEL_WORDS = {
    Level.OUTPUT: ("out", "muted"),
    Level.DEBUG: ("dbg", "muted"),
    Level.INFO: ("info", "muted"),
    Level.WARN: ("warn", "warn"),
    Level.ERROR: ("err", "bad"),
}
_LEAST = {Shown.NARRATION: Level.ERROR, Shown.INFO: Level.INFO, Shown.ALL: Level.OUTPUT}


@dataclass(frozen=True)
class Source:
    """A row of the tree. `note`: why it is not read; its own lines under the row."""

    key: str
    name: str
    depth: int
    mark: tuple[str, str] = ("", "text")
    note: str = ""


def sources(
    store: ColonyStore,
    glyphs: Glyphs,
    *,
    trouble: Mapping[str, RbeeError],
    left_out: Set[str],
    heard: Set[str],
) -> list[Source]:
    """All, the queen, the hives with their workers. `heard`: sources the book has lines of, which
    stay in the tree when their worker has gone."""
    up = store.link is Link.UP
    ready, off = (glyphs.ready, "ok"), (glyphs.offline, "muted")

    def note(key: str) -> str:
        if key in left_out:
            return "not read: too many; choose it"
        error = trouble.get(key)
        return "" if error is None else error.message

    rows = [
        Source(ALL, "all", 0, ready if up else off),
        Source(QUEEN, QUEEN, 0, ready if up else off, note(QUEEN) if up else store.message),
    ]
    gone = {past.last.worker_id: past.last for past in store.past.departed()}
    for hive in store.hive_list():
        mark = ready if hive.online else off
        rows.append(Source(hive.name, hive.name, 0, mark, note(hive.name)))
        there = {w.worker_id for w in store.worker_list() if w.hive == hive.name}
        went = {k for k, w in gone.items() if w.hive == hive.name and k in heard and k not in there}
        for worker_id in sorted(there | went, key=_natural):
            word = "gone" if worker_id in went else note(worker_id)
            rows.append(Source(worker_id, worker_id, 1, note=word))
    return rows


def tree_lines(
    rows: list[Source], chosen: str, glyphs: Glyphs, width: int
) -> list[tuple[int, Line]]:
    """(index of its row, line) of each line: a row, and under it why it is not read."""
    out: list[tuple[int, Line]] = []
    for at, row in enumerate(rows):
        picked = row.key == chosen
        cursor = (f" {glyphs.cursor if picked else ' '}", "key")
        if row.depth:
            lead: Line = (cursor, ("  ", "text"))
        else:
            lead = (cursor, row.mark, (" ", "text"))
        room = width - 4
        name = glyphs.clip(row.name, room)
        short = len(row.note) + len(name) + 2 <= room
        beside = f"  {row.note}" if row.note and short else ""
        role = "key" if picked else "text" if row.depth else "strong"
        out.append((at, (*lead, (name, role), (beside, "muted"))))
        if row.note and not short:
            words = wrapped(row.note, room)
            cut = [*words[: NOTE_ROWS - 1], glyphs.clip(" ".join(words[NOTE_ROWS - 1 :]), room)]
            out += [(at, ((f"    {each}", "muted"),)) for each in cut if each]
    return out


def keeper(source: str, shown: Shown, store: ColonyStore) -> Callable[[Entry], bool]:
    """Whether an entry belongs to what is looked at. A hive stands for its workers too, and the
    hive of the queen's own machine for what she logs; narration belongs to whom it names."""
    least = _LEAST[shown]
    narration = shown is Shown.NARRATION
    if source == ALL:
        if narration:
            return lambda entry: entry.told
        return lambda entry: entry.told or entry.level >= least
    hive = store.hives.get(source)
    members = {source}
    if hive is not None:
        members |= {w.worker_id for w in store.workers.values() if w.hive == source}
        members |= {k for k, past in store.past.workers.items() if past.last.hive == source}
    logs = members | ({QUEEN} if hive is not None and hive.kind == "local" else set())
    named = re.compile(rf"(?<![\w-])(?:{'|'.join(map(re.escape, sorted(members)))})(?![\w-])")

    def kept(entry: Entry) -> bool:
        if entry.told:
            return entry.source in members or (
                source != QUEEN and named.search(entry.text) is not None
            )
        return not narration and entry.source in logs and entry.level >= least

    return kept


def shown_words(shown: Shown, *, ascii_only: bool) -> str:
    """For the lower border."""
    if shown is Shown.NARRATION:
        return "narration only"
    least = "info" if shown is Shown.INFO else "debug"
    return f"level {'>=' if ascii_only else '≥'} {least}"


def command(source: str, store: ColonyStore) -> str:
    """What a shell would take to follow a source's log."""
    if source in (ALL, QUEEN):
        return "rbee logs --follow"
    if source in store.hives:
        return f"rbee logs --hive {source} --follow"
    return f"rbee logs --worker {source} --follow"


def moment(entry: Entry) -> str:
    """Twelve cells: the local time of day, with milliseconds where they are known."""
    part = f".{int(entry.at % 1 * 1000 + 0.01):03}" if entry.fine else ""
    return f"{wall_time(entry.at)}{part:<4}"


def saved(entry: Entry) -> str:
    """A line of a file: UTC, who, level, words."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(entry.at))
    part = f".{int(entry.at % 1 * 1000 + 0.01):03}" if entry.fine else ""
    return f"{stamp}{part}Z {entry.source} {LEVEL_WORDS[entry.level][0]} {entry.text}"


def _natural(text: str) -> list[tuple[int, str]]:
    return [(int(part) if part.isdigit() else -1, part) for part in re.findall(r"\d+|\D+", text)]
