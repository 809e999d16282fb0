"""FindModel: a search of the hub, a repository, and what of it is to be fetched.

Owns the dialog and its questions to the queen; it returns what was chosen, and fetches nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, cast

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from rbee.client import QueenClient
from rbee.errors import InvalidRequest, ModelNotFound, RbeeError
from rbee.protocol.models import Choice, FoundModel
from rbee.tui import cells
from rbee.tui.rows_found import (
    CHOICES,
    REPOSITORIES,
    about,
    best_of,
    choice_row,
    ordered,
    reference,
    refusal,
    repository_row,
)
from rbee.tui.widgets.table import RowTable

if TYPE_CHECKING:
    from rbee.tui.app import RbeeApp

LIMIT = 20
"""Repositories of a search."""
LONGEST = 500
"""Characters of a search or reference."""
HINT = (
    "Words to look for, such as qwen3 or smollm2; or a reference: hf:org/repo,"
    " hf:org/repo:Q4_K_M, or the address of its page."
)


@dataclass(frozen=True)
class Wanted:
    """What is to be fetched. `choice`: as the queen weighed it; None: it was only named."""

    ref: str
    choice: Choice | None = None


class FindModel(ModalScreen[Wanted | None]):
    """None for escape."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "back", show=False, priority=True),
        Binding("down", "move(1)", show=False, priority=True),
        Binding("up", "move(-1)", show=False, priority=True),
        Binding("pagedown", "page(1)", show=False, priority=True),
        Binding("pageup", "page(-1)", show=False, priority=True),
    ]

    def __init__(self, text: str = "") -> None:
        super().__init__(classes="dialog")
        self._text = text
        self._asked: str | None = None
        self._repositories: list[FoundModel] = []
        self._repository: FoundModel | None = None

    @property
    def rbee(self) -> RbeeApp:
        """The app."""
        return cast("RbeeApp", self.app)

    def compose(self) -> ComposeResult:
        self.table = RowTable("", REPOSITORIES, glyphs=self.rbee.glyphs, id="found")
        self.table.can_focus = False
        box = Vertical(
            Input(self._text, placeholder="name or reference", id="wanted", compact=True,
                  max_length=LONGEST),
            Static(id="told", markup=False),
            self.table,
            id="finder",
            classes="box wide tall",
        )  # fmt: skip
        box.border_title = "Download a model"
        yield box

    def on_mount(self) -> None:
        self.query_one(Input).cursor_blink = False
        self._say(HINT)
        self._keys()
        if self._text:
            self._ask(self._text)

    def action_move(self, step: int) -> None:
        """In the list, while typing."""
        self.table.action_cursor(step)

    def action_page(self, step: int) -> None:
        """In the list, while typing."""
        self.table.action_page(step)

    def action_back(self) -> None:
        """From a repository to the search it came from, else leave."""
        if self._repository is not None and self._repositories:
            self.workers.cancel_group(self, "hub")
            key, self._repository = self._repository.repo, None
            self._list(key)
        else:
            self.dismiss(None)

    @on(Input.Submitted)
    def _entered(self, event: Input.Submitted) -> None:
        text = " ".join(event.value.split())
        if text and text != self._asked:
            self._ask(text)
        else:
            self._take()

    @on(Input.Changed)
    def _typed(self) -> None:
        self._keys()

    @on(RowTable.Opened)
    def _clicked(self) -> None:
        self._take()

    def _ask(self, text: str) -> None:
        self._asked = text
        self._repositories, self._repository = [], None
        self.table.set_rows([])
        named = reference(text)
        if text.startswith(("file:", "pkg:", "/", "~")):
            self._say("That is no model of a hub. A file of yours: rbee model import PATH", "error")
        elif named is not None and "@" in named:
            self.dismiss(Wanted(named))
        elif named is not None:
            self._run(partial(self._look, named), f"looking at {named}")
        else:
            self._run(partial(self._search, text), f"looking for {text}")
        self._keys()

    def _take(self) -> None:
        row = self.table.current
        if row is None:
            return
        if self._repository is None:
            found = next((one for one in self._repositories if one.repo == row.key), None)
            if found is not None:
                self._repository = found
                self._list()
                self._run(partial(self._look, f"hf:{found.repo}"), about(found), keep=True)
            return
        choice = next((one for one in self._repository.choices if one.ref == row.key), None)
        if choice is None:
            return
        why = refusal(choice)
        if why:
            self._say(f"It would run {why}.", "error")
        else:
            self.dismiss(Wanted(choice.ref, choice))

    def _run(self, ask: Callable[[], Awaitable[None]], words: str, *, keep: bool = False) -> None:
        """`keep`: what is listed already says the same, but for its header."""
        self._say(f"{words}{self.rbee.glyphs.queued}")

        async def asked() -> None:
            try:
                await ask()
            except RbeeError as exc:
                if not keep:
                    self._asked = None
                self._say(f"{exc.message}\n{self.rbee.glyphs.arrow} {exc.action}", "error")
            self._keys()

        self.run_worker(asked(), group="hub", exclusive=True, exit_on_error=True)

    async def _search(self, text: str) -> None:
        async with QueenClient(self.rbee.link.require().url) as client:
            named: FoundModel | None = None
            if " " not in text:  # a short name stands for a repository, and the queen knows which
                with suppress(InvalidRequest, ModelNotFound):
                    named = await client.look(text)
            found = (await client.search(text, limit=LIMIT)).models
        if named is not None:
            found = [named, *(one for one in found if one.repo != named.repo)]
        self._repositories = found
        self._list()
        if not found:
            self._asked = None
            self._say("The hub has nothing of that name that could run here. Try other words.")
        else:
            self._say("From the hub, the most fetched first. enter shows what there is of one.")

    async def _look(self, named: str) -> None:
        async with QueenClient(self.rbee.link.require().url) as client:
            found = await client.look(named)
        at = self.table.cursor_key if self._repository is not None else None
        self._repository = found
        self._list(at or named)
        self._say(about(found) + ("" if found.choices else ": nothing in it that could run here"))

    def _list(self, at: str | None = None) -> None:
        """What there is to choose from now; `at`: the cursor's key, if there is such a row."""
        table, glyphs = self.table, self.rbee.glyphs
        if self._repository is None:
            table.columns = REPOSITORIES
            table.set_rows([repository_row(one, glyphs) for one in self._repositories])
            first = self._repositories[0].repo if self._repositories else None
        else:
            table.columns = CHOICES
            choices = ordered(self._repository.choices)
            table.set_rows([choice_row(one, glyphs) for one in choices])
            best = best_of(choices)
            first = best.ref if best is not None else None
        keys = [row.key for row in table.rows]
        chosen = next((key for key in keys if at and key.casefold() == at.casefold()), first)
        if chosen is not None:
            table.cursor_key = chosen
            table.action_cursor(0)
        self._keys()

    def _say(self, words: str, style: str = "muted") -> None:
        lines = [cells.safe(line) for line in words.split("\n")]
        self.query_one("#told", Static).update(Content("\n".join(lines)).stylize(f"${style}"))

    def _keys(self) -> None:
        text = " ".join(self.query_one(Input).value.split())
        does = "search"
        if text == self._asked and self.table.rows:
            does = "take" if self._repository is not None else "look inside"
        back = "esc back" if self._repository is not None and self._repositories else "esc"
        dot = f" {self.rbee.glyphs.dot} "
        words = [f"enter {does}", "up down choose", back]
        self.query_one("#finder").border_subtitle = Content(dot.join(words))
