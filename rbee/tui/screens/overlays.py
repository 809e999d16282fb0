"""Help: what the keys are, from the registry, so that it cannot be stale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from rbee.tui import keymap


def help_sections(first: Sequence[str]) -> list[tuple[str, list[keymap.Action]]]:
    """(heading, actions) with the scopes of `first` in front."""
    scopes = sorted(keymap.SCOPES, key=lambda scope: (scope not in first, scope == "everywhere"))
    sections = [
        (keymap.SCOPES[scope], [a for a in keymap.ACTIONS if a.scope == scope]) for scope in scopes
    ]
    return [(heading, actions) for heading, actions in sections if actions]


class Help(ModalScreen[None]):
    """Every key that works, those of the current screen first."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,question_mark,f1,q", "dismiss", show=False)
    ]

    def __init__(self, first: Sequence[str], overrides: dict[str, str]) -> None:
        super().__init__(classes="dialog")
        self._first = tuple(first)
        self._overrides = overrides

    def compose(self) -> ComposeResult:
        box = VerticalScroll(classes="box wide tall")
        box.border_title = "Keys"
        box.border_subtitle = "esc"
        with box:
            for heading, actions in help_sections(self._first):
                yield Static(heading, classes="help-heading")
                yield Static(Content("\n").join([self._row(action) for action in actions]))

    def _row(self, action: keymap.Action) -> Content:
        keys = keymap.all_keys_text(self._overrides.get(action.id, action.keys))
        return Content.assemble(
            (f" {keys:<10} ", "$primary bold"),
            (f"{action.help:<38}", "$foreground"),
            (f" {action.id}", "$muted"),
        )
