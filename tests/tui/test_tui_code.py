"""Code: the policy in words, the latest decisions and the whole of one; double and queen."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import colony_data as data
import jobs_data
import pytest
from colony_double import ColonyDouble
from hypothesis import given, settings
from hypothesis import strategies as st
from screen_driver import app_for, connected, repaint, text_of, until
from textual.pilot import Pilot

from rbee.protocol.decisions import Decision, PolicyInfo
from rbee.protocol.operations import Infer
from rbee.tui.app import RbeeApp
from rbee.tui.desk import SettingsDesk
from rbee.tui.glyphs import UNICODE
from rbee.tui.rows_code import policy_lines, rows
from rbee.tui.screens.code import Code
from rbee.tui.screens.settings import Settings
from tests.support.home import Home

anyio = pytest.mark.anyio
SIZES = [pytest.param(size, id=f"{size[0]}x{size[1]}") for size in ((80, 24), (160, 45))]
POLICY = PolicyInfo(
    name="ect",
    rules=[
        "What cannot be is left out: a pin, the context, memory, the backend.",
        "Of the rest the smallest expected completion time wins.",
    ],
    figures={"context of a slot": "4096 tokens", "tries of a job": "5"},
)


@pytest.fixture
def colony() -> Iterator[ColonyDouble]:
    with ColonyDouble(data.full(), policy=POLICY) as double:
        jobs_data.furnish(double)
        double.decisions = [
            *jobs_data.why_waiting().decisions,
            *jobs_data.why_given().decisions,
        ]
        yield double


async def shown(pilot: Pilot[Any]) -> Code:
    app = await connected(pilot)
    await pilot.press("8")
    await until(pilot, lambda: isinstance(app.screen, Code), "the screen")
    screen = app.screen
    assert isinstance(screen, Code)
    await until(pilot, lambda: screen._policy is not None, "the policy")
    if screen.table.rows:
        await until(pilot, lambda: screen._why is not None, "the decision")
    repaint(app)
    await pilot.pause()
    await pilot.pause()
    return screen


def words(app: RbeeApp) -> str:
    return "\n".join(text_of(app))


async def before(pilot: Pilot[Any]) -> None:
    await shown(pilot)


@pytest.mark.parametrize("size", SIZES)
def test_code_full(
    snap_compare: Callable[..., bool], colony: ColonyDouble, size: tuple[int, int]
) -> None:
    assert snap_compare(app_for(colony), terminal_size=size, run_before=before)


@pytest.mark.parametrize("size", SIZES)
def test_code_empty(snap_compare: Callable[..., bool], size: tuple[int, int]) -> None:
    with ColonyDouble(data.quiet(), policy=POLICY) as double:
        assert snap_compare(app_for(double), terminal_size=size, run_before=before)


@anyio
async def test_decisions_are_found_opened_and_read_again(colony: ColonyDouble) -> None:
    app = app_for(colony)
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await shown(pilot)
        assert "[Decision]" in words(app)
        await pilot.press("down", "w")
        await until(pilot, lambda: "Scheduler › j-118 › Decision" in words(app), "the crumbs")
        await until(pilot, lambda: "it is the only worker with the model" in words(app))
        await pilot.press("right")
        await until(pilot, lambda: "smallest expected completion time" in words(app))
        assert "This version has no scripts of your own" in words(app)
        await pilot.press("escape", "slash", *"waits", "enter")
        await until(pilot, lambda: [r.cells["job"][0] for r in screen.table.rows] == ["j-120"])
        assert "Scheduler ›" not in words(app)
        await pilot.press("Y")
        assert app.clipboard == "rbee why j-120"
        asked = len([path for path in colony.asked if path.startswith("/v1/decisions")])
        repaint(app)
        await pilot.pause()
        assert len([p for p in colony.asked if p.startswith("/v1/decisions")]) == asked, (
            "for nothing"
        )


@anyio
async def test_what_the_real_queen_decided_and_takes_over(home: Home) -> None:
    """The policy she tells follows the settings that are changed on the screen next to it."""
    assert home.rbee("queen", "start").returncode == 0
    from rbee.daemons.launch import Keeper
    from rbee.paths import Paths

    paths = Paths.user(home.env)
    desk = SettingsDesk(paths, check=RbeeApp.check_keys, env=home.env)
    keeper = Keeper(desk.settings, paths)
    app = app_for(None, keeper=keeper, desk=desk, clock=time.time)
    async with app.run_test(size=(160, 45)) as pilot:
        await connected(pilot)
        client = app.link.require()
        await client.submit(Infer(model="echo", prompt="one two"))
        await until(pilot, lambda: any(j.finished_at for j in app.store.jobs.values()), "an answer")
        screen = await shown(pilot)
        await until(pilot, lambda: [r for r in screen.table.rows if "given to w-01" in r.text()])
        await until(pilot, lambda: "context of a slot" in words(app), "its figures")
        assert "4096 tokens" in words(app)
        await pilot.press("9")
        await until(pilot, lambda: isinstance(app.screen, Settings))
        conf = app.screen
        assert isinstance(conf, Settings)
        conf._save("worker.ctx", "2048")
        await until(pilot, lambda: "the queen has been told" in conf._note, "what was written")
        policy = await client.policy()
        while policy.figures["context of a slot"] != "2048 tokens":
            await pilot.pause(0.02)
            policy = await client.policy()
        assert policy.name == "ect"
        assert len(policy.rules) >= 5
    assert home.rbee("queen", "stop").returncode == 0


@settings(deadline=None, max_examples=40)
@given(text=st.text(), width=st.integers(20, 120))
def test_whatever_is_told_stays_on_its_line(text: str, width: int) -> None:
    one = Decision(
        job_id="j-1", at=0.0, policy=text, model=text, verdict=text, chosen=text, reason=text
    )
    assert rows([one], UNICODE)[0].cells["why"][0].isprintable()
    told = PolicyInfo(name=text, rules=[text], figures={"name": text})
    for line in policy_lines(told, width):
        assert all("\n" not in part and "\x1b" not in part for part, _ in line)
