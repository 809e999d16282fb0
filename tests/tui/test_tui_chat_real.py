"""A chat with the real queen, who is killed in the middle of an answer and comes back."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import anyio.to_thread
import pytest
from keeper_double import KeeperDouble
from screen_driver import app_for, connected, text_of, until
from textual.pilot import Pilot

from rbee.client import QueenStatus
from rbee.tui.answer import Phase
from rbee.tui.app import RbeeApp
from rbee.tui.screens.chat import Chat
from rbee.tui.widgets.prompt import Prompt
from tests.support.home import Home

pytestmark = pytest.mark.anyio
WORDS = "one two three four five "


async def shown(pilot: Pilot[str], app: RbeeApp, words: str) -> None:
    await until(pilot, lambda: any(words in line for line in text_of(app)), f"{words!r}")


async def test_an_answer_survives_the_queens_end(home: Home, tmp_path: Path) -> None:
    assert home.rbee("queen", "start").returncode == 0
    keeper = KeeperDouble(home.url, owned=False)
    app = app_for(None, keeper=keeper, clock=time.time, model="echo", chats_folder=tmp_path)
    async with app.run_test(size=(160, 45)) as pilot:
        await connected(pilot)
        await pilot.press("6")
        await until(pilot, lambda: isinstance(app.screen, Chat) and app.screen.query(Prompt))
        chat = app.screen
        assert isinstance(chat, Chat)
        chat.query_one(Prompt).text = f"@delay=60 {WORDS * 6}"
        await pilot.press("enter")
        await until(pilot, lambda: chat.dialogue.exchanges, "a question")
        answer = chat.dialogue.exchanges[0].answer
        await until(pilot, lambda: answer.tokens > 5, "some words")
        await shown(pilot, app, "one two three")

        assert home.state is not None
        os.kill(home.state["pid"], signal.SIGKILL)
        keeper.say(QueenStatus(up=False, url=None, message="the queen exited with signal 9"))
        await shown(pilot, app, "the queen is away, waiting for her")
        done = await anyio.to_thread.run_sync(lambda: home.rbee("queen", "start"))
        assert done.returncode == 0
        keeper.say(QueenStatus(up=True, url=home.url, message="queen is up"))
        await until(pilot, lambda: answer.ended, "the end")
        assert answer.error is None
        assert answer.phase is Phase.DONE
        assert answer.body().split() == (WORDS * 6).split()
        await shown(pilot, app, "tok/s")
        await until(pilot, lambda: not chat._dirty, "it is written")
    assert home.rbee("queen", "stop").returncode == 0
    assert len(list(tmp_path.glob("c-*.json"))) == 1  # noqa: ASYNC240
