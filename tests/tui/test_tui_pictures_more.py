"""Pictures of what lies over the screens or comes before them: errors, first run, no queen."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import colony_data as data
import msgspec
import pytest
from colony_double import ColonyDouble
from keeper_double import KeeperDouble
from screen_driver import Clock, app_for, repaint, until
from screen_states import dashboard, jump, palette
from test_tui_first_run import added, failed, fresh, near
from textual.pilot import Pilot

from rbee.client import QueenStatus
from rbee.errors import HiveOffline, InvalidApiKey, PortTaken
from rbee.tui.app import RbeeApp
from rbee.tui.screens.report import Report

SIZES = [pytest.param((80, 24), id="80x24"), pytest.param((160, 45), id="160x45")]
WIDE = SIZES[1:]
Compare = Callable[..., bool]
Before = Callable[[Pilot[Any]], Awaitable[None]]


@pytest.fixture
def full() -> Iterator[ColonyDouble]:
    with ColonyDouble(data.full(), after=data.telemetry()) as double:
        yield double


async def welcomed(pilot: Pilot[Any]) -> RbeeApp:
    app = pilot.app
    assert isinstance(app, RbeeApp)
    await until(pilot, lambda: app.store.connected and app.store.around is not None)
    await pilot.pause()
    repaint(app)
    await pilot.pause()
    return app


async def troubled(pilot: Pilot[Any]) -> None:
    """A toast about a machine, and what was told of it before."""
    await dashboard(pilot)
    app = pilot.app
    assert isinstance(app, RbeeApp)
    app.store.say("queen", "hive attic does not answer any more", level="warning")
    error = HiveOffline("attic: connection refused (attic.local:22)", hive="attic")
    app.toast(error)
    repaint(app)
    await pilot.pause(0.2)


@pytest.mark.parametrize("size", WIDE)
def test_jump(snap_compare: Compare, full: ColonyDouble, size: tuple[int, int]) -> None:
    assert snap_compare(app_for(full), terminal_size=size, run_before=jump)


@pytest.mark.parametrize("size", WIDE)
def test_palette(snap_compare: Compare, full: ColonyDouble, size: tuple[int, int]) -> None:
    assert snap_compare(app_for(full), terminal_size=size, run_before=palette)


@pytest.mark.parametrize("size", SIZES)
def test_error(snap_compare: Compare, full: ColonyDouble, size: tuple[int, int]) -> None:
    assert snap_compare(app_for(full), terminal_size=size, run_before=troubled)


@pytest.mark.parametrize("size", SIZES)
def test_error_in_full(snap_compare: Compare, full: ColonyDouble, size: tuple[int, int]) -> None:
    async def before(pilot: Pilot[Any]) -> None:
        await troubled(pilot)
        pilot.app.clear_notifications()
        await pilot.press("e")
        await until(pilot, lambda: isinstance(pilot.app.screen, Report))
        await pilot.pause(0.1)

    assert snap_compare(app_for(full), terminal_size=size, run_before=before)


@pytest.mark.parametrize("size", SIZES)
def test_first_run(snap_compare: Compare, size: tuple[int, int]) -> None:
    with ColonyDouble(fresh(), around=near()) as double:
        assert snap_compare(app_for(double), terminal_size=size, run_before=welcomed)


@pytest.mark.parametrize("size", SIZES)
def test_first_run_failed(snap_compare: Compare, size: tuple[int, int]) -> None:
    snapshot = fresh()
    snapshot = msgspec.structs.replace(snapshot, hives=[*snapshot.hives, added()])

    async def before(pilot: Pilot[Any]) -> None:
        app = await welcomed(pilot)
        await pilot.press("i")
        first = app.screen.first  # pyright: ignore[reportAttributeAccessIssue]
        await until(pilot, lambda: first.errand is not None and first.errand.ended)
        repaint(app)
        await pilot.pause(0.1)

    with ColonyDouble(snapshot, around=near(), script=failed()) as double:
        assert snap_compare(app_for(double), terminal_size=size, run_before=before)


@pytest.mark.parametrize("size", SIZES)
def test_no_queen(snap_compare: Compare, full: ColonyDouble, size: tuple[int, int]) -> None:
    keeper, clock = KeeperDouble(full.url), Clock()

    async def before(pilot: Pilot[Any]) -> None:
        await dashboard(pilot)
        error = PortTaken("port 8500 belongs to pid 17 (nginx)")
        keeper.say(QueenStatus(False, None, error.message, error=error, retry_s=8.0))
        repaint(pilot.app)  # pyright: ignore[reportArgumentType]
        await pilot.pause(0.1)

    app = app_for(full, keeper=keeper, clock=clock)
    assert snap_compare(app, terminal_size=size, run_before=before)


def test_refused_at_the_first_start(snap_compare: Compare, full: ColonyDouble) -> None:
    full.closed = InvalidApiKey("the key that was sent is not known here")

    async def before(pilot: Pilot[Any]) -> None:
        app = pilot.app
        assert isinstance(app, RbeeApp)
        await until(pilot, lambda: app.store.error is not None)
        app.store.retry_at = app.store.clock() + 4
        repaint(app)
        await pilot.pause(0.1)

    assert snap_compare(app_for(full), terminal_size=(80, 24), run_before=before)
