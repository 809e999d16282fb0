"""FilteredScreen: a table of things with a filter under it, and what follows the cursor.

Owns the filter's box: opened, typed into, left. What the things are, and what is shown of the one
under the cursor (`changed`), belongs to the screens.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from textual import on
from textual.widgets import Input

from rbee.tui.screens.base import ColonyScreen
from rbee.tui.widgets.table import RowTable

T = TypeVar("T", bound=RowTable)


class FilteredScreen(ColonyScreen, Generic[T]):
    """Base of screens with one main table. `table` exists once the body was made."""

    table: T

    def search_box(self) -> Input:
        """For the body, under the table."""
        return Input(placeholder="filter; ! inverts", id="filter", compact=True)

    def changed(self) -> None:
        """Another row is under the cursor, or another side of it is shown."""

    def action_open_row(self) -> None:
        """To the details of the row under the cursor."""

    def action_filter(self) -> None:
        """Type to filter the rows."""
        search = self.query_one("#filter", Input)
        search.display = True
        search.focus()

    def leave_filter(self) -> bool:
        """Show all rows again; False when no filter was open."""
        search = self.query_one("#filter", Input)
        if not search.display:
            return False
        search.value = ""
        search.display = False
        return True

    @on(RowTable.Opened)
    def _opened(self) -> None:
        self.action_open_row()

    @on(RowTable.Moved)
    def _moved(self) -> None:
        self.changed()

    @on(Input.Changed, "#filter")
    def _filtered(self, event: Input.Changed) -> None:
        self.table.set_filter(event.value)
        self.repaint()

    @on(Input.Submitted, "#filter")
    def _filter_done(self, event: Input.Submitted) -> None:
        if not event.value:
            self.back()
        self.table.focus()
