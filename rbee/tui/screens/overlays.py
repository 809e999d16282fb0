"""Help and jump: what the keys are, and going to a panel with one of them.

Both are built from the registry and from the panels that are on screen, so they cannot be stale.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.geometry import Offset
from textual.screen import ModalScreen
from textual.widget import Widget
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


class Jump(ModalScreen[Widget | str | None]):
    """A letter on every panel; a digit is a screen."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)", show=False)]

    def __init__(self, targets: Sequence[tuple[str, Widget]]) -> None:
        super().__init__(classes="jump")
        self._targets = dict(targets)

    def compose(self) -> ComposeResult:
        for letter, widget in self._targets.items():
            label = Static(f"[{letter}]", classes="jump-label", markup=False)
            label.absolute_offset = Offset(widget.region.x + 1, widget.region.y)
            yield label
        yield Vertical(
            Static("press a key to jump · 1–9 screen · esc", markup=False), classes="jump-hint"
        )

    def on_key(self, event: events.Key) -> None:
        """A label's letter or a screen's digit."""
        character = event.character or ""
        if character in self._targets:
            self.dismiss(self._targets[character])
        elif character.isdigit() and character != "0":
            self.dismiss(keymap.MODES[int(character) - 1].name)
        else:
            return
        event.stop()


def jump_letters(widgets: Sequence[Widget]) -> list[tuple[str, Widget]]:
    """A distinct letter per panel, the first free one of its id."""
    out: list[tuple[str, Widget]] = []
    for widget in widgets:
        taken = {letter for letter, _ in out}
        for letter in (widget.id or "") + "abcdefghijklmnopqrstuvwxyz":
            if letter.isalpha() and letter not in taken:
                out.append((letter, widget))
                break
    return out
