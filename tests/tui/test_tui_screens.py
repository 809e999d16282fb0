"""The app against the double: connecting, losing the queen, workers, keys."""

from __future__ import annotations

import time

import colony_data as data
import msgspec
import pytest
from colony_double import ColonyDouble
from keeper_double import KeeperDouble
from screen_driver import app_for, connected, dialog, repaint, text_of, until
from textual.widgets import Input, Static
from textual.widgets._toast import Toast

from rbee.client import QueenStatus
from rbee.errors import NoWorkers, PortTaken
from rbee.protocol.jobs import JobInfo, JobState
from rbee.tui.app import RbeeApp
from rbee.tui.look import RAMPS
from rbee.tui.screens.dashboard import Dashboard
from rbee.tui.screens.dialogs import Confirm, Details, Picker
from rbee.tui.screens.report import Report
from rbee.tui.store import Link
from rbee.tui.widgets.panels import NarrationPanel
from rbee.tui.widgets.table import RowTable

pytestmark = pytest.mark.anyio


def shows(app: RbeeApp, words: str) -> bool:
    return any(words in line for line in text_of(app))


def table(app: RbeeApp) -> RowTable:
    return app.screen.query_one("#workers", RowTable)


async def test_a_broken_event_stream_heals_by_itself() -> None:
    with ColonyDouble(data.full()) as double:
        app = app_for(double)
        async with app.run_test(size=(80, 24)) as pilot:
            await connected(pilot)
            double.break_events()
            await until(pilot, lambda: app.store.link is Link.LOST, "the loss")
            assert shows(app, "✗ queen restarting…")
            await until(pilot, lambda: app.store.connected, "the return")
            await until(pilot, lambda: shows(app, "● queen :8500"))


async def test_the_keepers_words_are_on_the_screen_and_the_new_address_is_used() -> None:
    with ColonyDouble(data.full()) as first, ColonyDouble(data.quiet()) as second:
        keeper = KeeperDouble(first.url)
        app = app_for(first, keeper=keeper)
        async with app.run_test(size=(160, 45)) as pilot:
            await connected(pilot)
            keeper.say(QueenStatus(up=False, url=None, message="ended with signal 9", restarts=1))
            await pilot.pause()
            assert shows(app, "✗ queen restarting…  ended with signal 9")
            keeper.say(QueenStatus(up=True, url=second.url, message="queen restarted", restarts=1))
            await until(pilot, lambda: app.store.connected and not app.store.workers)
            repaint(app)
            await pilot.pause()
            assert shows(app, "queen restarted")
            await until(pilot, lambda: shows(app, "No workers yet."))


async def test_a_queen_that_cannot_be_started_is_told() -> None:
    keeper = KeeperDouble(None)
    keeper.fail = PortTaken("port 8500 belongs to pid 17 (nginx)")
    app = app_for(None, keeper=keeper)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.store.link is Link.FAILED)
        await pilot.pause()
        assert shows(app, "port 8500 belongs to pid 17")
        await pilot.press("ctrl+q")
        await until(pilot, lambda: app.return_value is not None)
    assert keeper.stopped
    assert app.return_value == (
        "port 8500 belongs to pid 17 (nginx); Stop that process or choose another port."
    )


async def test_the_model_asked_for_is_started_once() -> None:
    with ColonyDouble(data.full()) as double:
        app = app_for(double, model="smollm2-135m")
        async with app.run_test(size=(80, 24)) as pilot:
            await connected(pilot)
            await until(pilot, lambda: double.submitted, "the job")
            double.break_events()
            await until(pilot, lambda: app.store.link is Link.LOST)
            await until(pilot, lambda: app.store.connected)
        assert [job["operation"] for job in double.submitted] == ["worker_spawn"]
        assert double.submitted[0]["model"] == "smollm2-135m"


async def test_a_model_that_runs_already_is_not_started_again() -> None:
    with ColonyDouble(data.full()) as double:
        app = app_for(double, model="llama-3.2-3b")
        async with app.run_test(size=(80, 24)) as pilot:
            await connected(pilot)
            await pilot.pause(0.1)
        assert double.submitted == []


async def test_new_worker_by_picker() -> None:
    with ColonyDouble(data.full()) as double:
        app = app_for(double)
        async with app.run_test(size=(80, 24)) as pilot:
            await connected(pilot)
            await pilot.press("n")
            await dialog(pilot, Picker)
            await pilot.press("q", "w", "e", "n", "enter")
            await until(pilot, lambda: double.submitted, "the job")
        assert double.submitted[0]["model"] == "qwen2.5-32b-q4"


