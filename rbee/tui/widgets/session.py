"""The panel beside a chat: what it is asked with, and the list of chats.

Owns the cursor in that list. Opening, naming and deleting them is the chat screen's part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual import events
from textual.binding import BindingType
from textual.message import Message

from rbee.tui import keymap
from rbee.tui.glyphs import Glyphs
from rbee.tui.talk_files import Summary
from rbee.tui.widgets.lines import Line, Lines


class SessionPanel(Lines):
    """Facts above, chats below; `chosen` is the id under the cursor."""

    BINDINGS: ClassVar[list[BindingType]] = keymap.bindings("session")

    class Opened(Message):
        """A chat was clicked."""

    def __init__(self, glyphs: Glyphs) -> None:
        super().__init__("Session", id="session")
        self.border_subtitle = "f2 model"
        self._glyphs = glyphs
        self._ids: list[str] = []
        self._first = 0
        self._at = 0

    @property
    def chosen(self) -> str | None:
        """The chat under the cursor."""
        return self._ids[self._at] if self._at < len(self._ids) else None

    def show(self, facts: Sequence[Line], chats: Sequence[Summary], current: str) -> None:
        """Fill it; the cursor stays on its chat."""
        before = self.chosen
        width = max(1, self.size.width - 3)
        self._ids = [chat.id for chat in chats]
        self._first = len(facts)
        wanted = before if before in self._ids and self.has_focus else current
        self._at = self._ids.index(wanted) if wanted in self._ids else 0
        lines = list(facts)
        for chat in chats:
            here = chat.id == current
            mark = self._glyphs.cursor if here else " "
            title = self._glyphs.clip(chat.title, width)
            lines.append(((f" {mark}", "key"), (title, "text" if here else "muted")))
        self.set_lines(lines)

    def row_role(self, row: int) -> str | None:
        """The cursor is seen while keys go here."""
        return "cursor" if self.has_focus and row == self._first + self._at else None

    def action_move(self, step: int) -> None:
        """Move the cursor in the list."""
        before = self._at
        self._at = max(0, min(len(self._ids) - 1, self._at + step))
        for at in (before, self._at):
            self.refresh_row(self._first + at)
        row, top = self._first + self._at, self.scroll_offset.y
        if not top <= row < top + self.size.height:
            self.scroll_to(y=max(0, row - self.size.height // 2), animate=False)

    def on_focus(self) -> None:
        """The cursor appears."""
        self.border_subtitle = "enter open · e name · del"
        self.refresh()

    def on_blur(self) -> None:
        """The cursor goes."""
        self.border_subtitle = "f2 model"
        self.refresh()

    def on_click(self, event: events.Click) -> None:
        """Open what was clicked."""
        at = event.y - 1 + self.scroll_offset.y - self._first
        if 0 <= at < len(self._ids):
            self._at = at
            self.post_message(self.Opened())
