"""Pictures of the chat, cell by cell, beside those of test_tui_pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import colony_data as data
import pytest
from colony_double import ColonyDouble
from screen_driver import Clock, app_for, repaint, until
from screen_states import answered, chat_empty
from textual.pilot import Pilot

from rbee.tui.screens.chat import Chat
from rbee.tui.screens.dialogs import Picker
from rbee.tui.screens.parameters import Parameters
from rbee.tui.widgets.prompt import Prompt

Compare = Callable[..., bool]
SIZES = [pytest.param((80, 24), id="80x24"), pytest.param((160, 45), id="160x45")]
THOUGHT = "<think>\nAngles and time.\nThat is all of it.\n</think>\n"
SHORT = "It tells them **where**:\n\n- how far\n- which way\n"


@pytest.fixture
def talking() -> Iterator[ColonyDouble]:
    script = [data.started(), *data.tokens(THOUGHT + SHORT), *data.ended(24)]
    with ColonyDouble(data.full(), script=[*script]) as double:
        yield double


async def settled(pilot: Pilot[Any], chat: Chat, count: int) -> None:
    await until(pilot, lambda: len(chat.dialogue.exchanges) == count, f"{count} questions")
    await until(pilot, lambda: not chat.dialogue.running, "the ends")
    await pilot.pause(0.1)
    if isinstance(pilot.app.screen, Chat):
        repaint(chat.rbee)
    await pilot.pause()
    await pilot.pause()


async def asked(pilot: Pilot[Any], text: str, count: int) -> Chat:
    chat = pilot.app.screen
    assert isinstance(chat, Chat)
    prompt = chat.query_one(Prompt)
    prompt.focus()
    prompt.text = text
    await pilot.press("enter")
    await settled(pilot, chat, count)
    return chat


@pytest.mark.parametrize("size", SIZES)
def test_chat_messages(snap_compare: Compare, talking: ColonyDouble, size: tuple[int, int]) -> None:
    """Two questions; keys go to the first one, whose thoughts are unfolded."""

    async def before(pilot: Pilot[Any]) -> None:
        await answered(pilot)
        chat = await asked(pilot, "and what does a wiggle say?", 2)
        await pilot.press("escape", "k", "t")
        await settled(pilot, chat, 2)

    assert snap_compare(app_for(talking), terminal_size=size, run_before=before)


@pytest.mark.parametrize("size", SIZES)
def test_chat_compare(snap_compare: Compare, talking: ColonyDouble, size: tuple[int, int]) -> None:
    async def before(pilot: Pilot[Any]) -> None:
        await chat_empty(pilot)
        await pilot.press("f5")
        await until(pilot, lambda: isinstance(pilot.app.screen, Picker))
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, Chat))
        await asked(pilot, "why do bees dance?", 1)

    app = app_for(talking, model="llama-3.2-3b")
    assert snap_compare(app, terminal_size=size, run_before=before)


@pytest.mark.parametrize("size", SIZES)
def test_chat_parameters(
    snap_compare: Compare, talking: ColonyDouble, size: tuple[int, int]
) -> None:
    async def before(pilot: Pilot[Any]) -> None:
        await chat_empty(pilot)
        await pilot.press("f3")
        await until(pilot, lambda: isinstance(pilot.app.screen, Parameters))
        await pilot.press("9", "tab", "0", ".", "5")
        await pilot.pause()
        await pilot.pause()

    assert snap_compare(app_for(talking), terminal_size=size, run_before=before)


def test_chat_list(snap_compare: Compare, talking: ColonyDouble) -> None:
    clock = Clock()

    async def before(pilot: Pilot[Any]) -> None:
        await answered(pilot)
        chat = pilot.app.screen
        assert isinstance(chat, Chat)
        await chat.name_chat(chat.dialogue.id, "bees")
        clock.now += 1  # what was said last comes first
        await pilot.press("ctrl+n")
        await asked(pilot, "rust lifetimes", 1)
        await pilot.press("f4")
        await settled(pilot, chat, 1)

    app = app_for(talking, clock=clock)
    assert snap_compare(app, terminal_size=(80, 24), run_before=before)


@pytest.mark.parametrize("theme", ["honey-contrast", "ansi-dark"])
def test_chat_themes(snap_compare: Compare, talking: ColonyDouble, theme: str) -> None:
    app = app_for(talking, theme=theme)
    assert snap_compare(app, terminal_size=(80, 24), run_before=answered)


def test_chat_without_colour(
    snap_compare: Compare, talking: ColonyDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")

    async def before(pilot: Pilot[Any]) -> None:
        await answered(pilot)
        await pilot.press("escape")
        await pilot.pause()
        await pilot.pause()

    assert snap_compare(app_for(talking), terminal_size=(80, 24), run_before=before)


def test_chat_ascii(snap_compare: Compare, talking: ColonyDouble) -> None:
    app = app_for(talking, ascii_glyphs=True)
    assert snap_compare(app, terminal_size=(80, 24), run_before=answered)
