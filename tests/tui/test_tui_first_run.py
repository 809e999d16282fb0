"""The first run: what the welcome offers, tells and does, against the double."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import colony_data as data
import machine_data as machines
import msgspec
import pytest
from colony_double import ColonyDouble
from screen_driver import app_for, connected, repaint, text_of, until
from textual.pilot import Pilot
from textual.widgets import Input

from rbee.protocol.colony import Snapshot
from rbee.protocol.hives import HiveInfo
from rbee.protocol.jobs import EndData, ErrorData, StatusData
from rbee.protocol.machines import Around, HiveRecord, Nearby
from rbee.tui.app import RbeeApp
from rbee.tui.screens.adding import AddMachine
from rbee.tui.screens.dashboard import Dashboard
from rbee.tui.screens.dialogs import Confirm
from rbee.tui.screens.finding import FindModel

pytestmark = pytest.mark.anyio
WANTED = "hf:org/tiny@0123456789abcdef0123456789abcdef01234567:tiny.gguf"
TAIL = [f"line {number}" for number in range(1, 13)]


def fresh(*, demo: bool = True) -> Snapshot:
    """This machine, and at most the packaged model."""
    packaged = msgspec.structs.replace(data.MODELS[3], ref="pkg:smollm2-135m")
    return msgspec.structs.replace(
        data.quiet(), models=[data.MODELS[0], packaged] if demo else [data.MODELS[0]]
    )


def added() -> HiveInfo:
    """A machine that was added and has no rbee."""
    record = HiveRecord(name="attic", target="attic", added_at=0.0)
    attic = data.hive("attic", online=False)
    return msgspec.structs.replace(attic, kind="ssh", record=record, version=None)


def near() -> Around:
    """Two hosts of the SSH configuration."""
    return Around(
        machines=[Nearby(name=name, target=name, source="ssh config") for name in ("attic", "shed")]
    )


def failed() -> list[Any]:
    """An installation whose command says why on twelve lines."""
    return [
        ("status", StatusData(stage="installing", message="step 2 of 3: put it there")),
        (
            "error",
            ErrorData(
                code="INSTALL_FAILED",
                message="pip ended with status 1 on attic",
                details={
                    "command": "venv/bin/pip install rbee.whl",
                    "tail": TAIL,
                    "suggested_action": "Look at what it says; try again.",
                },
            ),
        ),
    ]


async def has(pilot: Pilot[Any], app: RbeeApp, words: str) -> None:
    def there() -> bool:
        repaint(app)
        return any(words in line for line in text_of(app))

    await until(pilot, there, f"{words!r} on the screen")


async def kind(pilot: Pilot[Any], screen: type, true: Callable[[], object] = lambda: True) -> None:
    await until(pilot, lambda: isinstance(pilot.app.screen, screen) and true(), screen.__name__)
    await pilot.pause()


async def test_a_machine_is_added_and_rbee_installed_without_leaving() -> None:
    with ColonyDouble(fresh(), around=near()) as double:
        app = app_for(double)
        async with app.run_test(size=(80, 24)) as pilot:
            await connected(pilot)
            await has(pilot, app, "enter  use this machine")
            await has(pilot, app, "2 hosts in ~/.ssh/config: attic, shed")
            await has(pilot, app, "d      try it with the demo model")
            double.script = [
                ("status", StatusData(stage="connecting", message="connecting")),
                (
                    "error",
                    ErrorData(
                        code="HOST_KEY_UNKNOWN",
                        message="unknown key",
                        details={"fingerprint": "SHA256:abc", "host": "attic"},
                    ),
                ),
            ]
            await pilot.press("a")
            await kind(pilot, AddMachine)
            await pilot.press("down", "enter")
            await kind(pilot, Confirm)
            await pilot.press("escape")
            await kind(pilot, Dashboard)
            await has(pilot, app, "This machine's host key was never seen here:")
            await pilot.press("enter")
            await kind(pilot, Confirm)
            double.script = [("end", EndData(finish_reason="stop", tokens_out=0, duration_ms=1))]
            await pilot.press("t")
            await kind(pilot, Dashboard)
            await has(pilot, app, "Added attic")
            assert double.submitted[1]["accept"] == "SHA256:abc"
            double.push("hive", added())
            await pilot.press("enter")
            await has(pilot, app, "i      install rbee there")
            double.script = failed()
            await pilot.press("i")
            await has(pilot, app, "pip ended with status 1 on attic")
            shown = "\n".join(text_of(app))
            assert all(line in shown for line in TAIL[-10:])
            assert "line 2 " not in shown
            assert "$ venv/bin/pip install rbee.whl" in shown
            assert double.submitted[2]["operation"] == "hive_install"
            assert double.submitted[2]["hive"] == "attic"
            await pilot.press("R")
            await until(pilot, lambda: len(double.submitted) == 4)
            await has(pilot, app, "R try again")
            await pilot.press("escape")
            await has(pilot, app, "enter  use this machine")
            await pilot.press("enter")
            await has(pilot, app, "No workers yet.")


async def test_a_model_is_downloaded_and_called_off_without_leaving() -> None:
    with ColonyDouble(fresh(demo=False)) as double:
        gate = threading.Event()
        double.script = [
            (
                "status",
                StatusData(stage="downloading", message="12.0 of 88.0 MiB, 3 MiB/s", progress=0.14),
            ),
            gate,
            ("end", EndData(finish_reason="stop", tokens_out=0, duration_ms=1)),
        ]
        app = app_for(double)
        async with app.run_test(size=(160, 45)) as pilot:
            await connected(pilot)
            await has(pilot, app, "d      download a model")
            await pilot.press("d")
            await kind(pilot, FindModel)
            app.screen.query_one(Input).value = WANTED
            await pilot.press("enter")
            await kind(pilot, Dashboard)
            await has(pilot, app, "12.0 of 88.0 MiB, 3 MiB/s")
            assert double.submitted[0]["model"] == WANTED
            await pilot.press("2")
            await until(pilot, lambda: app.current_mode == "hives")
            await pilot.press("1")
            await kind(pilot, Dashboard)
            await pilot.press("escape")
            await until(pilot, lambda: double.cancelled == ["j-201"], "the cancelling")
            await has(pilot, app, "was cancelled")
            await pilot.press("R")
            await until(pilot, lambda: len(double.submitted) == 2)
            gate.set()
            await has(pilot, app, "Fetched")


def test_who_has_used_it_before_is_not_welcomed_again() -> None:
    from rbee.tui.first_run import nothing_yet
    from rbee.tui.store import ColonyStore

    for snapshot, wanted in (
        (fresh(), True),
        (data.lonely(), True),
        (data.quiet(), False),
        (data.full(), False),
        (machines.alone(), False),
    ):
        store = ColonyStore()
        store.apply("snapshot", snapshot)
        assert nothing_yet(store) is wanted
