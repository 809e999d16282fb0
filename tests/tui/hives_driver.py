"""What the tests of the Hives screen share: a colony with machines, and the screen with them."""

from __future__ import annotations

from typing import Any

import colony_data as data
import machine_data as m
from colony_double import ColonyDouble
from screen_driver import connected, repaint, text_of, until
from textual.pilot import Pilot

from rbee.tui.app import RbeeApp
from rbee.tui.screens.hives import Hives


def colony(*jobs: Any, stories: dict[str, Any] | None = None, **more: Any) -> ColonyDouble:
    more.setdefault("around", m.AROUND)
    return ColonyDouble(
        m.full(*jobs),
        after=data.telemetry(),
        version=m.VERSION,
        stories=stories or {},
        **more,
    )


async def hives(pilot: Pilot[Any], select: str | None = None) -> Hives:
    """The screen, with what is near already found, and the cursor on a machine."""
    app = await connected(pilot)
    app.action_mode("hives")
    await until(pilot, lambda: isinstance(app.screen, Hives))
    screen = app.screen
    assert isinstance(screen, Hives)
    await until(pilot, lambda: app.store.around is not None, "what is near")
    repaint(app)
    if select is not None:
        for _ in range(10):
            if screen.selected == select:
                break
            await pilot.press("j")
        assert screen.selected == select
    await pilot.pause()
    return screen


def words(app: RbeeApp) -> str:
    return " ".join(" ".join(text_of(app)).split())
