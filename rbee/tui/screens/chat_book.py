"""ChatBook: which conversations there are, which are open, and that none is lost.

The base of the chat screen: owns the dialogues, their views and their files. What is asked and
answered is added by the screens that build on it.
"""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
from textual import on
from textual.widgets import ContentSwitcher

from rbee.errors import Conflict, Local, RbeeError
from rbee.narration import printable
from rbee.tui.screens.base import ColonyScreen
from rbee.tui.screens.dialogs import Choice, Confirm
from rbee.tui.screens.naming import AskText
from rbee.tui.talk import TITLE, Dialogue, Talk, copied, dialogue, unite
from rbee.tui.talk_files import Shelf, Summary, new_id
from rbee.tui.widgets.conversation import Conversation
from rbee.tui.widgets.prompt import Prompt
from rbee.tui.widgets.session import SessionPanel

if TYPE_CHECKING:
    from rbee.tui.app import RbeeApp

MOST_OPEN = 6
"""Conversations that stay drawn; others are read from their files again."""


class ChatBook(ColonyScreen):
    """Conversations by id, one of them on screen."""

    list_panel: SessionPanel
    """Made by the body."""

    def begin(self, rbee: RbeeApp) -> ContentSwitcher:
        """An empty conversation in the widget that holds them all."""
        self._shelf: Shelf | None = rbee.shelf
        self._summaries: dict[str, Summary] = {}
        self._views: list[Conversation] = []
        self._resting: dict[str, Dialogue] = {}
        # How often each was touched since it was written.
        self._dirty: dict[str, int] = {}
        self._deleted: set[str] = set()
        self._unsaved: set[str] = set()
        self._writing = anyio.Lock()
        self._disk = threading.Lock()
        self._opening = anyio.Lock()
        self._number = 0
        first = self._view(self._fresh(rbee.first_model))
        self._switcher = ContentSwitcher(first, initial=first.id, id="chats")
        return self._switcher

    @property
    def chat(self) -> Conversation:
        """The conversation on screen."""
        return next(view for view in self._views if view.id == self._switcher.current)

    @property
    def dialogue(self) -> Dialogue:
        """What it shows."""
        return self.chat.dialogue

    @property
    def chats(self) -> list[Summary]:
        """All conversations, the one that was changed last first; the one on screen is one of
        them as soon as it has a question."""
        return sorted(self._summaries.values(), key=lambda one: (-one.changed_at, one.id))

    def now(self) -> float:
        """UTC seconds."""
        return self.rbee.store.clock()

    async def read_list(self) -> None:
        """Bring in the conversations on disk."""
        if self._shelf is None:
            return
        found, aside = await anyio.to_thread.run_sync(self._shelf.listing)
        for summary in found:
            self._summaries.setdefault(summary.id, summary)
        if aside:
            places = f"{self._shelf.folder / aside[0]}"
            words = "A chat cannot be read and is"
            if len(aside) > 1:
                words = f"{len(aside)} chats cannot be read and are"
                places += " and those beside it"
            self.rbee.toast(
                Local(f"{words} not in the list", action=f"Nothing is lost: see {places}")
            )
        self.repaint()

    def open_chat(self, id_: str) -> None:
        """Show a conversation; an answer that is coming elsewhere goes on."""
        self.run_worker(self.bring(id_), exit_on_error=True)

    async def bring(self, id_: str) -> bool:
        """Show a conversation. False, and a toast, when it cannot be read."""
        async with self._opening:
            view = next((one for one in self._views if one.dialogue.id == id_), None)
            known = view is not None
            if view is None:
                found = self._resting.pop(id_, None) or await self._loaded(id_)
                if found is None:
                    return False
                view = self._view(found)
                await self._switcher.add_content(view)
            self._switcher.current = view.id
            self.opened()
            await view.sync(self.now())
            await self._put_away()
        if not known:
            self.was_opened(view.dialogue)
        return True

    def was_opened(self, chat: Dialogue) -> None:
        """A conversation that was not drawn is on screen."""

    def opened(self) -> None:
        """Another conversation is on screen."""

    def dropped(self, chat: Dialogue) -> None:
        """A conversation is going to be deleted."""

    async def begin_chat(self) -> None:
        """Show an empty conversation, with the settings of this one."""
        old = self.dialogue
        if not old.exchanges:
            return
        fresh = self._fresh(old.model)
        fresh.sampling = old.sampling
        view = self._view(fresh)
        await self._switcher.add_content(view, set_current=True)
        await self._put_away()
        self.opened()

    async def fork(self, old: Dialogue, words: str) -> None:
        """Keep a conversation as it is now in the list, before it goes on another way."""
        twin = copied(old, new_id(self.now()), f"{old.title[:80]} ({words})")
        self._resting[twin.id] = twin
        self.touch(twin)
        await self.save(twin)

    def touch(self, changed: Dialogue) -> None:
        """Something was said in it: it is to be written, and comes first in the list."""
        if changed.id in self._deleted or not changed.exchanges:
            return
        changed.changed_at = self.now()
        self._summaries[changed.id] = Summary(changed.id, changed.title, changed.changed_at)
        self._dirty[changed.id] = self._dirty.get(changed.id, 0) + 1

    async def save(self, changed: Dialogue, *, twin: bool = True) -> None:
        """Write it if it has changed. A disk that does not take it is told once. When another rbee
        has written it meanwhile, this one is kept as another chat; `twin` False, where only what
        comes of an answer is new here: not if that rbee has the same answer."""
        if changed.id not in self._dirty:
            return
        async with self._writing:
            shelf, id_, touched = self._shelf, changed.id, self._dirty.get(changed.id)
            if shelf is None or touched is None:
                return
            try:
                await anyio.to_thread.run_sync(self._write, shelf, changed, id_, changed.talk())
            except Conflict:
                there = await self._there(shelf, id_)
                if id_ in self._deleted:
                    return
                more = None
                if there is not None and not twin and self._dirty.get(id_) == 1:
                    more = unite(changed, there)
                if more is None:
                    self._part(changed, there)
                else:
                    self._summaries[id_] = Summary(id_, changed.title, changed.changed_at)
                if more is False:
                    del self._dirty[id_]
            except RbeeError as exc:
                if id_ not in self._unsaved:
                    self._unsaved.add(id_)
                    self.rbee.toast(exc)
                return
            else:
                self._unsaved.discard(id_)
                if self._dirty.get(id_) == touched:
                    del self._dirty[id_]
                    self._resting.pop(id_, None)
                return
        await self.save(changed, twin=twin)

    def _write(self, shelf: Shelf, changed: Dialogue, id_: str, talk: Talk) -> None:
        """Blocking, in any thread; the revision goes on once the disk has it."""
        with self._disk:
            shelf.save(id_, talk)
            changed.revision = talk.about.revision

    async def _there(self, shelf: Shelf, id_: str) -> Dialogue | None:
        """What another rbee has written, if it can be read."""
        try:
            return dialogue(id_, await anyio.to_thread.run_sync(shelf.load, id_))
        except RbeeError:
            return None

    def _part(self, changed: Dialogue, there: Dialogue | None) -> None:
        """Go on as another chat beside the one that another rbee has written."""
        old, changed.id, changed.revision = changed.id, new_id(self.now()), 0
        self._dirty.pop(old, None)
        self._summaries.pop(old, None)
        if there is not None:
            self._summaries[old] = Summary(old, there.title, there.changed_at)
        if self._resting.get(old) is changed:
            self._resting[changed.id] = self._resting.pop(old)
        self.touch(changed)

    async def name_chat(self, id_: str, name: str) -> None:
        """Give it a title of the user's; an empty one is its first question again."""
        async with self._opening:
            found = self._dialogue(id_) or await self._loaded(id_)
            if found is not None and all(view.dialogue is not found for view in self._views):
                self._resting[id_] = found
        if found is not None:
            at = found.changed_at
            found.name = printable(name)[:TITLE]
            self.touch(found)
            found.changed_at = at
            self._summaries[id_] = Summary(id_, found.title, at)
            await self.save(found)
            self.repaint()

    async def delete_chat(self, id_: str) -> None:
        """For good, from the list and the disk."""
        shelf = self._shelf  # the app may be leaving before the disk is free
        self._deleted.add(id_)
        self._dirty.pop(id_, None)
        if (gone := self._dialogue(id_)) is not None:
            self.dropped(gone)
        view = next((one for one in self._views if one.dialogue.id == id_), None)
        if view is not None and view is self.chat:
            fresh = self._view(self._fresh(view.dialogue.model))
            await self._switcher.add_content(fresh, set_current=True)
        if view is not None:
            self._views.remove(view)
            await view.remove()
        self._resting.pop(id_, None)
        self._summaries.pop(id_, None)
        if shelf is not None:
            try:
                async with self._writing:
                    await anyio.to_thread.run_sync(shelf.remove, id_)
            except RbeeError as exc:
                self.rbee.toast(exc)
        self.opened()

    def action_chats(self) -> None:
        """To the list of chats, and back."""
        if self.list_panel.has_focus:
            self.leave_list()
            self.query_one(Prompt).focus()
        else:
            self.add_class("-chats")
            self.list_panel.focus()
            self.call_after_refresh(self.show)

    def leave_list(self) -> None:
        """Narrow screens show the conversation again."""
        self.remove_class("-chats")

    def action_open_listed(self) -> None:
        """Show the chat under the cursor."""
        if (chosen := self.list_panel.chosen) is not None:
            self.open_chat(chosen)

    def action_name_listed(self) -> None:
        """Give it a name."""
        chosen = next((one for one in self.chats if one.id == self.list_panel.chosen), None)
        if chosen is None:
            return

        def named(name: str | None) -> None:
            if name is not None:
                self.run_worker(self.name_chat(chosen.id, name), exit_on_error=True)

        hint = "Empty: its first question is its name."
        self.rbee.push_screen(AskText("Name", chosen.title, hint=hint, longest=TITLE), named)

    def action_delete_listed(self) -> None:
        """Delete it, after a question."""
        chosen = next((one for one in self.chats if one.id == self.list_panel.chosen), None)
        if chosen is None:
            return

        def answered(choice: str | None) -> None:
            if choice == "delete":
                self.run_worker(self.delete_chat(chosen.id), exit_on_error=True)

        choices = [Choice("k", "keep it", "keep"), Choice("d", "delete it for good", "delete")]
        self.rbee.push_screen(Confirm("Delete this chat?", chosen.title, choices), answered)

    @on(SessionPanel.Opened)
    def _clicked(self) -> None:
        self.action_open_listed()

    def on_unmount(self) -> None:
        """Write what is not written yet; the app is leaving."""
        # None: a save that is on its way makes no twin of what is written here.
        shelf, self._shelf = self._shelf, None
        for changed in [*(view.dialogue for view in self._views), *self._resting.values()]:
            coming = any(answer.counts is answer for answer in changed.running)
            unwritten = changed.id in self._dirty or coming
            if shelf is not None and unwritten and changed.id not in self._deleted:
                try:
                    self._write_last(shelf, changed)
                except RbeeError as exc:
                    self.log.error(exc.message)

    def _write_last(self, shelf: Shelf, changed: Dialogue) -> None:
        try:
            self._write(shelf, changed, changed.id, changed.talk())
        except Conflict:
            self._part(changed, None)
            self._write(shelf, changed, changed.id, changed.talk())

    def _fresh(self, model: str | None) -> Dialogue:
        now = self.rbee.store.clock()
        return Dialogue(id=new_id(now), created_at=now, model=model)

    def _view(self, shown: Dialogue) -> Conversation:
        self._number += 1
        view = Conversation(shown, self.rbee.glyphs, self._number)
        self._views.append(view)
        return view

    def _dialogue(self, id_: str) -> Dialogue | None:
        views = (view.dialogue for view in self._views if view.dialogue.id == id_)
        return next(views, None) or self._resting.get(id_)

    async def _loaded(self, id_: str) -> Dialogue | None:
        """From its file; a damaged one leaves the list."""
        shelf = self._shelf
        if shelf is None:
            return None
        try:
            talk = await anyio.to_thread.run_sync(shelf.load, id_)
            try:
                return dialogue(id_, talk)
            except RbeeError as exc:
                damaged = partial(shelf.damaged, id_, exc.message)
                raise await anyio.to_thread.run_sync(damaged) from exc
        except RbeeError as exc:
            self._summaries.pop(id_, None)
            self.rbee.toast(exc)
            self.repaint()
            return None

    async def _put_away(self) -> None:
        """Draw no more conversations than MOST_OPEN; what is coming stays."""
        for view in list(self._views):
            if len(self._views) <= MOST_OPEN:
                return
            shown = view.dialogue
            if view is self.chat or shown.running or shown.awaited:
                continue
            self._views.remove(view)
            if self._shelf is None or shown.id in self._dirty:
                self._resting[shown.id] = shown
            await view.remove()
