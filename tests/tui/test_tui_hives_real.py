"""The Hives screen with a real queen, and a machine behind a real sshd."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from keeper_double import KeeperDouble
from screen_driver import connected, repaint, text_of, until
from textual.widgets import Input

from rbee import __version__
from rbee.tui.app import RbeeApp
from rbee.tui.screens.adding import AddMachine
from rbee.tui.screens.dialogs import Confirm
from rbee.tui.screens.hives import Hives
from rbee.tui.store import Link
from tests.support.box import Boxes, boxes_of
from tests.support.home import Home
from tests.support.sshd import MISSING, fingerprint

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(bool(MISSING), reason=MISSING)]


@pytest.fixture
def boxes(home: Home, tmp_path: Path) -> Iterator[Boxes]:
    with boxes_of(home, tmp_path) as boxes:
        boxes.add("attic").has_rbee()
        boxes.rbee("queen", "start")
        yield boxes


async def test_a_machine_of_the_ssh_config_is_added_checked_and_removed(boxes: Boxes) -> None:
    app = RbeeApp(keeper=KeeperDouble(boxes.home.url))
    async with app.run_test(size=(160, 45)) as pilot:
        await connected(pilot)
        app.action_mode("hives")
        await until(pilot, lambda: isinstance(app.screen, Hives))
        screen = app.screen
        assert isinstance(screen, Hives)

        def words() -> str:
            return " ".join(" ".join(text_of(app)).split())

        await until(pilot, lambda: [row.key for row in screen.nearby.rows] == ["attic"], "nearby")
        await until(pilot, lambda: "Only this machine so far." in words())
        await pilot.press("a")
        await until(pilot, lambda: isinstance(app.screen, AddMachine))
        await pilot.press("down")
        assert app.screen.query_one("#name", Input).value == "attic"
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, Confirm), "the question about the key")
        shown = fingerprint(boxes["attic"].sshd.host_keys[0])
        await until(pilot, lambda: shown in words(), "the key's fingerprint")
        await pilot.press("t")
        await until(
            pilot,
            lambda: "attic" in app.store.hives and app.store.hives["attic"].online,
            "the hive there",
        )
        repaint(app)
        await until(pilot, lambda: "✓ added" in words(), "its end")
        assert screen.selected == "attic"
        assert app.store.hives["attic"].version == __version__
        await until(pilot, lambda: "2 of 2 online" in words())

        await pilot.press("c")
        await until(pilot, lambda: "✓ the hive's answer" in words(), "the check")
        await pilot.press("delete")
        await until(pilot, lambda: isinstance(app.screen, Confirm))
        await pilot.press("r")
        await until(pilot, lambda: "attic" not in app.store.hives, "its end")
        repaint(app)
        await until(pilot, lambda: "1 of 1 online" in words())
        assert app.store.link is Link.UP
    boxes["attic"].until_empty(20)
