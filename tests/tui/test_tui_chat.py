"""Chat against the double: streaming, stopping, errors, broken connections, memory of the talk."""

from __future__ import annotations

import threading
from typing import Any

import colony_data as data
import pytest
from colony_double import ColonyDouble
from screen_driver import app_for, connected, text_of, until
from screen_states import QUESTION, ask, chat_empty
from textual.pilot import Pilot
from textual.widgets import Markdown

from rbee.errors import InsufficientRam
from rbee.protocol.jobs import EndData, JobInfo, JobState
from rbee.tui import asking
from rbee.tui.answer import Phase
from rbee.tui.app import RbeeApp
from rbee.tui.screens.chat import Chat
from rbee.tui.screens.dialogs import Picker
from rbee.tui.widgets.prompt import Prompt

pytestmark = pytest.mark.anyio


def shows(pilot: Pilot[Any], words: str) -> bool:
    assert isinstance(pilot.app, RbeeApp)
    return any(words in line for line in text_of(pilot.app))


async def ended(pilot: Pilot[Any], chat: Chat) -> None:
    await until(pilot, lambda: chat.chat.turns[-1].answer.ended, "the end")
    await pilot.pause(0.05)


async def test_an_answer_is_asked_for_streamed_and_measured() -> None:
    script = [*data.waiting(), data.started(), *data.tokens(), *data.ended(96)]
    with ColonyDouble(data.full(), script=script) as double:
        async with app_for(double).run_test(size=(160, 45)) as pilot:
            chat = await ask(pilot)
            await ended(pilot, chat)
            turn = chat.chat.turns[-1]
            assert turn.answer.body() == data.ANSWER
            assert turn.replies[0].source == data.ANSWER
            assert turn.query_one(Markdown).source == data.ANSWER
            assert shows(pilot, "✓ llama-3.2-3b · w-03@mule · ↑12 ↓96 · 81.7 tok/s · ttft 0.14 s")
            assert shows(pilot, "w-03 @ mule")
            assert chat.query_one(Prompt).text == ""
        body = double.submitted[0]
        assert body["operation"] == "infer"
        assert body["model"] == "llama-3.2-3b"
        assert [(m["role"], m["content"]) for m in body["messages"]] == [("user", QUESTION)]


async def test_the_next_question_carries_the_talk_so_far() -> None:
    script = [data.started(), *data.tokens("Forty-two."), *data.ended(3)]
    with ColonyDouble(data.full(), script=script) as double:
        async with app_for(double).run_test(size=(80, 24)) as pilot:
            chat = await ask(pilot)
            await ended(pilot, chat)
            await pilot.press(*"sure?", "enter")
            await until(pilot, lambda: len(double.submitted) == 2)
            await ended(pilot, chat)
            await pilot.press("ctrl+n")
            await pilot.press(*"hi", "enter")
            await until(pilot, lambda: len(double.submitted) == 3)
            await ended(pilot, chat)
            assert sorted(each.title for each in chat.chats) == ["hi", QUESTION]
        said = [[m["content"] for m in job["messages"]] for job in double.submitted]
        assert said == [[QUESTION], [QUESTION, "Forty-two.", "sure?"], ["hi"]]


async def test_waiting_is_told() -> None:
    gates = [threading.Event() for _ in range(3)]
    queued, status = data.waiting()
    script = [queued, gates[0], status, gates[1], data.started(), gates[2], *data.ended(0)]
    with ColonyDouble(data.full(), script=script) as double:
        async with app_for(double).run_test(size=(80, 24)) as pilot:
            chat = await ask(pilot)
            await until(pilot, lambda: shows(pilot, "… queued #2"))
            why = "waiting for 19.8G on mule:0"
            job = JobInfo(job_id="j-201", operation="infer", state=JobState.QUEUED, waiting_for=why)
            double.push("job", job)
            await until(pilot, lambda: shows(pilot, f"… queued #2, {why}"))
            gates[0].set()
            await until(pilot, lambda: shows(pilot, "loading llama-3.2-3b 40%"))
            gates[1].set()
            await until(pilot, lambda: shows(pilot, "w-03@mule · reading the prompt"))
            gates[2].set()
            await ended(pilot, chat)


async def test_escape_stops_the_answer_and_then_leaves_the_prompt() -> None:
    gate = threading.Event()
    script = [data.started(), *data.tokens("half an"), gate, *data.tokens(" answer")]
    with ColonyDouble(data.full(), script=script) as double:
        async with app_for(double).run_test(size=(80, 24)) as pilot:
            chat = await ask(pilot)
            await until(pilot, lambda: chat.chat.turns[-1].answer.tokens == 3)
            await pilot.press("escape")
            await ended(pilot, chat)
            assert double.cancelled == ["j-201"]
            answer = chat.chat.turns[-1].answer
            assert answer.phase is Phase.STOPPED
            assert answer.body() == "half an"
            assert shows(pilot, "stopped")
            assert chat.query_one(Prompt).has_focus
            await pilot.press("escape")
            assert chat.chat.has_focus
            await pilot.press("2")
            await until(pilot, lambda: pilot.app.current_mode == "hives")


