"""ColonyScreen: the three rows around a body, one repaint a second while it is on screen.

A screen that is not shown does nothing: its timer stops when another mode comes up.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar, cast

from textual import events
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.screen import Screen
from textual.widget import Widget

from rbee.protocol.jobs import JobInfo
from rbee.tui import keymap
from rbee.tui.widgets.bars import SMALLEST, FooterBar, NavBar, TooSmall, TopBar
from rbee.tui.widgets.trouble_bar import TroubleBar

if TYPE_CHECKING:
    from rbee.tui.app import RbeeApp


class ColonyScreen(Screen[None]):
    """Base of the nine screens."""

    MODE: ClassVar[str]
    HELP_SCOPES: ClassVar[tuple[str, ...]] = ("everywhere",)
    """Scopes that stand first in the help while this screen is shown."""
    # Textual's own Screen binds these keys too, and would hide the app's.
    BINDINGS: ClassVar[list[BindingType]] = keymap.bindings(
        "everywhere", only=("view.next_panel", "view.previous_panel")
    )

    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (110, "-wide")]

    @property
    def rbee(self) -> RbeeApp:
        """The app."""
        return cast("RbeeApp", self.app)

    def compose(self) -> ComposeResult:
        yield TopBar()
        yield NavBar(self.MODE)
        yield TroubleBar()
        yield from self.body()
        yield FooterBar()
        yield TooSmall()

    def body(self) -> Iterable[Widget]:
        """What the screen shows."""
        raise NotImplementedError

    def show(self) -> None:
        """Bring the body up to date with the store."""

    def crumbs(self) -> Sequence[str]:
        """Where on the screen somebody is, from its title inwards; empty: on its first level."""
        return ()

    def tells(self, job: JobInfo) -> bool:
        """Whether the screen itself says how a job of ours has ended, so that no toast does."""
        return False

    def back(self) -> bool:
        """Leave what is open on the screen; True when there was something to leave."""
        return False

    def on_mount(self) -> None:
        self._every = self.rbee.refresh_seconds
        self._timer = self.set_interval(self._every, self.repaint)

    def pace(self) -> None:
        """Repaint as often as the settings say."""
        if self._every != self.rbee.refresh_seconds:
            self._timer.stop()
            self._every = self.rbee.refresh_seconds
            self._timer = self.set_interval(self._every, self.repaint)

    def on_screen_resume(self) -> None:
        self.pace()
        self._timer.resume()
        self.repaint()

    def on_screen_suspend(self) -> None:
        self._timer.pause()

    def on_resize(self, event: events.Resize) -> None:
        width, height = event.size
        self.set_class(width < SMALLEST[0] or height < SMALLEST[1], "-small")
        self.call_after_refresh(self.repaint)

    def repaint(self) -> None:
        """Everything that has changed since last time, and nothing else."""
        # On its way out its parts are gone, one by one, before what reads streams for it is.
        parts = (TopBar, NavBar, TroubleBar, FooterBar)
        if not self.is_mounted or not all(self.query(part) for part in parts):
            return
        self.query_one(TopBar).repaint()
        self.query_one(NavBar).repaint()
        self.query_one(TroubleBar).repaint()
        store = self.rbee.store
        self.set_class(store.heard_at is not None and not store.connected, "-stale")
        self.show()
