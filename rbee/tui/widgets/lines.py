"""Lines: a scrolling panel of short styled texts that repaints only the lines that changed.

A line is a tuple of (text, role); a role is a word such as `ok` or `muted` whose colour the theme
decides when the line is painted, so a theme change needs no refill. It knows no data of rbee.
"""

from __future__ import annotations

from typing import ClassVar, TypeAlias

from rich.segment import Segment
from rich.style import Style
from textual.geometry import Region, Size
from textual.scroll_view import ScrollView
from textual.strip import Strip

from rbee.tui import cells

Span: TypeAlias = tuple[str, str]
Line: TypeAlias = tuple[Span, ...]

ROLES = (
    "text",
    "muted",
    "strong",
    "key",
    "ok",
    "warn",
    "bad",
    "name",
    "track",
    "low",
    "high",
    "cursor",
    "shadow",
)


def width_of(line: Line) -> int:
    """Cells of a line."""
    return sum(cells.width(cells.safe(text)) for text, _ in line)


class Lines(ScrollView, can_focus=True):
    """A bordered panel of lines. `set_lines` is cheap when little has changed."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {f"lines--{role}" for role in ROLES}

    def __init__(
        self,
        title: str = "",
        *,
        id: str | None = None,  # noqa: A002
        classes: str = "",
    ) -> None:
        super().__init__(id=id, classes=f"panel {classes}")
        self.border_title = title
        self.lines: list[Line] = []
        self.header: Line | None = None
        """A first line that does not scroll."""

    @property
    def offset_rows(self) -> int:
        """Rows taken by the header."""
        return 0 if self.header is None else 1

    def set_lines(self, lines: list[Line], header: Line | None = None) -> None:
        """Show these lines; only those that differ are painted again."""
        old, self.lines = self.lines, lines
        if header != self.header:
            self.header = header
            self.refresh()
        top = self.scroll_offset.y
        for y in range(top, min(max(len(old), len(lines)), top + self.size.height)):
            before = old[y] if y < len(old) else None
            after = lines[y] if y < len(lines) else None
            if before != after:
                self.refresh_row(y)
        height = len(lines) + self.offset_rows
        if self.virtual_size.height != height or self.virtual_size.width != self.size.width:
            self.virtual_size = Size(self.scrollable_content_region.width, height)

    def refresh_row(self, row: int) -> None:
        """Paint one row again."""
        y = row - self.scroll_offset.y + self.offset_rows
        self.refresh(Region(0, y, self.size.width, 1))

    def render_line(self, y: int) -> Strip:
        """One line of the panel, as Textual asks for it."""
        if self.header is not None and y == 0:
            return self._strip(self.header, None)
        row = y - self.offset_rows + self.scroll_offset.y
        line = self.lines[row] if 0 <= row < len(self.lines) else ()
        return self._strip(line, self.row_role(row))

    def row_role(self, row: int) -> str | None:
        """A role for the whole row, or None: each span has its own."""
        return None

    def role_style(self, role: str) -> Style:
        """The theme's style of a role."""
        return self.get_component_rich_style(f"lines--{role}")

    def _strip(self, line: Line, whole: str | None) -> Strip:
        width = self.size.width
        base = self.role_style(whole or "text")
        if whole == "shadow":
            background = Style(bgcolor=base.bgcolor)
            styles = [self.role_style(role) + background for _, role in line]
        elif whole is not None:
            styles = [base] * len(line)
        else:
            styles = [self.role_style(role) for _, role in line]
        # Whatever made the line: what reaches the terminal is safe.
        segments = [
            Segment(cells.safe(text), style) for (text, _), style in zip(line, styles, strict=True)
        ]
        return Strip(segments).adjust_cell_length(width, base)
