"""Small modal screens: Confirm, Details, Picker, Notice. Each returns a value, and no more.

The safe choice always comes first and has the cursor; `escape` is the safe choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from rbee.protocol.hives import ModelInfo
from rbee.tui.glyphs import gib


@dataclass(frozen=True)
class Choice:
    """A letter, its words, and what the dialog returns for it."""

    key: str
    label: str
    value: str


class Confirm(ModalScreen[str | None]):
    """A question with lettered choices; None for escape."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss(None)", "keep", show=False),
        Binding("up,k", "move(-1)", show=False),
        Binding("down,j,tab", "move(1)", show=False),
        Binding("enter", "choose", show=False),
    ]

    def __init__(self, title: str, question: str, choices: Sequence[Choice]) -> None:
        super().__init__(classes="dialog")
        self._title = title
        self._question = question
        self._choices = tuple(choices)
        self._at = 0

    def compose(self) -> ComposeResult:
        box = Vertical(Static(self._question, markup=False), Static(id="choices"), classes="box")
        box.border_title = Content(self._title)
        yield box

    def on_mount(self) -> None:
        self._paint()

    def on_key(self, event: events.Key) -> None:
        """The choices' own letters come before everything else."""
        for choice in self._choices:
            if event.key == choice.key:
                event.stop()
                event.prevent_default()
                self.dismiss(choice.value)
                return

    def action_move(self, step: int) -> None:
        """Move the cursor."""
        self._at = (self._at + step) % len(self._choices)
        self._paint()

    def action_choose(self) -> None:
        """Take the choice under the cursor."""
        self.dismiss(self._choices[self._at].value)

    def _paint(self) -> None:
        rows: list[Content] = []
        for at, choice in enumerate(self._choices):
            mark = "▌" if at == self._at else " "
            style = "$foreground bold" if at == self._at else "$foreground"
            rows.append(
                Content.assemble(
                    (mark, "$primary"), (f"{choice.key:<4}", "$primary bold"), (choice.label, style)
                )
            )
        rows.append(Content.assemble((" esc ", "$primary bold"), ("go back", "$muted")))
        self.query_one("#choices", Static).update(Content("\n").join(rows))


class Details(ModalScreen[None]):
    """Facts about one thing, as name and value; nothing is cut."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,enter,q,l", "dismiss", show=False),
        Binding("y", "copy", show=False),
    ]

    def __init__(self, title: str, facts: Sequence[tuple[str, str]]) -> None:
        super().__init__(classes="dialog")
        self._title = title
        self._facts = tuple(facts)

    def compose(self) -> ComposeResult:
        box = Vertical(classes="box wide")
        box.border_title = Content(self._title)
        box.border_subtitle = "y copy · esc"
        with box:
            for name, value in self._facts:
                with Vertical(classes="fact"):
                    yield Static(name, classes="fact-name")
                    yield Static(value, classes="fact-value", markup=False)

    def action_copy(self) -> None:
        """All facts to the clipboard."""
        self.app.copy_to_clipboard("\n".join(f"{name}: {value}" for name, value in self._facts))
        self.notify("copied", markup=False)


class Picker(ModalScreen[str | None]):
    """Choose a model: type to narrow the list, enter takes it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss(None)", show=False),
        Binding("down", "move(1)", show=False, priority=True),
        Binding("up", "move(-1)", show=False, priority=True),
    ]

    def __init__(
        self,
        title: str,
        models: Sequence[ModelInfo],
        chosen: str | None = None,
        *,
        notes: Mapping[str, str] | None = None,
    ) -> None:
        """`notes`: id → where it runs, or whatever else is to be said of it."""
        super().__init__(classes="dialog")
        self._title = title
        self._models = tuple(models)
        self._chosen = chosen
        self._notes = notes or {}

    def compose(self) -> ComposeResult:
        box = Vertical(
            Input(placeholder="type to narrow", compact=True),
            OptionList(id="models", compact=True),
            classes="box wide",
        )
        box.border_title = Content(self._title)
        box.border_subtitle = "enter take · esc"
        yield box

    def on_mount(self) -> None:
        self.query_one(OptionList).can_focus = False
        self._fill("")

    def action_move(self, step: int) -> None:
        """Move in the list while typing."""
        options = self.query_one(OptionList)
        if options.option_count:
            options.highlighted = ((options.highlighted or 0) + step) % options.option_count

    @on(Input.Changed)
    def _narrow(self, event: Input.Changed) -> None:
        self._fill(event.value)

    @on(Input.Submitted)
    def _take(self) -> None:
        options = self.query_one(OptionList)
        if options.highlighted is not None:
            self.dismiss(options.get_option_at_index(options.highlighted).id)

    @on(OptionList.OptionSelected)
    def _clicked(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(event.option_id)

    def _fill(self, needle: str) -> None:
        options = self.query_one(OptionList)
        options.clear_options()
        wanted = needle.strip().lower()
        found = [m for m in self._models if wanted in f"{m.id} {m.quant or ''}".lower()]
        options.add_options(
            [
                Option(_model_line(model, self._notes.get(model.id, "")), id=model.id)
                for model in found
            ]
        )
        ids = [model.id for model in found]
        if ids:
            options.highlighted = ids.index(self._chosen) if self._chosen in ids else 0


def _model_line(model: ModelInfo, note: str) -> Content:
    figures = [model.quant or model.format, f"{gib(model.size)}G"]
    if model.context:
        figures.append(f"{model.context} ctx")
    told = f"  {'  '.join(figures)}"
    return Content.assemble((model.id, "bold"), (told, "$muted"), (f"  {note}", "$success"))


class Notice(ModalScreen[str | None]):
    """One sentence while something goes on; escape returns None where that is possible."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "leave", show=False)]

    def __init__(self, title: str, text: str, *, leavable: bool) -> None:
        super().__init__(classes="dialog")
        self._title = title
        self._text = text
        self._leavable = leavable

    def compose(self) -> ComposeResult:
        box = Vertical(Static(self._text, id="notice", markup=False), classes="box")
        box.border_title = Content(self._title)
        if self._leavable:
            box.border_subtitle = "esc go back"
        yield box

    def say(self, text: str) -> None:
        """Change the sentence."""
        self.query_one("#notice", Static).update(Content(text))

    def action_leave(self) -> None:
        """Back, where there is a way back."""
        if self._leavable:
            self.dismiss(None)
