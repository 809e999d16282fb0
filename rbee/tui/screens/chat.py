"""Chat: asks the colony and shows the answer as it comes.

Owns what the keys and the commands of the prompt do. The conversations and their files are
ChatBook's, the answers on their way ChatAnswers', what is copied and written ChatLeaving's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import ClassVar

from msgspec.structs import replace
from textual import on
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Static, TextArea

from rbee.errors import NotFound
from rbee.tui import keymap, slash
from rbee.tui.rows import model_name
from rbee.tui.rows_chat import loaded_note, session_facts
from rbee.tui.sampling import FIELDS, Sampling
from rbee.tui.screens.chat_leaving import ChatLeaving
from rbee.tui.screens.dialogs import Choice, Confirm, Picker
from rbee.tui.screens.parameters import Parameters
from rbee.tui.talk import Exchange
from rbee.tui.thinking import clean
from rbee.tui.widgets.prompt import Prompt
from rbee.tui.widgets.session import SessionPanel


class Chat(ChatLeaving):
    """Mode 6."""

    MODE = "chat"
    HELP_SCOPES = ("chat", "prompt", "messages", "session")
    AUTO_FOCUS = "#prompt"
    BINDINGS: ClassVar[list[BindingType]] = keymap.bindings("chat")

    def body(self) -> Iterable[Widget]:
        glyphs = self.rbee.glyphs
        dot = glyphs.dot
        placeholder = f"Ask the hive{glyphs.more}   enter sends {dot} ^j newline {dot} / commands"
        self._against: str | None = None
        self._subtitle = ""
        self._editing: Exchange | None = None
        switcher = self.begin(self.rbee)
        hints = Static("", id="slash", markup=False)
        hints.display = False
        self.list_panel = SessionPanel(glyphs)
        talk = Vertical(switcher, hints, Prompt(placeholder), id="talk")
        return [Horizontal(talk, self.list_panel, id="chat")]

    @property
    def model(self) -> str | None:
        """The chosen model, else the catalogue's first that can talk."""
        if self.dialogue.model is not None:
            return self.dialogue.model
        return next(
            (model.id for model in self.rbee.store.offered_models() if not model.embeds), None
        )

    def on_mount(self) -> None:
        super().on_mount()
        self.run_worker(self.read_list(), exit_on_error=True)

    def show(self) -> None:
        """Model, session panel and list; the messages draw themselves."""
        if not self.query(Prompt):
            return  # the app is leaving
        prompt = self.query_one(Prompt)
        model = self.model
        words = model_name(model) if model else "no model yet"
        if self._against:
            words += f" against {model_name(self._against)}"
        if self._subtitle != words:
            self._subtitle = words
            prompt.border_subtitle = Content(words)
        title = "" if self._editing is None else f"editing {self.rbee.glyphs.dot} esc leaves it"
        if prompt.border_title != title:
            prompt.border_title = title
        session = self.list_panel
        facts = session_facts(
            self.dialogue, model, self._against, self.rbee.glyphs, session.size.width - 1
        )
        session.show(facts, self.chats, self.dialogue.id)

    def opened(self) -> None:
        """Another conversation is on screen."""
        self.leave_list()
        self._forget_edit()
        self.query_one(Prompt).focus()
        self.show()

    async def action_new_chat(self) -> None:
        """An empty conversation; a running answer of the old one goes on."""
        await self.begin_chat()
        self.opened()

    def action_choose_model(self) -> None:
        """The model of the next question."""
        self._pick("Model", self.model, self._choose)

    def action_compare(self) -> None:
        """Another model gets the next questions, too; or no longer."""
        if self._against is not None:
            self._oppose(None)
        elif self.model is not None:
            title = f"Compare {model_name(self.model)} with"
            self._pick(title, None, self._oppose, but=self.model)

    def action_parameters(self) -> None:
        """System prompt and sampling."""
        self._tune(FIELDS[0])

    async def action_again(self) -> None:
        """Another answer to the last question."""
        chat = self.dialogue
        if chat.exchanges and not self._busy():
            await self.ask_again(chat, chat.exchanges[-1], None)

    def action_leave(self) -> None:
        """First stop a running answer, then leave the prompt."""
        prompt = self.query_one(Prompt)
        if self.list_panel.has_focus:
            self.leave_list()
            prompt.focus()
        elif self.dialogue.running:
            self.stop_answers(self.dialogue)
        elif self._editing is not None:
            prompt.text = ""
            self._forget_edit()
            self.chat.focus()
        elif prompt.has_focus:
            self.chat.focus()
        else:
            prompt.focus()

    def action_write(self) -> None:
        """Back to the prompt."""
        self.query_one(Prompt).focus()

    def action_edit(self) -> None:
        """Write the question anew; asked again, it replaces what followed."""
        here = self.chat.here
        if here is not None and not self._busy():
            self._editing = here
            prompt = self.query_one(Prompt)
            prompt.put(here.prompt)
            prompt.focus()
            self.show()

    def action_retry(self) -> None:
        """Another answer, by another worker."""
        here = self.chat.here
        if here is not None and not self._busy():
            self.run_worker(self.choose_worker(self.dialogue, here), exit_on_error=True)

    async def action_keep(self, step: int) -> None:
        """Of two answers that are compared the left or right one; else the one before or after."""
        here = self.chat.here
        if here is None or here.running or len(here.answers) < 2:
            return
        at = (
            (0 if step < 0 else len(here.answers) - 1)
            if here.chosen is None
            else (here.chosen + step)
        )
        if not 0 <= at < len(here.answers):
            return
        if here.chosen is None and len(here.answers) == 2:
            self.dialogue.model, self._against = here.answers[at].model, None
        here.chosen = at
        await self.chat.sync(self.now())
        self.touch(self.dialogue)
        self.run_worker(self.save(self.dialogue), exit_on_error=True)
        self.show()

    @on(TextArea.Changed, "#prompt")
    def _written(self) -> None:
        text = self.query_one(Prompt).text
        fitting = slash.fitting(text) if len(text) < 200 else []
        parts: list[tuple[str, str]] = []
        for at, one in enumerate(fitting):
            takes = f" {one.takes}" if one.takes and len(fitting) == 1 else ""
            gap = f" {self.rbee.glyphs.dot} " if at else ""
            parts += [(gap, ""), (f"/{one.name}{takes}", "$primary"), (f" {one.help}", "")]
        self._hint(Content.assemble(*parts))

    @on(Prompt.Sent)
    async def _sent(self) -> None:
        prompt, chat = self.query_one(Prompt), self.dialogue
        if not prompt.text.strip():
            return
        try:
            command = slash.read(prompt.text)
        except NotFound as exc:
            self._wrong(f"{exc.message} {exc.action}")
            return
        if command is not None:
            await self._command(command[0].name, command[1])
        elif self._busy():
            return
        elif chat.comparing and self._editing is None:
            self.rbee.notify("Keep an answer first: esc, then ← or →.", markup=False)
        elif (model := self.model) is None:
            self.action_choose_model()
        else:
            if self._editing is not None:
                await self._cut(self._editing)
            chat.model = model
            models = [model, *([self._against] if self._against else [])]
            self.put_question(chat, slash.question(prompt.take()), models)

    async def _cut(self, edited: Exchange) -> None:
        """The edited question and what followed go; as they were they stay in the list."""
        chat = self.dialogue
        self._forget_edit()
        at = next((at for at, one in enumerate(chat.exchanges) if one is edited), None)
        if at is not None:
            if any(one.answer.body() for one in chat.exchanges[at:]):
                await self.fork(chat, "before the edit")
            del chat.exchanges[at:]

    async def _command(self, name: str, rest: str) -> None:
        prompt = self.query_one(Prompt)
        match name:
            case "model" | "compare" if rest and rest != "off":
                try:
                    model = self._named(rest)
                except NotFound as exc:
                    self._wrong(exc.message)
                    return
                (self._choose if name == "model" else self._oppose)(model)
            case "model":
                self.action_choose_model()
            case "compare" if rest == "off":
                self._oppose(None)
            case "compare":
                self.action_compare()
            case "system" if rest:
                self._tuned(replace(self.dialogue.sampling, system=clean(rest)))
            case "system":
                self._tune("system")
            case "new":
                await self.action_new_chat()
            case "clear":
                self._clear()
            case "save":
                self.export("md")
            case _:
                self.export("json")
        prompt.take()

    def _named(self, text: str) -> str:
        """The model of a name, or of a part that only it has. Raises NotFound."""
        ids = [model.id for model in self.rbee.store.offered_models() if not model.embeds]
        found = [id_ for id_ in ids if text.lower() in id_.lower()]
        if text in ids or len(found) == 1:
            return text if text in ids else found[0]
        raise NotFound(
            f"{len(found)} models have {text[:40]!r} in their names: {', '.join(found[:5])}"
            if found
            else f"No model here is called {text[:40]!r}: f2 lists them."
        )

    def _busy(self) -> bool:
        if self.dialogue.running:
            self.rbee.notify("The answer is still coming; esc stops it.", markup=False)
        return bool(self.dialogue.running)

    def _clear(self) -> None:
        chat = self.dialogue
        if not chat.exchanges or self._busy():
            return

        async def cleared(choice: str | None) -> None:
            if choice == "clear":
                await self.delete_chat(chat.id)

        count = len(chat.exchanges)
        words = f"{count} question{'s' if count > 1 else ''} and what was answered"
        choices = [Choice("k", "keep it", "keep"), Choice("c", "delete them for good", "clear")]
        self.rbee.push_screen(Confirm("Empty this chat?", words, choices), cleared)

    def _hint(self, words: Content, *, wrong: bool = False) -> None:
        hints = self.query_one("#slash", Static)
        hints.display = bool(words.plain)
        hints.set_class(wrong, "-wrong")
        hints.update(words)

    def _wrong(self, words: str) -> None:
        self._hint(Content(f"{self.rbee.glyphs.failed} {words}"), wrong=True)

    def _pick(
        self,
        title: str,
        chosen: str | None,
        answered: Callable[[str | None], None],
        *,
        but: str | None = None,
    ) -> None:
        models = [model for model in self.rbee.store.offered_models() if not model.embeds]
        models = [model for model in models if model.id != but] or models
        if not models:
            self.rbee.notify(
                "This colony has no model on its disks yet.", title="No models", markup=False
            )
            return
        workers = self.rbee.store.worker_list()
        notes = {model.id: loaded_note(model.id, workers) for model in models}

        def picked(model: str | None) -> None:
            if model is not None:
                answered(model)

        self.rbee.push_screen(Picker(title, models, chosen, notes=notes), picked)

    def _choose(self, model: str | None) -> None:
        self.dialogue.model = model
        self._settings_changed()

    def _oppose(self, model: str | None) -> None:
        self._against = model
        self.show()

    def _tune(self, at: str) -> None:
        dialog = Parameters(self.dialogue.sampling, self.rbee.glyphs, at=at)
        self.rbee.push_screen(dialog, self._tuned)

    def _tuned(self, sampling: Sampling | None) -> None:
        if sampling is not None:
            self.dialogue.sampling = sampling
            self._settings_changed()

    def _settings_changed(self) -> None:
        self.touch(self.dialogue)
        self.run_worker(self.save(self.dialogue), exit_on_error=True)
        self.show()

    def _forget_edit(self) -> None:
        self._editing = None
        self.show()
