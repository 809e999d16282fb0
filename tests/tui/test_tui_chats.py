"""Several conversations: kept, named, deleted; answers compared, edited, asked for elsewhere."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import Any

import colony_data as data
import pytest
from colony_double import ColonyDouble, KeeperDouble
from msgspec.structs import replace
from screen_driver import app_for, repaint, text_of, until
from screen_states import QUESTION, ask, chat_empty
from textual.pilot import Pilot
from textual.widgets import Input

from rbee.client import QueenStatus
from rbee.protocol.base import decode
from rbee.protocol.colony import Snapshot
from rbee.protocol.jobs import JobInfo, JobState
from rbee.protocol.workers import WorkerState
from rbee.tui import asking
from rbee.tui.answer import Answer, Phase
from rbee.tui.app import RbeeApp
from rbee.tui.screens import chat_book
from rbee.tui.screens.chat import Chat
from rbee.tui.screens.dialogs import Confirm, Picker
from rbee.tui.screens.naming import AskText
from rbee.tui.screens.parameters import Parameters
from rbee.tui.talk import Dialogue, Exchange, Talk
from rbee.tui.talk_files import Shelf
from rbee.tui.widgets import conversation
from rbee.tui.widgets.prompt import Prompt

pytestmark = pytest.mark.anyio
THOUGHT = "<think>\nBees. Dancing.\n</think>\n"
CODE = "Look:\n\n```sh\nls -l\n```\n"


def shows(pilot: Pilot[Any], words: str) -> bool:
    assert isinstance(pilot.app, RbeeApp)
    return any(words in line for line in text_of(pilot.app))


def colony() -> Snapshot:
    """Two workers serve the same model."""
    second = data.worker("w-07", "pi-hive cpu", "llama-3.2-3b", WorkerState.IDLE, "0/1")
    return Snapshot(
        hives=data.full().hives,
        workers=[*data.WORKERS, second],
        jobs=[],
        models=data.MODELS,
        narration=[],
        totals=data.TOTALS,
    )


async def quiet(pilot: Pilot[Any], chat: Chat, count: int) -> None:
    """Until so many questions are there and all answers have ended."""
    await until(pilot, lambda: len(chat.dialogue.exchanges) == count, f"{count} questions")
    await until(pilot, lambda: not chat.dialogue.running, "the ends")
    await pilot.pause(0.05)
    if isinstance(pilot.app.screen, Chat):
        repaint(chat.rbee)
        await pilot.pause()


async def sent(pilot: Pilot[Any], chat: Chat, text: str) -> None:
    prompt = chat.query_one(Prompt)
    prompt.focus()
    prompt.text = text
    await pilot.press("enter")


async def dialog(pilot: Pilot[Any], kind: type) -> None:
    await until(pilot, lambda: isinstance(pilot.app.screen, kind), kind.__name__)


async def test_answers_are_folded_copied_and_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    script = [data.started(), *data.tokens(THOUGHT + CODE), *data.ended(9)]
    with ColonyDouble(colony(), script=script) as double:
        app = app_for(double, chats_folder=tmp_path / "chats")
        async with app.run_test(size=(160, 45), notifications=True) as pilot:
            chat = await ask(pilot)
            await quiet(pilot, chat, 1)
            assert shows(pilot, "▸ thought · 2 words · t unfolds")
            assert not shows(pilot, "Dancing")
            await pilot.press("escape", "t")
            await until(pilot, lambda: shows(pilot, "Bees. Dancing."))
            await pilot.press("t", "y")
            assert app.clipboard == CODE
            await pilot.press("c")
            assert app.clipboard == "ls -l"
            await pilot.press("Y")
            assert app.clipboard.startswith("curl -sN http://127.0.0.1:8500/v1/chat/completions")

            double.script = [data.started(), *data.tokens("Second."), *data.ended(2)]
            await pilot.press("r")
            await until(pilot, lambda: len(double.submitted) == 2, "the other worker's job")
            await quiet(pilot, chat, 1)
            assert double.submitted[1]["worker_id"] == "w-07"
            await until(pilot, lambda: shows(pilot, "Second."))
            assert shows(pilot, "· 2 of 2")
            await pilot.press("left")
            await until(pilot, lambda: shows(pilot, "· 1 of 2"))
            assert shows(pilot, "ls -l")
            assert not shows(pilot, "Second.")
            await pilot.press("right")

            await sent(pilot, chat, "and then?")
            await quiet(pilot, chat, 2)
            said = [each["content"] for each in double.submitted[2]["messages"]]
            assert said == [QUESTION, "Second.", "and then?"]
            await pilot.press("escape", "k", "e")
            prompt = chat.query_one(Prompt)
            assert prompt.text == QUESTION
            assert "editing" in str(prompt.border_title)
            await sent(pilot, chat, "why do ants?")
            await until(pilot, lambda: len(double.submitted) == 4)
            await quiet(pilot, chat, 1)
            assert len(double.submitted[3]["messages"]) == 1
            titles = {one.title for one in chat.chats}
            assert titles == {"why do ants?", f"{QUESTION} (before the edit)"}

            await pilot.press("ctrl+s")
            await until(pilot, lambda: shows(pilot, "written to"))
    written = [name for name in os.listdir(tmp_path) if name.endswith(".md")]
    assert len(written) == 1


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


async def test_an_answer_that_went_on_without_the_app_is_whole_when_its_chat_is_opened(
    tmp_path: Path,
) -> None:
    ids = [f"c-20260101-000000-00000{at}" for at in range(3)]
    for at, id_ in enumerate(ids):
        kept(tmp_path, id_, 1, float(at), coming=f"j-90{at}")
    gate = threading.Event()
    done = JobInfo(job_id="j-900", operation="infer", state=JobState.COMPLETED)
    running, failed = (
        replace(done, job_id="j-901", state=JobState.RUNNING),
        replace(done, job_id="j-902", state=JobState.FAILED),
    )
    whole = [data.started(), *data.tokens("a whole answer"), *data.ended(3)]
    with ColonyDouble(colony(), older=[done, running, failed]) as double:
        double.stories = {
            "j-900": whole,
            "j-901": [*whole[:2], gate, *whole[2:]],
            "j-902": whole,
        }
        keeper = KeeperDouble(None)
        app = app_for(double, keeper=keeper, chats_folder=tmp_path)
        async with app.run_test(size=(80, 24)) as pilot:
            await pilot.press("6")
            await until(pilot, lambda: isinstance(app.screen, Chat) and app.screen.query(Prompt))
            chat = app.screen
            assert isinstance(chat, Chat)
            assert await chat.bring(ids[0])
            await until(pilot, lambda: shows(pilot, "interrupted"))
            keeper.say(QueenStatus(up=True, url=double.url, message="queen is up"))
            await until(pilot, lambda: shows(pilot, "a whole answer"))
            await quiet(pilot, chat, 1)
            assert not shows(pilot, "interrupted")
            await until(pilot, lambda: not chat._dirty, "it is written")
            (reply,) = Shelf(tmp_path).load(ids[0]).turns[0].replies
            assert (reply.phase, reply.text) == (Phase.DONE, "a whole answer")

            assert await chat.bring(ids[1])
            await until(pilot, lambda: chat.dialogue.running and chat.chat.turns, "it goes on")
            await until(pilot, lambda: chat.dialogue.running[0].tokens == 1, "its first word")
            kept(tmp_path, ids[1], 1, 1.0, revision=2)  # by another rbee that it comes to
            gate.set()
            await quiet(pilot, chat, 1)
            await until(pilot, lambda: chat.dialogue.revision == 2, "that it is written")
            async with chat._writing:
                pass
            assert shows(pilot, "a whole answer")
            assert sorted(one.id for one in Shelf(tmp_path).listing()[0]) == ids, "and no twin"

            assert await chat.bring(ids[2])
            await until(pilot, lambda: "/v1/jobs/j-902" in double.asked, "the queen is asked")
            await quiet(pilot, chat, 1)
            assert chat.dialogue.exchanges[0].answer.phase is Phase.INTERRUPTED
            assert shows(pilot, "answer 0")


async def test_two_models_are_compared(tmp_path: Path) -> None:
    gate = threading.Event()
    script = [data.started(), *data.tokens("half an"), gate, *data.tokens(" answer")]
    with ColonyDouble(colony(), script=script) as double:
        app = app_for(double, model="llama-3.2-3b", chats_folder=tmp_path)
        async with app.run_test(size=(160, 45), notifications=True) as pilot:
            await chat_empty(pilot)
            chat = app.screen
            assert isinstance(chat, Chat)
            await pilot.press("f5")
            await dialog(pilot, Picker)
            await pilot.press("enter")
            await until(pilot, lambda: shows(pilot, "llama-3.2-3b against qwen2.5-32b-q4"))
            await sent(pilot, chat, "both?")
            await until(pilot, lambda: [a.tokens for a in chat.dialogue.running] == [3, 3], "both")
            await until(pilot, lambda: sum("half an" in x for x in text_of(app)) > 0)
            left, right = chat.chat.turns[0].replies
            assert left.region.y == right.region.y
            await pilot.resize_terminal(80, 24)
            await until(pilot, lambda: left.region.y < right.region.y, "one under the other")
            await pilot.press("escape")
            await quiet(pilot, chat, 1)
            assert sorted(double.cancelled) == ["j-201", "j-202"]
            assert {each["model"] for each in double.submitted} == {
                "llama-3.2-3b",
                "qwen2.5-32b-q4",
            }
            await sent(pilot, chat, "next")
            await until(pilot, lambda: shows(pilot, "Keep an answer first"))
            assert len(double.submitted) == 2
            await pilot.press("escape", "right")
            await until(pilot, lambda: chat.model == "qwen2.5-32b-q4", "the right one")
            assert not left.display
            gate.set()
            await sent(pilot, chat, "next")
            await quiet(pilot, chat, 2)
            assert double.submitted[2]["model"] == "qwen2.5-32b-q4"
            assert len(double.submitted[2]["messages"]) == 3


async def test_parameters_commands_and_what_is_wrong_with_them(tmp_path: Path) -> None:
    script = [data.started(), *data.tokens("ok"), *data.ended(1)]
    with ColonyDouble(colony(), script=script) as double:
        app = app_for(double, chats_folder=tmp_path)
        async with app.run_test(size=(80, 24), notifications=True) as pilot:
            await chat_empty(pilot)
            chat = app.screen
            assert isinstance(chat, Chat)
            await pilot.press("f3")
            await dialog(pilot, Parameters)
            await pilot.press("9", "enter")
            await until(pilot, lambda: shows(pilot, "✗ at most 5"))
            await dialog(pilot, Parameters)
            await pilot.press("backspace", "0", "down", "down", "7", "enter")
            await until(pilot, lambda: app.screen is chat)
            await sent(pilot, chat, "/system be\x1b brief")
            await until(pilot, lambda: chat.dialogue.sampling.system == "be brief")
            await sent(pilot, chat, "/model smol")
            await until(pilot, lambda: chat.model == "smollm2-135m")
            await sent(pilot, chat, "/nonsense")
            await until(pilot, lambda: shows(pilot, "There is no /nonsense."))
            assert chat.query_one(Prompt).text == "/nonsense"
            chat.query_one(Prompt).text = ""
            await pilot.press("/", "m", "o", "tab")
            assert chat.query_one(Prompt).text == "/model "
            assert shows(pilot, "/model [name]")
            await pilot.press(*"nothing", "enter")
            await until(pilot, lambda: shows(pilot, "No model here is called 'nothing'"))
            await sent(pilot, chat, "//hello")
            await quiet(pilot, chat, 1)
            body = double.submitted[0]
            assert (body["temperature"], body["top_k"], body["model"]) == (0.0, 7, "smollm2-135m")
            assert [each["content"] for each in body["messages"]] == ["be brief", "/hello"]
            await sent(pilot, chat, "/clear")
            await dialog(pilot, Confirm)
            await pilot.press("c")
            await until(pilot, lambda: not chat.dialogue.exchanges, "an empty chat")
            assert chat.model == "smollm2-135m"
            await sent(pilot, chat, "/export")
            await until(pilot, lambda: shows(pilot, "Nothing was said"))


async def test_a_queen_that_goes_away_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "PATIENCE", asking.Patience(tries=3, pause=0.2))
    gate = threading.Event()
    nasty = "half\x1b[2J\x07 an"
    script = [
        data.waiting()[0],
        data.started(),
        *data.tokens(nasty),
        gate,
        "lose",
        *data.tokens(" answer"),
        *data.ended(5),
    ]
    with ColonyDouble(colony(), script=script) as double:
        app = app_for(double)
        async with app.run_test(size=(80, 24)) as pilot:
            chat = await ask(pilot)
            await until(pilot, lambda: shows(pilot, "half[2J an"))
            gate.set()
            answer = chat.dialogue.exchanges[0].answer
            await until(pilot, lambda: shows(pilot, "the queen is away, waiting for her"))
            await quiet(pilot, chat, 1)
            assert answer.phase is Phase.DONE
            assert answer.body() == "half[2J an answer"
            asked = [path for path in double.asked if path.startswith("/v1/jobs/j-201/stream")]
            seen = 2 + len(data.tokens(nasty))
            assert asked[0].endswith("after=0")
            assert all(path.endswith(f"after={seen}") for path in asked[1:])


def kept(
    folder: Path, id_: str, questions: int, at: float, *, revision: int = 1, coming: str = ""
) -> None:
    """A conversation on disk. `coming`: the job whose answers were still coming."""
    shelf, exchanges = Shelf(folder), []
    for number in range(questions):
        answer = Answer(prompt=f"q{number}", model="llama-3.2-3b", asked_at=at)
        answer.text, answer.phase = [f"answer {number}"], Phase.DONE
        if coming:
            answer.phase, answer.job_id = Phase.STREAMING, coming
        exchanges.append(Exchange(f"q{number} of {id_[-1]}", [answer]))
    chat = Dialogue(id=id_, created_at=at, changed_at=at, revision=revision, exchanges=exchanges)
    shelf.save(id_, chat.talk())


async def test_many_chats_and_long_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "WINDOW", 2)
    monkeypatch.setattr(chat_book, "MOST_OPEN", 2)
    ids = [f"c-20260101-000000-00000{at}" for at in range(3)]
    for at, id_ in enumerate(ids):
        kept(tmp_path, id_, 5 if at == 2 else 1, float(at))
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
            kept(tmp_path, ids[2], 1, 9.0, revision=2)
            await sent(pilot, chat, "mine")
            await quiet(pilot, chat, 6)
            await until(pilot, lambda: not chat._dirty, "it is written")
            assert chat.dialogue.id != ids[2]
            shelf = Shelf(tmp_path)
            assert len(shelf.load(ids[2]).turns) == 1
            assert len(shelf.load(chat.dialogue.id).turns) == 6

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
