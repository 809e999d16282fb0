"""A conversation on screen: questions, their answers, and the turn that keys are about.

Owns which turns are drawn and where the reader is. Talking to the queen and to the disk is the
chat screen's part.
"""

from __future__ import annotations

from typing import ClassVar

import anyio
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Static

from rbee.tui import keymap
from rbee.tui.answer import Answer
from rbee.tui.glyphs import Glyphs
from rbee.tui.talk import Dialogue, Exchange
from rbee.tui.widgets.reply import ReplyView

WINDOW = 20
"""Turns that are drawn at first; earlier ones when the reader goes there."""
LONGEST_QUESTION = 2000
MOST_LINES = 30


class TurnView(Vertical):
    """One question and the answers that are shown of it."""

    def __init__(self, exchange: Exchange, glyphs: Glyphs) -> None:
        super().__init__(classes="turn")
        self.exchange = exchange
        self._glyphs = glyphs
        self._unfolded = False
        self._replies = Horizontal(classes="replies")

    @property
    def answer(self) -> Answer:
        """The answer that counts."""
        return self.exchange.answer

    @property
    def replies(self) -> list[ReplyView]:
        """What is mounted of the answers."""
        return list(self._replies.query_children(ReplyView))

    def compose(self) -> ComposeResult:
        with Horizontal(classes="question"):
            yield Static(self._glyphs.prompt, classes="question-mark", markup=False)
            yield Static(shortened(self.exchange.prompt), classes="question-text", markup=False)
        yield self._replies

    async def sync(self, now: float) -> None:
        """Show the answers that are to be shown, each as far as it has come."""
        shown = self.exchange.shown
        self.set_class(self.exchange.chosen is None, "-pair")
        there = {id(view.answer): view for view in self.replies}
        fresh = [ReplyView(one, self._glyphs) for one in shown if id(one) not in there]
        if fresh and self._replies.is_attached:
            await self._replies.mount_all(fresh)
        for at, view in enumerate(self.replies):
            view.display = any(view.answer is one for one in shown)
            view.suffix = self._suffix(at)
            view.unfold(self._unfolded)
            view.pulse(now)
            if at >= len(there) and view.answer.ended:
                await view.finish(now)

    def unfold(self) -> None:
        """Show the thoughts, or fold them."""
        self._unfolded = not self._unfolded
        for view in self.replies:
            view.unfold(self._unfolded)

    def view_of(self, answer: Answer) -> ReplyView | None:
        """What draws an answer."""
        return next((view for view in self.replies if view.answer is answer), None)

    def _suffix(self, at: int) -> str:
        exchange = self.exchange
        if exchange.chosen is None:
            arrows = ("<-", "->") if self._glyphs.arrow.isascii() else ("←", "→")
            return "" if exchange.running else f"{arrows[min(at, 1)]} keep"
        count = len(exchange.answers)
        return f"{exchange.chosen + 1} of {count}" if count > 1 else ""


