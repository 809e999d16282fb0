"""Chat: asks the colony and shows the answer as it comes.

Each question is a job of its own: submitted, streamed, cancelled through the queen's client. The
conversations live as long as the screen; nothing is written to disk.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from textual import on
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical
from textual.widget import Widget
from textual.widgets import ContentSwitcher

from rbee.client import QueenClient
from rbee.errors import BadGateway, JobFinished, QueenUnreachable, RbeeError
from rbee.protocol.operations import Infer
from rbee.tui import keymap
from rbee.tui.answer import Answer
from rbee.tui.rows import model_name
from rbee.tui.screens.base import ColonyScreen
from rbee.tui.screens.dialogs import Picker
from rbee.tui.widgets.conversation import Conversation, TurnView
from rbee.tui.widgets.lines import Line, Lines
from rbee.tui.widgets.prompt import Prompt

PULSE_SECONDS = 0.2
TEMPERATURE = 0.7


class Chat(ColonyScreen):
    """Mode 6."""

    MODE = "chat"
    HELP_SCOPES = ("chat", "prompt", "messages")
    AUTO_FOCUS = "#prompt"
    BINDINGS: ClassVar[list[BindingType]] = keymap.bindings("chat")

    def body(self) -> Iterable[Widget]:
        glyphs = self.rbee.glyphs
        dot = glyphs.dot
        placeholder = f"Ask the hive{glyphs.more}   enter sends {dot} ^j newline"
        self._chosen: str | None = self.rbee.first_model
        self._chats = [Conversation(1, glyphs)]
        self._switcher = ContentSwitcher(*self._chats, initial="chat-1", id="chats")
        session = Lines("Session", id="session")
        session.border_subtitle = "f2 model"
        return [
            Horizontal(Vertical(self._switcher, Prompt(placeholder), id="talk"), session, id="chat")
        ]

    @property
    def chat(self) -> Conversation:
        """The conversation on screen."""
        return next(chat for chat in self._chats if chat.id == self._switcher.current)

    @property
    def chats(self) -> list[Conversation]:
        """All conversations, oldest first."""
        return list(self._chats)

    @property
    def model(self) -> str | None:
        """The chosen model, else the catalogue's first."""
        if self._chosen is not None:
            return self._chosen
        offered = self.rbee.store.offered_models()
        return offered[0].id if offered else None

    def on_mount(self) -> None:
        super().on_mount()
        self._pulse_timer = self.set_interval(PULSE_SECONDS, self._pulse, pause=True)

    def on_screen_suspend(self) -> None:
        super().on_screen_suspend()
        self._pulse_timer.pause()

    def on_screen_resume(self) -> None:
        super().on_screen_resume()
        if any(chat.running for chat in self._chats):
            self._pulse_timer.resume()

    def show(self) -> None:
        """Model and session panel; the messages draw themselves."""
        prompt = self.query_one(Prompt)
        model = self.model
        subtitle = model_name(model) if model else "no model yet"
        if prompt.border_subtitle != subtitle:
            prompt.border_subtitle = subtitle
        session = self.query_one("#session", Lines)
        session.set_lines(self._session_lines(session.size.width - 1))
        self._pulse()

    def open_chat(self, chat: Conversation) -> None:
        """Show another conversation."""
        self._switcher.current = chat.id
        self.query_one(Prompt).focus()
        self.show()

    async def action_new_chat(self) -> None:
        """An empty conversation; a running answer of the old one goes on."""
        if not self.chat.turns:
            return
        chat = Conversation(len(self._chats) + 1, self.rbee.glyphs)
        self._chats.append(chat)
        await self._switcher.add_content(chat, set_current=True)
        self.query_one(Prompt).focus()
        self.show()

    def action_choose_model(self) -> None:
        """The model of the next question."""
        models = self.rbee.store.offered_models()
        if not models:
            self.rbee.notify(
                "This colony has no model on its disks yet.", title="No models", markup=False
            )
            return
        self.rbee.push_screen(Picker("Model", models, self.model), self._choose)

    def action_again(self) -> None:
        """The last question once more."""
        chat = self.chat
        if chat.turns and chat.running is None:
            self._ask(chat, chat.turns[-1].answer.prompt)

    def action_leave(self) -> None:
        """First stop a running answer, then leave the prompt."""
        running = self.chat.running
        if running is not None:
            self._stop(running)
        elif self.query_one(Prompt).has_focus:
            self.chat.focus()
        else:
            self.query_one(Prompt).focus()

    def action_write(self) -> None:
        """Back to the prompt."""
        self.query_one(Prompt).focus()

    @on(Prompt.Sent)
    def _sent(self) -> None:
        prompt = self.query_one(Prompt)
        if not prompt.text.strip():
            return
        if self.chat.running is not None:
            self.rbee.notify("The answer is still coming; esc stops it.", markup=False)
        elif self.model is None:
            self.action_choose_model()
        else:
            self._ask(self.chat, prompt.take())

    def _choose(self, model: str | None) -> None:
        if model is not None:
            self._chosen = model
            self.show()

    def _ask(self, chat: Conversation, prompt: str) -> None:
        model = self.model
        if model is not None:
            answer = Answer(prompt=prompt, model=model, asked_at=self.rbee.store.clock())
            self.run_worker(self._answer(chat, answer), exit_on_error=True)

    async def _answer(self, chat: Conversation, answer: Answer) -> None:
        view = await chat.add(answer)
        self._pulse_timer.resume()
        self.show()
        try:
            await self._stream(chat, view)
        except (QueenUnreachable, BadGateway) as exc:
            gone = QueenUnreachable(exc.message, action="When she is back: enter asks again.")
            answer.fail(gone, self.rbee.store.clock())
        except RbeeError as exc:
            answer.fail(exc, self.rbee.store.clock())
        await view.finish(self.rbee.store.clock())
        if answer.error is not None:
            self.query_one(Prompt).give_back(answer.prompt)
        self.show()

    async def _stream(self, chat: Conversation, view: TurnView) -> None:
        answer = view.answer
        # A connection of its own: the event stream's client closes whenever the queen moves.
        async with QueenClient(self.rbee.link.require().url) as client:
            accepted = await client.submit(Infer(model=answer.model, messages=chat.messages()))
            answer.job_id = accepted.job_id
            if answer.wanted_stop:
                await client.cancel(accepted.job_id)
            async for event in client.job_stream(accepted.job_id):
                if event.comment is None:
                    await view.apply(event, self.rbee.store.clock())

    def _stop(self, view: TurnView) -> None:
        view.answer.wanted_stop = True
        if view.answer.job_id is not None:
            self.run_worker(self._cancel(view.answer.job_id))

    async def _cancel(self, job_id: str) -> None:
        try:
            await self.rbee.link.require().cancel(job_id)
        except JobFinished:
            return
        except RbeeError as exc:
            self.rbee.toast(exc)

    def _pulse(self) -> None:
        running = [view for chat in self._chats if (view := chat.running) is not None]
        for view in running:
            view.pulse(self.rbee.store.clock())
        if not running:
            self._pulse_timer.pause()

    def _session_lines(self, width: int) -> list[Line]:
        glyphs = self.rbee.glyphs
        na = glyphs.na
        last = self.chat.turns[-1].answer if self.chat.turns else None
        worker = f"{last.worker_id} @ {last.hive}" if last and last.worker_id else na
        rows = [
            ("model", model_name(self.model) if self.model else na),
            ("worker", worker),
            ("device", last.device if last and last.device else na),
        ]
        lines: list[Line] = [
            ((f" {name:<9}", "muted"), (glyphs.clip(value, max(1, width - 10)), "text"))
            for name, value in rows
        ]
        lines += [
            (),
            ((f" {'temperature':<13}", "muted"), (f"{TEMPERATURE}", "text")),
            ((f" {'max tokens':<13}", "muted"), ("the model's own", "text")),
            (),
            ((" Chats", "strong"),),
        ]
        for chat in reversed(self._chats):
            here = chat is self.chat
            mark = glyphs.cursor if here else " "
            title = glyphs.clip(chat.title, max(1, width - 3))
            lines.append(((f" {mark}", "key"), (title, "text" if here else "muted")))
        return lines
