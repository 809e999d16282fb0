"""The panels of the Hives screen: machines, those that could be added, all of one.

They show what they are given; what a key does to a row belongs to the screen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from textual.content import Content
from textual.strip import Strip

from rbee.narration import printable
from rbee.protocol.hives import HiveInfo
from rbee.protocol.machines import Around, Nearby
from rbee.tui.errand import Errand
from rbee.tui.glyphs import Glyphs, wall_time
from rbee.tui.rows_errand import errand_lines, wrapped
from rbee.tui.rows_hives import (
    ALL_FROM,
    FEWER_COLUMNS,
    HIVE_COLUMNS,
    NEARBY_COLUMNS,
    Facts,
    errand_row,
    facts,
    hive_row,
    machine_lines,
    nearby_row,
)
from rbee.tui.screens.listing import set_subtitle, set_title
from rbee.tui.store import ColonyStore, Link
from rbee.tui.widgets.lines import Line, Lines
from rbee.tui.widgets.table import RowTable

WIDE = 110
SSH_CONFIG = "ssh config"


class HintedTable(RowTable):
    """A table with some lines under its last row: what to do next."""

    hint: list[Line] = []

    def set_hint(self, hint: list[Line]) -> None:
        """Say this below the rows."""
        if hint != self.hint:
            self.hint = hint
            self.refresh()

    def render_line(self, y: int) -> Strip:
        """A row, or a line of the hint, with one free row between them."""
        at = y - self.offset_rows + self.scroll_offset.y - len(self.lines) - bool(self.lines)
        if 0 <= at < len(self.hint):
            return self._strip(self.hint[at], None)
        return super().render_line(y)


class HiveTable(HintedTable):
    """The machines of the colony."""

    def __init__(self, glyphs: Glyphs) -> None:
        super().__init__("Hives", HIVE_COLUMNS, glyphs=glyphs, id="hives")
        self._in_sight: str | None = None

    def on_resize(self) -> None:
        """How many columns there are depends on the width."""
        self.columns = HIVE_COLUMNS if self.size.width >= ALL_FROM else FEWER_COLUMNS
        super().on_resize()

    def show(
        self,
        store: ColonyStore,
        pending: Sequence[Errand],
        under_way: Mapping[str, Errand],
        ours: str,
    ) -> None:
        """Fill from the store. `pending`: machines that are being added; `ours`: the queen's."""
        now = store.clock()
        rows = [
            hive_row(
                hive,
                store.devices_of(hive),
                under_way.get(hive.name),
                store.beats.get(hive.name),
                self.glyphs,
                now,
                ours=ours,
            )
            for hive in store.hive_list()
        ]
        rows += [errand_row(errand, self.glyphs) for errand in pending]
        self.set_rows(rows)
        self._keep_in_sight()
        added = any(hive.record is not None for hive in store.hives.values())
        self.set_hint([] if added or pending else self._next(store))
        counts = store.counts()
        words = [f"{counts.hives_online} of {counts.hives_total} online"]
        if self.needle:
            words.insert(0, f"/{self.needle}: {len(self.rows)} shown")
        if self.sorted_by:
            words.append(f"sorted by {self.sorted_by}")
        if store.link is not Link.UP and store.heard_at is not None:
            words.append(f"as of {wall_time(store.heard_at)}")
        set_subtitle(self, Content(f" {self.glyphs.dot} ".join(words)))

    def _keep_in_sight(self) -> None:
        """A machine that was just added gets the cursor, and its row may be below the edge."""
        current = self.current
        if current is not None and current.key != self._in_sight:
            self._in_sight = current.key
            self._move_to(self.rows.index(current))

    def _next(self, store: ColonyStore) -> list[Line]:
        """How to add a machine, while none was."""
        first = "Only this machine so far." if store.hives else "No machines yet."
        lines: list[Line] = [
            ((f"  {first} ", "text"), ("a", "key"), (" adds one you reach by SSH;", "text")),
            (("  nothing has to be installed there before, and it needs no root.", "muted"),),
        ]
        free = free_hosts(store.around)
        if free:
            names = ", ".join(printable(one.name) for one in free[:4])
            more = f" and {len(free) - 4} more" if len(free) > 4 else ""
            lines.append(((f"  {known_words(free)}: ", "muted"), (f"{names}{more}", "text")))
        return lines


