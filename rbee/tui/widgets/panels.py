"""The dashboard's live panels: devices, jobs and narration, each filled from the store.

They read; what a key does to a row belongs to the screen.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, ClassVar, cast

from textual.binding import BindingType

from rbee.tui import keymap
from rbee.tui.glyphs import Glyphs, wall_time
from rbee.tui.rows import JOB_COLUMNS, device_cards, device_strip, job_row
from rbee.tui.store import ColonyStore
from rbee.tui.widgets.lines import Line, Lines, Span
from rbee.tui.widgets.table import RowTable

if TYPE_CHECKING:
    from rbee.tui.app import RbeeApp

WIDE = 110
_SOURCE = 8
_LEVELS = {"warning": "warn", "error": "bad"}


class Devices(Lines):
    """A strip of one line per device, or cards where there is room."""

    BINDINGS: ClassVar[list[BindingType]] = keymap.bindings("devices")

    def __init__(self, glyphs: Glyphs) -> None:
        super().__init__("Devices", id="devices")
        self.border_subtitle = "1 s"
        self._glyphs = glyphs

    def show(self, store: ColonyStore) -> None:
        """Fill from the store."""
        views = store.device_views()
        wide = self.app.size.width >= WIDE
        dot = self._glyphs.dot
        title = "Devices" if wide else f"Devices  util {dot} vram"
        every = cast("RbeeApp", self.app).refresh_seconds
        subtitle = f"{every:g} s {dot} g graph" if wide else f"{every:g} s"
        if self.border_subtitle != subtitle:
            self.border_subtitle = subtitle
        if self.border_title != title:
            self.border_title = title
        draw = device_cards if wide else device_strip
        lines = draw(views, self._glyphs, self.size.width)
        if not views:
            away = "no machine is online; 2 Hives says why"
            words = away if store.hives else "no hive has reported its devices yet"
            lines = [((f" {words}", "muted"),)]
        if not wide:
            rows = min(len(lines), max(1, (self.app.size.height - 3) // 3 - 2))
            if self.styles.height is None or self.styles.height.value != rows + 2:
                self.styles.height = rows + 2
        elif self.styles.has_rule("height"):
            self.styles.clear_rule("height")
        self.set_lines(lines)


class Jobs(RowTable):
    """Jobs: running, queued, then the last finished ones."""

    def __init__(self, glyphs: Glyphs) -> None:
        super().__init__("Jobs", JOB_COLUMNS, glyphs=glyphs, heading=False, marks=False, id="jobs")

    def show(self, store: ColonyStore) -> None:
        """Fill from the store."""
        self.set_rows([job_row(job, self.glyphs) for job in store.job_list()])
        spark = self.glyphs.sparkline(store.queue_depth, 20, max([4.0, *store.queue_depth]))
        subtitle = f"queue depth {spark}" if spark else ""
        if self.border_subtitle != subtitle:
            self.border_subtitle = subtitle


class NarrationPanel(Lines):
    """Who did what and why; follows the newest line until it is told not to."""

    BINDINGS: ClassVar[list[BindingType]] = keymap.bindings("narration")

    def __init__(self) -> None:
        super().__init__("Narration", id="narration")
        self.following = True
        self._drawn = (-1, -1, -1)

    def on_mount(self) -> None:
        self._subtitle()

    def show(self, store: ColonyStore) -> None:
        """Fill from the store; wraps to the width, nothing is cut."""
        state = (store.narrated, len(store.narration), self.size.width)
        if state == self._drawn:
            return
        self._drawn = state
        lines: list[Line] = []
        for entry in store.narration:
            lines += _wrapped(
                wall_time(entry.at), entry.source, entry.message, entry.level, self.size.width
            )
        self.set_lines(lines)
        if self.following:
            self.scroll_end(animate=False, force=True, immediate=True)
            self.refresh()

    def on_resize(self) -> None:
        """Keep the newest line in sight."""
        if self.following:
            self.call_after_refresh(self.scroll_end, animate=False)

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """Scrolling up by hand stops following; back at the end it goes on."""
        super().watch_scroll_y(old_value, new_value)
        if new_value < old_value and self.has_focus:
            self._follow(False)
        elif self.max_scroll_y and new_value >= self.max_scroll_y:
            self._follow(True)

    def toggle_follow(self) -> None:
        """Follow, or stand still."""
        self._follow(not self.following)
        if self.following:
            self.scroll_end(animate=False)

    def _follow(self, following: bool) -> None:
        if following != self.following:
            self.following = following
            self._subtitle()

    def _subtitle(self) -> None:
        self.border_subtitle = "f follow" if self.following else "paused · f follow"


def _wrapped(at: str, source: str, message: str, level: str, width: int) -> list[Line]:
    head = 1 + len(at) + 1 + max(_SOURCE, len(source) + 1)
    role = _LEVELS.get(level, "text")
    rows = textwrap.wrap(message, max(20, width - head - 1)) or [""]
    first: tuple[Span, ...] = (
        (f" {at} ", "muted"),
        (source.ljust(_SOURCE - 1) + " ", "name"),
        (rows[0], role),
    )
    return [first, *(((" " * head, "text"), (row, role)) for row in rows[1:])]
