"""The Models screen with a real queen and a program that speaks the hub's HTTP."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from keeper_double import KeeperDouble
from screen_driver import app_for, connected, repaint, text_of, until
from textual.pilot import Pilot
from textual.widgets import Input

from rbee.models import packages
from rbee.tui.app import RbeeApp
from rbee.tui.carriage import Stand
from rbee.tui.screens.dialogs import Confirm
from rbee.tui.screens.finding import FindModel
from rbee.tui.screens.models import Models
from tests.support.home import Home
from tests.support.hub_fixture import StandIn
from tests.support.tiny_gguf import write_llama

pytestmark = pytest.mark.anyio
TINY, LARGE = "org/tiny-GGUF:Q4_K_M", "org/large-GGUF:Q4_1"


@pytest.fixture
def owner(tmp_path: Path, hub: StandIn) -> Iterator[Home]:
    """Somebody whose hub is the stand-in: a small model in it, and one that comes slowly."""
    file = packages.packaged("smollm2-135m")
    assert file is not None
    hub.add("org/tiny-GGUF", {"tiny.Q4_K_M.gguf": write_llama(tmp_path / "tiny.gguf")})
    hub.add("org/large-GGUF", {"large.Q4_1.gguf": file.path}, downloads=9)
    hub.fault("large.Q4_1.gguf", "slow", rate=4 << 20, times=0, method="GET", origin="cdn")
    user = Home(tmp_path / "owner", **hub.env)
    yield user
    user.close()


async def fetch(pilot: Pilot[Any], text: str, repository: str) -> None:
    """From the screen: find it, look into it, take what the cursor begins on."""
    app = pilot.app
    await pilot.press("d")
    await until(pilot, lambda: isinstance(app.screen, FindModel) and app.screen.query(Input))
    finder = app.screen
    assert isinstance(finder, FindModel)
    await pilot.press(*text, "enter")
    await until(pilot, lambda: finder.table.rows, "what the hub has")
    if finder._repository is None:
        assert finder.table.rows[0].key == repository
        await pilot.press("enter")
    await until(
        pilot,
        lambda: finder._repository and not [w for w in finder.workers if w.group == "hub"],
        "its choices",
    )
    assert finder.table.rows[0].cells["fits"][0] == "home cpu"
    await pilot.press("enter")
    await until(pilot, lambda: isinstance(app.screen, Models))


async def test_one_download_is_seen_and_cancelled_and_another_one_finished(
    owner: Home, hub: StandIn
) -> None:
    assert owner.rbee("queen", "start").returncode == 0
    app = app_for(None, keeper=KeeperDouble(owner.url, owned=False), clock=time.time)
    async with app.run_test(size=(160, 45)) as pilot:
        await connected(pilot)
        await pilot.press("4")
        await until(pilot, lambda: isinstance(app.screen, Models))
        screen = app.screen
        assert isinstance(screen, Models)

        def stands() -> dict[str, Stand]:
            repaint(app)
            return {one.model: one.stand for one in screen._carried}

        await fetch(pilot, "large", "org/large-GGUF")
        await until(pilot, lambda: stands().get(LARGE) is Stand.RUNNING, "it is on its way")
        await until(pilot, lambda: repaint(app) or screen._carried[0].done > 1 << 20, "bytes")
        row = next(line for line in text_of(app) if "large-GGUF → home" in line)
        assert "━" in row
        assert re.search(r" \d+ of \d+ MB ", row), row
        await fetch(pilot, "hf:org/tiny-GGUF", "org/tiny-GGUF")
        await until(
            pilot,
            lambda: repaint(app) or [h.hives for h in screen._held or [] if h.model.id == TINY],
            "the small one is there",
        )
        await until(pilot, lambda: Stand.DONE in stands().values())

        screen.transfers.focus()
        screen.transfers.cursor_key = next(one.key for one in screen._carried if one.active)
        await pilot.press("x")
        await until(pilot, lambda: isinstance(app.screen, Confirm))
        await pilot.press("c")
        await until(pilot, lambda: Stand.CANCELLED in stands().values(), "it is cancelled")
        assert "what has come is kept" in " ".join(text_of(app))
        hub.heal()
        await pilot.press("R")
        await until(pilot, lambda: list(stands().values()).count(Stand.DONE) == 2, "its end")

        await until(
            pilot,
            lambda: repaint(app) or {TINY, LARGE} <= {row.key for row in screen.table.rows},
            "both in the library",
        )
        screen.table.focus()
        screen.table.cursor_key = TINY
        await pilot.press("v")
        await until(pilot, lambda: verified(app, screen), "the check")
        await until(pilot, lambda: repaint(app) or fits_at_home(screen), "the forecast")
        await pilot.press("delete")
        await until(pilot, lambda: isinstance(app.screen, Confirm))
        await pilot.press("d")
        await until(
            pilot,
            lambda: repaint(app) or TINY not in {row.key for row in screen.table.rows},
            "it is gone",
        )
    assert owner.rbee("queen", "stop").returncode == 0


def fits_at_home(screen: Models) -> bool:
    lines = ["".join(text for text, _ in line) for line in screen.details.lines]
    return any("✓ home cpu" in line for line in lines)


def verified(app: RbeeApp, screen: Models) -> bool:
    repaint(app)
    return any(one.verb == "verify" and one.result.get("files") == 1 for one in screen._carried)
