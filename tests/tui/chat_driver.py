"""What the tests of chats share: a colony with two workers of one model, keys, chats on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import colony_data as data
from screen_driver import repaint, text_of, until
from textual.pilot import Pilot

from rbee.protocol.colony import Snapshot
from rbee.protocol.workers import WorkerState
from rbee.tui.answer import Answer, Phase
from rbee.tui.app import RbeeApp
from rbee.tui.screens.chat import Chat
from rbee.tui.talk import Dialogue, Exchange
from rbee.tui.talk_files import Shelf
from rbee.tui.widgets.prompt import Prompt


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


def ids_of(count: int) -> list[str]:
    """Names of conversations."""
    return [f"c-20260101-000000-00000{at}" for at in range(count)]


def kept(
    folder: Path,
    id_: str,
    questions: int = 1,
    *,
    revision: int = 1,
    name: str = "",
    said: str = "",
    job: str | None = None,
    coming: bool = False,
) -> None:
    """A conversation on disk, changed at the second its name ends with. `said`: the answers, else
    `answer 0` and so on; `coming`: they were still coming from their job."""
    shelf, exchanges, at = Shelf(folder), [], float(id_[-1])
    for number in range(questions):
        answer = Answer(prompt=f"q{number}", model="llama-3.2-3b", asked_at=at, job_id=job)
        answer.text = [said or f"answer {number}"]
        answer.phase = Phase.STREAMING if coming else Phase.DONE
        exchanges.append(Exchange(f"q{number} of {id_[-1]}", [answer]))
    chat = Dialogue(
        id=id_, created_at=at, name=name, changed_at=at, revision=revision - 1, exchanges=exchanges
    )
    shelf.save(id_, chat.talk())
