"""AskText: one line of text, such as a name. Returns it, or None for escape."""

from __future__ import annotations

from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, Static


class AskText(ModalScreen[str | None]):
    """A box with one field."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)", show=False)]

    def __init__(self, title: str, text: str, *, hint: str, longest: int) -> None:
        super().__init__(classes="dialog")
        self._title = title
        self._text = text
        self._hint = hint
        self._longest = longest

    def compose(self) -> ComposeResult:
        field = Input(self._text, compact=True, max_length=self._longest)
        field.cursor_blink = False
        box = Vertical(field, Static(self._hint, classes="muted", markup=False), classes="box")
        box.border_title = Content(self._title)
        box.border_subtitle = "enter take · esc"
        yield box

    @on(Input.Submitted)
    def _taken(self, event: Input.Submitted) -> None:
        self.dismiss(event.value.strip())
