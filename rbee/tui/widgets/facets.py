"""Facets: panels that each show one side of the same thing, in tabs or side by side.

Owns the row of tabs and a tail of text that grows. What they show is told to them; which one is on
screen belongs to the screen.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import ClassVar

from textual.binding import BindingType

from rbee.tui import keymap
from rbee.tui.texts import wrapped
from rbee.tui.widgets.lines import Line, Lines, Span
from rbee.tui.widgets.table import RowTable

TAIL_LINES = 1000


class TabbedTable(RowTable):
    """A table beside which tabs are turned with the arrow keys."""

    BINDINGS: ClassVar[list[BindingType]] = keymap.bindings("tabs")
    command_of: Callable[[str], str] | None = None
    """Row key → its command, where that is too dear to be made for every row."""

    def action_copy_command(self) -> None:
        """The command about this row to the clipboard."""
        make = self.command_of
        self._copy(lambda row: row.command if make is None else make(row.key))


def tab_spans(names: Sequence[str], current: str) -> Line:
    """` [Info] Log  Metrics  Args`: nothing moves when another one is chosen."""
    spans: list[Span] = []
    for name in names:
        chosen = name == current
        spans.append((f" [{name}]" if chosen else f"  {name} ", "key" if chosen else "muted"))
    return tuple(spans)


class Facet(Lines):
    """One side of a thing. `tabs` is its first row where the others are behind it."""

    BINDINGS: ClassVar[list[BindingType]] = [*keymap.bindings("tabs"), *keymap.bindings("texts")]

    def __init__(self, name: str) -> None:
        super().__init__(name, id=name.lower())
        self.label = name
        self.tabs: Line | None = None

    def show_lines(self, lines: list[Line], *, follow: bool = False) -> None:
        """Show these under the tabs. `follow`: stay at the end, unless somebody has scrolled up."""
        at_end = follow and self.scroll_offset.y >= self.max_scroll_y
        self.set_lines(lines, self.tabs)
        if at_end:
            self.scroll_end(animate=False, force=True, immediate=True)
            self.refresh()


class Tail(Facet):
    """The end of a log; follows the newest line unless somebody has scrolled up."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._rows: deque[tuple[str, str]] = deque(maxlen=TAIL_LINES)
        self._added = 0
        self._drawn: tuple[int, int, Line | None] = (-1, -1, None)

    def clear(self) -> None:
        """Forget all of it."""
        self._rows.clear()
        self._added += 1

    def add(self, text: str, role: str = "text") -> None:
        """A line more; the oldest goes when there are too many."""
        self._rows.append((text, role))
        self._added += 1

    def texts(self) -> list[str]:
        """What it holds."""
        return [text for text, _ in self._rows]

    def draw(self) -> None:
        """Bring the panel up to date; nothing is done when nothing has changed."""
        state = (self._added, self.size.width, self.tabs)
        if state == self._drawn:
            return
        self._drawn = state
        lines: list[Line] = []
        for text, role in self._rows:
            lines += [((f" {row}", role),) for row in wrapped(text, self.size.width - 2)]
        self.show_lines(lines, follow=True)
