"""Jump: a letter on every panel and on every row in sight, a digit for a screen; press it and be
there.

Letters and their places are those of the moment it opened: a table that moves under them is not
followed, and a letter goes to the row it was made for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.geometry import Offset
from textual.screen import ModalScreen
from textual.widget import Widget
from textual.widgets import Static

from rbee.tui import keymap
from rbee.tui.widgets.table import RowTable

_NEAR = "asdfghjklqwertyuiopzxcvbnm"
"""Letters for rows, those under the fingers first."""
LETTERS = _NEAR + _NEAR.upper()


@dataclass(frozen=True)
class Target:
    """`row`: the key of a row of the table `widget`; None: the panel. `at`: of its label's first
    cell, on the screen."""

    letter: str
    widget: Widget
    at: Offset
    row: str | None = None

    def go(self) -> None:
        """The keys go there, and the cursor to the row, if it is there still."""
        self.widget.focus()
        if self.row is not None and isinstance(self.widget, RowTable):
            self.widget.select(self.row)


class Jump(ModalScreen[Target | str | None]):
    """Ends with the target, the name of a mode, or None."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)", show=False)]

    def __init__(self, targets: Sequence[Target]) -> None:
        super().__init__(classes="jump")
        self._targets = {target.letter: target for target in targets}

    def compose(self) -> ComposeResult:
        for letter, target in self._targets.items():
            label = Static(f"[{letter}]", classes="jump-label", markup=False)
            label.absolute_offset = target.at
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


def jump_targets(panels: Sequence[Widget]) -> list[Target]:
    """Panels first, each with the first free letter of its id; then the rows in sight, from the
    top, as far as there are letters."""
    free = list(LETTERS)
    out: list[Target] = []

    def take(letter: str, widget: Widget, at: Offset, row: str | None = None) -> None:
        free.remove(letter)
        out.append(Target(letter, widget, at, row))

    for panel in panels:
        own = next((letter for letter in [*(panel.id or ""), *free] if letter in free), None)
        if own is not None:
            take(own, panel, Offset(panel.region.x + 1, panel.region.y))
    for panel in panels:
        if isinstance(panel, RowTable):
            inside = panel.content_region
            for row, y in panel.in_sight()[: len(free)]:
                # Over the border and the cursor: what the row says stays to be read.
                take(free[0], panel, Offset(max(0, inside.x - 1), inside.y + y), row)
    return out
