"""What must not break the screens: a queen that cannot be used, hostile texts, sizes and pastes."""

from __future__ import annotations

from typing import Any

import colony_data as data
import msgspec
import pytest
from colony_double import ColonyDouble
from hypothesis import given, settings
from hypothesis import strategies as st
from keeper_double import KeeperDouble
from rich.cells import cell_len
from rich.segment import Segment
from screen_driver import Clock, app_for, connected, repaint, text_of, until
from textual import events
from textual.color import Color
from textual.command import CommandPalette
from textual.pilot import Pilot
from textual.widgets import Input

from rbee.client import QueenStatus
from rbee.errors import InvalidApiKey, MissingApiKey, PortTaken, QueenUnreachable, RbeeError
from rbee.protocol.colony import Narration, WorkerGone
from rbee.protocol.jobs import JobState
from rbee.tui import cells
from rbee.tui.app import RbeeApp
from rbee.tui.glyphs import UNICODE
from rbee.tui.guard import Guard
from rbee.tui.rows import (
    JOB_COLUMNS,
    WORKER_COLUMNS,
    device_cards,
    device_strip,
    job_row,
    worker_row,
)
from rbee.tui.screens.dialogs import Choice, Confirm
from rbee.tui.store import DeviceView, Link
from rbee.tui.talk_files import Summary
from rbee.tui.widgets.prompt import Prompt
from rbee.tui.widgets.table import Column, Row, RowTable

EVIL = (
    "\x1b]0;owned\x07\x1b[2J\x9b31m[red]\u202egnp\u202c\u200b\ufeff e\u0301\u0301\u0301\u0301 "
    "你好 \U0001f468\u200d\U0001f469 \u2764\ufe0f\t\r\nעברית"
)
texts = st.one_of(st.text(max_size=40), st.sampled_from([EVIL, "", "\u0301", "\u3164" * 20]))


def shows(app: RbeeApp, words: str) -> bool:
    return any(words in line for line in text_of(app))


def steering(app: RbeeApp) -> set[str]:
    """Characters on the screen that would do something to a terminal."""
    strips = app.screen._compositor.render_strips()  # pyright: ignore[reportPrivateUsage]
    return {c for strip in strips for seg in strip if not seg.control for c in seg.text
            if not c.isprintable()}  # fmt: skip


@given(texts, st.integers(0, 60))
@settings(deadline=None, max_examples=200)
def test_a_text_takes_the_cells_that_were_counted(text: str, room: int) -> None:
    shown = cells.safe(text)
    assert shown.isprintable()
    assert cells.safe(shown) == shown
    assert cells.width(shown) == cell_len(shown)
    cut = cells.clip(shown, room)
    assert cell_len(cut) <= room
    assert cell_len(cells.pad(cut, room)) == room


@given(st.lists(texts, min_size=5, max_size=5), st.integers(30, 200))
@settings(deadline=None, max_examples=60)
def test_no_text_moves_its_neighbours(words: list[str], width: int) -> None:
    name, hive, model, message, label = words
    worker = msgspec.structs.replace(
        data.WORKERS[0], worker_id=name, hive=hive, model=model, backend=label, device=message
    )
    job = msgspec.structs.replace(
        data.JOBS[2], job_id=name, model=model, worker_id=hive, waiting_for=message
    )
    for columns, row, plain in (
        (
            WORKER_COLUMNS,
            worker_row(worker, UNICODE, 0.0),
            worker_row(data.WORKERS[0], UNICODE, 0.0),
        ),
        (JOB_COLUMNS, job_row(job, UNICODE), job_row(data.JOBS[2], UNICODE)),
    ):
        assert _edges(columns, row) == _edges(columns, plain)
    device = msgspec.structs.replace(data.DEVICES["mule"][0], label=label)
    view = DeviceView(title=hive, device=device, history=(1.0, 99.0))
    for draw in (device_cards, device_strip):
        for line in draw([view], UNICODE, width):
            assert sum(cell_len(cells.safe(text)) for text, _ in line) <= max(width, 70)


def _edges(columns: tuple[Column, ...], row: Row) -> list[int]:
    """Where each cell begins, with the widths that the columns have before they grow."""
    table = RowTable("t", columns)
    widths = {column.key: column.width for column in columns}
    line = table._line(row, False, list(columns), widths)  # pyright: ignore[reportPrivateUsage]
    at, edges = 0, []
    for text, _ in line:
        edges.append(at)
        at += cell_len(cells.safe(text))
    return [*edges, at]


@given(texts)
@settings(deadline=None, max_examples=100)
def test_the_guard_takes_out_what_steers_and_keeps_the_width(text: str) -> None:
    [segment] = Guard().apply([Segment(text)], Color(0, 0, 0))
    assert segment.text.isprintable()
    assert cell_len(segment.text) >= cell_len(text)