async def test_a_broken_connection_is_said_and_the_prompt_comes_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(asking, "PATIENCE", asking.Patience(tries=2, pause=0.01))
    script = [data.started(), *data.tokens("half an"), "break"]
    with ColonyDouble(data.full(), script=script) as double:
        async with app_for(double).run_test(size=(80, 24)) as pilot:
            chat = await ask(pilot)
            await ended(pilot, chat)
            answer = chat.chat.turns[-1].answer
            assert answer.phase is Phase.FAILED
            assert answer.body() == "half an"
            assert chat.query_one(Prompt).text == QUESTION
            await until(pilot, lambda: shows(pilot, "broke off"))
            assert shows(pilot, "rbee job show j-201")


async def test_a_refusal_shows_code_message_and_action() -> None:
    refuse = InsufficientRam("needs 19.8 GiB, 2.7 GiB are free")
    with ColonyDouble(data.full(), refuse=refuse) as double:
        async with app_for(double).run_test(size=(160, 45)) as pilot:
            chat = await ask(pilot)
            await ended(pilot, chat)
            assert shows(pilot, "INSUFFICIENT_RAM")
            assert shows(pilot, "needs 19.8 GiB, 2.7 GiB are free")
            assert shows(pilot, "Use a smaller quantisation")
            assert chat.query_one(Prompt).text == QUESTION


async def test_without_a_queen_the_question_is_not_lost() -> None:
    app = app_for(None)
    async with app.run_test(size=(80, 24)) as pilot:
        app.first_model = "m"
        await pilot.press("6")
        await until(pilot, lambda: isinstance(app.screen, Chat) and app.screen.query(Prompt))
        await pilot.press(*"hello", "enter")
        chat = app.screen
        assert isinstance(chat, Chat)
        await until(pilot, lambda: chat.chat.turns)
        await ended(pilot, chat)
        assert chat.query_one(Prompt).text == "hello"
        assert shows(pilot, "QUEEN_UNREACHABLE")


async def test_prompt_keys() -> None:
    script = [data.started(), *data.ended(0)]
    with ColonyDouble(data.full(), script=script) as double:
        async with app_for(double).run_test(size=(80, 24)) as pilot:
            chat = await ask(pilot, "one\ntwo")
            await ended(pilot, chat)
            prompt = chat.query_one(Prompt)
            await pilot.press("up")
            assert prompt.text == "one\ntwo"
            await pilot.press("up")
            assert prompt.cursor_location[0] == 0
            prompt.text = ""
            await pilot.press("a", "ctrl+j", "b")
            assert prompt.text == "a\nb"
            prompt.text = ""
            await pilot.press("enter")
            assert len(double.submitted) == 1
            await pilot.press("ctrl+r")
            await until(pilot, lambda: len(double.submitted) == 2)


async def test_model_picker() -> None:
    with ColonyDouble(data.full()) as double:
        async with app_for(double, model="llama-3.2-3b").run_test(size=(80, 24)) as pilot:
            await chat_empty(pilot)
            chat = pilot.app.screen
            assert isinstance(chat, Chat)
            await pilot.press("f2")
            await until(pilot, lambda: isinstance(pilot.app.screen, Picker))
            await pilot.press("down", "enter")
            await until(pilot, lambda: chat.model == "qwen2.5-32b-q4")
            await until(pilot, lambda: shows(pilot, "qwen2.5-32b-q4 ━"))


async def test_an_answer_goes_on_while_another_screen_is_shown() -> None:
    gate = threading.Event()
    script = [data.started(), gate, *data.tokens("done"), *data.ended(2)]
    with ColonyDouble(data.full(), script=script) as double:
        async with app_for(double).run_test(size=(80, 24)) as pilot:
            chat = await ask(pilot)
            await pilot.press("ctrl+o", "1")
            await until(pilot, lambda: pilot.app.current_mode == "dashboard")
            gate.set()
            await ended(pilot, chat)
            assert chat.chat.turns[-1].answer.body() == "done"


async def test_many_deltas_end_as_the_whole_text_and_the_view_follows() -> None:
    text = "".join(f"Line **{at}** of `many`{', with words' * 10}.\n\n" for at in range(25))
    pieces = data.tokens(text, 8)
    script = [
        data.started(),
        *pieces,
        ("end", EndData(finish_reason="length", tokens_out=len(pieces), duration_ms=1)),
    ]
    with ColonyDouble(data.full(), script=script) as double:
        async with app_for(double).run_test(size=(80, 24)) as pilot:
            chat = await ask(pilot)
            await ended(pilot, chat)
            await until(pilot, lambda: shows(pilot, "cut at the token limit"), "the last line")
            view = chat.chat
            drawn = view.turns[-1].query(Markdown)
            assert "".join(each.source for each in drawn) == text
            assert view.scroll_y == view.max_scroll_y
            await pilot.press("escape", "g")
            assert view.scroll_y == 0
            await pilot.press("G")
            await until(pilot, lambda: view.scroll_y == view.max_scroll_y)


async def test_no_model_at_all_is_said() -> None:
    snapshot = data.lonely()
    empty = type(snapshot)(
        hives=[], workers=[], jobs=[], models=[], narration=[], totals=snapshot.totals
    )
    with ColonyDouble(empty) as double:
        app = app_for(double)
        async with app.run_test(size=(80, 24), notifications=True) as pilot:
            await connected(pilot)
            await chat_empty(pilot)
            await pilot.press(*"hello", "enter")
            await until(pilot, lambda: shows(pilot, "This colony has no model"))
            assert double.submitted == []
