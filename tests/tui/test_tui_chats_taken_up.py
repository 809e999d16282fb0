"""Answers that were coming when rbee ended: read again from their jobs, once, and never less."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import colony_data as data
import pytest
from chat_driver import colony, ids_of, kept, quiet, sent, shows
from colony_double import ColonyDouble, Step
from keeper_double import KeeperDouble
from screen_driver import app_for, until
from textual.pilot import Pilot

from rbee.client import QueenStatus
from rbee.protocol.jobs import JobInfo, JobState
from rbee.tui import chat_exports
from rbee.tui.answer import Answer, Phase
from rbee.tui.screens import chat_book
from rbee.tui.screens.chat import Chat
from rbee.tui.talk import Exchange
from rbee.tui.talk_files import Shelf
from rbee.tui.widgets.prompt import Prompt

pytestmark = pytest.mark.anyio
WHOLE: list[Step] = [data.started(), *data.tokens("a whole answer"), *data.ended(5)]


def colony_with(jobs: Mapping[str, JobState]) -> ColonyDouble:
    """The queen knows these jobs; none has a stream yet."""
    known = [JobInfo(job_id=job, operation="infer", state=state) for job, state in jobs.items()]
    return ColonyDouble(colony(), older=known)


async def chat_screen(pilot: Pilot[Any]) -> Chat:
    app = pilot.app
    await pilot.press("6")
    await until(pilot, lambda: isinstance(app.screen, Chat) and app.screen.query(Prompt))
    assert isinstance(app.screen, Chat)
    return app.screen


async def written(pilot: Pilot[Any], chat: Chat, revision: int) -> None:
    await until(pilot, lambda: chat.dialogue.revision == revision, "that it is written")
    async with chat._writing:
        pass


async def begun(pilot: Pilot[Any], chat: Chat, id_: str) -> None:
    """Until the first word of a chat's answer has come again."""
    assert await chat.bring(id_)
    await until(pilot, lambda: chat.dialogue.running and chat.chat.turns, "it goes on")
    await until(pilot, lambda: chat.dialogue.running[0].tokens == 1, "its first word")


async def test_an_answer_that_went_on_without_the_app_is_whole_when_its_chat_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat_book, "MOST_OPEN", 1)
    opened, named, deleted, failed = ids = ids_of(4)
    jobs = {f"j-90{at}": JobState.COMPLETED for at in range(3)} | {"j-903": JobState.FAILED}
    for id_, job in zip(ids, jobs, strict=True):
        kept(tmp_path, id_, job=job, coming=True)
    with colony_with(jobs) as double:
        double.stories = dict.fromkeys(jobs, WHOLE)
        keeper = KeeperDouble(None)
        app = app_for(double, keeper=keeper, chats_folder=tmp_path)
        async with app.run_test(size=(80, 24)) as pilot:
            chat = await chat_screen(pilot)
            assert await chat.bring(opened)
            await until(pilot, lambda: shows(pilot, "interrupted"))
            await chat.name_chat(named, "bees")
            assert await chat.bring(named)
            assert await chat.bring(deleted)
            await chat.delete_chat(deleted)
            assert await chat.bring(opened), "it waits for the queen still, and once only"
            keeper.say(QueenStatus(up=True, url=double.url, message="queen is up"))
            await until(pilot, lambda: shows(pilot, "a whole answer"))
            await quiet(pilot, chat, 1)
            assert not shows(pilot, "interrupted")
            await written(pilot, chat, 2)
            (reply,) = Shelf(tmp_path).load(opened).turns[0].replies
            assert (reply.phase, reply.text) == (Phase.DONE, "a whole answer")

            assert await chat.bring(named)
            await until(pilot, lambda: shows(pilot, "a whole answer"))
            await quiet(pilot, chat, 1)

            assert await chat.bring(failed)
            await until(pilot, lambda: "/v1/jobs/j-903" in double.asked, "the queen is asked")
            await quiet(pilot, chat, 1)
            assert chat.dialogue.exchanges[0].answer.phase is Phase.INTERRUPTED
            assert shows(pilot, "answer 0")
            assert [double.asked.count(f"/v1/jobs/{job}") for job in jobs] == [1, 1, 1, 1]
            streams = [path.split("/")[3] for path in double.asked if "/stream" in path]
            assert sorted(streams) == ["j-900", "j-901"]


