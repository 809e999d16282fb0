"""Sources: where log lines come from, as a tree of which one row is chosen.

Owns the cursor and the choice; what the sources are is told to it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from textual import events
from textual.binding import BindingType

from rbee.tui import keymap
from rbee.tui.glyphs import Glyphs
from rbee.tui.rows_logs import ALL, Source, tree_lines
from rbee.tui.widgets.lines import Lines
from rbee.tui.widgets.log_panel import MOVES


class SourceTree(Lines):
    """`chosen` is a source's key; the cursor moves without choosing."""

    BINDINGS: ClassVar[list[BindingType]] = [
        *keymap.bindings("lists", only=MOVES),
        *keymap.bindings("sources"),
    ]

    def __init__(self, glyphs: Glyphs, picked: Callable[[], None]) -> None:
        """`picked`: called when another source was chosen."""
        super().__init__("Sources", id="log-sources")
        self.glyphs = glyphs
        self.rows: list[Source] = []
        self.chosen = ALL
        self.cursor = ALL
        self._picked = picked
        self._of: list[int] = []
        """Line → index of its row."""

    def show(self, rows: list[Source]) -> None:
        """These are the sources."""
        self.rows = rows
        self._lay_out()

    def choose(self, key: str) -> None:
        """Show this one."""
        self.chosen = self.cursor = key
        self._lay_out()
        self._show_cursor()
        self._picked()

    def row_role(self, row: int) -> str | None:
        """The cursor is a block of the full width while the panel has the focus."""
        on = self.has_focus and row < len(self._of) and self._of[row] == self._at()
        return "cursor" if on else None

    def on_focus(self) -> None:
        """The cursor comes."""
        self.refresh()

    def on_blur(self) -> None:
        """The cursor goes; it comes again on what is chosen."""
        self.cursor = self.chosen
        self.refresh()

    def on_resize(self) -> None:
        """What is said under a row depends on the width."""
        self._lay_out()

    def on_click(self, event: events.Click) -> None:
        """A click chooses."""
        at = event.get_content_offset(self)
        line = at.y + self.scroll_offset.y if at is not None else -1
        if 0 <= line < len(self._of):
            self.choose(self.rows[self._of[line]].key)

    def action_cursor(self, step: int) -> None:
        """Move by sources."""
        self._move_to(self._at() + step)

    def action_page(self, step: int) -> None:
        """Move by what fits the panel."""
        self._move_to(self._at() + step * max(1, self.size.height - 1))

    def action_half_page(self, step: int) -> None:
        """Move by half of what fits the panel."""
        self._move_to(self._at() + step * max(1, self.size.height // 2))

    def action_first(self) -> None:
        """To all of them."""
        self._move_to(0)

    def action_last(self) -> None:
        """To the last."""
        self._move_to(len(self.rows) - 1)

    def action_choose(self) -> None:
        """Show the one under the cursor."""
        self.choose(self.cursor)

    def _at(self) -> int:
        return next((at for at, row in enumerate(self.rows) if row.key == self.cursor), 0)

    def _move_to(self, at: int) -> None:
        if self.rows:
            self.cursor = self.rows[max(0, min(len(self.rows) - 1, at))].key
            self._show_cursor()
            self.refresh()

    def _show_cursor(self) -> None:
        lines = [line for line, at in enumerate(self._of) if at == self._at()]
        top, room = self.scroll_offset.y, max(1, self.size.height)
        if lines and lines[0] < top:
            self.scroll_to(y=lines[0], animate=False)
        elif lines and lines[-1] >= top + room:
            self.scroll_to(y=lines[-1] - room + 1, animate=False)

    def _lay_out(self) -> None:
        drawn = tree_lines(self.rows, self.chosen, self.glyphs, self.size.width - 1)
        self._of = [at for at, _ in drawn]
        self.set_lines([line for _, line in drawn])
