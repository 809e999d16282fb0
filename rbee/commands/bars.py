"""Models on their way: bars on a terminal, a plain line every few seconds elsewhere.

Owns how a transfer looks on stderr; several at once have a bar each. What is said of a transfer
comes from the queen, whose figures are the last part of her message; nothing is measured here.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TextIO

from rbee.narration import Narrator, printable

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

TRANSFERS = frozenset({"downloading", "verifying", "copying", "importing"})
"""Stages of a job in which bytes of a model move or are read."""
KEPT = frozenset({"downloading", "copying"})
"""Those of them that go on later from where they were broken off."""
STEPS = frozenset({"preparing", "installing"})
"""Stages of a job that have steps, each of which is told where there is no bar."""
EVERY = 5.0
"""Seconds between plain lines."""
_WIDTH = 20


@dataclass(frozen=True)
class Bar:
    """What is shown of one transfer: what it is, its figures, and how much is done (0..1)."""

    title: str
    figures: str
    fraction: float

    @classmethod
    def of(cls, message: str, fraction: float) -> Bar:
        """`downloading M to H: 4 of 9 MB, …`: what is after the last `: ` are its figures."""
        title, colon, figures = printable(message).rpartition(": ")
        if not colon:
            title, figures = figures, ""
        return cls(title, figures, max(0.0, min(1.0, fraction)))

    @classmethod
    def of_step(cls, message: str, fraction: float) -> Bar:
        """`step 3 of 9: send W (4 of 9 MiB)`: what is in brackets at its end are its figures."""
        text = printable(message)
        title, bracket, figures = text.rpartition(" (")
        if not bracket or not figures.endswith(")"):
            title, figures = text, ")"
        return cls(title, figures[:-1], max(0.0, min(1.0, fraction)))


@dataclass
class Screen:
    """The bars that are shown together. `clock`: seconds, monotonic."""

    out: TextIO
    clock: Callable[[], float] = time.monotonic
    bars: dict[str, Bar] = field(default_factory=dict[str, Bar])
    stages: dict[str, str] = field(default_factory=dict[str, str])
    """Of the transfers that are on their way, shown or not."""
    _live: Live | None = None

    def show(self, key: str, bar: Bar) -> None:
        """Draw it, in place of the one of the same key."""
        self.bars[key] = bar
        if self._live is None:
            self._live = self._open()
        self._live.update(self._drawing(), refresh=True)

    def take_away(self, key: str) -> None:
        """The bar has done its work."""
        if self.bars.pop(key, None) is None or self._live is None:
            return
        self._live.update(self._drawing(), refresh=True)
        if not self.bars:
            self._live.stop()
            self._live = None

    def close(self) -> None:
        """All of them."""
        for key in list(self.bars):
            self.take_away(key)

    def write(self, line: str) -> bool:
        """A line over the bars; False when none are shown."""
        if self._live is None:
            return False
        self._live.console.print(line, markup=False, highlight=False, soft_wrap=True)
        return True

    def _open(self) -> Live:
        from rich.live import Live  # 60 ms

        live = Live(
            console=console(self.out), auto_refresh=False, transient=True,
            redirect_stdout=False, redirect_stderr=False,
        )  # fmt: skip
        live.start()
        return live

    def _drawing(self) -> RenderableType:
        return drawing(list(self.bars.values()))


class Bars(Narrator):
    """A narrator that shows transfers as bars. `key` tells apart those of several jobs."""

    def __init__(
        self,
        *,
        quiet: bool = False,
        out: TextIO | None = None,
        key: str = "",
        screen: Screen | None = None,
    ) -> None:
        super().__init__(quiet=quiet, out=out)
        self._live = self._live and os.environ.get("TERM") not in ("dumb", "unknown")
        self._screen = screen or Screen(self._out)
        self._key = key
        self._told_at: float | None = None
        self._told_stage = ""

    def beside(self, key: str) -> Bars:
        """Another one on the same screen."""
        return Bars(quiet=self._quiet, out=self._out, key=key, screen=self._screen)

    def say(self, message: str) -> None:
        """One line; what is said of a job ends its bar."""
        self._screen.stages.pop(self._key, None)
        self._screen.take_away(self._key)
        if self._quiet or not self._screen.write(f"rbee: {printable(message)}"):
            super().say(message)

    def progress(self, message: str, fraction: float, *, stage: str = "") -> None:
        """A bar for a transfer, on a terminal also for steps; else as every other progress."""
        if stage not in TRANSFERS and not (self._live and stage in STEPS):
            self._screen.stages.pop(self._key, None)
            self._screen.take_away(self._key)
            super().progress(message, fraction, stage=stage)
            return
        self._screen.stages[self._key] = stage
        if self._quiet:
            return
        if self._live:
            super().clear()
            bar = Bar.of_step if stage in STEPS else Bar.of
            self._screen.show(self._key, bar(message, fraction))
        else:
            self._line(message, fraction, stage)

    def clear(self) -> None:
        """Take the progress line or the bar away; the first narrator takes all bars away."""
        if self._key:
            self._screen.take_away(self._key)
        else:
            self._screen.close()
        super().clear()

    def make_room(self) -> None:
        """For a line on stdout, which may be the same terminal; what goes on draws itself again."""
        super().clear()
        self._screen.close()

    @property
    def kept(self) -> bool:
        """Whether some of what is on its way goes on later from where it is now."""
        return bool(KEPT & set(self._screen.stages.values()))

    def _line(self, message: str, fraction: float, stage: str) -> None:
        now = self._screen.clock()
        fresh = stage != self._told_stage or self._told_at is None
        if fresh or now - (self._told_at or 0.0) >= EVERY:
            self._told_at, self._told_stage = now, stage
            super().say(f"{message} ({fraction:.0%})")


def console(out: TextIO) -> Console:
    """Of rich, for a terminal; its width is asked of the terminal each time."""
    from rich.console import Console

    return Console(file=out, force_terminal=True, legacy_windows=False)


def drawing(bars: list[Bar]) -> RenderableType:
    """Two lines each: what it is; its bar and its figures. Whole from 64 columns on."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    lines: list[RenderableType] = []
    for bar in bars:
        row = Table.grid(padding=(0, 1))
        row.add_column(width=_WIDTH)
        row.add_column(width=5, justify="right")
        row.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        done = ProgressBar(total=1.0, completed=bar.fraction, width=_WIDTH)
        row.add_row(done, f"{bar.fraction:.0%}", Text(bar.figures))
        lines += [Text(f"rbee: {bar.title}", no_wrap=True, overflow="ellipsis"), row]
    return Group(*lines)
