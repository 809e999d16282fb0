"""LogPanel: thousands of entries as rows, of which only those on screen are ever drawn.

Owns the rows, the line under the cursor, following, wrapping and the matches of a search. Which
entries there are is told to it; where they come from it does not know.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from typing import ClassVar

from rich.cells import chop_cells
from textual import events
from textual.binding import BindingType
from textual.geometry import Size
from textual.scrollbar import ScrollTo
from textual.strip import Strip

from rbee.tui import cells, keymap
from rbee.tui.glyphs import Glyphs
from rbee.tui.logbook import Entry, Key, LogBook
from rbee.tui.rows_logs import LEVEL_WORDS, moment
from rbee.tui.widgets.lines import Line, Lines, Span

MOVES = (
    *("list.up", "list.down", "list.first", "list.last"),
    *("list.page_up", "list.page_down", "list.half_up", "list.half_down"),
)
SOURCE = (6, 12)
"""Cells of the column of sources."""
TIME = 12
SHORT_TIME = 8
CRAMPED = 56
"""Below so many cells the milliseconds make room for words."""
LEVEL = 4
NARROWEST = 16
"""Cells of a line's words at least."""
Row = tuple[Entry, int]
"""An entry and which of its rows."""


class LogPanel(Lines):
    """`sync` it whenever the book has changed. `cursor` is None while the newest is followed."""

    BINDINGS: ClassVar[list[BindingType]] = keymap.bindings("lists", only=MOVES)
    COMPONENT_CLASSES: ClassVar[set[str]] = {"lines--match"}

    def __init__(self, title: str, glyphs: Glyphs, moved: Callable[[], None]) -> None:
        """`moved`: called when following, the cursor or the matches have changed."""
        super().__init__(title, id="log-lines")
        self.glyphs = glyphs
        self.rows: list[Row] = []
        self.count = 0
        """Entries that are shown."""
        self.following = True
        self.cursor: Entry | None = None
        self.needle = ""
        self.matches: list[Key] = []
        self.placeholder: list[Line] = []
        """Shown where there are no rows."""
        self._moved = moved
        self._keep: Callable[[Entry], bool] = bool
        self._wrap = False
        self._source_width = SOURCE[0]
        self._laid_out: tuple[bool, int, int] = (False, 80, SOURCE[0])
        """Wrapping, the panel's width and that of the sources, for which the rows were made: they
        are drawn with these until they are made anew."""

    @property
    def current(self) -> Entry | None:
        """The line that is copied: under the cursor, else the newest."""
        return self.cursor or (self.rows[-1][0] if self.rows else None)

    def entries(self) -> list[Entry]:
        """All that are shown."""
        return [entry for entry, part in self.rows if not part]

    def fill(self, entries: Iterable[Entry], keep: Callable[[Entry], bool], *, wrap: bool) -> None:
        """Show those of the entries that are kept; the place on screen stays if it is kept."""
        self._keep, self._wrap = keep, wrap
        self._laid_out = (wrap, self.size.width, self._source_width)
        anchor = self._anchor()
        kept = [entry for entry in entries if keep(entry)]
        self.rows = []
        for entry in kept:
            self._append(entry)
        self.count = len(kept)
        self._search(kept)
        self._settle(anchor)

    def sync(self, book: LogBook, fresh: list[Entry]) -> None:
        """Take in what has come; entries before the first of it stay as they are."""
        anchor = self._anchor()
        first = fresh[0].key
        while self.rows and self.rows[-1][0].key >= first:
            entry, part = self.rows.pop()
            self.count -= part == 0
        while self.matches and self.matches[-1] >= first:
            self.matches.pop()
        at = len(self.rows)
        for entry in book.entries[bisect_left(book.entries, first, key=_entry_key) :]:
            if self._keep(entry):
                self._append(entry)
                self.count += 1
                if self.needle and self.needle in entry.text.lower():
                    self.matches.append(entry.key)
        if len(self.rows) != at:
            self._settle(anchor)

    def fits(self) -> bool:
        """Whether the rows are laid out for the panel's size as it is."""
        return self._laid_out == (self._wrap, self.size.width, self._source_width)

    def name_width(self, width: int) -> None:
        """Cells that the longest name of a source needs; the column never shrinks."""
        most = SOURCE[1] if self.size.width >= 80 else SOURCE[0] + 2
        self._source_width = max(self._source_width, min(most, width))

    def find(self, needle: str) -> None:
        """Look for these words; the nearest match before the line on screen is shown."""
        self.needle = needle.lower()
        self._search(self.entries())
        self.refresh()
        if self.matches:
            at = self.current
            index = bisect_left(self.matches, at.key) if at is not None else 0
            exact = index < len(self.matches) and at is not None and self.matches[index] == at.key
            self._go(self.matches[index if exact else max(0, index - 1)])
        self._moved()

    def step_match(self, step: int) -> None:
        """To the next match, or the one before; around at the ends."""
        if not self.matches:
            return
        at = self.current
        key = at.key if at is not None else (0.0, 0)
        index = bisect_left(self.matches, key)
        on_one = index < len(self.matches) and self.matches[index] == key
        index += step if on_one else 0 if step > 0 else -1
        self._go(self.matches[index % len(self.matches)])

    @property
    def match_words(self) -> str:
        """`3 of 17`, or how many there are."""
        if self.cursor is not None:
            index = bisect_left(self.matches, self.cursor.key)
            if index < len(self.matches) and self.matches[index] == self.cursor.key:
                return f"{index + 1} of {len(self.matches)}"
        return f"{len(self.matches)} found" if self.matches else "not found"

    def follow(self, on: bool) -> None:
        """Stay at the newest line, or stand still where it is."""
        self.following = on
        if on:
            self.cursor = None
            self._to_end()
        else:
            self.cursor = self.cursor or self._at_bottom()
        self.refresh()
        self._moved()

    def action_cursor(self, step: int) -> None:
        """By lines; leaving the end stops following."""
        if not self.rows:
            return
        entry = self.cursor or self.rows[-1][0]
        for _ in range(abs(step)):
            row = self._row(entry.key, behind=step > 0) - (step < 0)
            if not 0 <= row < len(self.rows):
                break
            entry = self.rows[row][0]
        self._stand_on(entry)

    def action_page(self, step: int) -> None:
        """By what fits the panel."""
        self.action_cursor(step * max(1, self.size.height - 1))

    def action_half_page(self, step: int) -> None:
        """By half of what fits the panel."""
        self.action_cursor(step * max(1, self.size.height // 2))

    def action_first(self) -> None:
        """To the oldest line."""
        if self.rows:
            self._stand_on(self.rows[0][0])

    def action_last(self) -> None:
        """To the newest line; from there on, follow."""
        if self.following or not self.rows or self.cursor is self.rows[-1][0]:
            self.follow(True)
        else:
            self._stand_on(self.rows[-1][0])

    def on_resize(self) -> None:
        """The newest line stays in sight."""
        if self.following:
            self.call_after_refresh(self._to_end)

    def on_click(self, event: events.Click) -> None:
        """A click moves the cursor."""
        at = event.get_content_offset(self)
        row = at.y + self.scroll_offset.y if at is not None else -1
        if 0 <= row < len(self.rows):
            self._stand_on(self.rows[row][0])

    def on_mouse_scroll_up(self) -> None:
        """The wheel stops following."""
        if self.following and self.max_scroll_y:
            self.follow(False)

    def on_mouse_scroll_down(self) -> None:
        """At the end the wheel follows again."""
        if not self.following and self.scroll_offset.y >= self.max_scroll_y:
            self.follow(True)

    def on_scroll_to(self, _: ScrollTo) -> None:
        """So does the bar."""
        if self.following:
            self.follow(False)

    def on_focus(self) -> None:
        """The cursor changes its look with the focus."""
        self.refresh()

    def on_blur(self) -> None:
        """The cursor changes its look with the focus."""
        self.refresh()

    def render_line(self, y: int) -> Strip:
        """One row of the panel."""
        row = y + self.scroll_offset.y
        if not 0 <= row < len(self.rows):
            words = self.placeholder if not self.rows else []
            return self._strip(words[row] if row < len(words) else (), None)
        entry, part = self.rows[row]
        whole = None
        if self.cursor is not None and entry.key == self.cursor.key:
            whole = "cursor" if self.has_focus else "shadow"
        return self._strip(self._line(entry, part), whole)

    @property
    def _head(self) -> int:
        return 1 + self._time + 1 + self._laid_out[2] + 1 + LEVEL + 1

    @property
    def _time(self) -> int:
        return TIME if self._laid_out[1] >= CRAMPED else SHORT_TIME

    @property
    def _room(self) -> int:
        return max(NARROWEST, self._laid_out[1] - self._head - 1)

    def _append(self, entry: Entry) -> None:
        self.rows.append((entry, 0))
        size = cells.width(entry.text) if self._wrap else 0
        if size > self._room:
            self.rows += [(entry, part) for part in range(1, len(self._pieces(entry.text)))]

    def _pieces(self, text: str) -> list[str]:
        room = self._room
        if text.isascii():
            return [text[at : at + room] for at in range(0, len(text), room)] or [""]
        return chop_cells(text, room) or [""]

    def _line(self, entry: Entry, part: int) -> Line:
        if self._laid_out[0]:
            words = self._pieces(entry.text)[part]
        else:
            words = cells.clip(entry.text, self._room, self.glyphs.more)
        label, role = LEVEL_WORDS[entry.level]
        spans = self._marked(words, "text" if role == "muted" else role)
        if part:
            return ((" " * self._head, "text"), *spans)
        width = self._laid_out[2]
        name = self.glyphs.clip(entry.source, width)
        return (
            (f" {moment(entry)[: self._time]} ", "muted"),
            (cells.pad(name, width) + " ", "name"),
            (f"{label:<{LEVEL}} ", role),
            *spans,
        )

    def _marked(self, words: str, role: str) -> list[Span]:
        """The words with what is looked for standing out."""
        if not self.needle:
            return [(words, role)]
        spans: list[Span] = []
        low, at = words.lower(), 0
        if len(low) != len(words):  # some letters grow when they become small
            return [(words, role)]
        while (found := low.find(self.needle, at)) >= 0:
            end = found + len(self.needle)
            spans += [(words[at:found], role), (words[found:end], "match")]
            at = end
        return [*spans, (words[at:], role)]

    def _search(self, entries: list[Entry]) -> None:
        needle = self.needle
        self.matches = [e.key for e in entries if needle in e.text.lower()] if needle else []

    def _row(self, key: Key, *, behind: bool = False) -> int:
        """Index of the first row at or behind this place; `behind`: of what comes after it."""
        part = 1 << 30 if behind else 0
        return bisect_left(self.rows, (*key, part), key=_row_key)

    def _anchor(self) -> tuple[Row, int] | None:
        """The row that stays where it is: the cursor's, else the first on screen."""
        top = self.scroll_offset.y
        if self.following or not self.rows:
            return None
        row = self._row(self.cursor.key) if self.cursor is not None else top
        if not top <= row < top + self.size.height:
            row = top
        row = min(row, len(self.rows) - 1)
        return self.rows[row], row - top

    def _settle(self, anchor: tuple[Row, int] | None) -> None:
        size = Size(self.scrollable_content_region.width, len(self.rows))
        if self.virtual_size != size:
            self.virtual_size = size
        if self.following:
            self._to_end()
        elif anchor is not None:
            (entry, part), below = anchor
            row = bisect_left(self.rows, (*entry.key, part), key=_row_key)
            self.scroll_to(y=max(0, row - below), animate=False, force=True, immediate=True)
        if self.cursor is not None and self.rows:
            row = min(self._row(self.cursor.key), len(self.rows) - 1)
            self.cursor = self.rows[row][0]
        self.refresh()

    def _to_end(self) -> None:
        self.scroll_to(
            y=max(0, len(self.rows) - self.size.height), animate=False, force=True, immediate=True
        )

    def _at_bottom(self) -> Entry | None:
        if not self.rows:
            return None
        row = min(len(self.rows), self.scroll_offset.y + max(1, self.size.height)) - 1
        return self.rows[max(0, row)][0]

    def _stand_on(self, entry: Entry) -> None:
        self.following = False
        self.cursor = entry
        first, last = self._row(entry.key), self._row(entry.key, behind=True) - 1
        top, room = self.scroll_offset.y, max(1, self.size.height)
        if first < top:
            self.scroll_to(y=first, animate=False, force=True, immediate=True)
        elif last >= top + room:
            self.scroll_to(y=last - room + 1, animate=False, force=True, immediate=True)
        self.refresh()
        self._moved()

    def _go(self, key: Key) -> None:
        row = self._row(key)
        if row < len(self.rows):
            self._stand_on(self.rows[row][0])


def _entry_key(entry: Entry) -> Key:
    return entry.key


def _row_key(row: Row) -> tuple[float, int, int]:
    return row[0].at, row[0].order, row[1]
