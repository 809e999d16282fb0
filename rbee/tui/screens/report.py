"""Report: the whole of an error that a toast was shown for; `y` copies it as a text to send.

It shows what `error_story` tells, and asks nobody for more.
"""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from rbee.tui.error_story import Mishap, report, story
from rbee.tui.store import ColonyStore


class Report(ModalScreen[None]):
    """Scrolls where it is long."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,enter,q,e", "dismiss", show=False),
        Binding("y,Y", "copy", show=False),
    ]

    def __init__(self, mishap: Mishap, store: ColonyStore, version: str) -> None:
        super().__init__(classes="dialog")
        self._mishap = mishap
        self._facts = story(mishap, store)
        self._text = report(mishap, store, version)

    def compose(self) -> ComposeResult:
        box = VerticalScroll(classes="box wide")
        box.border_title = Content(self._mishap.error.code.replace("_", " ").capitalize())
        box.border_subtitle = "y copy report · esc"
        with box:
            for name, value in self._facts:
                with Vertical(classes="fact"):
                    yield Static(name, classes="fact-name", markup=False)
                    yield Static(value, classes="fact-value", markup=False)

    def action_copy(self) -> None:
        """All of it to the clipboard."""
        self.app.copy_to_clipboard(self._text)
        self.notify("copied the report", markup=False)