@pytest.mark.anyio
async def test_each_way_of_having_no_queen_is_told_and_ends_by_itself() -> None:
    clock = Clock()
    with ColonyDouble(data.full()) as double:
        double.closed = MissingApiKey("this queen needs a key")
        keeper = KeeperDouble(double.url)
        app = app_for(double, keeper=keeper, clock=clock, version="7.0")
        async with app.run_test(size=(100, 30)) as pilot:

            async def told(*words: str) -> None:
                def there() -> bool:
                    repaint(app)
                    return all(shows(app, each) for each in words)

                await until(pilot, there, f"{words} on the screen")

            await told(
                "✗ queen refuses", "This queen needs a key.", "Set RBEE_API_KEY", "^t try now"
            )
            assert app.store.link is Link.REFUSED
            double.closed = InvalidApiKey("the key is not known")
            await pilot.press("ctrl+t")
            await told("The key is not known.", "Put a valid key into RBEE_API_KEY")
            assert keeper.hurried == 1
            double.closed = None
            await pilot.press("ctrl+t")
            await told(
                "✗ other version", "is rbee 0, this screen is rbee 7.0", "rbee queen stop ends"
            )
            double.stranger = "<html>It works!</html>"
            await pilot.press("ctrl+t")
            await told("✗ no queen there", "is no queen", "Stop that program")
            assert app.store.retry_at is not None
            clock.now = app.store.retry_at - 3
            await told("Next try in 3 s.")
            double.stranger, app.link.version = "", "0"
            await until(pilot, lambda: app.store.connected, "the return, without a key pressed")
            await told("● queen :8500")
            assert not shows(app, "try now")
            assert not app.screen.has_class("-stale")

            clock.now += 5
            error = PortTaken("port 8500 belongs to pid 17 (nginx)")
            status = QueenStatus(False, None, error.message, error=error, retry_s=8.0)
            away = QueenUnreachable("no queen answers at http://mule:8500", away=True)
            keeper.say(QueenStatus(False, None, away.message, error=away, retry_s=2.0))
            await told("✗ queen away", "No queen answers at http://mule:8500.  Next try in 2 s.")
            keeper.say(status)
            await told(
                "✗ queen not running", "Port 8500 belongs to pid 17 (nginx).  Next try in 8 s.",
                "Stop that process or choose another port.", "shown as of ",
            )  # fmt: skip
            assert app.screen.has_class("-stale")
            table = app.screen.query_one("#workers", RowTable)
            muted = Color.parse(app.theme_variables["muted"]).rich_color
            assert table.role_style("ok").color == muted, "nothing looks live"
            await pilot.press("2")
            await told("Port 8500 belongs to pid 17 (nginx).")
            keeper.say(QueenStatus(True, double.url, "queen started"))
            await until(pilot, lambda: app.store.connected, "the return")
            await told("● queen :8500")


@pytest.mark.anyio
async def test_hostile_texts_sizes_and_pastes_leave_the_screens_whole() -> None:
    full = data.full()
    evil = msgspec.structs.replace(
        full,
        hives=[*full.hives, msgspec.structs.replace(data.hive("mule"), name=EVIL)],
        workers=[*full.workers, msgspec.structs.replace(
            data.WORKERS[3], worker_id="w-66", model=EVIL * 3, hive=EVIL, error=EVIL * 50)],
        jobs=[*full.jobs, msgspec.structs.replace(
            data.JOBS[3], job_id="j-66", model=EVIL, state=JobState.FAILED, error_code="X",
            error_message=EVIL * 100)],
        narration=[*full.narration, Narration(at=data.NOW, source=EVIL, message=EVIL * 20)],
        models=[*full.models, data.model(EVIL, 1.0)],
    )  # fmt: skip
    with ColonyDouble(evil, after=data.telemetry(3)) as double:
        app = app_for(double)
        async with app.run_test(size=(200, 45), notifications=True) as pilot:
            await connected(pilot)
            app.toast(RbeeError(EVIL, action=EVIL))
            for key in ("2", "3", "5", "1"):
                await pilot.press(key)
                await pilot.pause()
                repaint(app)
                await pilot.pause()
                assert not steering(app), key
                assert all(cell_len(line) == 200 for line in text_of(app) if line.isascii())
            assert shows(app, "w-66"), "\n".join(text_of(app))
            for size in [(200, 45), (40, 12), (60, 16)] * 6:
                await pilot.resize_terminal(*size)
            assert shows(app, "[1 Dash]")
            await pilot.resize_terminal(40, 12)
            await until(pilot, lambda: shows(app, "rbee needs 60×16, this is 40×12"), "the notice")
            await pilot.resize_terminal(80, 24)
            await pilot.pause()
            assert app.screen.query_one("#workers", RowTable).has_focus
            for press in (["e"], ["n"], ["ctrl+p"], ["question_mark"], ["ctrl+o"], ["x"]):
                await pilot.press(*press)
                await pilot.pause()
                assert not steering(app), press
                await pilot.press("escape")
                await until(pilot, lambda: len(app.screen_stack) == 1, "the dialog's end")
            paste = ("a line " + EVIL.replace("\n", "") + "\n") * 1700
            assert len(paste) > 100_000
            await pilot.press("slash")
            await _paste(pilot, paste)
            assert not steering(app)
            assert app.screen.query_one("#filter", Input).has_focus
            await pilot.press("escape", "6")
            await until(pilot, lambda: app.screen.query(Prompt), "the chat")
            await pilot.pause()
            app.screen.query_one(Prompt).focus()
            await _paste(pilot, paste)
            assert not steering(app)
            assert shows(app, "[6 Chat]")