async def test_an_answer_that_another_rbee_has_written_too_is_in_one_chat(
    tmp_path: Path,
) -> None:
    whole, named = ids = ids_of(2)
    jobs = dict.fromkeys(("j-900", "j-901"), JobState.RUNNING)
    for id_, job in zip(ids, jobs, strict=True):
        kept(tmp_path, id_, job=job, coming=True)
    shelf, gates = Shelf(tmp_path), {job: threading.Event() for job in jobs}
    with colony_with(jobs) as double:
        double.stories = {job: [*WHOLE[:2], gate, *WHOLE[2:]] for job, gate in gates.items()}
        app = app_for(double, chats_folder=tmp_path)
        async with app.run_test(size=(80, 24)) as pilot:
            chat = await chat_screen(pilot)
            await begun(pilot, chat, whole)
            kept(tmp_path, whole, revision=2, name="theirs", said="a whole answer", job="j-900")
            gates["j-900"].set()
            await until(pilot, lambda: chat.dialogue.name == "theirs", "that it is taken over")
            await quiet(pilot, chat, 1)
            assert shows(pilot, "a whole answer")
            assert (chat.dialogue.id, chat.dialogue.revision) == (whole, 2)
            await chat.name_chat(whole, "ours")
            about = shelf.load(whole).about
            assert (about.title, about.revision, chat.dialogue.id) == ("ours", 3, whole)

            await begun(pilot, chat, named)
            (exchange,) = chat.dialogue.exchanges
            kept(tmp_path, named, revision=2, name="theirs", job="j-901", coming=True)
            gates["j-901"].set()
            await written(pilot, chat, 3)
            assert chat.dialogue.exchanges[0] is exchange, "an edit of it goes on"
            talk = shelf.load(named)
            (reply,) = talk.turns[0].replies
            assert (talk.about.title, reply.text) == ("theirs", "a whole answer")

            gate = threading.Event()
            double.script = [*WHOLE[:2], gate, *WHOLE[2:]]
            await sent(pilot, chat, "next")
            await until(pilot, lambda: chat.dialogue.running and chat.dialogue.running[0].tokens)
            await until(pilot, lambda: not chat._dirty, "it is written")
            job, revision = chat.dialogue.running[0].job_id, chat.dialogue.revision + 1
            kept(tmp_path, named, revision=revision, said="a whole answer", job=job)
            chat.touch(chat.dialogue)
            await chat.save(chat.dialogue, twin=False)
            assert chat.dialogue.running, "what comes goes on"
            gate.set()
            await until(pilot, lambda: len(chat.chat.turns) == 1, "that it is taken over")
            assert chat.dialogue.revision == revision
            assert sorted(one.id for one in shelf.listing()[0]) == ids


async def test_what_comes_again_replaces_nothing_before_it_says_as_much(tmp_path: Path) -> None:
    stopped, left = ids = ids_of(2)
    jobs = dict.fromkeys(("j-900", "j-901"), JobState.RUNNING)
    for id_, job in zip(ids, jobs, strict=True):
        kept(tmp_path, id_, job=job, coming=True)
    before = (tmp_path / f"{stopped}.json").read_bytes()
    with colony_with(jobs) as double:
        double.stories = {job: [*WHOLE[:2], threading.Event()] for job in jobs}
        app = app_for(double, chats_folder=tmp_path)
        async with app.run_test(size=(80, 24)) as pilot:
            chat = await chat_screen(pilot)
            await begun(pilot, chat, stopped)
            assert not shows(pilot, "answer 0")
            await pilot.press("escape")
            await until(pilot, lambda: shows(pilot, "answer 0"), "what was kept")
            await quiet(pilot, chat, 1)
            assert shows(pilot, "interrupted")
            await begun(pilot, chat, left)
            chat.action_copy_answer()
            assert app.clipboard == "answer 0"
            assert "answer 0" in chat_exports.markdown(chat.dialogue)
            assert "answer 0" in chat_exports.as_json(chat.dialogue)
            following = Exchange("next", [Answer("next", "m", 0.0)])
            assert chat.dialogue.messages(following)[1].content == "answer 0"
            await chat.name_chat(left, "bees")
    assert (tmp_path / f"{stopped}.json").read_bytes() == before
    talk = Shelf(tmp_path).load(left)
    assert (talk.about.title, talk.about.revision) == ("bees", 2), "nothing else was written"
    (reply,) = talk.turns[0].replies
    assert (reply.phase, reply.text) == (Phase.INTERRUPTED, "answer 0")
