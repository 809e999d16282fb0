"""ListScreen: a table of things and the details of the one under the cursor.

Owns what such screens have in common: the empty panel, opening and leaving the details, and the
focus. What the things are and what may be done to them belongs to the screens.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar

from textual.binding import BindingType
from textual.containers import Center, Middle, Vertical
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Static

from rbee.tui import keymap
from rbee.tui.screens.filtering import FilteredScreen
from rbee.tui.widgets.bars import NavBar
from rbee.tui.widgets.facets import Facet, TabbedTable, tab_spans
from rbee.tui.widgets.table import Row

_ASCII_ARROWS = str.maketrans({"←": "left", "→": "right", "↑": "up", "↓": "down"})
STACKED = (110, 36)
"""From this size on there is room for all facets at once."""
SHORT = 22
"""Below so many rows what is least needed makes room."""
SHARED_KEYS = ("worker.open", "list.filter")
"""Ids of the dashboard's that mean the same here."""


class EmptyPanel(Middle, can_focus=True):
    """In the place of a table that has no rows: what to do next."""

    def __init__(self, title: str, words: Content) -> None:
        super().__init__(Center(Static(words)), id="empty", classes="panel hatched")
        self.border_title = title


def set_subtitle(widget: Widget, words: Content) -> None:
    """The words in the lower border, painted again only when they differ."""
    if widget.border_subtitle != words.markup:
        widget.border_subtitle = words


def set_title(widget: Widget, words: str) -> None:
    """The words in the upper border, as they are."""
    content = Content(words)
    if widget.border_title != content.markup:
        widget.border_title = content


class ListScreen(FilteredScreen[TabbedTable]):
    """Base of Workers, Jobs and Code. `self.table` exists once `upper` was called."""

    BINDINGS: ClassVar[list[BindingType]] = []
    facets: Mapping[str, Facet]
    """Sides of the thing under the cursor, by name, in order."""
    tab: str
    """The side that is shown where there is room for one."""

    def upper(self, table: TabbedTable, empty: EmptyPanel) -> Iterable[Widget]:
        """The table, what stands in its place, and the filter under it."""
        self.table = table
        return [Vertical(table, empty, self.search_box(), id="rows")]

    def inspector(self, facets: Mapping[str, Facet]) -> Widget:
        """The sides of the thing under the cursor."""
        self.facets, self.tab = facets, next(iter(facets))
        return Vertical(*facets.values(), id="inspector")

    def turn(self, step: int) -> None:
        """To the next side; the focus goes with it when it was on one."""
        names = list(self.facets)
        held = next((name for name, each in self.facets.items() if each is self.focused), None)
        if held is not None and self.has_class("-stacked"):
            self.tab = held
        self.tab = names[(names.index(self.tab) + step) % len(names)]
        self.changed()
        self.query_one(NavBar).repaint()
        if held is not None:
            self.call_after_refresh(self.facets[self.tab].focus)

    @property
    def facet_width(self) -> int:
        """Cells of a line of a facet, also of one that has just come on screen."""
        return max([8, *(inspector.size.width - 3 for inspector in self.query("#inspector"))])

    def offer(self, state: object) -> None:
        """The keys that are offered depend on this."""
        marked = frozenset(self.table.marked)
        if (state, marked) != self._offered:
            self._offered = (state, marked)
            self.refresh_bindings()

    def set_out_facets(self, title: str) -> list[str]:
        """Show those there is room for; their names. None while the app takes the screen apart:
        what is still being read for it has no place any more."""
        if not self.query("#inspector"):
            return []
        stacked = self.has_class("-stacked")
        for name, facet in self.facets.items():
            shown = stacked or name == self.tab
            if facet.display != shown:
                facet.display = shown
            facet.tabs = None if stacked else tab_spans(list(self.facets), self.tab)
            set_title(facet, f"{name} {title}" if stacked else title)
            set_subtitle(facet, Content("" if stacked else self.tab_words()))
        return list(self.facets) if stacked else [self.tab]

    def tab_words(self) -> str:
        """How to turn the tabs and where the details begin."""
        leave = "esc back" if self.has_class("-open") else "enter open"
        return f"{self.tab_keys} tab {self.table.glyphs.dot} {leave}"

    @property
    def tab_keys(self) -> str:
        """The keys that turn the tabs, as people write them."""
        wanted = [keymap.BY_ID[id_] for id_ in ("tab.previous", "tab.next")]
        keys = " ".join(keymap.key_text(self.rbee.overrides.get(a.id, a.keys)) for a in wanted)
        return keys.translate(_ASCII_ARROWS) if self.table.glyphs.plain else keys

    def on_mount(self) -> None:
        self._had_rows: bool | None = None
        self._offered: tuple[object, frozenset[str]] = (None, frozenset())
        super().on_mount()

    def on_screen_resume(self) -> None:
        super().on_screen_resume()
        self.changed()

    def set_out(self, *, any_rows: bool) -> None:
        """Show the table or what stands in its place; the focus never stays on what is hidden."""
        self.set_class(self.size.width >= STACKED[0] and self.size.height >= STACKED[1], "-stacked")
        self.set_class(self.size.height < SHORT, "-short")
        empty = self.query_one("#empty")
        if any_rows == self._had_rows:
            return
        before, self._had_rows = self._had_rows, any_rows
        hidden, shown = (empty, self.table) if any_rows else (self.table, empty)
        held = self.focused in (None, hidden) or before is None
        hidden.display, shown.display = False, True
        self.query_one("#inspector").display = any_rows
        if not any_rows:
            self.remove_class("-open")
        if held:
            shown.focus()
        self.refresh_bindings()

    def crumbs(self) -> Sequence[str]:
        """The row whose details are open, and which of them."""
        row = self.table.current
        if row is None or not self.has_class("-open"):
            return ()
        title = next(mode.title for mode in keymap.MODES if mode.name == self.MODE)
        return (title, self.crumb_of(row), *([] if self.has_class("-stacked") else [self.tab]))

    def crumb_of(self, row: Row) -> str:
        """What the thing under the cursor is called."""
        return row.key

    def action_open_row(self) -> None:
        """To the details of the row under the cursor."""
        if self.table.current is not None:
            self.add_class("-open")
            self.changed()
            self.query_one(NavBar).repaint()
            self.call_after_refresh(self.facets[self.tab].focus)

    def back(self) -> bool:
        """Leave the details, then the filter, then the marks."""
        if self.has_class("-open"):
            self.remove_class("-open")
        elif self.leave_filter():
            pass
        elif self.table.marked:
            self.table.marked.clear()
            self.repaint()
        else:
            return False
        self.table.focus()
        self.changed()
        self.query_one(NavBar).repaint()
        return True