class Conversation(VerticalScroll, can_focus=True):
    """A chat: follows the newest text while the reader is at the bottom."""

    BINDINGS: ClassVar[list[BindingType]] = keymap.bindings("messages")

    def __init__(self, dialogue: Dialogue, glyphs: Glyphs, number: int) -> None:
        super().__init__(id=f"chat-{number}", classes="conversation")
        self.dialogue = dialogue
        self._glyphs = glyphs
        self.turns: list[TurnView] = []
        self.at: int | None = None
        """The exchange that keys are about; None: the last one."""
        self._hint = Static(self._hint_words(), classes="hint")
        self._hint.display = not dialogue.exchanges
        self._earlier = Static("", classes="earlier", markup=False)
        self._mounting = anyio.Lock()

    @property
    def here(self) -> Exchange | None:
        """The exchange that keys are about."""
        exchanges = self.dialogue.exchanges
        if not exchanges:
            return None
        return exchanges[-1 if self.at is None else min(self.at, len(exchanges) - 1)]

    def compose(self) -> ComposeResult:
        yield self._hint
        yield self._earlier

    def on_mount(self) -> None:
        self.watch(self, "virtual_size", self._size_changed, init=False)

    def on_resize(self) -> None:
        """More or less room may change what fits."""
        self._size_changed()

    def _size_changed(self) -> None:
        self.call_after_refresh(self._settle)

    def _settle(self) -> None:
        # An anchored view that is not full would show its text at the bottom.
        overflows = self.virtual_size.height > self.container_size.height
        if overflows != self.is_anchored:
            self.anchor(overflows)
            if not overflows:
                self.scroll_to(y=0, animate=False)

    async def sync(self, now: float, *, first: int | None = None) -> None:
        """Show the exchanges there are: the last ones, and the earlier ones shown before.
        `first`: or those from there on."""
        async with self._mounting:
            exchanges = self.dialogue.exchanges
            self._hint.display = not exchanges
            known = {id(view.exchange): view for view in self.turns}
            if first is None:
                first = min(
                    (at for at, one in enumerate(exchanges) if id(one) in known),
                    default=max(0, len(exchanges) - WINDOW),
                )
            wanted = exchanges[first:]
            for view in self.turns:
                if all(view.exchange is not one for one in wanted):
                    await view.remove()
            views = [known.get(id(one)) or TurnView(one, self._glyphs) for one in wanted]
            previous: TurnView | None = None
            for view in views:
                if not view.is_attached:
                    await self.mount(view, after=previous or self._earlier)
                if not view.is_attached:
                    return  # the app is leaving, and takes no new widgets
                await view.sync(now)
                previous = view
            self.turns = views
            self._earlier.display = first > 0
            self._earlier.update(Content(f"{first} earlier questions; k or g shows them"))
            self._mark()

    def follow(self) -> None:
        """Stay with the newest text, if the reader was there."""
        if self.is_anchored:
            self.anchor()

    def view_of(self, answer: Answer) -> ReplyView | None:
        """What draws an answer, while its turn is shown."""
        found = (turn.view_of(answer) for turn in self.turns)
        return next((view for view in found if view is not None), None)

    def turn_here(self) -> TurnView | None:
        """The turn that keys are about, while it is shown."""
        here = self.here
        return next((view for view in self.turns if view.exchange is here), None)

    async def action_previous_turn(self) -> None:
        """To the question before; shows earlier ones as needed."""
        count = len(self.dialogue.exchanges)
        if count:
            await self._go((count - 1 if self.at is None else self.at) - 1)

    async def action_next_turn(self) -> None:
        """To the next question; after the last one the view follows again."""
        if self.at is not None:
            await self._go(self.at + 1)

    def action_line_up(self) -> None:
        """By a line; stops following."""
        self.release_anchor()
        self.scroll_up(animate=False)

    def action_line_down(self) -> None:
        """By a line."""
        self.scroll_down(animate=False)

    async def action_first(self) -> None:
        """To the first message; stops following."""
        await self._go(0)
        self.release_anchor()
        self.scroll_home(animate=False)

    def action_last(self) -> None:
        """To the end, and follow."""
        self.at = None
        self._mark()
        self.scroll_end(animate=False)
        self.anchor()
        self._size_changed()

    def action_thoughts(self) -> None:
        """Unfold the thoughts of the answer, or fold them."""
        turn = self.turn_here()
        if turn is not None:
            turn.unfold()

    def watch_has_focus(self, value: bool) -> None:
        """The turn is marked only while keys go there."""
        super().watch_has_focus(value)
        self._mark()

    async def _go(self, at: int) -> None:
        exchanges = self.dialogue.exchanges
        at = max(0, at)
        if at >= len(exchanges):
            self.action_last()
            return
        self.at = at
        first = len(exchanges) - len(self.turns)
        if at < first:
            await self.sync(0.0, first=max(0, min(at, first - WINDOW)))
        self._mark()
        turn = self.turn_here()
        if turn is not None:
            self.release_anchor()
            self.call_after_refresh(
                self.scroll_to_widget, turn, animate=False, top=True, force=True
            )

    def _mark(self) -> None:
        here = self.turn_here()
        for view in self.turns:
            view.set_class(self.has_focus and view is here, "-here")

    def _hint_words(self) -> Content:
        dot = f" {self._glyphs.dot} "
        parts: list[tuple[str, str]] = [
            (f"{self._glyphs.logo}  ", "$primary"),
            ("Ask something. Your own machines answer, nobody else sees it.\n\n", "$foreground"),
            ("  ", ""),
        ]
        keys = (
            ("f2", "model"),
            ("f3", "parameters"),
            ("f4", "chats"),
            ("f5", "compare two models"),
            ("/", "commands"),
        )
        for at, (key, words) in enumerate(keys):
            parts += [(dot if at else " ", "$muted"), (key, "$primary bold")]
            parts.append((f" {words}", "$muted"))
        return Content.assemble(*parts)


def shortened(question: str) -> str:
    """A question that is not a screenful long; what is left out is counted."""
    lines = question.split("\n")
    text = "\n".join(lines[:MOST_LINES])[:LONGEST_QUESTION]
    left = len(question) - len(text)
    return f"{text}\n({left} characters more)" if left else text
