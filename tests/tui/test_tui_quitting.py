"""Quitting: what is stopped, what is left, what is asked and waited for."""

from __future__ import annotations

import threading

import colony_data as data
import msgspec
import pytest
from colony_double import ColonyDouble
from keeper_double import KeeperDouble
from screen_driver import app_for, connected, dialog, text_of, until

from rbee.protocol.jobs import JobState
from rbee.tui.app import RbeeApp
from rbee.tui.screens.dashboard import Dashboard
from rbee.tui.screens.dialogs import Confirm, Notice

pytestmark = pytest.mark.anyio


def shows(app: RbeeApp, words: str) -> bool:
    return any(words in line for line in text_of(app))


@pytest.mark.parametrize(
    ("owned", "line"), [(True, "queen stopped"), (False, "queen still runs at")]
)
async def test_quitting_stops_only_what_was_started(owned: bool, line: str) -> None:
    with ColonyDouble(data.quiet()) as double:
        keeper = KeeperDouble(double.url, owned=owned)
        app = app_for(double, keeper=keeper)
        async with app.run_test(size=(80, 24)) as pilot:
            await connected(pilot)
            await pilot.press("ctrl+q")
            await until(pilot, lambda: app.return_value is not None, "the exit line")
        assert app.return_value is not None
        assert app.return_value.startswith(line)
        assert (keeper.stopped, keeper.left) == (owned, not owned)
        if not owned:
            assert f"{double.url}; stop it with `rbee queen stop`" in app.return_value


async def test_quitting_says_stopping_while_it_stops() -> None:
    with ColonyDouble(data.quiet()) as double:
        keeper = KeeperDouble(double.url)
        keeper.stop_gate = threading.Event()
        app = app_for(double, keeper=keeper)
        async with app.run_test(size=(80, 24)) as pilot:
            await connected(pilot)
            await pilot.press("ctrl+q")
            await dialog(pilot, Notice)
            assert shows(app, "stopping…")
            await pilot.press("ctrl+q", "escape")
            assert isinstance(app.screen, Notice)
            keeper.stop_gate.set()
            await until(pilot, lambda: app.return_value is not None)
        assert app.return_value == "queen stopped"


@pytest.mark.parametrize(
    ("keys", "stopped", "left"),
    [(["s"], True, False), (["l"], False, True), (["escape"], False, False)],
)
async def test_quitting_with_jobs_asks(keys: list[str], stopped: bool, left: bool) -> None:
    with ColonyDouble(data.full()) as double:
        keeper = KeeperDouble(double.url)
        app = app_for(double, keeper=keeper)
        async with app.run_test(size=(80, 24)) as pilot:
            await connected(pilot)
            await pilot.press("ctrl+q")
            await dialog(pilot, Confirm)
            await pilot.press(*keys)
            if stopped or left:
                await until(pilot, lambda: app.return_value is not None)
            else:
                await dialog(pilot, Dashboard)
            assert (keeper.stopped, keeper.left) == (stopped, left)


async def test_quitting_waits_for_the_last_job() -> None:
    with ColonyDouble(data.full()) as double:
        keeper = KeeperDouble(double.url)
        app = app_for(double, keeper=keeper)
        async with app.run_test(size=(80, 24)) as pilot:
            await connected(pilot)
            await pilot.press("ctrl+q")
            await dialog(pilot, Confirm)
            await pilot.press("enter")
            await dialog(pilot, Notice)
            assert shows(app, "3 jobs are still running")
            for job in data.JOBS[:3]:
                double.push("job", msgspec.structs.replace(job, state=JobState.COMPLETED))
            await until(pilot, lambda: app.return_value is not None)
        assert keeper.stopped
        assert app.return_value == "queen stopped"


async def test_waiting_to_quit_can_be_called_off() -> None:
    with ColonyDouble(data.full()) as double:
        keeper = KeeperDouble(double.url)
        app = app_for(double, keeper=keeper)
        async with app.run_test(size=(80, 24)) as pilot:
            await connected(pilot)
            await pilot.press("ctrl+q")
            await dialog(pilot, Confirm)
            await pilot.press("w")
            await dialog(pilot, Notice)
            await pilot.press("escape")
            await dialog(pilot, Dashboard)
            await pilot.press("ctrl+q")
            await dialog(pilot, Confirm)
        assert not keeper.stopped
