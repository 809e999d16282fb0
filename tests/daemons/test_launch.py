"""Keeping a queen for a screen, with real queens: start, supervise, attach, leave, stop."""

from __future__ import annotations

import os
import signal

import anyio
import pytest

from rbee.client import QueenStatus
from rbee.daemons.detached import alive
from rbee.daemons.launch import Keeper, find
from rbee.errors import QueenUnreachable
from rbee.paths import Paths
from rbee.settings import Settings, load
from tests.support.home import Home

pytestmark = pytest.mark.anyio


@pytest.fixture
def place(home: Home, monkeypatch: pytest.MonkeyPatch) -> tuple[Settings, Paths]:
    for name, value in home.env.items():
        monkeypatch.setenv(name, value)
    paths = Paths.user(home.env)
    return load(paths=paths, env=home.env).settings, paths


class Screen:
    """What a screen would show: the reports, and waiting for one."""

    def __init__(self) -> None:
        self.reports: list[QueenStatus] = []
        self._changed = anyio.Event()

    def report(self, status: QueenStatus) -> None:
        self.reports.append(status)
        self._changed.set()
        self._changed = anyio.Event()

    async def until(self, count: int) -> QueenStatus:
        with anyio.fail_after(20):
            while len(self.reports) < count:
                await self._changed.wait()
        return self.reports[count - 1]


async def test_a_killed_queen_is_back_and_the_screen_is_told(
    home: Home, place: tuple[Settings, Paths]
) -> None:
    keeper, screen = Keeper(*place), Screen()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keeper.keep, screen.report)
        assert (await screen.until(1)).up
        assert keeper.owned
        assert home.state is not None
        first = home.state["pid"]
        os.kill(first, signal.SIGKILL)
        down = await screen.until(2)
        assert not down.up
        assert "signal 9" in down.message
        back = await screen.until(3)
        assert back.up
        assert back.restarts == 1
        assert home.get("/health")["status"] == "healthy"
        assert home.state["pid"] != first
        await keeper.stop()
        tasks.cancel_scope.cancel()
    await anyio.to_thread.run_sync(home.until_empty, 2.0)


async def test_a_second_screen_attaches_and_stops_nothing(
    home: Home, place: tuple[Settings, Paths]
) -> None:
    assert (await anyio.to_thread.run_sync(home.rbee, "queen", "start")).returncode == 0
    keeper, screen = Keeper(*place), Screen()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keeper.keep, screen.report)
        status = await screen.until(1)
        assert "attached" in status.message
        assert not keeper.owned
        tasks.cancel_scope.cancel()
    assert home.get("/health")["status"] == "healthy"


async def test_a_queen_that_is_left_stays(home: Home, place: tuple[Settings, Paths]) -> None:
    keeper, screen = Keeper(*place), Screen()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keeper.keep, screen.report)
        await screen.until(1)
        await keeper.leave()
        tasks.cancel_scope.cancel()
    assert home.state is not None
    assert alive(home.state["pid"])
    found = await find(*place)
    assert found is not None
    assert home.get("/v1/info")["lifetime"] == "persistent"


async def test_an_attached_queen_that_goes_is_replaced_by_an_own_one(
    home: Home, place: tuple[Settings, Paths]
) -> None:
    assert (await anyio.to_thread.run_sync(home.rbee, "queen", "start")).returncode == 0
    keeper, screen = Keeper(*place), Screen()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keeper.keep, screen.report)
        await screen.until(1)
        assert home.state is not None
        os.kill(home.state["pid"], signal.SIGKILL)
        assert not (await screen.until(2)).up
        assert (await screen.until(3)).up
        assert keeper.owned
        await keeper.stop()
        tasks.cancel_scope.cancel()


async def test_a_queen_elsewhere_that_does_not_answer_is_an_error(
    place: tuple[Settings, Paths], home: Home
) -> None:
    home.env["RBEE_QUEEN_URL"] = "http://127.0.0.1:9"
    settings = load(paths=place[1], env=home.env).settings
    with pytest.raises(QueenUnreachable, match=r"127\.0\.0\.1:9"):
        await find(settings, place[1])
