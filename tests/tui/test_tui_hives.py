"""The Hives screen against the double: what it shows, and what its keys do."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Awaitable, Callable, Generator
from pathlib import Path
from typing import Any

import colony_data as data
import machine_data as m
import msgspec
import pytest
from colony_double import ColonyDouble
from hives_driver import colony, hives, words
from screen_driver import app_for, connected, dialog, repaint, text_of, until
from textual.pilot import Pilot
from textual.widgets import Input
from textual.widgets._toast import Toast

from rbee.protocol.colony import HiveGone
from rbee.protocol.jobs import JobState
from rbee.protocol.machines import LinkInfo
from rbee.tui.app import RbeeApp
from rbee.tui.screens.adding import AddMachine
from rbee.tui.screens.dashboard import Dashboard
from rbee.tui.screens.dialogs import Confirm, Details
from rbee.tui.screens.hives import Hives
from rbee.tui.screens.logs import Logs
from rbee.tui.store import ColonyStore

anyio = pytest.mark.anyio
replace = msgspec.structs.replace
SIZES = [pytest.param((80, 24), id="80x24"), pytest.param((160, 45), id="160x45")]
Compare = Callable[..., bool]
Before = Callable[[Pilot[Any]], Awaitable[None]]


@anyio
async def test_a_machine_is_added_its_key_looked_at_and_the_cursor_is_on_it() -> None:
    gate = threading.Event()
    second = [*m.unknown_key()[:1], gate]
    with colony(stories={"j-201": m.unknown_key(), "j-202": second}) as double:
        app = app_for(double)
        async with app.run_test(size=(80, 24), notifications=True) as pilot:
            screen = await hives(pilot)
            await pilot.press("a")
            await dialog(pilot, AddMachine)
            app.screen.query_one("#target", Input).value = "vince@node-a.lan"
            named = app.screen.query_one("#name", Input)
            await until(pilot, lambda: named.value == "node-a", "a name")
            await pilot.press("enter")
            await until(pilot, lambda: double.submitted, "the job")
            double.push("job", m.job("hive_add", "node-a", job_id="j-201"))
            await until(pilot, lambda: "j-201" in app.store.jobs)
            repaint(app)
            await dialog(pilot, Confirm)
            await until(pilot, lambda: m.KEY in words(app))
            assert "ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub" in words(app)
            await pilot.press("enter")
            await dialog(pilot, Hives)
            assert len(double.submitted) == 1, "enter is the safe choice"
            assert screen.selected == "node-a"
            await until(pilot, lambda: "host key?" in words(app))
            await pilot.press("enter")
            await dialog(pilot, Confirm)
            await pilot.press("t")
            await until(pilot, lambda: len(double.submitted) == 2, "the job with the key")
            wanted = {"operation": "hive_add", "name": "node-a", "target": "vince@node-a.lan"}
            assert double.submitted[0].items() >= wanted.items()
            assert double.submitted[1].items() >= {**wanted, "accept": m.KEY}.items()
            double.push(
                "job",
                m.job("hive_add", "node-a", job_id="j-201", state=JobState.FAILED),
            )
            double.push("job", replace(m.job("hive_add", "node-a"), job_id="j-202"))
            await until(pilot, lambda: "j-202" in app.store.jobs)
            repaint(app)
            await until(pilot, lambda: "connecting to vince@node-a.lan:22" in words(app))


@anyio
async def test_the_dialog_says_what_is_wrong_and_offers_what_is_near() -> None:
    with colony() as double:
        app = app_for(double)
        async with app.run_test(size=(80, 24)) as pilot:
            await hives(pilot)
            await pilot.press("a")
            await dialog(pilot, AddMachine)
            await pilot.press("enter")
            await until(pilot, lambda: "Say where it is." in words(app))
            await pilot.press("down", "down")
            assert app.screen.query_one("#target", Input).value == "node-b"
            app.screen.query_one("#name", Input).value = "attic"
            await pilot.press("enter")
            await until(pilot, lambda: "attic is the name of another machine." in words(app))
            await pilot.press("escape")
            await dialog(pilot, Hives)
        assert double.submitted == []


@anyio
async def test_an_installation_ticks_its_steps_off_and_can_be_cancelled() -> None:
    first, rest = threading.Event(), threading.Event()
    events = m.installing(6)
    story = [*events[:5], first, *events[5:], rest]
    with colony(m.job("hive_install", "shed"), stories={"j-300": story}) as double:
        app = app_for(double)
        async with app.run_test(size=(160, 45)) as pilot:
            screen = await hives(pilot, "shed")
            errand = screen.errands.of("shed")
            assert errand is not None
            await until(pilot, lambda: errand.steps and errand.steps[-1].title == "prepare")
            repaint(app)
            await pilot.pause()
            await until(pilot, lambda: "✓ make the packages ready" in words(app))
            assert "◐ prepare" in words(app)
            assert "○ 8 more steps" in words(app)
            first.set()
            await until(pilot, lambda: errand.steps[-1].title == "install")
            repaint(app)
            await until(pilot, lambda: "◐ install" in words(app))
            await pilot.press("escape")
            await dialog(pilot, Confirm)
            await pilot.press("enter")
            await dialog(pilot, Hives)
            assert double.cancelled == [], "going on is the safe choice"
            await pilot.press("escape")
            await dialog(pilot, Confirm)
            await pilot.press("c")
            await until(pilot, lambda: "installing was cancelled" in words(app))
            assert double.cancelled == ["j-300"]
            await pilot.press("escape")
            await until(pilot, lambda: "was cancelled" not in words(app))


@anyio
async def test_a_hidden_screen_reads_nothing_and_takes_up_where_it_was() -> None:
    gate = threading.Event()
    story = [*m.installing(2), gate, *m.failing()[5:]]
    with colony(m.job("hive_install", "attic"), stories={"j-300": story}) as double:
        app = app_for(double)
        async with app.run_test(size=(160, 45)) as pilot:
            screen = await hives(pilot, "attic")
            errand = screen.errands.of("attic")
            assert errand is not None
            await until(pilot, lambda: errand.last_id == 6)
            app.action_mode("dashboard")
            await until(pilot, lambda: isinstance(app.screen, Dashboard))
            await until(pilot, lambda: not [w for w in app.workers if w.group == "errands"])
            gate.set()
            app.action_mode("hives")
            await until(pilot, lambda: errand.ended, "the end")
            await until(pilot, lambda: "No space left on device" in words(app))
            streams = [path for path in double.asked if "/stream" in path]
            assert streams[-1] == "/v1/jobs/j-300/stream?after=6"


@anyio
async def test_keys_do_what_they_say_and_ask_first() -> None:
    with colony() as double:
        app = app_for(double)
        async with app.run_test(size=(80, 24)) as pilot:
            screen = await hives(pilot)
            for name, keys, operation in (
                ("attic", ["i", "enter", "i", "u"], "hive_upgrade"),
                ("attic", ["x", "k", "x", "s"], "hive_stop"),
                ("attic", ["R", "escape", "R", "r"], "hive_restart"),
                ("attic", ["delete", "enter", "delete", "r"], "hive_remove"),
                ("attic", ["c"], "hive_check"),
                ("barn", ["w"], "hive_wake"),
                ("barn", ["r"], "hive_refresh"),
                ("mule", ["i"], "hive_install"),
                ("shed", ["i"], "hive_install"),
                ("shed", ["x"], "hive_start"),
            ):
                screen.table.cursor_key = name
                repaint(app)
                done = len(double.submitted)
                for at, key in enumerate(keys):
                    await pilot.press(key)
                    await dialog(pilot, Confirm if len(keys) > 1 and at % 2 == 0 else Hives)
                    assert len(double.submitted) == done or at == len(keys) - 1, "the safe choice"
                await until(pilot, lambda done=done: len(double.submitted) > done, operation)
                sent = double.submitted[-1]
                assert (sent["operation"], sent["hive"]) == (operation, name)


@anyio
async def test_the_queens_own_machine_offers_what_is_possible() -> None:
    with colony() as double:
        app = app_for(double)
        async with app.run_test(size=(160, 45)) as pilot:
            screen = await hives(pilot)
            assert screen.selected == "laptop"
            footer = text_of(app)[-1]
            assert "a add" in footer
            for absent in ("install", "stop", "shell", "wake"):
                assert absent not in footer
            await pilot.press("x", "i", "delete", "t", "R", "w")
            await pilot.pause()
            assert app.screen is screen
            assert double.submitted == []
            await pilot.press("j")
            await until(pilot, lambda: "i install" in text_of(app)[-1])


@anyio
async def test_details_log_filter_and_copy() -> None:
    with colony(logs={"attic": ["hive up", "red \x1b[31malert"]}) as double:
        app = app_for(double)
        async with app.run_test(size=(80, 24)) as pilot:
            screen = await hives(pilot, "attic")
            await pilot.press("enter")
            await dialog(pilot, Details)
            await until(pilot, lambda: m.KEY in words(app))
            await pilot.press("escape")
            await dialog(pilot, Hives)
            await pilot.press("l")
            await dialog(pilot, Logs)
            logs = app.screen
            assert isinstance(logs, Logs)
            assert (logs.tree_panel.chosen, logs.panel.following) == ("attic", True)
            await pilot.press("2")
            await dialog(pilot, Hives)
            await pilot.press("slash", *"rtx", "enter")
            await until(pilot, lambda: [r.key for r in screen.table.rows] == ["attic", "mule"])
            await pilot.press("escape")
            await until(pilot, lambda: len(screen.table.rows) == 6)
            await pilot.press("Y")
            assert app.clipboard == "rbee hive show attic"


@anyio
async def test_what_is_near_is_asked_once_and_again_with_a_key() -> None:
    with colony() as double:
        app = app_for(double)
        async with app.run_test(size=(160, 45)) as pilot:
            screen = await hives(pilot)
            for _ in range(3):
                repaint(app)
            asked = [path for path in double.asked if "nearby" in path]
            assert asked == ["/v1/hives/nearby?lan=0"]
            assert [row.key for row in screen.nearby.rows] == ["node-a", "node-b", "vault", "mule"]
            screen.nearby.focus()
            await pilot.press("r")
            await until(pilot, lambda: "/v1/hives/nearby?lan=1" in double.asked)
            await pilot.press("enter")
            await dialog(pilot, AddMachine)
            assert app.screen.query_one("#target", Input).value == "node-a"
            assert app.screen.query_one("#name", Input).value == "node-a"


@anyio
async def test_a_machine_goes_and_comes_and_every_screen_says_so() -> None:
    with colony() as double:
        app = app_for(double)
        async with app.run_test(size=(160, 45)) as pilot:
            screen = await hives(pilot, "attic")
            assert "hives 4/6" in text_of(app)[0]
            lost = m.machine("attic", "vince@attic.local", "connecting", link=LinkInfo(up=False))
            double.push("hive", lost)
            await until(pilot, lambda: not app.store.hives["attic"].online)
            repaint(app)
            await pilot.pause()
            assert "hives 3/6" in text_of(app)[0]
            assert "◐ attic connecting" in words(app)
            assert "attic" not in {v.title.partition(":")[0] for v in app.store.device_views()}
            assert not [key for key in app.store.utilisation if key.startswith("attic/")]
            double.push("hive_gone", HiveGone(name="attic"))
            await until(pilot, lambda: "attic" not in app.store.hives)
            repaint(app)
            await pilot.pause()
            assert "hives 3/5" in text_of(app)[0]
            assert screen.selected != "attic"


def test_the_top_bar_warns_of_what_should_be_up_only() -> None:
    store = ColonyStore()
    store.apply("snapshot", replace(m.full(), hives=[m.here(), m.machine("a", "a", "stopped")]))
    assert store.counts().hives_missing == 0
    store.apply("hive", m.machine("a", "a", "offline"))
    assert store.counts().hives_missing == 1


@anyio
async def test_a_failure_elsewhere_is_a_toast_and_here_it_is_in_the_panel() -> None:
    failed = m.job(
        "hive_stop", "attic", JobState.FAILED, error_code="CONFLICT", error_message="it is busy"
    )
    with colony(stories={"j-201": [], "j-202": []}) as double:
        app = app_for(double)
        async with app.run_test(size=(160, 45), notifications=True) as pilot:
            await hives(pilot, "attic")
            for number, toasts in ((1, 0), (2, 1)):
                await pilot.press("x")
                await dialog(pilot, Confirm)
                await pilot.press("s")
                job_id = f"j-20{number}"
                await until(pilot, lambda job_id=job_id: job_id in app._own_jobs)
                if number == 2:
                    app.action_mode("dashboard")
                    await until(pilot, lambda: isinstance(app.screen, Dashboard))
                double.push("job", replace(failed, job_id=job_id, created_at=m.NOW + number))
                await until(pilot, lambda job_id=job_id: job_id in app.store.jobs)
                repaint(app)
                if number == 1:
                    await until(pilot, lambda: "it is busy" in words(app))
                else:
                    await until(pilot, lambda: app.screen.query(Toast))
                shown = [t for t in app._notifications if t.severity == "error"]
                assert len(shown) == toasts


@anyio
async def test_a_shell_is_the_users_own_ssh_and_the_screen_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "ssh"
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >> {tmp_path}/said\nexit 3\n', "utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    handed: list[str] = []

    @contextlib.contextmanager
    def suspend(_: RbeeApp) -> Generator[None]:
        # A terminal to give away is what a test's app does not have.
        handed.append("away")
        yield
        handed.append("back")

    with colony() as double:
        app = app_for(double)
        async with app.run_test(size=(80, 24), notifications=True) as pilot:
            await hives(pilot, "barn")
            await pilot.press("t")
            await until(pilot, lambda: app.screen.query(Toast), "the toast")
            (told,) = app._notifications
            assert "ssh -p 2222 -- bee@barn.lan" in told.message
            monkeypatch.setattr(RbeeApp, "suspend", suspend)
            await pilot.press("t")
            await until(pilot, lambda: handed == ["away", "back"])
            assert (tmp_path / "said").read_text("utf-8").split() == [
                "-p", "2222", "--", "bee@barn.lan",
            ]  # fmt: skip
            await pilot.press("k")
            repaint(app)
            await until(pilot, lambda: "attic.local" in words(app))


@anyio
async def test_the_first_run_names_machines_and_a_adds_one() -> None:
    with ColonyDouble(data.lonely(), around=m.AROUND) as double:
        app = app_for(double)
        async with app.run_test(size=(80, 24)) as pilot:
            await connected(pilot)
            await until(pilot, lambda: app.store.around is not None)
            repaint(app)
            known = "3 hosts in ~/.ssh/config: node-a, node-b and 1 more"
            await until(pilot, lambda: known in words(app))
            await pilot.press("a")
            await dialog(pilot, AddMachine)
            assert app.current_mode == "dashboard", "nobody has to leave the welcome"
            await until(pilot, lambda: "node-a answers" in words(app))
