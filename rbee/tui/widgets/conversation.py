"""A conversation on screen: questions, streamed answers, the usage line under each.

Owns the turns of one chat and how they are drawn. Talking to the queen is the chat screen's part:
it feeds events into `TurnView.apply`.
"""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Markdown, Static
from textual.widgets.markdown import MarkdownStream

from rbee.client import ServerEvent
from rbee.protocol.messages import Message
from rbee.tui import keymap
from rbee.tui.answer import Answer, Phase, usage_line
from rbee.tui.glyphs import Glyphs


class TurnView(Vertical):
    """One question and its answer."""

    def __init__(self, answer: Answer, glyphs: Glyphs) -> None:
        super().__init__(classes="turn")
        self.answer = answer
        self._glyphs = glyphs
        self._usage = Static("", classes="usage", markup=False)
        self._markdown = Markdown("", classes="answer", open_links=False)
        self._error = Static("", classes="failure", markup=False)
        self._stream: MarkdownStream | None = None

    def compose(self) -> ComposeResult:
        with Horizontal(classes="question"):
            yield Static(self._glyphs.prompt, classes="question-mark", markup=False)
            yield Static(self.answer.prompt, classes="question-text", markup=False)
        yield self._markdown
        yield self._error
        yield self._usage

    def on_mount(self) -> None:
        self._error.display = False
        self._markdown.display = False

    async def apply(self, event: ServerEvent, now: float) -> None:
        """Take in one event of the job's stream and draw what it added."""
        added = self.answer.apply(event, now)
        if added:
            if self._stream is None:
                self._markdown.display = True
                self._stream = Markdown.get_stream(self._markdown)
            await self._stream.write(added)

    async def finish(self, now: float) -> None:
        """The answer has ended: draw it once more as a whole, with its error if it has one."""
        if self._stream is not None:
            await self._stream.stop()
            self._stream = None
        body = self.answer.body()
        if body:
            await self._markdown.update(body)
        if (error := self.answer.error) is not None:
            self._error.update(
                Content.assemble(
                    (f"{self._glyphs.failed} {error.code}", "$error bold"),
                    (f"  {error.message}\n", "$foreground"),
                    (f"{self._glyphs.arrow} {error.action}", "$muted"),
                )
            )
            self._error.display = True
        self.pulse(now)

    def pulse(self, now: float) -> None:
        """Bring the usage line up to date."""
        self._usage.update(Content(usage_line(self.answer, self._glyphs, now)))


class Conversation(VerticalScroll, can_focus=True):
    """A chat: follows the newest text while the reader is at the bottom."""

    BINDINGS: ClassVar[list[BindingType]] = keymap.bindings("messages")

    def __init__(self, number: int, glyphs: Glyphs) -> None:
        super().__init__(id=f"chat-{number}", classes="conversation")
        self._glyphs = glyphs
        self.turns: list[TurnView] = []
        self._hint = Static(self._hint_words(), classes="hint")

    @property
    def title(self) -> str:
        """The first question, in one line."""
        return " ".join(self.turns[0].answer.prompt.split()) if self.turns else "new chat"

    @property
    def running(self) -> TurnView | None:
        """The turn whose answer is still coming."""
        return self.turns[-1] if self.turns and not self.turns[-1].answer.ended else None

    def compose(self) -> ComposeResult:
        yield self._hint

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

    async def add(self, answer: Answer) -> TurnView:
        """A new turn at the end; the view follows it."""
        view = TurnView(answer, self._glyphs)
        self.turns.append(view)
        self._hint.display = False
        await self.mount(view)
        self._follow()
        return view

    def messages(self) -> list[Message]:
        """What the model is told: every turn that has an answer, and the last question."""
        out: list[Message] = []
        for view in self.turns:
            answer = view.answer
            last = view is self.turns[-1]
            if last or (answer.phase is not Phase.FAILED and answer.body()):
                out.append(Message(role="user", content=answer.prompt))
                if not last:
                    out.append(Message(role="assistant", content=answer.body()))
        return out

    def action_scroll_up(self) -> None:
        """By a line; stops following."""
        self.release_anchor()
        self.scroll_up(animate=False)

    def action_scroll_down(self) -> None:
        """By a line."""
        self.scroll_down(animate=False)

    def action_scroll_home(self) -> None:
        """To the first message; stops following."""
        self.release_anchor()
        self.scroll_home(animate=False)

    def action_last(self) -> None:
        """To the end, and follow."""
        self._follow()

    def _follow(self) -> None:
        if self.is_anchored:
            self.anchor()

    def action_copy(self) -> None:
        """The last answer to the clipboard."""
        if self.turns and self.turns[-1].answer.body():
            self.app.copy_to_clipboard(self.turns[-1].answer.body())
            self.notify("answer copied", markup=False)

    def _hint_words(self) -> Content:
        dot = f" {self._glyphs.dot} "
        return Content.assemble(
            (f"{self._glyphs.logo}  ", "$primary"),
            ("Ask something. Your own machines answer, nobody else sees it.\n\n", "$foreground"),
            ("   f2", "$primary bold"),
            (" model", "$muted"),
            (dot, "$muted"),
            ("^n", "$primary bold"),
            (" new chat", "$muted"),
            (dot, "$muted"),
            ("^r", "$primary bold"),
            (" ask again", "$muted"),
        )
