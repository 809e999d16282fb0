"""The Workers screen against the double: what it shows, what its keys do, what it looks like."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import colony_data as data
import msgspec
import pytest
from colony_double import ColonyDouble
from screen_driver import app_for, connected, dialog, repaint, text_of, until
from textual.pilot import Pilot
from textual.widgets import OptionList

from rbee.protocol.colony import WorkerGone
from rbee.protocol.hives import BackendStatus, ModelInfo
from rbee.protocol.jobs import EndData, ErrorData, JobInfo, JobState
from rbee.protocol.models import HeldModel
from rbee.protocol.workers import WorkerState
from rbee.tui.app import RbeeApp
from rbee.tui.glyphs import UNICODE
from rbee.tui.past import GONE, Past
from rbee.tui.places import place_views
from rbee.tui.rows_workers import start_command
from rbee.tui.screens.choosing import Chooser
from rbee.tui.screens.dialogs import Confirm, Picker
from rbee.tui.screens.workers import Workers
from rbee.tui.store import ColonyStore
from rbee.tui.texts import wrapped
from rbee.tui.widgets.facets import Tail
from rbee.tui.widgets.table import RowTable

anyio = pytest.mark.anyio
replace = msgspec.structs.replace
GIB = data.GIB
LOG = [
    "load: \x1b[31mreading\x1b[0m tensors 1/32",
    "load: 18.5 GiB in 3.1 s",
    "slot 0: prompt of 1204 tokens, 1024 of them known",
    "slot 1: 96 tokens in 1.5 s",
]
CUDA = BackendStatus(
    name="llamacpp", formats=["gguf"], capabilities=["chat"], devices=["cuda"], max_slots=16
)
BIG = data.model(
    "qwen2.5-32b-q4",
    19.8,
    quant="Q4_K_M",
    context=32768,
    weights_bytes=19 * GIB,
    kv_bytes_per_token=1 << 16,
    compute_bytes=GIB >> 1,
)


@pytest.fixture
def colony() -> Iterator[ColonyDouble]:
    base = data.full()
    snapshot = replace(
        base,
        hives=[
            replace(hive, backends=[] if hive.name == "pi-hive" else [CUDA]) for hive in base.hives
        ],
        models=[BIG, *[model for model in base.models if model.id != BIG.id]],
        workers=[replace(base.workers[0], pinned=True, last_beat_at=data.NOW), *base.workers[1:]],
    )
    gone = replace(base.workers[0], worker_id="w-00", state=WorkerState.BUSY)
    crash = WorkerGone(worker_id="w-00", reason="it exited with signal 9 (out of memory)")
    after = [*data.telemetry(), ("worker", gone), ("worker_gone", crash)]
    with ColonyDouble(snapshot, after=after) as double:
        double.logs = {"w-01": list(LOG)}
        double.held = [HeldModel(model=BIG, hives=["mule"])]
        yield double


async def shown(pilot: Pilot[Any]) -> Workers:
    app = await connected(pilot)
    await pilot.press("3")
    await until(pilot, lambda: isinstance(app.screen, Workers) and app.screen.table.rows)
    screen = app.screen
    assert isinstance(screen, Workers)
    return screen


def shows(app: RbeeApp, words: str) -> bool:
    return any(words in line for line in text_of(app))


@anyio
async def test_stop_drain_restart_and_move_ask_first(colony: ColonyDouble) -> None:
    colony.script = [("end", EndData(finish_reason="stop", tokens_out=0, duration_ms=1))]
    app = app_for(colony)
    async with app.run_test(size=(80, 24)) as pilot:
        await shown(pilot)
        for keys in (("x", "enter"), ("x", "escape"), ("R", "k"), ("R", "enter")):
            await pilot.press(keys[0])
            await dialog(pilot, Confirm)
            await pilot.press(keys[1])
            await dialog(pilot, Workers)
        assert colony.submitted == []
        await pilot.press("x")
        await dialog(pilot, Confirm)
        assert shows(app, "qwen2.5-32b-q4 on mule cuda:0 is serving 2 requests.")
        await pilot.press("d")
        await until(pilot, lambda: len(colony.submitted) == 1)
        await pilot.press("down", "x")
        await dialog(pilot, Confirm)
        assert not shows(app, "drain: finish"), "nothing runs there"
        await pilot.press("s")
        await until(pilot, lambda: len(colony.submitted) == 2)
        await pilot.press("D")
        await until(pilot, lambda: len(colony.submitted) == 3)
        await pilot.press("g", "R")
        await dialog(pilot, Confirm)
        await pilot.press("r")
        await until(pilot, lambda: len(colony.submitted) == 5, "the stop, then the start")
        await pilot.press("m")
        await dialog(pilot, Chooser)
        await pilot.press("enter")
        await until(pilot, lambda: len(colony.submitted) == 7, "the start, then the drain")
    assert colony.submitted[:4] == [
        {"operation": "worker_drain", "worker_id": "w-01"},
        {"operation": "worker_stop", "worker_id": "w-02"},
        {"operation": "worker_drain", "worker_id": "w-02"},
        {"operation": "worker_stop", "worker_id": "w-01"},
    ]
    again = {name: value for name, value in colony.submitted[4].items() if value is not None}
    assert again == {
        "operation": "worker_spawn", "model": "qwen2.5-32b-q4", "hive": "mule",
        "device": "cuda:0", "backend": "llamacpp", "slots": 4, "ctx": 8192, "pin": True,
    }  # fmt: skip
    there, drained = colony.submitted[5:]
    assert (there["operation"], there["hive"], there["backend"]) == ("worker_spawn", "attic", None)
    assert drained == {"operation": "worker_drain", "worker_id": "w-01"}


@anyio
async def test_a_restart_whose_stop_fails_starts_nothing(colony: ColonyDouble) -> None:
    error = ErrorData(code="NOT_FOUND", message="no running worker w-01", details={})
    colony.script = [("error", error)]
    app = app_for(colony)
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        await shown(pilot)
        await pilot.press("R")
        await dialog(pilot, Confirm)
        await pilot.press("r")
        await until(pilot, lambda: shows(app, "no running worker w-01"), "a toast")
    assert [job["operation"] for job in colony.submitted] == ["worker_stop"]


@anyio
async def test_a_new_worker_where_one_wants_it_and_marks(colony: ColonyDouble) -> None:
    app = app_for(colony)
    async with app.run_test(size=(160, 45)) as pilot:
        await shown(pilot)
        await pilot.press("n")
        await dialog(pilot, Picker)
        await pilot.press("q", "w", "enter")
        await dialog(pilot, Chooser)
        assert shows(app, "wherever it runs best")
        assert shows(app, "✗ mule cuda:0")
        assert shows(app, "idle there: w-02")
        assert shows(app, "attic does not have qwen2.5-32b-q4")
        assert shows(app, "no installed backend of pi-hive runs gguf files")
        assert shows(app, "laptop is offline")
        await pilot.press("escape")
        await dialog(pilot, Workers)
        await pilot.press("n")
        await dialog(pilot, Picker)
        await pilot.press("q", "w", "enter")
        await dialog(pilot, Chooser)
        lines = app.screen.query_one(OptionList)
        await pilot.press("j")
        assert lines.highlighted == 1
        await pilot.press("enter")
        await until(pilot, lambda: colony.submitted)
        assert (colony.submitted[0]["hive"], colony.submitted[0]["device"]) == ("attic", "cuda:0")
        await pilot.press("space", "space", "x")
        await dialog(pilot, Confirm)
        assert shows(app, "Stop 2 workers?")
        assert shows(app, "w-01, w-02: 2 requests run there.")
        await pilot.press("s")
        await until(pilot, lambda: len(colony.submitted) == 3)
        assert [job["worker_id"] for job in colony.submitted[1:]] == ["w-01", "w-02"]


@anyio
async def test_its_log_is_followed_while_it_is_on_screen_and_no_longer(
    colony: ColonyDouble,
) -> None:
    app = app_for(colony)
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await shown(pilot)
        assert not [path for path in colony.asked if "logs" in path], "no log is shown yet"
        await pilot.press("l")
        tail = screen.query_one(Tail)
        await until(pilot, lambda: len(tail.texts()) == len(LOG), "the log")
        await until(pilot, lambda: shows(app, "load: [31mreading[0m tensors 1/32"), "no escapes")
        colony.logs["w-01"].append("and one more")
        await until(pilot, lambda: "and one more" in tail.texts())
        await pilot.press("l")
        await until(pilot, lambda: shows(app, "Narration + logs of w-01"))
        await pilot.press("3")
        await until(pilot, lambda: app.screen is screen)
        await pilot.press("escape", "down")
        await until(pilot, lambda: any("cannot be read" in line for line in tail.texts()))
        assert any("/logs/w-02.log on mule" in line for line in tail.texts())
        await pilot.press("1")
        await until(pilot, lambda: not [w for w in screen.workers if w.group == "log"])
        await pilot.press("3")
        await until(pilot, lambda: [w for w in screen.workers if w.group == "log"])


@anyio
async def test_tabs_filter_and_who_has_gone(colony: ColonyDouble) -> None:
    app = app_for(colony)
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await shown(pilot)
        await pilot.press("right", "right")
        assert shows(app, "[Metrics]")
        await pilot.press("right", "right")
        assert shows(app, "[Info]")
        assert shows(app, "Before it, here: 1") or screen.facets["Info"].max_scroll_y
        await pilot.press("slash", *"lost")
        await until(pilot, lambda: [row.key for row in screen.table.rows] == ["w-00"])
        await pilot.press("enter")
        repaint(app)
        await pilot.pause()
        assert shows(app, "it exited with signal 9 (out of memory)")
        assert not screen.check_action("stop_worker", ())
        await pilot.press("R")
        await until(pilot, lambda: colony.submitted, "started again without a question")
        assert colony.submitted[0]["operation"] == "worker_spawn"
        await pilot.press("escape")
        await until(pilot, lambda: len(screen.table.rows) == 7)


async def full_state(pilot: Pilot[Any]) -> None:
    screen = await shown(pilot)
    app = screen.rbee
    app.store.tick()  # the clock stands still: it is the only sample
    await until(pilot, lambda: app.store.past.departed())
    past = app.store.past.workers["w-01"]
    past.speed.extend([0, 0, 12.5, 40, 58.1, 61.2, 60.8, 61.9, 30, 0, 0, 55, 61] * 4)
    past.busy.extend([0, 0, 1, 2, 2, 4, 4, 3, 1, 0, 0, 2, 2] * 4)
    for at in range(20):
        app.store.apply(
            "job",
            JobInfo(
                job_id=f"j-{at}",
                operation="infer",
                state=JobState.COMPLETED,
                worker_id="w-01",
                ttft_ms=120.0 + 37 * (at % 7),
                tokens_per_second=50.0 + 3 * (at % 5),
            ),
        )
    tail = screen.query_one(Tail)
    if tail.display:
        await until(pilot, lambda: len(tail.texts()) == len(LOG))
    repaint(app)
    await pilot.pause()
    await pilot.pause()


async def empty_state(pilot: Pilot[Any]) -> None:
    app = await connected(pilot)
    await pilot.press("3")
    await until(pilot, lambda: app.current_mode == "workers")
    repaint(app)
    await pilot.pause()
    await pilot.pause()


async def metrics_state(pilot: Pilot[Any]) -> None:
    await full_state(pilot)
    await pilot.press("right", "right")
    repaint(pilot.app)  # pyright: ignore[reportArgumentType]
    await pilot.pause()


async def place_state(pilot: Pilot[Any]) -> None:
    await full_state(pilot)
    await pilot.press("n")
    await dialog(pilot, Picker)
    await pilot.press("q", "w", "enter")
    await dialog(pilot, Chooser)


SIZES = [pytest.param(size, id=f"{size[0]}x{size[1]}") for size in ((80, 24), (160, 45))]
Before = Callable[[Pilot[Any]], Awaitable[None]]


@pytest.mark.parametrize("size", SIZES)
def test_workers_full(
    snap_compare: Callable[..., bool], colony: ColonyDouble, size: tuple[int, int]
) -> None:
    assert snap_compare(app_for(colony), terminal_size=size, run_before=full_state)


@pytest.mark.parametrize("size", SIZES)
def test_workers_empty(snap_compare: Callable[..., bool], size: tuple[int, int]) -> None:
    with ColonyDouble(data.quiet()) as double:
        assert snap_compare(app_for(double), terminal_size=size, run_before=empty_state)


@pytest.mark.parametrize("before", [metrics_state, place_state], ids=["metrics", "place"])
def test_workers_parts(
    snap_compare: Callable[..., bool], colony: ColonyDouble, before: Before
) -> None:
    app = app_for(colony, ascii_glyphs=before is metrics_state)
    assert snap_compare(app, terminal_size=(80, 24), run_before=before)


def test_the_past_is_bounded_and_tells_asked_from_lost() -> None:
    past = Past()
    for at in range(GONE + 30):
        each = replace(data.WORKERS[0], worker_id=f"w-{at}")
        past.saw(each, 1.0 + at)
        if at % 2:
            past.saw(replace(each, state=WorkerState.STOPPING), 2.0 + at)
        past.gone(each.worker_id, "why", 3.0 + at)
    assert len(past.workers) == GONE
    assert [each.failed for each in past.departed()[:2]] == [False, True]
    assert [state for _, state in past.departed()[0].steps] == ["busy", "stopping"]
    past.snapshot([data.WORKERS[1]], 100.0)
    assert past.workers["w-02"].gone_at is None
    past.snapshot([], 101.0)
    assert past.workers["w-02"].reason == "it went while the queen was away"


def test_places_are_told_with_amounts() -> None:
    store = ColonyStore(clock=lambda: data.NOW)
    store.apply("snapshot", data.full())
    store.hives["mule"] = replace(store.hives["mule"], backends=[CUDA])
    small: ModelInfo = replace(BIG, weights_bytes=2 * GIB)
    views = {f"{v.hive} {v.device}": v for v in place_views(small, store, ["mule"])}
    assert views["mule cuda:1"].fits
    assert views["mule cuda:1"].words.endswith("14.9 GiB is free")
    assert not views["mule cuda:0"].fits
    assert views["laptop cpu"].words == "laptop is offline"


def test_the_start_command_is_one_a_shell_takes_literally() -> None:
    store = ColonyStore(clock=lambda: data.NOW)
    evil = replace(data.WORKERS[0], model="it's $(reboot)")
    command = start_command(evil, store)
    assert "'\"'\"'" in command, "the quote is quoted"
    assert '"pin"' not in command


@pytest.mark.parametrize("text", ["蜂" * 100, "word " * 50, "\x1b[2J" + "x" * 90, ""])
def test_no_row_is_wider_than_its_panel(text: str) -> None:
    from rich.cells import cell_len

    rows = wrapped(text, 30)
    assert rows
    assert all(cell_len(row) <= 30 and row.isprintable() for row in rows)


def test_tables_of_one_kind_have_no_marks() -> None:
    table = RowTable("Jobs", [], glyphs=UNICODE)
    assert not table.check_action("mark", ())