async def test_stopping_asks_and_the_safe_choice_is_first() -> None:
    with ColonyDouble(data.full()) as double:
        app = app_for(double)
        async with app.run_test(size=(80, 24)) as pilot:
            await connected(pilot)
            for keys in (["x", "enter"], ["x", "escape"], ["x", "k"]):
                await pilot.press(keys[0])
                await dialog(pilot, Confirm)
                await pilot.press(keys[1])
                await dialog(pilot, Dashboard)
            assert double.submitted == []
            await pilot.press("down", "x")
            await dialog(pilot, Confirm)
            await pilot.press("s")
            await until(pilot, lambda: double.submitted, "the job")
        assert double.submitted[0] == {"operation": "worker_stop", "worker_id": "w-02"}


async def test_a_refused_job_is_a_toast_with_cause_and_remedy() -> None:
    with ColonyDouble(data.full(), refuse=NoWorkers("no device fits 19.8G")) as double:
        app = app_for(double)
        async with app.run_test(size=(80, 24), notifications=True) as pilot:
            await connected(pilot)
            app.start_worker("qwen2.5-32b-q4")
            await until(pilot, lambda: app.screen.query(Toast), "a toast")
            await pilot.pause()
            assert shows(app, "No workers")
            assert shows(app, "no device fits 19.8G")
            assert shows(app, "rbee worker list")
            assert shows(app, "e details")
            await pilot.press("e")
            await dialog(pilot, Report)
            assert shows(app, "no device fits 19.8G")
            await pilot.press("y")
            assert "error     NO_WORKERS" in app.clipboard
            assert app.clipboard.startswith("rbee ")


async def test_a_job_of_ours_that_fails_later_is_a_toast() -> None:
    with ColonyDouble(data.full()) as double:
        app = app_for(double)
        async with app.run_test(size=(80, 24), notifications=True) as pilot:
            await connected(pilot)
            app.start_worker("qwen2.5-32b-q4")
            await until(pilot, lambda: app._own_jobs)
            job = JobInfo(
                job_id="j-201",
                operation="worker_spawn",
                state=JobState.FAILED,
                error_code="MODEL_LOAD_FAILED",
                error_message="bad magic in the file",
            )
            double.push("job", job)
            await until(pilot, lambda: shows(app, "bad magic in the file"), "a toast")
            app.store.say("queen", "job j-201 \u2192 mule: bad \x1b[31m file")
            await pilot.press("e")
            await dialog(pilot, Report)
            assert shows(app, "j-201 worker_spawn")
            words = "\n".join(str(each.content) for each in app.screen.query(Static))
            assert "queen  job j-201 \u2192 mule: bad [31m file" in words, "what came before"


async def test_details_hold_state_memory_and_log() -> None:
    with ColonyDouble(data.full()) as double:
        app = app_for(double)
        async with app.run_test(size=(80, 24)) as pilot:
            await connected(pilot)
            await pilot.press("enter")
            await dialog(pilot, Details)
            words = " ".join(str(each.content) for each in app.screen.query(Static))
            assert "19.0 GiB model, 2.0 GiB process" in words
            assert "/logs/w-01.log" in words
            await pilot.press("escape")
            await dialog(pilot, Dashboard)
            await pilot.press("l")
            await until(pilot, lambda: shows(app, "Narration + logs of w-01"))


async def test_filter_and_its_inverse() -> None:
    with ColonyDouble(data.full()) as double:
        app = app_for(double)
        async with app.run_test(size=(80, 24)) as pilot:
            await connected(pilot)
            await pilot.press("slash", *"llama-3")
            await until(pilot, lambda: [row.key for row in table(app).rows] == ["w-03"])
            app.screen.query_one("#filter", Input).value = "!mule"
            await until(pilot, lambda: [row.key for row in table(app).rows] == ["w-06", "w-04"])
            await pilot.press("enter")
            assert table(app).has_focus
            await pilot.press("escape")
            await until(pilot, lambda: len(table(app).rows) == 6)


async def test_the_cursor_stays_on_its_worker_when_rows_move() -> None:
    with ColonyDouble(data.full()) as double:
        app = app_for(double)
        async with app.run_test(size=(160, 45)) as pilot:
            await connected(pilot)
            await pilot.press("G", "k")
            assert table(app).cursor_key == "w-06"
            double.push("worker", msgspec.structs.replace(data.WORKERS[0], worker_id="w-00"))
            await until(pilot, lambda: "w-00" in app.store.workers)
            repaint(app)
            current = table(app).current
            assert current is not None
            assert current.key == "w-06"
            await pilot.press("s", "s", "S", "g")
            assert table(app).sorted_by == "hive"
            first = table(app).current
            assert first is not None
            assert first.key == "w-06", "pi-hive is last by name, first in reverse"


async def test_narration_follows_until_told() -> None:
    with ColonyDouble(data.full()) as double:
        app = app_for(double)
        async with app.run_test(size=(80, 24)) as pilot:
            await connected(pilot)
            panel = app.screen.query_one(NarrationPanel)
            assert panel.scroll_offset.y == panel.max_scroll_y > 0
            await pilot.press("f")
            app.store.say("queen", "a new line")
            repaint(app)
            await pilot.pause()
            assert panel.scroll_offset.y < panel.max_scroll_y
            await pilot.press("f")
            await until(pilot, lambda: panel.scroll_offset.y == panel.max_scroll_y)


