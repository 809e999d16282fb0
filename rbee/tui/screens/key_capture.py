"""CaptureKey: press the key that an action shall have; what it does already is shown first.

Returns the key and the ids it is taken from, and no more; nothing is written here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from textual import events
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from rbee.tui.actions import Action
from rbee.tui.keymap import key_text


@dataclass(frozen=True)
class Captured:
    """`others`: actions that lose the key."""

    key: str
    others: tuple[Action, ...]


class CaptureKey(ModalScreen[Captured | None]):
    """`clashes`: what a key does already where the action works."""

    def __init__(self, action: Action, clashes: Callable[[str], Sequence[Action]]) -> None:
        super().__init__(classes="dialog")
        self._action = action
        self._clashes = clashes
        self._pending: Captured | None = None

    def compose(self) -> ComposeResult:
        box = Vertical(Static(id="captured"), classes="box wide")
        box.border_title = Content(f"{self._action.id}: press its new key")
        box.border_subtitle = "esc keep"
        yield box

    def on_mount(self) -> None:
        self._say(Content.styled(self._action.help, "$foreground"))

    def on_key(self, event: events.Key) -> None:
        """Every key is an answer; escape keeps what there is."""
        event.stop()
        event.prevent_default()
        if event.key == "escape":
            self.dismiss(None)
            return
        if self._pending is not None and event.key == "enter":
            self.dismiss(self._pending)
            return
        others = tuple(self._clashes(event.key))
        if not others:
            self.dismiss(Captured(event.key, ()))
            return
        self._pending = Captured(event.key, others)
        key = key_text(event.key)
        rows = [Content.assemble((key, "$primary bold"), (" does already:", "$foreground"))]
        rows += [
            Content.assemble("  ", (other.id, "$warning"), (f"  {other.help}", "$foreground"))
            for other in others
        ]
        rows += [
            Content(""),
            Content.assemble(
                ("enter", "$primary bold"), (" takes it from there; ", "$muted"),
                ("another key", "$primary bold"), (" is tried instead", "$muted"),
            ),
        ]  # fmt: skip
        self._say(Content("\n").join(rows))

    def _say(self, words: Content) -> None:
        self.query_one("#captured", Static).update(words)
