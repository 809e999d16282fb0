"""Conversations on disk: listed, named, deleted, many, long, and written by another rbee."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import anyio
import anyio.from_thread
import colony_data as data
import pytest
from chat_driver import colony, ids_of, kept, quiet, sent, shows
from colony_double import ColonyDouble
from screen_driver import app_for, dialog, until
from screen_states import ask, chat_empty
from textual.widgets import Input

from rbee.protocol.base import decode
from rbee.tui.answer import Phase
from rbee.tui.screens import chat_book
from rbee.tui.screens.chat import Chat
from rbee.tui.screens.dialogs import Confirm
from rbee.tui.screens.naming import AskText
from rbee.tui.talk import Dialogue, Talk
from rbee.tui.talk_files import Shelf
from rbee.tui.widgets import conversation
from rbee.tui.widgets.prompt import Prompt

pytestmark = pytest.mark.anyio


def full_disk(_: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


async def test_chats_are_kept_listed_named_and_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "chats"
    gate = threading.Event()
    script = [data.started(), *data.tokens("One."), *data.ended(1)]
    with ColonyDouble(colony(), script=script) as double:
        async with app_for(double, chats_folder=folder).run_test(size=(80, 24)) as pilot:
            chat = await ask(pilot, "first question")
            await quiet(pilot, chat, 1)
            await pilot.press("ctrl+n")
            double.script = [data.started(), *data.tokens("half an"), gate, *data.tokens(" end")]
            await sent(pilot, chat, "second question")
            await until(pilot, lambda: chat.chat.turns and chat.chat.turns[-1].answer.tokens == 3)
        # The app went in the middle of the answer.
        files = sorted(folder.glob("c-*.json"))
        assert len(files) == 2
        replies = [decode(file.read_bytes(), Talk).turns[0].replies[0] for file in files]
        assert {(one.phase, one.text) for one in replies} == {
            (Phase.DONE, "One."),
            (Phase.STREAMING, "half an"),
        }
        (folder / "c-20260101-000000-000000.json").write_text('{"about": {')
        double.script = script

        app = app_for(double, chats_folder=folder)
        async with app.run_test(size=(80, 24), notifications=True) as pilot:
            await chat_empty(pilot)
            chat = app.screen
            assert isinstance(chat, Chat)
            await until(pilot, lambda: len(chat.chats) == 2, "the list")
            await until(pilot, lambda: shows(pilot, "A chat cannot be read"))
            app.clear_notifications()
            await pilot.press("f4")
            await until(pilot, lambda: shows(pilot, "second question"))
            order = [one.title for one in chat.chats]
            await pilot.press(*(["j"] if order[1] == "second question" else []), "enter")
            await until(pilot, lambda: shows(pilot, "half an"))
            assert shows(pilot, "interrupted")
            assert chat.chat.turns[-1].answer.phase is Phase.INTERRUPTED
            await sent(pilot, chat, "go on")
            await quiet(pilot, chat, 2)
            said = [each["content"] for each in double.submitted[-1]["messages"]]
            assert said == ["second question", "half an", "go on"]

            await pilot.press("f4", "e")
            await dialog(pilot, AskText)
            app.screen.query_one(Input).value = "ants\x1b[2J"
            await pilot.press("enter")
            await until(pilot, lambda: "ants[2J" in {one.title for one in chat.chats}, "the name")
            await until(pilot, lambda: shows(pilot, "ants[2J"))
            await pilot.press("delete")
            await dialog(pilot, Confirm)
            await pilot.press("enter")
            await until(pilot, lambda: app.screen is chat)
            assert len(chat.chats) == 2
            await pilot.press("delete")
            await dialog(pilot, Confirm)
            await pilot.press("d")
            await until(pilot, lambda: len(list(folder.glob("c-*.json"))) == 1, "it is gone")
            assert [one.title for one in chat.chats] == ["first question"]
            assert chat.dialogue.exchanges == []
            assert len(list(folder.glob("*.damaged"))) == 1

            with monkeypatch.context() as patched:
                patched.setattr(os, "fsync", full_disk)
                (listed,) = chat.chats
                await chat.name_chat(listed.id, "wasps")
                await pilot.press("tab")
                await sent(pilot, chat, "third question")
                await quiet(pilot, chat, 1)
                await until(pilot, lambda: len(chat._unsaved) == 2, "what is not on disk")
        titles = {one.title for one in Shelf(folder).listing()[0]}
        assert titles == {"wasps", "third question"}, "written when the app went, on screen or not"


async def test_many_chats_and_long_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "WINDOW", 2)
    monkeypatch.setattr(chat_book, "MOST_OPEN", 2)
    ids = ids_of(3)
    for id_ in ids:
        kept(tmp_path, id_, 5 if id_ == ids[2] else 1)
    gate = threading.Event()
    script = [data.started(), *data.tokens("ok"), *data.ended(1)]
    with ColonyDouble(colony(), script=script) as double:
        app = app_for(double, model="llama-3.2-3b", chats_folder=tmp_path)
        async with app.run_test(size=(80, 24), notifications=True) as pilot:
            await chat_empty(pilot)
            chat = app.screen
            assert isinstance(chat, Chat)
            await until(pilot, lambda: len(chat.chats) == 3, "the list")
            for id_ in ids:
                assert await chat.bring(id_)
            assert len(chat._views) <= 3
            assert len(chat.chat.turns) == 2
            assert chat.chat._earlier.display
            chat.chat.scroll_home(animate=False)
            await until(pilot, lambda: shows(pilot, "3 earlier questions; k or g shows them"))
            await pilot.press("escape", "k", "k")
            await until(pilot, lambda: len(chat.chat.turns) > 2, "an earlier one")
            await pilot.press("g")
            await until(pilot, lambda: shows(pilot, "q0 of 2"))
            assert len(chat.chat.turns) == 5
            assert not shows(pilot, "earlier questions")

            # Another rbee writes the same chat: both are kept.
            kept(tmp_path, ids[2], revision=2, name="theirs")
            await sent(pilot, chat, "mine")
            await quiet(pilot, chat, 6)
            await until(pilot, lambda: not chat._dirty, "it is written")
            assert chat.dialogue.id != ids[2]
            shelf = Shelf(tmp_path)
            assert len(shelf.load(ids[2]).turns) == 1
            assert len(shelf.load(chat.dialogue.id).turns) == 6
            titles = {one.id: one.title for one in chat.chats}
            assert (titles[ids[2]], titles[chat.dialogue.id]) == ("theirs", "q0 of 2")

            # From the list, which keeps no copy of what is on disk.
            mine, id_ = chat.dialogue.id, ids[0]
            await chat.name_chat(id_, "ours")
            assert not chat._resting
            kept(tmp_path, id_, revision=3, name="theirs")
            with monkeypatch.context() as patched:
                patched.setattr(os, "fsync", full_disk)
                await chat.name_chat(id_, "ours")
            kept(tmp_path, id_, revision=4, name="theirs again")
            await chat.name_chat(id_, "ours now")
            assert {"theirs again", "ours now"} <= {one.title for one in shelf.listing()[0]}
            assert await chat.bring(id_)
            assert (chat.dialogue.name, chat._resting) == ("theirs again", {})
            assert await chat.bring(mine)

            double.script = [data.started(), *data.tokens("half"), gate]
            await sent(pilot, chat, "to be deleted")
            await until(pilot, lambda: shows(pilot, "half"))
            gone = chat.dialogue
            await pilot.press("f4", "delete")
            await dialog(pilot, Confirm)
            await pilot.press("d")
            await until(pilot, lambda: chat.dialogue is not gone, "another chat")
            await until(pilot, lambda: double.cancelled, "the cancel")
            await until(pilot, lambda: not (tmp_path / f"{gone.id}.json").exists(), "its file")
            await pilot.press("tab")
            assert not chat.query_one(Prompt).has_focus


async def test_a_write_that_does_not_come_about_is_made_good_when_the_app_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = ids_of(2)
    for id_ in ids:
        kept(tmp_path, id_)
    app = app_for(None, chats_folder=tmp_path)
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("6")
        await until(pilot, lambda: isinstance(app.screen, Chat) and app.screen.query(Prompt))
        chat, shelf = app.screen, app.shelf
        assert isinstance(chat, Chat)
        assert shelf is not None
        talk, save = Dialogue.talk, shelf.save

        def as_it_is_cancelled(changed: Dialogue) -> Talk:
            scope.cancel()
            return talk(changed)

        with monkeypatch.context() as patched, anyio.CancelScope() as scope:
            patched.setattr(Dialogue, "talk", as_it_is_cancelled)
            await chat.name_chat(ids[0], "cancelled before the disk")
        kept(tmp_path, ids[0], revision=2, name="theirs")

        def name_again() -> None:
            changed = chat.dialogue
            changed.name = "touched meanwhile"
            chat.touch(changed)

        def as_it_is_touched(id_: str, talk: Talk) -> None:
            anyio.from_thread.run_sync(name_again)
            save(id_, talk)

        assert await chat.bring(ids[1])
        with monkeypatch.context() as patched:
            patched.setattr(shelf, "save", as_it_is_touched)
            await chat.name_chat(ids[1], "first")
        assert Shelf(tmp_path).load(ids[1]).about.title == "first"
    titles = {one.id: one.title for one in Shelf(tmp_path).listing()[0]}
    assert [titles.pop(id_) for id_ in ids] == ["theirs", "touched meanwhile"]
    assert list(titles.values()) == ["cancelled before the disk"]
