"""What the Hives screen and its dialogs look like."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from typing import Any

import colony_data as data
import machine_data as m
import pytest
from colony_double import ColonyDouble
from hives_driver import colony, hives
from screen_driver import app_for, dialog, repaint, until
from screen_states import welcome
from textual.pilot import Pilot
from textual.widgets import Input

from rbee.tui.app import RbeeApp
from rbee.tui.screens.adding import AddMachine
from rbee.tui.screens.dialogs import Confirm

SIZES = [pytest.param((80, 24), id="80x24"), pytest.param((160, 45), id="160x45")]
Compare = Callable[..., bool]
Before = Callable[[Pilot[Any]], Awaitable[None]]


def on(name: str) -> Before:
    async def before(pilot: Pilot[Any]) -> None:
        screen = await hives(pilot, name)
        errand = screen.errands.of(name)
        if errand is not None:
            await until(pilot, lambda: errand.ended or errand.last_id >= 8, "the story")
        repaint(screen.rbee)
        await pilot.pause()
        await pilot.pause()

    return before


@pytest.mark.parametrize("size", SIZES)
def test_hives_full(snap_compare: Compare, size: tuple[int, int]) -> None:
    with colony() as double:
        assert snap_compare(app_for(double), terminal_size=size, run_before=on("attic"))


@pytest.mark.parametrize("size", SIZES)
def test_hives_alone(snap_compare: Compare, size: tuple[int, int]) -> None:
    around = m.AROUND if size[0] > 100 else m.NOWHERE
    with ColonyDouble(m.alone(), around=around, version=m.VERSION) as double:
        assert snap_compare(app_for(double), terminal_size=size, run_before=on("laptop"))


@pytest.mark.parametrize("size", SIZES)
def test_hives_installing(snap_compare: Compare, size: tuple[int, int]) -> None:
    gate = threading.Event()
    story = {"j-300": [*m.installing(3, 0.6), gate]}
    with colony(m.job("hive_install", "attic"), stories=story) as double:
        assert snap_compare(app_for(double), terminal_size=size, run_before=on("attic"))


@pytest.mark.parametrize("size", SIZES)
def test_hives_failed(snap_compare: Compare, size: tuple[int, int]) -> None:
    story = {"j-300": m.failing()}
    with colony(m.job("hive_install", "attic"), stories=story) as double:
        assert snap_compare(app_for(double), terminal_size=size, run_before=on("attic"))


def test_hives_offline_without_colour(
    snap_compare: Compare, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    with colony() as double:
        app = app_for(double, ascii_glyphs=True)
        assert snap_compare(app, terminal_size=(80, 24), run_before=on("barn"))


def test_add_dialog(snap_compare: Compare) -> None:
    async def before(pilot: Pilot[Any]) -> None:
        await on("laptop")(pilot)
        await pilot.press("a")
        await dialog(pilot, AddMachine)
        await pilot.press("down")
        await pilot.pause()

    with colony() as double:
        assert snap_compare(app_for(double), terminal_size=(80, 24), run_before=before)


def test_key_dialog(snap_compare: Compare) -> None:
    async def before(pilot: Pilot[Any]) -> None:
        screen = await hives(pilot)
        await pilot.press("a")
        await dialog(pilot, AddMachine)
        screen.rbee.screen.query_one("#target", Input).value = "vince@node-a.lan"
        await pilot.press("enter")
        double.push("job", m.job("hive_add", "node-a", job_id="j-201"))
        await until(pilot, lambda: "j-201" in screen.rbee.store.jobs)
        repaint(screen.rbee)
        await dialog(pilot, Confirm)

    with colony(stories={"j-201": m.unknown_key()}) as double:
        app = app_for(double)
        app.notify = lambda *_, **__: None  # the toast about the job comes and goes by the clock
        assert snap_compare(app, terminal_size=(80, 24), run_before=before)


def test_welcome_names_machines(snap_compare: Compare) -> None:
    async def before(pilot: Pilot[Any]) -> None:
        await welcome(pilot)
        app = pilot.app
        assert isinstance(app, RbeeApp)
        await until(pilot, lambda: app.store.around is not None)
        repaint(app)
        await pilot.pause()

    with ColonyDouble(data.lonely(), around=m.AROUND) as double:
        assert snap_compare(app_for(double), terminal_size=(80, 24), run_before=before)
