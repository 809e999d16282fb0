"""Answers folded, copied, compared, edited, asked for elsewhere, waited for; parameters."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import colony_data as data
import pytest
from chat_driver import colony, quiet, sent, shows
from colony_double import ColonyDouble
from screen_driver import app_for, dialog, text_of, until
from screen_states import QUESTION, ask, chat_empty

from rbee.tui import asking
from rbee.tui.answer import Phase
from rbee.tui.screens.chat import Chat
from rbee.tui.screens.dialogs import Confirm, Picker
from rbee.tui.screens.parameters import Parameters
from rbee.tui.widgets.prompt import Prompt

pytestmark = pytest.mark.anyio
THOUGHT = "<think>\nBees. Dancing.\n</think>\n"
CODE = "Look:\n\n```sh\nls -l\n```\n"


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
