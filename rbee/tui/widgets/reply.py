"""ReplyView: one answer on screen, drawn as it comes and once more when it has ended.

Owns how much is drawn at a time: a text that costs long to draw is drawn less often, so that keys
are answered meanwhile. The answer itself is others'; nothing here changes it.
"""

from __future__ import annotations

import time

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.widget import MountError
from textual.widgets import Markdown, Static

from rbee.narration import printable
from rbee.tui.answer import Answer, usage_line
from rbee.tui.glyphs import Glyphs
from rbee.tui.segments import joins, segments
from rbee.tui.thinking import Parts

DRAW_SECONDS = 0.08
REST = 4
"""After drawing for a time, so many times as long nothing is drawn."""
LONGEST_THOUGHT = 20_000


class AsciiMarkdown(Markdown):
    """For terminals that have nothing but ASCII."""

    BULLETS = ["* ", "- ", "+ ", "* ", "- "]


class ReplyView(Vertical):
    """One answer. `draw` while it comes, `finish` when it has ended."""

    def __init__(self, answer: Answer, glyphs: Glyphs) -> None:
        super().__init__(classes="reply")
        self.answer = answer
        self.waiting_for = ""
        """Why the job is not running yet."""
        self.suffix = ""
        """What the conversation adds to the usage line."""
        self._glyphs = glyphs
        self._fold = Static("", classes="fold", markup=False)
        self._thought = Static("", classes="thought", markup=False)
        self._text = Vertical(classes="answer-text")
        self._error = Static("", classes="failure", markup=False)
        self._usage = Static("", classes="usage", markup=False)
        self._drawn: list[str] = []
        self._unfolded = False
        self._shown: tuple[str, str] = ("", "")
        self._rest_until = 0.0
        self._finished = False

    def compose(self) -> ComposeResult:
        yield self._fold
        yield self._thought
        yield self._text
        yield self._error
        yield self._usage

    def on_mount(self) -> None:
        for part in (self._fold, self._thought, self._text, self._error):
            part.display = False

    @property
    def source(self) -> str:
        """The text as it is drawn."""
        return "".join(self._drawn)

    async def draw(self, now: float) -> None:
        """What has come since, unless that was drawn a moment ago. `now`: the screen's clock."""
        began = time.perf_counter()
        if self.is_mounted and not self._finished and began >= self._rest_until:
            await self._write_parts(self.answer.parts(), whole=False)
            spent = time.perf_counter() - began
            self._rest_until = began + spent + max(DRAW_SECONDS, REST * spent)
        self.pulse(now)

    async def finish(self, now: float) -> None:
        """Draw it once more as a whole, with its error if it has one."""
        self._finished = True
        await self._write_parts(self.answer.parts(), whole=True)
        if (error := self.answer.error) is not None:
            self._error.update(
                Content.assemble(
                    (f"{self._glyphs.failed} {error.code}", "$error bold"),
                    (f"  {printable(error.message)}\n", "$foreground"),
                    (f"{self._glyphs.arrow} {printable(error.action)}", "$muted"),
                )
            )
            self._error.display = True
        self.pulse(now)

    def pulse(self, now: float) -> None:
        """Bring the usage line up to date."""
        line = usage_line(self.answer, self._glyphs, now, waiting_for=self.waiting_for)
        if self.suffix:
            line += f" {self._glyphs.dot} {self.suffix}"
        if line != self._shown[0]:
            self._shown = (line, self._shown[1])
            self._usage.update(Content(line))

    def unfold(self, unfolded: bool) -> None:
        """Show the thoughts, or only that there are some."""
        self._unfolded = unfolded
        self._think(self.answer.parts())

    async def _write_parts(self, parts: Parts, *, whole: bool) -> None:
        self._think(parts)
        try:
            await self._write_text(parts.said, whole=whole)
        except MountError:
            self._finished = True  # the conversation was taken away while this was drawn

    async def _write_text(self, said: str, *, whole: bool) -> None:
        wanted = segments(said) if said else []
        if not self.source or not said.startswith(self.source):
            await self._text.remove_children()
            self._drawn = []
        self._text.display = bool(wanted)
        old = list(self._text.query_children(Markdown))
        for at, text in enumerate(wanted):
            last = at == len(wanted) - 1
            if at >= len(self._drawn):
                joined = " -joined" if at and joins(text) else ""
                kind = AsciiMarkdown if self._glyphs.arrow.isascii() else Markdown
                markdown = kind("", classes=f"answer{joined}", open_links=False)
                await self._text.mount(markdown)
                await markdown.update(text)
                self._drawn.append(text)
            elif last and not whole:
                if added := text[len(self._drawn[at]) :]:
                    await old[at].append(added)
                    self._drawn[at] = text
            elif last or self._drawn[at] != text:
                await old[at].update(text)
                self._drawn[at] = text

    def _think(self, parts: Parts) -> None:
        there = bool(parts.thought) or (parts.open and not self.answer.ended)
        if not there and not self._fold.display:
            return
        self._fold.display = there
        self._thought.display = there and self._unfolded
        words = len(parts.thought.split())
        verb = "thinking" if parts.open and not self.answer.ended else "thought"
        mark = "▾" if self._unfolded else "▸"
        if self._glyphs.arrow.isascii():
            mark = "v" if self._unfolded else ">"
        line = f"{mark} {verb} {self._glyphs.dot} {words} words"
        hint = "" if self._unfolded else f" {self._glyphs.dot} t unfolds"
        if line + hint != self._shown[1]:
            self._shown = (self._shown[0], line + hint)
            self._fold.update(Content(line + hint))
        if self._unfolded:
            text = parts.thought
            if len(text) > LONGEST_THOUGHT:
                left = len(text) - LONGEST_THOUGHT
                text = f"{text[:LONGEST_THOUGHT]}\n({left} characters more)"
            self._thought.update(Content(text))