async def test_modes_by_digit_bracket_jump_and_click() -> None:
    with ColonyDouble(data.full()) as double:
        app = app_for(double)
        async with app.run_test(size=(80, 24)) as pilot:
            await connected(pilot)
            await pilot.press("5")
            await until(pilot, lambda: app.current_mode == "jobs")
            await pilot.pause()
            assert shows(app, "Throughput")
            await pilot.press("left_square_bracket")
            await until(pilot, lambda: app.current_mode == "models")
            await pilot.press("right_square_bracket", "right_square_bracket")
            await until(pilot, lambda: app.current_mode == "chat")
            await pilot.press("ctrl+o", "1")
            await until(pilot, lambda: app.current_mode == "dashboard")
            await pilot.press("ctrl+o", "n")
            await until(pilot, lambda: app.screen.query_one(NarrationPanel).has_focus)
            workers = app.screen.query_one("#workers", RowTable)
            third = workers.in_sight()[2][0]
            assert workers.cursor_key != third
            await pilot.press("ctrl+o", "f")  # `d` is the panel of devices
            await until(pilot, lambda: workers.has_focus and workers.cursor_key == third)
            await pilot.click("NavBar", offset=(13, 0))
            await until(pilot, lambda: app.current_mode == "hives")


async def test_a_hidden_screen_does_not_repaint() -> None:
    with ColonyDouble(data.full()) as double:
        app = app_for(double)
        async with app.run_test(size=(80, 24)) as pilot:
            await connected(pilot)
            dashboard = app.screen
            assert isinstance(dashboard, Dashboard)
            assert dashboard._timer._active.is_set()
            await pilot.press("2")
            await until(pilot, lambda: app.current_mode == "hives")
            await until(pilot, lambda: not dashboard._timer._active.is_set())
            await pilot.press("1")
            await until(pilot, lambda: dashboard._timer._active.is_set())


async def test_resizing_there_and_back_keeps_focus_and_cursor() -> None:
    with ColonyDouble(data.full()) as double:
        app = app_for(double)
        async with app.run_test(size=(200, 45)) as pilot:
            await connected(pilot)
            await pilot.press("j", "j")
            await pilot.resize_terminal(40, 12)
            await pilot.pause()
            assert shows(app, "rbee needs 60×16, this is 40×12")
            await pilot.resize_terminal(200, 45)
            await pilot.pause()
            assert table(app).has_focus
            assert table(app).cursor_key == "w-03"
            assert shows(app, "tok/s")


async def test_five_hundred_workers_are_quick() -> None:
    with ColonyDouble(data.full()) as double:
        app = app_for(double)
        async with app.run_test(size=(160, 45)) as pilot:
            await connected(pilot)
            for at in range(500):
                each = msgspec.structs.replace(data.WORKERS[0], worker_id=f"x-{at:03d}")
                app.store.apply("worker", each)
            took: list[float] = []
            for _ in range(5):
                began = time.perf_counter()
                repaint(app)
                took.append(time.perf_counter() - began)
                await pilot.pause()
            assert min(took) < 0.1


async def test_a_theme_change_reaches_every_panel() -> None:
    with ColonyDouble(data.full()) as double:
        app = app_for(double)
        async with app.run_test(size=(80, 24)) as pilot:
            await connected(pilot)
            before = table(app).role_style("ok").color
            await pilot.press("tab", "g")
            assert app.glyphs.spark == RAMPS["braille"]
            app.choose_theme("honey-light")
            await pilot.pause()
            after = table(app).role_style("ok").color
            assert after is not None
            assert after != before
            assert after.triplet is not None
            assert after.triplet.hex.upper() == "#2F6B1B"


async def test_the_demo_model_is_one_key_away() -> None:
    with ColonyDouble(data.lonely()) as double:
        app = app_for(double)
        async with app.run_test(size=(80, 24)) as pilot:
            await connected(pilot)
            await pilot.press("d")
            await until(pilot, lambda: double.submitted, "the job")
        assert double.submitted[0]["model"] == "smollm2-135m"


async def test_palette_runs_live_entries() -> None:
    with ColonyDouble(data.full()) as double:
        app = app_for(double)
        async with app.run_test(size=(80, 24)) as pilot:
            await connected(pilot)
            await pilot.press("6")
            await until(pilot, lambda: app.current_mode == "chat")
            await pilot.press("ctrl+p")
            await until(pilot, lambda: len(app.screen_stack) == 2)
            await pilot.press(*"stop w-05")
            await until(pilot, lambda: shows(app, "phi-4-mini on mule cuda:1"), "the entry")
            await pilot.press("enter")
            await dialog(pilot, Confirm)
            assert app.current_mode == "dashboard"
