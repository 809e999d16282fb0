"""The screen of logs against the real queen: what she tells and what a worker writes, merged."""

from __future__ import annotations

import time

import pytest
from keeper_double import KeeperDouble
from screen_driver import app_for, connected, repaint, text_of, until

from rbee.client import QueenClient
from rbee.errors import ValidationFailed
from rbee.protocol.workers import WorkerState
from rbee.tui.screens.logs import Logs
from tests.support.home import Home

pytestmark = pytest.mark.anyio


async def test_a_workers_lines_stand_among_what_the_queen_tells(home: Home) -> None:
    assert home.rbee("queen", "start").returncode == 0
    app = app_for(None, keeper=KeeperDouble(home.url, owned=False), clock=time.time)
    async with app.run_test(size=(160, 45)) as pilot:
        await connected(pilot)
        app.start_worker("echo", hive="home", device="cpu")
        await until(pilot, lambda: "w-01" in app.store.workers)
        app.show_logs("w-01")
        await until(pilot, lambda: isinstance(app.screen, Logs))
        screen = app.screen
        assert isinstance(screen, Logs)
        workers = app.store.workers
        await until(pilot, lambda: workers["w-01"].state is WorkerState.IDLE, "an idle worker")
        shown = screen.panel.entries
        await until(pilot, lambda: [e for e in shown() if e.source == "w-01"], "its own lines")
        await until(pilot, lambda: [e for e in shown() if e.told and "w-01" in e.text], "its story")
        assert all(e.source == "w-01" or "w-01" in e.text for e in shown())
        mine = next(e for e in shown() if e.source == "w-01")
        assert abs(mine.at - time.time()) < 3600, "its time was read"

        await pilot.press("tab", "g", "enter")
        assert screen.tree_panel.chosen == ""
        repaint(app)
        order = [(e.at, e.order) for e in shown()]
        assert order == sorted(order)
        told = [(e.source, e.text) for e in shown() if e.told]
        assert len(told) == len(set(told)), "her events and her log do not repeat each other"
        assert ("queen", f"listening on {home.url}") in told, "from before anybody looked"
        assert {"home", "queen", "w-01"} <= {e.source for e in shown()}
        assert not screen.reader.trouble
        lines = "\n".join(text_of(app))
        assert all(mark in lines for mark in ("● queen", "● home", "    w-01"))

    async with QueenClient(home.url) as client:
        kept = [line async for line in client.queen_logs(lines=1, follow=False)]
        assert len(kept) == 1
        assert kept[0].startswith(time.strftime("%Y-")), "a log that is kept has dates"
        with pytest.raises(ValidationFailed):
            _ = [line async for line in client.queen_logs(lines=0, follow=False)]
    assert home.rbee("queen", "stop").returncode == 0