async def _paste(pilot: Pilot[Any], text: str) -> None:
    pilot.app.post_message(events.Paste(text))
    await pilot.pause()
    await pilot.pause()


@pytest.mark.anyio
async def test_the_palette_is_not_put_over_a_question_and_titles_are_no_markup() -> None:
    with ColonyDouble(data.full()) as double:
        app = app_for(double)
        async with app.run_test(size=(80, 24)) as pilot:
            await connected(pilot)
            await pilot.press("x")
            await until(pilot, lambda: isinstance(app.screen, Confirm))
            app.ask_stop("w-02")
            app.show_logs("w-02")
            await pilot.press("ctrl+p")
            await until(pilot, lambda: all(w.name != "switched" for w in app.workers))
            await pilot.pause()
            assert isinstance(app.screen, Confirm)
            await pilot.press("escape")
            await pilot.pause()
            name = "[/] why [red]?"
            app.open_chats = lambda: [Summary("c", name, 0.0)]
            await pilot.press("ctrl+p", *"why")
            await until(pilot, lambda: shows(app, f"chat: open {name}"))
            await pilot.press("escape")
            await until(pilot, lambda: not isinstance(app.screen, CommandPalette))
            await app.push_screen(Confirm("[red]Stop[/]?", "q", [Choice("k", "keep", "keep")]))
            await until(pilot, lambda: shows(app, "[red]Stop[/]?"))


@pytest.mark.anyio
async def test_tables_outlive_columns_and_rows_that_go() -> None:
    with ColonyDouble(data.full()) as double:
        app = app_for(double)
        async with app.run_test(size=(160, 45)) as pilot:
            await connected(pilot)
            table = app.screen.query_one("#workers", RowTable)
            table.focus()
            await pilot.press(*"sssssssss")
            assert table.sorted_by == "up"
            await pilot.resize_terminal(80, 24)
            await pilot.press("s")
            assert table.sorted_by is None, "a column without room is like the last one"
            await pilot.press("j", "j")
            assert table.cursor_key == "w-03"
            app.store.apply("worker_gone", WorkerGone(worker_id="w-03", reason="removed"))
            repaint(app)
            assert table.cursor_key == "w-05", "what has come in its place"
            await pilot.press("slash")
            await until(pilot, lambda: shows(app, "f1 help"))
            assert not shows(app, "/ filter"), "it would be typed"
            table.set_filter("no such thing")
            await until(pilot, lambda: shows(app, "No row is like that."))
            table.set_filter("")
            assert table.cursor_key == "w-05"
            table.cursor_key = None
            table.set_rows(list(table.rows))
            assert table.cursor_key == "w-01", "as if it was new"
            table.set_rows([Row("a", {"up": ("\u00b2nd \u0663", "text")}), *table.rows])
            table.sorted_by = "up"
            table.set_rows([*table.rows])


@pytest.mark.anyio
async def test_in_ascii_nothing_is_drawn_with_other_signs() -> None:
    with ColonyDouble(data.full()) as double:
        app = app_for(double, ascii_glyphs=True)
        async with app.run_test(size=(80, 24), notifications=True) as pilot:
            await connected(pilot)
            for keys in ("", "x", "escape,question_mark", "escape,ctrl+o", "escape,enter",
                         "escape,6", "f3", "escape,f2"):  # fmt: skip
                await pilot.press(*keys.split(",") if keys else ())
                await pilot.pause(0.05)
                other = [line for line in text_of(app) if not line.isascii()]
                assert not other, (keys, other)
