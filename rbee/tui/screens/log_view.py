"""LogView: a log over the screen, followed while it is open.

Owns the reading and its end; what is read is told by whoever opens it. Closed, it reads nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, ClassVar, cast

import anyio
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import ModalScreen

from rbee.client import QueenClient
from rbee.errors import NotFound, RbeeError
from rbee.tui.screens.listing import set_title
from rbee.tui.widgets.facets import Tail

if TYPE_CHECKING:
    from rbee.tui.app import RbeeApp

DRAW_SECONDS = 0.5
AGAIN_SECONDS = 3.0
Source = Callable[[QueenClient], AsyncIterator[str]]


class LogView(ModalScreen[None]):
    """`source` gives the lines, of one queen's client."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,l", "dismiss", show=False),
        Binding("up,k", "scroll(-1)", show=False),
        Binding("down,j", "scroll(1)", show=False),
        Binding("pageup", "scroll(-20)", show=False),
        Binding("pagedown", "scroll(20)", show=False),
        Binding("g,home", "first", show=False),
        Binding("G,end,f", "last", show=False),
        Binding("y", "copy", show=False),
    ]

    def __init__(self, title: str, source: Source) -> None:
        super().__init__(classes="dialog")
        self._title = title
        self._source = source
        self.tail = Tail("log")

    def compose(self) -> ComposeResult:
        set_title(self.tail, self._title)
        self.tail.border_subtitle = "f follow · y copy · esc"
        yield self.tail

    def on_mount(self) -> None:
        self.tail.focus()
        self.set_interval(DRAW_SECONDS, self.tail.draw)
        self.run_worker(self._read(), exit_on_error=True)

    def on_resize(self) -> None:
        self.call_after_refresh(self.tail.draw)

    def action_scroll(self, step: int) -> None:
        """By lines; standing above the end stops following."""
        self.tail.scroll_relative(y=step, animate=False)

    def action_first(self) -> None:
        """To the oldest line."""
        self.tail.scroll_home(animate=False)

    def action_last(self) -> None:
        """To the newest, and follow."""
        self.tail.scroll_end(animate=False)

    def action_copy(self) -> None:
        """All of it to the clipboard."""
        self.app.copy_to_clipboard("\n".join(self.tail.texts()))
        self.notify("log copied", markup=False)

    async def _read(self) -> None:
        rbee = cast("RbeeApp", self.app)
        while True:
            self.tail.clear()
            try:
                async with QueenClient(rbee.link.require().url) as client:
                    async for line in self._source(client):
                        self.tail.add(line)
                self.tail.add("The log ends here.", "muted")
                return
            except NotFound as exc:
                self.tail.add(f"{exc.message}; {exc.action}", "muted")
                return
            except RbeeError as exc:
                self.tail.add(f"{exc.message}; {exc.action}", "warn")
            await anyio.sleep(AGAIN_SECONDS)
