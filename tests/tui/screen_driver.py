"""What the tests of the screens share: an app against a double, and waiting for what it shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from colony_data import NOW
from colony_double import ColonyDouble
from keeper_double import KeeperDouble
from textual.pilot import Pilot

from rbee.tui.app import RbeeApp


class Clock:
    """Stands still until it is told."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


def app_for(double: ColonyDouble | None, **kwargs: Any) -> RbeeApp:
    """An app whose keeper reports the double's address."""
    keeper = kwargs.pop("keeper", None) or KeeperDouble(None if double is None else double.url)
    kwargs.setdefault("clock", Clock())
    if double is not None:
        kwargs.setdefault("version", double.version)
    return RbeeApp(keeper=keeper, **kwargs)


async def until(pilot: Pilot[Any], true: Callable[[], object], what: str = "the state") -> None:
    """Let the app run until `true()`; fails after ten seconds."""
    for _ in range(1000):
        await pilot.pause(0.01)
        if true():
            return
    raise AssertionError(f"{what} did not come about")


async def connected(pilot: Pilot[Any]) -> RbeeApp:
    """Until the snapshot and what follows it are on screen."""
    app = pilot.app
    assert isinstance(app, RbeeApp)
    await until(pilot, lambda: app.store.connected, "a snapshot")
    await pilot.pause(0.05)
    repaint(app)
    await pilot.pause()
    return app


async def dialog(pilot: Pilot[Any], kind: type) -> None:
    """Until such a screen is on top, and drawn."""
    await until(pilot, lambda: isinstance(pilot.app.screen, kind), kind.__name__)
    await pilot.pause()


def repaint(app: RbeeApp) -> None:
    """What the timer does once a second."""
    app.screen.repaint()  # pyright: ignore[reportAttributeAccessIssue]


def text_of(app: RbeeApp) -> list[str]:
    """The screen as lines of plain text."""
    width, height = app.size
    lines = app.screen._compositor.render_strips()
    return [strip.text.ljust(width)[:width] for strip in lines][:height]
