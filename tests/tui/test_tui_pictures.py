"""Pictures of the screens, cell by cell. `export_pictures.py` writes those the README shows."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import colony_data as data
import pytest
from colony_double import ColonyDouble
from keeper_double import KeeperDouble
from screen_driver import Clock, app_for
from screen_states import (
    answered,
    chat_empty,
    confirm,
    dashboard,
    help_screen,
    jump,
    mid_answer,
    palette,
    quitting,
    welcome,
)
from textual.pilot import Pilot

from rbee.client import QueenStatus

SIZES = [(80, 24), (160, 45)]
Before = Callable[[Pilot[Any]], Awaitable[None]]
Compare = Callable[..., bool]


def sizes(*names: tuple[int, int]) -> list[Any]:
    return [pytest.param(size, id=f"{size[0]}x{size[1]}") for size in names or SIZES]


@pytest.fixture
def full() -> Iterator[ColonyDouble]:
    with ColonyDouble(data.full(), after=data.telemetry()) as double:
        yield double


@pytest.fixture
def quiet() -> Iterator[ColonyDouble]:
    with ColonyDouble(data.quiet(), after=data.telemetry()[2::3]) as double:
        yield double


@pytest.fixture
def talking() -> Iterator[ColonyDouble]:
    with ColonyDouble(data.full()) as double:
        yield double


@pytest.mark.parametrize("size", sizes())
def test_dashboard_full(snap_compare: Compare, full: ColonyDouble, size: tuple[int, int]) -> None:
    assert snap_compare(app_for(full), terminal_size=size, run_before=dashboard)


@pytest.mark.parametrize("size", sizes())
def test_dashboard_empty(snap_compare: Compare, quiet: ColonyDouble, size: tuple[int, int]) -> None:
    assert snap_compare(app_for(quiet), terminal_size=size, run_before=dashboard)


@pytest.mark.parametrize("theme", ["honey-light", "honey-contrast", "ansi-dark"])
def test_dashboard_themes(snap_compare: Compare, full: ColonyDouble, theme: str) -> None:
    app = app_for(full, theme=theme)
    assert snap_compare(app, terminal_size=(80, 24), run_before=dashboard)


def test_dashboard_without_colour(
    snap_compare: Compare, full: ColonyDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert snap_compare(app_for(full), terminal_size=(80, 24), run_before=dashboard)


def test_dashboard_ascii(snap_compare: Compare, full: ColonyDouble) -> None:
    app = app_for(full, ascii_glyphs=True)
    assert snap_compare(app, terminal_size=(80, 24), run_before=dashboard)


@pytest.mark.parametrize("size", sizes())
def test_chat_empty(snap_compare: Compare, talking: ColonyDouble, size: tuple[int, int]) -> None:
    assert snap_compare(app_for(talking), terminal_size=size, run_before=chat_empty)


@pytest.mark.parametrize("size", sizes())
def test_chat_mid_answer(
    snap_compare: Compare, talking: ColonyDouble, size: tuple[int, int]
) -> None:
    clock, first, rest = Clock(), threading.Event(), threading.Event()
    pieces = data.tokens()
    talking.script = [
        data.started(),
        first,
        *pieces[:70],
        rest,
        *pieces[70:],
        *data.ended(len(data.tokens())),
    ]
    app = app_for(talking, clock=clock)
    before = mid_answer(clock, first, 70)
    assert snap_compare(app, terminal_size=size, run_before=before)


@pytest.mark.parametrize("size", sizes())
def test_chat_answered(snap_compare: Compare, talking: ColonyDouble, size: tuple[int, int]) -> None:
    talking.script = [data.started(), *data.tokens(), *data.ended(len(data.tokens()))]
    assert snap_compare(app_for(talking), terminal_size=size, run_before=answered)


def test_chat_light(snap_compare: Compare, talking: ColonyDouble) -> None:
    talking.script = [data.started(), *data.tokens(), *data.ended(len(data.tokens()))]
    app = app_for(talking, theme="honey-light")
    assert snap_compare(app, terminal_size=(80, 24), run_before=answered)


@pytest.mark.parametrize("size", sizes())
def test_welcome(snap_compare: Compare, size: tuple[int, int]) -> None:
    with ColonyDouble(data.lonely()) as double:
        assert snap_compare(app_for(double), terminal_size=size, run_before=welcome)


@pytest.mark.parametrize("size", sizes())
def test_help(snap_compare: Compare, full: ColonyDouble, size: tuple[int, int]) -> None:
    assert snap_compare(app_for(full), terminal_size=size, run_before=help_screen)


@pytest.mark.parametrize("size", sizes())
def test_confirm(snap_compare: Compare, full: ColonyDouble, size: tuple[int, int]) -> None:
    assert snap_compare(app_for(full), terminal_size=size, run_before=confirm)


def test_jump(snap_compare: Compare, full: ColonyDouble) -> None:
    assert snap_compare(app_for(full), terminal_size=(80, 24), run_before=jump)


def test_palette(snap_compare: Compare, full: ColonyDouble) -> None:
    assert snap_compare(app_for(full), terminal_size=(80, 24), run_before=palette)


def test_quit_dialog(snap_compare: Compare, full: ColonyDouble) -> None:
    assert snap_compare(app_for(full), terminal_size=(80, 24), run_before=quitting)


def test_queen_restarting(snap_compare: Compare, full: ColonyDouble) -> None:
    keeper = KeeperDouble(full.url)

    async def before(pilot: Pilot[Any]) -> None:
        await dashboard(pilot)
        keeper.say(QueenStatus(up=False, url=None, message="the queen exited with signal 9"))
        await pilot.pause()

    assert snap_compare(app_for(full, keeper=keeper), terminal_size=(80, 24), run_before=before)


def test_too_small(snap_compare: Compare, full: ColonyDouble) -> None:
    assert snap_compare(app_for(full), terminal_size=(48, 12), run_before=dashboard)