class NearbyTable(HintedTable):
    """Machines that could be added."""

    looking = False

    def __init__(self, glyphs: Glyphs) -> None:
        super().__init__(
            "Known from ~/.ssh/config", NEARBY_COLUMNS, glyphs=glyphs, heading=False, id="nearby"
        )
        self._found: dict[str, Nearby] = {}

    @property
    def chosen_machine(self) -> Nearby | None:
        """What is under the cursor."""
        row = self.current
        return None if row is None else self._found.get(row.key)

    def show(self, around: Around | None) -> None:
        """Fill with what was found."""
        machines = around.machines if around is not None else []
        elsewhere = any(one.source != SSH_CONFIG for one in machines)
        set_title(self, "Machines nearby" if elsewhere else "Known from ~/.ssh/config")
        # What is part of the colony already comes last.
        ordered = sorted(machines, key=lambda one: one.added_as is not None)
        self._found = {one.target: one for one in ordered}
        self.set_rows([nearby_row(one, self.glyphs) for one in self._found.values()])
        width = self.size.width
        hint: list[Line] = []
        if self.looking:
            hint = [((f"  looking{self.glyphs.queued}", "muted"),)]
        elif around is not None and (not machines or around.notes):
            for note in around.notes[:3]:
                hint += wrapped(note, width, "muted", lead="  ", most=3)
        self.set_hint(hint)
        dot = f" {self.glyphs.dot} "
        set_subtitle(self, Content(dot.join(["enter add", "r look again"])))


class MachinePanel(Lines):
    """All of the machine under the cursor, and what is being done with it."""

    def __init__(self, glyphs: Glyphs) -> None:
        super().__init__("Machine", id="machine")
        self._glyphs = glyphs

    def show(
        self,
        name: str | None,
        hive: HiveInfo | None,
        errand: Errand | None,
        store: ColonyStore,
        ours: str,
    ) -> None:
        """Fill from the store. `ours`: the queen's rbee."""
        glyphs, width = self._glyphs, self.size.width
        wide = self.app.size.width >= WIDE
        set_title(self, printable(name) if name else "Machine")
        lines: list[Line] = []
        if hive is not None:
            views = store.devices_of(hive)
            now = store.clock()
            lines = machine_lines(hive, views, errand, glyphs, width, now, ours=ours, wide=wide)
        elif errand is not None:
            lines = self._pending(errand, width, wide=wide)
        self.set_lines(lines)
        set_subtitle(self, Content(self._keys(hive, errand, ours)))

    def all_facts(self, hive: HiveInfo, store: ColonyStore, ours: str) -> Facts:
        """Everything, for the dialog: nothing is cut."""
        out = facts(hive, self._glyphs, store.clock(), ours=ours)
        for view in store.devices_of(hive):
            device = view.device
            free, total = device.memory_free >> 20, device.memory_total >> 20
            out.append((device.name, printable(f"{device.label}, {free} of {total} MiB free")))
        for absent in hive.absent_devices:
            out.append((f"no {absent.name}"[:9], printable(f"{absent.reason} {absent.action}")))
        for backend in hive.backends:
            out.append(("backend", printable(f"{backend.name} on {', '.join(backend.devices)}")))
        return out

    def _pending(self, errand: Errand, width: int, *, wide: bool) -> list[Line]:
        glyphs = self._glyphs
        lines = errand_lines(errand, glyphs, width, wide=wide)
        if (shown := errand.awaits_key) is not None:
            lines = [
                *wrapped("This machine's host key was never seen here:", width, "warn"),
                *wrapped(shown, width, "strong"),
                ((" ", "text"), ("enter", "key"), (" compares and answers", "text")),
            ]
        elif errand.error is not None:
            lines += [(), ((" ", "text"), ("enter", "key"), (" tries again", "text"))]
        return lines

    def _keys(self, hive: HiveInfo | None, errand: Errand | None, ours: str) -> str:
        """What helps here, as the lower border says it."""
        words: list[str] = []
        if hive is not None and hive.record is not None:
            theirs = hive.version or hive.record.version
            if not theirs:
                words.append(f"i install rbee {printable(ours)}")
            elif theirs != ours:
                words.append("i upgrade")
            words.append("t shell")
        if hive is not None:
            words.append("l log")
        if errand is not None:
            words.append("esc put away" if errand.ended else "esc cancel")
        return f" {self._glyphs.dot} ".join(words)


def free_hosts(around: Around | None) -> list[Nearby]:
    """Those that are not part of the colony."""
    return [one for one in around.machines if one.added_as is None] if around is not None else []


def known_words(found: Sequence[Nearby]) -> str:
    """`3 hosts in ~/.ssh/config`, `2 machines nearby`."""
    count = len(found)
    if all(one.source == SSH_CONFIG for one in found):
        return f"{count} host{'s'[: count != 1]} in ~/.ssh/config"
    return f"{count} machine{'s'[: count != 1]} nearby"
