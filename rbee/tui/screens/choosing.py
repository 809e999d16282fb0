"""Chooser: one of a few lines, each with its words; and asking where a worker should run.

Returns what was chosen, and no more. The first line is the safe choice and has the cursor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from rbee.client import QueenClient
from rbee.errors import RbeeError
from rbee.protocol.hives import ModelInfo
from rbee.tui.places import PlaceView, place_views
from rbee.tui.texts import wrapped

if TYPE_CHECKING:
    from rbee.tui.app import RbeeApp

ANYWHERE = ""
_WIDTH = 70


@dataclass(frozen=True)
class Offer:
    """A line of a Chooser: what it returns, its name, and words in a second row."""

    value: str
    name: str
    words: str
    good: bool = True


class Chooser(ModalScreen[str | None]):
    """Choose a line; None for escape."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss(None)", show=False),
        Binding("j", "move(1)", show=False),
        Binding("k", "move(-1)", show=False),
    ]

    def __init__(self, title: str, lines: Sequence[Offer]) -> None:
        super().__init__(classes="dialog")
        self._title = title
        self._lines = tuple(lines)

    def compose(self) -> ComposeResult:
        options = [Option(_content(line), id=f"at-{at}") for at, line in enumerate(self._lines)]
        box = Vertical(OptionList(*options, id="lines", compact=True), classes="box wide")
        box.border_title = Content(self._title)
        box.border_subtitle = "enter take · esc"
        yield box

    def on_mount(self) -> None:
        options = self.query_one(OptionList)
        options.highlighted = 0
        options.focus()

    def action_move(self, step: int) -> None:
        """Move the cursor."""
        options = self.query_one(OptionList)
        options.highlighted = ((options.highlighted or 0) + step) % len(self._lines)

    @on(OptionList.OptionSelected)
    def _taken(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(self._lines[event.option_index].value)


def _content(line: Offer) -> Content:
    rows = [f"  {row}" for row in wrapped(line.words, _WIDTH)] if line.words else []
    return Content("\n").join(
        [
            Content.styled(line.name, "bold" if line.good else ""),
            *(Content(row) for row in rows),
        ]
    )


def ask_where(
    rbee: RbeeApp,
    title: str,
    model: ModelInfo,
    answered: Callable[[PlaceView | None], None],
    *,
    anywhere: bool = True,
) -> None:
    """Ask on which device; `answered` gets None for the scheduler's choice, and is not called
    when nothing was chosen. Which hives have the model is asked of the queen first."""

    async def ask() -> None:
        here = rbee.screen
        holders: list[str] | None = None
        try:
            async with QueenClient(rbee.link.require().url) as client:
                held = await client.models()
            holders = [hive for each in held if each.model.id == model.id for hive in each.hives]
        except RbeeError as exc:
            rbee.toast(exc)
        views = {f"{v.hive} {v.device}": v for v in place_views(model, rbee.store, holders)}
        lines = [
            Offer(
                name,
                f"{rbee.glyphs.done if view.fits else rbee.glyphs.failed} {name}",
                view.words,
                view.fits,
            )
            for name, view in views.items()
        ]
        if anywhere:
            words = "The scheduler chooses, and may stop idle workers to make room."
            lines.insert(0, Offer(ANYWHERE, "wherever it runs best", words))
        if rbee.screen is not here or not lines:
            return  # whoever has gone on meanwhile is not asked there
        choice = await rbee.push_screen_wait(Chooser(title, lines))
        if choice is not None:
            answered(views.get(choice))

    rbee.run_worker(ask(), exit_on_error=True)
