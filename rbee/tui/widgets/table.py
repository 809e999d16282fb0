"""RowTable: rows with a cursor, fixed columns, a filter and an order, on top of Lines.

Owns which row is under the cursor (by its key, so it stays on the same thing when rows move). What
the rows are and what is done to them belongs to the screen.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from textual import events
from textual.binding import BindingType
from textual.message import Message

from rbee.tui import cells, keymap
from rbee.tui.glyphs import UNICODE, Glyphs
from rbee.tui.widgets.lines import Line, Lines, Span


@dataclass(frozen=True)
class Column:
    """`width` includes the gap; `grow`: takes spare cells when a value needs them; `extra`: all
    of them are left out where there is no room for each; `least`: how far it may shrink."""

    key: str
    label: str
    width: int
    grow: bool = False
    extra: bool = False
    least: int = 0


@dataclass(frozen=True)
class Row:
    """`key` is the object's id; `cells` by column key; `command`: what a shell would take."""

    key: str
    cells: dict[str, Span]
    mark: Span | None = None
    command: str = ""

    def text(self) -> str:
        """What a filter looks at."""
        return " ".join(text for text, _ in self.cells.values()).lower()


class RowTable(Lines):
    """A table. Posts RowTable.Opened when a row is chosen."""

    BINDINGS: ClassVar[list[BindingType]] = keymap.bindings("lists")

    class Opened(Message):
        """Enter or a second click on a row."""

        def __init__(self, table: RowTable, key: str) -> None:
            super().__init__()
            self.table = table
            self.key = key

        @property
        def control(self) -> RowTable:
            """The table."""
            return self.table

    class Moved(Message):
        """The cursor is on another row than before."""

        def __init__(self, table: RowTable) -> None:
            super().__init__()
            self.table = table

        @property
        def control(self) -> RowTable:
            """The table."""
            return self.table

    def __init__(
        self,
        title: str,
        columns: Sequence[Column],
        *,
        glyphs: Glyphs = UNICODE,
        heading: bool = True,
        marks: bool = True,
        many: bool = False,
        id: str | None = None,  # noqa: A002
    ) -> None:
        """`marks`: a state in front of each row; `many`: rows can be marked, to act on all."""
        super().__init__(title, id=id)
        self.glyphs = glyphs
        self.columns = tuple(columns)
        self._heading = heading
        self._marks = marks
        self._many = many
        self.marked: set[str] = set()
        self._all: list[Row] = []
        self._lines_kept: dict[str, tuple[Row, bool, Line]] = {}
        self._layout: object = None
        self.rows: list[Row] = []
        self.cursor_key: str | None = None
        self._at = 0
        self._known: set[str] = set()
        self.nothing = ""
        """What is said in the place of rows while there are none."""
        self.needle = ""
        self.sorted_by: str | None = None
        self.reversed = False

    @property
    def current(self) -> Row | None:
        """The row under the cursor."""
        at = self._cursor_row()
        return None if at is None else self.rows[at]

    def set_rows(self, rows: list[Row]) -> None:
        """Show these rows; filter, order and cursor stay as they are."""
        self._all = rows
        if self.marked:
            self.marked &= {row.key for row in rows}
        self._lay_out()

    def in_sight(self) -> list[tuple[str, int]]:
        """(key, cells below the top of the content) of the rows that are on screen."""
        top = self.scroll_offset.y
        room = max(0, self.size.height - self.offset_rows)
        shown = self.rows[top : top + room]
        return [(row.key, self.offset_rows + at) for at, row in enumerate(shown)]

    def select(self, key: str) -> None:
        """The cursor to that row; of one that is not shown: nothing."""
        for at, row in enumerate(self.rows):
            if row.key == key:
                self._move_to(at)

    def chosen(self) -> list[Row]:
        """The marked rows that are shown, else the one under the cursor."""
        marked = [row for row in self.rows if row.key in self.marked]
        return marked or [row for row in (self.current,) if row is not None]

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """A table whose rows are acted on one by one has no marks."""
        return self._many if action == "mark" else True

    def set_filter(self, needle: str) -> None:
        """Keep rows that contain `needle`; with a leading `!`, those that do not."""
        self.needle = needle.strip().lower()
        self._lay_out()

    def row_role(self, row: int) -> str | None:
        """The cursor is a block of the full width, paler while the panel has no focus."""
        if self.rows and row == self._cursor_row():
            return "cursor" if self.has_focus else "shadow"
        return None

    def on_focus(self) -> None:
        """The cursor changes its look with the focus."""
        self.refresh()

    def on_blur(self) -> None:
        """The cursor changes its look with the focus."""
        self.refresh()

    def on_resize(self) -> None:
        """Columns depend on the width."""
        self._lay_out()

    def on_click(self, event: events.Click) -> None:
        """A click moves the cursor; on the row under it, opens."""
        at = event.get_content_offset(self)
        if at is None:
            return
        row = at.y - self.offset_rows + self.scroll_offset.y
        if 0 <= row < len(self.rows):
            again = self.rows[row].key == self.cursor_key and event.chain > 1
            self._move_to(row)
            if again:
                self.post_message(self.Opened(self, self.rows[row].key))

    def action_cursor(self, step: int) -> None:
        """Move by rows."""
        self._move_to((self._cursor_row() or 0) + step)

    def action_first(self) -> None:
        """To the first row."""
        self._move_to(0)

    def action_last(self) -> None:
        """To the last row."""
        self._move_to(len(self.rows) - 1)

    def action_page(self, step: int) -> None:
        """Move by what fits the panel."""
        self.action_cursor(step * max(1, self.size.height - self.offset_rows - 1))

    def action_half_page(self, step: int) -> None:
        """Move by half of what fits the panel."""
        self.action_cursor(step * max(1, (self.size.height - self.offset_rows) // 2))

    def action_sort(self) -> None:
        """Order by the next column; after the last one, as it came."""
        keys: list[str | None] = [None, *(column.key for column in self._fitting()[0])]
        # A column that orders may have lost its room since.
        at = keys.index(self.sorted_by) if self.sorted_by in keys else -1
        self.sorted_by = keys[(at + 1) % len(keys)]
        self._lay_out()

    def action_reverse(self) -> None:
        """Turn the order around."""
        self.reversed = not self.reversed
        self._lay_out()

    def action_mark(self) -> None:
        """Mark the row, or take the mark away; on to the next."""
        row = self.current
        if row is not None:
            self.marked ^= {row.key}
            self._lay_out()
            self.action_cursor(1)

    def action_copy(self) -> None:
        """The id to the clipboard."""
        self._copy(lambda row: row.key)

    def action_copy_command(self) -> None:
        """The command about this row to the clipboard."""
        self._copy(lambda row: row.command)

    def _copy(self, what: Callable[[Row], str]) -> None:
        row = self.current
        if row is not None and what(row):
            self.app.copy_to_clipboard(what(row))
            self.notify(f"copied: {what(row)}", markup=False)

    def _cursor_row(self) -> int | None:
        if not self.rows:
            return None
        for at, row in enumerate(self.rows):
            if row.key == self.cursor_key:
                return at
        return 0

    def _move_to(self, row: int) -> None:
        if not self.rows:
            return
        row = max(0, min(len(self.rows) - 1, row))
        if self.cursor_key != self.rows[row].key:
            self.post_message(self.Moved(self))
        self.cursor_key = self.rows[row].key
        self._lay_out()
        room = max(1, self.size.height - self.offset_rows)
        top = self.scroll_offset.y
        if row < top:
            self.scroll_to(y=row, animate=False)
        elif row >= top + room:
            self.scroll_to(y=row - room + 1, animate=False)
        self.refresh()

    def _lay_out(self) -> None:
        self.rows = self._ordered([row for row in self._all if self._kept(row)])
        if self.rows and self.cursor_key is None:
            self.cursor_key = self.rows[0].key
        elif self.rows and self._is_gone():
            self.cursor_key = self.rows[min(self._at, len(self.rows) - 1)].key
        columns, widths = self._fitting()
        cursor = self._cursor_row()
        self._at = cursor or 0
        self._known = {row.key for row in self._all}
        lead = "    " if self._marks else "  "
        header: Line | None = None
        if self._heading:
            header = ((lead, "muted"), *self._header_spans(columns, widths))
        lines = self._drawn(cursor, columns, widths)
        if not lines and (words := self.nothing if not self._all else "No row is like that."):
            lines = [((f"{lead}{words}", "muted"),)]
        self.set_lines(lines, header)

    def _is_gone(self) -> bool:
        """Whether the row under the cursor was there last time, and no filter hides it."""
        key = self.cursor_key
        return key in self._known and all(row.key != key for row in self._all)

    def _drawn(
        self, cursor: int | None, columns: list[Column], widths: dict[str, int]
    ) -> list[Line]:
        """All lines; those whose row and columns are what they were last time are kept."""
        layout = (tuple(widths.items()), self.glyphs.bar)
        old = self._lines_kept if layout == self._layout else {}
        self._layout = layout
        kept: dict[str, tuple[Row, bool, Line]] = {}
        lines: list[Line] = []
        for at, row in enumerate(self.rows):
            special = at == cursor or row.key in self.marked
            known = old.get(row.key)
            if known is not None and not special and not known[1] and known[0] == row:
                line = known[2]
            else:
                line = self._line(row, at == cursor, columns, widths)
            kept[row.key] = (row, special, line)
            lines.append(line)
        self._lines_kept = kept
        return lines

    def _header_spans(self, columns: list[Column], widths: dict[str, int]) -> list[Span]:
        arrow = self.glyphs.up if self.reversed else self.glyphs.down
        return [
            (
                (column.label + (arrow if column.key == self.sorted_by else "")).ljust(
                    widths[column.key]
                ),
                "muted",
            )
            for column in columns
        ]

    def _line(self, row: Row, chosen: bool, columns: list[Column], widths: dict[str, int]) -> Line:
        mark = self.glyphs.done if row.key in self.marked else " "
        spans: list[Span] = [(mark + (self.glyphs.cursor if chosen else " "), "key")]
        if self._marks:
            spans += [row.mark or (" ", "text"), (" ", "text")]
        for column in columns:
            text, role = row.cells.get(column.key, ("", "text"))
            width = widths[column.key]
            spans.append((cells.pad(self.glyphs.clip(text, width - 1), width), role))
        return tuple(spans)

    def _fitting(self) -> tuple[list[Column], dict[str, int]]:
        room = self.size.width - (4 if self._marks else 2)
        columns = list(self.columns)
        if sum(column.width for column in columns) > room:
            columns = [column for column in columns if not column.extra]
        widths = {column.key: column.width for column in columns}
        spare = room - sum(widths.values())
        for column in columns:
            if spare < 0 and column.least:
                cut = min(-spare, column.width - column.least)
                widths[column.key] -= cut
                spare += cut
            elif spare > 0 and column.grow:
                texts = {row.cells.get(column.key, ("", ""))[0] for row in self._all}
                longest = max((cells.width(cells.safe(text)) + 1 for text in texts), default=0)
                more = max(0, min(spare, longest - column.width))
                widths[column.key] += more
                spare -= more
        return columns, widths

    def _kept(self, row: Row) -> bool:
        if not self.needle or self.needle == "!":
            return True
        if self.needle.startswith("!"):
            return self.needle[1:] not in row.text()
        return self.needle in row.text()

    def _ordered(self, rows: list[Row]) -> list[Row]:
        if self.sorted_by is not None:
            key = self.sorted_by
            rows = sorted(rows, key=lambda row: _natural(row.cells.get(key, ("", ""))[0]))
        return rows[::-1] if self.reversed else rows


def _natural(text: str) -> list[tuple[int, float, str]]:
    parts = re.findall(r"\d+(?:\.\d+)?|\D+", text)
    return [(0, float(part), "") if part[0].isdecimal() else (1, 0.0, part) for part in parts]
