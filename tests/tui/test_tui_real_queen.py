"""Workers and Jobs against the real queen: what the doubles promise is what she does."""

from __future__ import annotations

import time
from typing import Any

import pytest
from keeper_double import KeeperDouble
from screen_driver import app_for, connected, repaint, text_of, until
from textual.pilot import Pilot

from rbee.protocol.jobs import JobState
from rbee.protocol.operations import Infer
from rbee.protocol.workers import WorkerState
from rbee.tui.app import RbeeApp
from rbee.tui.screens.dialogs import Confirm
from rbee.tui.screens.jobs import Jobs
from rbee.tui.screens.workers import Workers
from rbee.tui.widgets.facets import Tail
from tests.support.home import Home

pytestmark = pytest.mark.anyio


async def has(pilot: Pilot[Any], app: RbeeApp, words: str) -> None:
    def there() -> bool:
        repaint(app)
        return any(words in line for line in text_of(app))

    await until(pilot, there, f"{words!r} on the screen")


async def test_a_worker_is_followed_and_restarted_and_its_jobs_told(home: Home) -> None:
    assert home.rbee("queen", "start").returncode == 0
    app = app_for(None, keeper=KeeperDouble(home.url, owned=False), clock=time.time)
    async with app.run_test(size=(160, 45)) as pilot:
        await connected(pilot)
        await pilot.press("3")
        await until(pilot, lambda: isinstance(app.screen, Workers))
        app.start_worker("echo", hive="home", device="cpu")
        ready = WorkerState.IDLE
        await until(pilot, lambda: [w for w in app.store.workers.values() if w.state is ready])
        await has(pilot, app, "● w-01")
        tail = app.screen.query_one(Tail)
        await until(pilot, lambda: tail.texts(), "its log")

        client = app.link.require()
        ask = Infer(model="echo", prompt="one two three " * 4)
        job = (await client.submit(ask)).job_id
        await until(pilot, lambda: app.store.jobs[job].state is JobState.COMPLETED)
        await pilot.press("5")
        await until(pilot, lambda: isinstance(app.screen, Jobs))
        jobs = app.screen
        assert isinstance(jobs, Jobs)
        await until(pilot, lambda: jobs._known.get(job), "the job in the list")
        jobs.table.cursor_key = job
        await has(pilot, app, "on w-01@home cpu")
        await has(pilot, app, "given to w-01")
        await has(pilot, app, "one two three one two three")

        await pilot.press("3")
        await until(pilot, lambda: isinstance(app.screen, Workers))
        await pilot.press("R")
        await until(pilot, lambda: isinstance(app.screen, Confirm))
        await pilot.press("r")
        await until(pilot, lambda: "w-02" in app.store.workers, "the one that follows")
        past = app.store.past.workers["w-01"]
        assert past.gone_at is not None
        assert not past.failed
        await until(pilot, lambda: app.store.workers["w-02"].state is ready)
        await has(pilot, app, "○ w-01")
    assert home.rbee("queen", "stop").returncode == 0
