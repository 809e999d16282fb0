"""ThemeChooser: the themes in a list; what is under the cursor is shown at once.

Returns the name that was taken, or None; the old colours are back then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, cast

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from rbee.tui.theme_shelf import AUTO

if TYPE_CHECKING:
    from rbee.tui.app import RbeeApp


class ThemeChooser(ModalScreen[str | None]):
    """The chosen one has the cursor."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "keep", show=False),
        Binding("j", "move(1)", show=False),
        Binding("k", "move(-1)", show=False),
    ]

    def compose(self) -> ComposeResult:
        self._names = [AUTO, *self._rbee.themes.names()]
        box = Vertical(
            OptionList(*[Option(Content(name)) for name in self._names], id="themes", compact=True),
            classes="box",
        )
        box.border_title = "Theme"
        box.border_subtitle = "enter take · esc"
        yield box

    def on_mount(self) -> None:
        options = self.query_one(OptionList)
        chosen = self._rbee.themes.chosen
        options.highlighted = self._names.index(chosen) if chosen in self._names else 0
        options.focus()

    def action_move(self, step: int) -> None:
        """Move the cursor."""
        options = self.query_one(OptionList)
        options.highlighted = ((options.highlighted or 0) + step) % len(self._names)

    def action_keep(self) -> None:
        """Leave the colours as they were."""
        self._rbee.themes.preview(None)
        self.dismiss(None)

    @on(OptionList.OptionHighlighted)
    def _shown(self, event: OptionList.OptionHighlighted) -> None:
        self._rbee.themes.preview(self._names[event.option_index])

    @on(OptionList.OptionSelected)
    def _taken(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(self._names[event.option_index])

    @property
    def _rbee(self) -> RbeeApp:
        return cast("RbeeApp", self.app)
