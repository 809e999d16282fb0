"""The prompt: a text box that grows, sends on enter and remembers the last question."""

from __future__ import annotations

from typing import ClassVar

from textual.binding import BindingType
from textual.message import Message
from textual.widgets import TextArea

from rbee.tui import keymap


class Prompt(TextArea):
    """Posts Prompt.Sent; the text is cleared by whoever takes it."""

    BINDINGS: ClassVar[list[BindingType]] = keymap.bindings(
        "prompt", priority=("chat.send", "chat.newline", "chat.previous")
    )

    class Sent(Message):
        """Enter in the prompt."""

    def __init__(self, placeholder: str) -> None:
        super().__init__(
            id="prompt", classes="panel", placeholder=placeholder, highlight_cursor_line=False
        )
        self.last = ""
        self.cursor_blink = False

    def take(self) -> str:
        """The text, which the prompt gives away but remembers."""
        text = self.text.strip()
        self.last = text
        self.text = ""
        return text

    def give_back(self, text: str) -> None:
        """Put a question back, unless something else was begun meanwhile."""
        if not self.text.strip():
            self.text = text
            self.move_cursor(self.document.end)

    def action_send(self) -> None:
        """Send what is written."""
        self.post_message(self.Sent())

    def action_newline(self) -> None:
        """A new line where the cursor is."""
        self.insert("\n")

    def action_recall(self) -> None:
        """The last question in an empty prompt; otherwise the cursor goes up."""
        if self.text:
            self.action_cursor_up()
        elif self.last:
            self.text = self.last
            self.move_cursor(self.document.end)
