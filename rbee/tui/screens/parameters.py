"""Parameters: the system prompt and the sampling of one chat, each field with its bounds.

Returns the new values, or None for escape; what is wrong with a value stands beside it.
"""

from __future__ import annotations

from typing import Any, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, Static, TextArea

from rbee.errors import ValidationFailed
from rbee.tui.glyphs import Glyphs
from rbee.tui.sampling import FIELDS, NUMBERS, Sampling, default_words, read, value_text


class Parameters(ModalScreen[Sampling | None]):
    """A row for each number, then the stops and the system prompt."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss(None)", show=False),
        Binding("ctrl+s,f3", "take", show=False, priority=True),
        Binding("ctrl+r", "reset", show=False, priority=True),
        Binding("down", "move(1)", show=False),
        Binding("up", "move(-1)", show=False),
    ]

    def __init__(self, sampling: Sampling, glyphs: Glyphs, *, at: str = FIELDS[0]) -> None:
        """`at`: the field that has the cursor."""
        super().__init__(classes="dialog")
        self._sampling = sampling
        self._glyphs = glyphs
        self._at = at

    def compose(self) -> ComposeResult:
        box = Vertical(classes="box wide parameters")
        box.border_title = "Parameters of this chat"
        box.border_subtitle = "enter take · tab next · ^r defaults · esc"
        with box:
            for name in (*NUMBERS, "stop"):
                with Horizontal(classes="parameter"):
                    yield Static(name.replace("_", " "), classes="parameter-name", markup=False)
                    field = Input(
                        value_text(self._sampling, name),
                        placeholder=default_words(name),
                        id=f"field-{name}",
                        compact=True,
                        max_length=1100,
                    )
                    field.cursor_blink = False
                    yield field
                    yield Static("", id=f"wrong-{name}", classes="parameter-wrong", markup=False)
            with Horizontal(classes="parameter-system"):
                yield Static("system", classes="parameter-name", markup=False)
                yield TextArea(
                    self._sampling.system,
                    id="field-system",
                    compact=True,
                    tab_behavior="focus",
                    placeholder="what the model is told before everything else",
                    highlight_cursor_line=False,
                )
            yield Static("", id="wrong-system", classes="parameter-wrong", markup=False)

    def on_mount(self) -> None:
        self.query_one("#field-system", TextArea).cursor_blink = False
        self.query_one(f"#field-{self._at}").focus()

    def action_move(self, step: int) -> None:
        """The field above or below."""
        if step > 0:
            self.focus_next()
        else:
            self.focus_previous()

    def action_reset(self) -> None:
        """All numbers and stops as `infer` has them; the system prompt stays."""
        for field in self.query(Input):
            field.value = ""

    def action_take(self) -> None:
        """Return the values, if they are good; else go to the first that is not."""
        good: dict[str, Any] = {}
        first: str | None = None
        for name in FIELDS:
            try:
                good[name] = read(name, self._text(name))
            except ValidationFailed:
                first = first or name
        if first is None:
            self.dismiss(Sampling(**good))
        else:
            self.query_one(f"#field-{first}").focus()

    @on(Input.Changed)
    @on(TextArea.Changed)
    def _changed(self, event: Input.Changed | TextArea.Changed) -> None:
        name = (event.control.id or "").removeprefix("field-")
        wrong = self.query_one(f"#wrong-{name}", Static)
        try:
            read(name, self._text(name))
        except ValidationFailed as exc:
            wrong.update(Content(f"{self._glyphs.failed} {exc.message}"))
        else:
            wrong.update(Content(""))

    @on(Input.Submitted)
    def _submitted(self) -> None:
        self.action_take()

    def _text(self, name: str) -> str:
        if name == "system":
            return self.query_one("#field-system", TextArea).text
        return self.query_one(f"#field-{name}", Input).value
