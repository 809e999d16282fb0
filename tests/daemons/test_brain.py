"""The inbox: events one by one, in their order, whoever puts them there."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

import anyio
import pytest

from rbee.clock import SystemClock
from rbee.core.colony import Colony
from rbee.core.effects import Effect
from rbee.core.events import Event, JobCancelAsked
from rbee.core.limits import Limits
from rbee.core.scheduling import Ect
from rbee.daemons.queen.brain import AT_ONCE, Brain
from rbee.errors import ShuttingDown

pytestmark = pytest.mark.anyio
WHO: ContextVar[str] = ContextVar("who", default="nobody")


class Listening(Colony):
    """Notes what it handles and in whose name; a cancellation of `twice` asks for two more."""

    heard: list[tuple[str, str]]

    def handle(self, event: Event, *, now: float, utc: float) -> list[Effect]:
        self.effects = []
        if isinstance(event, JobCancelAsked):
            self.heard.append((event.job_id, WHO.get()))
            if event.job_id == "defect":
                raise ValueError("a defect")
            if event.job_id == "twice":
                self.effects = [JobCancelAsked("first", ""), JobCancelAsked("second", "")]  # pyright: ignore[reportAttributeAccessIssue]
        return self.effects


def brain_of() -> tuple[Brain, list[tuple[str, str]]]:
    colony = Listening(policy=Ect(ctx=512), limits=Limits())
    colony.heard = []

    def execute(effect: Any) -> None:
        brain.post(effect)

    brain = Brain(colony, SystemClock(), execute)
    return brain, colony.heard


def asked(name: str) -> JobCancelAsked:
    return JobCancelAsked(name, "")


async def test_what_waits_comes_before_what_is_called_and_what_follows_after():
    brain, heard = brain_of()
    async with anyio.create_task_group() as tasks:
        brain.post(asked("early"))
        tasks.start_soon(brain.run)
        await anyio.wait_all_tasks_blocked()
        WHO.set("somebody")
        brain.post(asked("twice"))
        brain.post(asked("defect"))
        await brain.call(asked("called"))
        names = [name for name, _ in heard]
        assert names == ["early", "twice", "defect", "first", "second", "called"]
        brain.close()
    assert {who for _, who in heard} == {"nobody"}


async def test_many_are_handled_in_order_and_all_before_the_end():
    brain, heard = brain_of()
    many = [str(n) for n in range(3 * AT_ONCE)]
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(brain.run)
        await anyio.wait_all_tasks_blocked()
        for name in many:
            brain.post(asked(name))
        tasks.start_soon(brain.call, asked("last"))
        await anyio.wait_all_tasks_blocked()
        brain.close()
    assert [name for name, _ in heard] == [*many, "last"]


async def test_nothing_is_taken_after_the_end():
    brain, heard = brain_of()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(brain.run)
        await anyio.wait_all_tasks_blocked()
        brain.close()
        brain.post(asked("late"))
        with pytest.raises(ShuttingDown):
            await brain.call(asked("later"))
    assert heard == []
