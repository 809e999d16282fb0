"""The panels of the Models screen: the library, what is on its way, all of one model.

They show what they are given; what a key does to a row belongs to the screen.
"""

from __future__ import annotations

from collections.abc import Sequence

from textual.content import Content

from rbee.protocol.models import Spot
from rbee.tui.carriage import Carriage, Stand
from rbee.tui.glyphs import Glyphs, wall_time
from rbee.tui.rows_carriage import BAR, SHORT_BAR, WIDE_BAR, bar_spans, columns
from rbee.tui.rows_carriage import row as carriage_row
from rbee.tui.rows_carriage import words as carriage_words
from rbee.tui.rows_models import COLUMNS, Item, detail_lines
from rbee.tui.rows_models import row as model_row
from rbee.tui.screens.listing import set_subtitle, set_title
from rbee.tui.store import ColonyStore, Link
from rbee.tui.widgets.lines import Line, Lines
from rbee.tui.widgets.machines import HintedTable
from rbee.tui.widgets.table import Column, Row, RowTable

BARS = ((0, SHORT_BAR), (70, BAR), (84, WIDE_BAR))
"""Cells of the panel from which on a bar has room beside all figures."""


class LibraryTable(RowTable):
    """The models of the colony."""

    def __init__(self, glyphs: Glyphs) -> None:
        super().__init__("Library", COLUMNS, glyphs=glyphs, many=True, id="library")

    def show(self, items: Sequence[Item], store: ColonyStore, trouble: str) -> None:
        """Fill with these. `trouble`: why they may be out of date."""
        self.set_rows([model_row(item, store, self.glyphs) for item in items])
        words: list[str] = []
        if self.marked:
            words.append(f"{len(self.marked)} marked")
        if self.needle:
            words.append(f"/{self.needle}: {len(self.rows)} shown")
        if self.sorted_by:
            words.append(f"sorted by {self.sorted_by}")
        if trouble:
            words.append(trouble)
        elif store.link is not Link.UP and store.heard_at is not None:
            words.append(f"as of {wall_time(store.heard_at)}")
        words = words or ["d download", "p copy to hive", "n start worker"]
        set_subtitle(self, Content(f" {self.glyphs.dot} ".join(words)))


class TransferTable(HintedTable):
    """What is on its way, is checked or deleted, and what went wrong with it."""

    def __init__(self, glyphs: Glyphs) -> None:
        super().__init__(
            "Transfers", columns(BAR), glyphs=glyphs, heading=False, id="transfers-table"
        )
        self._bar = BAR

    def on_resize(self) -> None:
        """The bar takes what there is."""
        self._bar = max(bar for cells, bar in BARS if self.size.width >= cells)
        self.columns = columns(self._bar)
        super().on_resize()

    def show(self, carried: Sequence[Carriage]) -> None:
        """Fill with these."""
        self.set_rows([carriage_row(one, self.glyphs, self._bar) for one in carried])
        row = self.current
        chosen = next((one for one in carried if row is not None and one.key == row.key), None)
        if chosen is None:
            nothing = ("  Nothing is on its way. ", "muted")
            self.set_hint([(nothing, ("d", "key"), (" downloads a model.", "muted"))])
        else:
            self.set_hint(carriage_words(chosen, self.glyphs, self.size.width))
        active = sum(one.active for one in carried)
        failed = sum(one.stand is Stand.FAILED for one in carried)
        words = [f"{active} active"] if active else []
        words += [f"{failed} failed"] if failed else []
        words += ["x cancel"] if active else []
        words += ["R retry"] if failed else []
        words += ["esc put away"] if self.has_focus and len(carried) > active else []
        set_subtitle(self, Content(f" {self.glyphs.dot} ".join(words)))

    def _line(self, row: Row, chosen: bool, columns: list[Column], widths: dict[str, int]) -> Line:
        line = super()._line(row, chosen, columns, widths)
        return tuple(
            span
            for text, role in line
            for span in (bar_spans(text, self.glyphs) if role == "bar" else [(text, role)])
        )


class ModelDetails(Lines):
    """All of the model under the cursor."""

    def __init__(self, glyphs: Glyphs) -> None:
        super().__init__("Details", id="model-details")
        self._glyphs = glyphs
        self._of: str | None = None

    def show(
        self, item: Item | None, spots: Sequence[Spot] | None, trouble: str, store: ColonyStore
    ) -> None:
        """Fill with this one."""
        key = item.key if item is not None else None
        if key != self._of:
            self._of = key
            self.scroll_to(y=0, animate=False)
        lines: list[Line] = []
        if item is not None:
            width = self.size.width
            lines = detail_lines(item, spots, trouble, store, self._glyphs, width)
        self.set_lines(lines)
        leave = "esc back" if self.screen.has_class("-open") else ""
        set_subtitle(self, Content(leave))
        set_title(self, "Details")
