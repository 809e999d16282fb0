"""How to bring the screens into the states that pictures are taken of."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from typing import Any

from screen_driver import Clock, connected, repaint, until
from textual.pilot import Pilot

from rbee.tui.screens.chat import Chat
from rbee.tui.screens.dialogs import Confirm
from rbee.tui.screens.jump import Jump
from rbee.tui.screens.overlays import Help
from rbee.tui.widgets.prompt import Prompt
from rbee.tui.widgets.reply import ReplyView

QUESTION = "why do bees dance?"


async def dashboard(pilot: Pilot[Any]) -> None:
    app = await connected(pilot)
    if app.store.workers:
        await until(pilot, lambda: len(app.store.utilisation.get("mule/cuda:0", ())) == 60)
    app.store.tick()  # the clock stands still: it is the only sample, and comes sooner or later
    app.store.queue_depth.clear()
    for deep in (0, 0, 1, 1, 2, 3, 4, 3, 2, 2, 1, 0, 0, 1, 2, 1, 1, 0, 1, 1):
        if app.store.workers:
            app.store.queue_depth.append(deep)
    repaint(app)
    await pilot.pause()
    await pilot.pause()


async def welcome(pilot: Pilot[Any]) -> None:
    await connected(pilot)
    await pilot.pause()


async def chat_empty(pilot: Pilot[Any]) -> None:
    app = await connected(pilot)
    await pilot.press("6")
    await until(pilot, lambda: isinstance(app.screen, Chat) and app.screen.query(Prompt))
    app.screen.query_one(Prompt).cursor_blink = False
    await pilot.pause()
    repaint(app)
    await pilot.pause()


async def ask(pilot: Pilot[Any], question: str = QUESTION) -> Chat:
    await chat_empty(pilot)
    chat = pilot.app.screen
    assert isinstance(chat, Chat)
    chat.query_one(Prompt).text = question
    await pilot.press("enter")
    await until(pilot, lambda: chat.chat.turns, "a turn")
    return chat


async def answered(pilot: Pilot[Any]) -> None:
    chat = await ask(pilot)
    await until(pilot, lambda: chat.chat.turns[-1].answer.ended, "the end of the answer")
    await pilot.pause(0.1)
    repaint(pilot.app)  # pyright: ignore[reportArgumentType]
    await pilot.pause()


def mid_answer(
    clock: Clock, first: threading.Event, count: int
) -> Callable[[Pilot[Any]], Awaitable[None]]:
    """Stopped after `count` tokens, 0.14 s and then 0.845 s later by the clock."""

    async def before(pilot: Pilot[Any]) -> None:
        chat = await ask(pilot)
        answer = chat.chat.turns[-1].answer
        await until(pilot, lambda: answer.worker_id, "a worker")
        clock.now += 0.14
        first.set()
        await until(pilot, lambda: answer.tokens == count, "the tokens")
        clock.now += 0.845
        said = answer.parts().said.strip()
        replies = pilot.app.screen.query(ReplyView)
        await until(pilot, lambda: replies.last().source.strip() == said, "all of it drawn")
        repaint(pilot.app)  # pyright: ignore[reportArgumentType]
        await pilot.pause()

    return before


async def help_screen(pilot: Pilot[Any]) -> None:
    await dashboard(pilot)
    await pilot.press("question_mark")
    await until(pilot, lambda: isinstance(pilot.app.screen, Help))


async def confirm(pilot: Pilot[Any]) -> None:
    await dashboard(pilot)
    await pilot.press("down", "down", "x")
    await until(pilot, lambda: isinstance(pilot.app.screen, Confirm))


async def jump(pilot: Pilot[Any]) -> None:
    await dashboard(pilot)
    await pilot.press("ctrl+o")
    await until(pilot, lambda: isinstance(pilot.app.screen, Jump))


async def palette(pilot: Pilot[Any]) -> None:
    await dashboard(pilot)
    await pilot.press("ctrl+p")
    await pilot.pause(0.3)
    from textual.command import CommandInput

    pilot.app.screen.query_one(CommandInput).cursor_blink = False
    await pilot.pause(0.1)


async def quitting(pilot: Pilot[Any]) -> None:
    await dashboard(pilot)
    await pilot.press("ctrl+q")
    await until(pilot, lambda: isinstance(pilot.app.screen, Confirm))
