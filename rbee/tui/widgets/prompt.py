"""The prompt: a text box that grows, sends on enter and remembers the last question."""

from __future__ import annotations

from typing import ClassVar

from textual.binding import BindingType
from textual.message import Message
from textual.widgets import TextArea

from rbee.tui import keymap, slash


class Prompt(TextArea):
    """Posts Prompt.Sent; the text is cleared by whoever takes it."""

    BINDINGS: ClassVar[list[BindingType]] = keymap.bindings(
        "prompt", priority=("chat.send", "chat.newline", "chat.previous", "chat.complete")
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
            self.put(text)

    def put(self, text: str) -> None:
        """Write this instead of what is written."""
        self.text = text
        self.move_cursor(self.document.end)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Tab leads to the next panel while no command is written."""
        if action == "complete":
            return bool(slash.fitting(self.text))
        return super().check_action(action, parameters)

    def action_send(self) -> None:
        """Send what is written."""
        self.post_message(self.Sent())

    def action_newline(self) -> None:
        """A new line where the cursor is."""
        self.insert("\n")

    def action_complete(self) -> None:
        """Write out the name of a command."""
        whole = slash.completed(self.text)
        if whole is not None:
            self.put(whole)

    def action_recall(self) -> None:
        """The last question in an empty prompt; otherwise the cursor goes up."""
        if self.text:
            self.action_cursor_up()
        elif self.last:
            self.put(self.last)
