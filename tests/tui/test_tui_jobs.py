"""The Jobs screen against the double: what it shows, what its keys do, what it looks like."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import colony_data as data
import jobs_data
import msgspec
import pytest
from colony_double import ColonyDouble
from hypothesis import given, settings
from hypothesis import strategies as st
from screen_driver import Clock, app_for, connected, repaint, text_of, until
from textual.pilot import Pilot

from rbee.errors import Conflict
from rbee.protocol.base import encode
from rbee.protocol.decisions import Why
from rbee.protocol.jobs import JobInfo, JobState, StatusData, TokenData
from rbee.sse import ServerEvent
from rbee.tui.app import RbeeApp
from rbee.tui.decision_lines import decision_lines
from rbee.tui.glyphs import UNICODE
from rbee.tui.job_story import STEPS, TEXT_CHARACTERS, JobStory, text_lines, timeline_lines
from rbee.tui.rows_jobs import Kind
from rbee.tui.screens.dialogs import Confirm
from rbee.tui.screens.jobs import MOST, Jobs
from rbee.tui.widgets.lines import Line

anyio = pytest.mark.anyio
replace = msgspec.structs.replace


@pytest.fixture
def colony() -> Iterator[ColonyDouble]:
    with ColonyDouble(data.full()) as double:
        jobs_data.furnish(double)
        yield double


async def shown(pilot: Pilot[Any], count: int = 7) -> Jobs:
    app = await connected(pilot)
    await pilot.press("5")
    await until(
        pilot,
        lambda: isinstance(app.screen, Jobs) and len(app.screen.table.rows) == count,
        "the jobs",
    )
    screen = app.screen
    assert isinstance(screen, Jobs)
    return screen


async def heard(pilot: Pilot[Any], screen: Jobs, job_id: str, steps: int) -> None:
    """Until the screen knows the story and the decision of a job."""

    def there() -> bool:
        story, why = screen._story, screen._why
        if story is None or story.job.job_id != job_id or why is None:
            return False
        return len(story.steps) >= steps

    await until(pilot, there, f"the story of {job_id}")
    repaint(screen.rbee)
    await pilot.pause()


def shows(app: RbeeApp, words: str) -> bool:
    return any(words in line for line in text_of(app))


def plain(lines: list[Line]) -> str:
    return "\n".join("".join(text for text, _ in line) for line in lines)


def keys_of(screen: Jobs) -> list[str]:
    return [row.key for row in screen.table.rows]


@anyio
async def test_why_it_waits_and_what_happens_then(colony: ColonyDouble) -> None:
    go = threading.Event()
    clock = Clock()
    colony.stories["j-120"] = [
        *colony.stories["j-120"][:2],
        go,
        ("started", replace(jobs_data.STARTED, worker_id="w-01", queued_ms=7000)),
        *data.tokens("It was worth the wait.", 4),
        threading.Event(),
    ]
    app = app_for(colony, clock=clock)
    async with app.run_test(size=(160, 45)) as pilot:
        screen = await shown(pilot)
        await pilot.press("down", "down")
        await heard(pilot, screen, "j-120", 2)
        assert shows(app, "now         needs 19.8G, mule:0 has 2.7G free;")
        assert shows(app, "now  it waits for w-01: all 4 slots of w-01 are busy")
        assert shows(app, "pi-hive cpu: pi-hive does not have qwen2.5-32b-q4")
        clock.now += 5
        running = replace(data.JOBS[2], state=JobState.RUNNING, worker_id="w-01", tokens_out=6)
        colony.push("job", replace(running, queue_position=None, waiting_for=None))
        go.set()
        await until(pilot, lambda: screen._story and screen._story.tokens == 6, "the text")
        repaint(app)
        await pilot.pause()
        assert shows(app, "12:04:45 started     on w-01@mule cuda:1 after 7.0 s"), "when it came"
        assert shows(app, "It was worth the wait.")


@anyio
async def test_cancel_and_retry(colony: ColonyDouble) -> None:
    app = app_for(colony)
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        screen = await shown(pilot)
        for key in ("enter", "escape", "k"):
            await pilot.press("c")
            await until(pilot, lambda: isinstance(app.screen, Confirm))
            await pilot.press(key)
            await until(pilot, lambda: app.screen is screen)
        assert colony.cancelled == []
        await pilot.press("space", "space", "c")
        await until(pilot, lambda: isinstance(app.screen, Confirm))
        assert shows(app, "Cancel 2 jobs?")
        await pilot.press("c")
        await until(pilot, lambda: colony.cancelled == ["j-118", "j-119"])
        assert not screen.table.marked
        assert not screen.check_action("retry_job", ())
        await pilot.press("G", "up", "up")
        await until(pilot, lambda: screen.check_action("retry_job", ()))
        await pilot.press("R")
        await until(pilot, lambda: colony.retried == ["j-116"])
        await until(pilot, lambda: shows(app, "j-301 asks again what j-116 asked"))
        colony.refuse = Conflict("j-116 is asked again already")
        await pilot.press("R")
        await until(pilot, lambda: shows(app, "j-116 is asked again already"), "a toast")


@anyio
async def test_kinds_dead_letters_filter_and_text(colony: ColonyDouble) -> None:
    app = app_for(colony)
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await shown(pilot)
        found: dict[str, list[str]] = {}
        for kind in list(Kind)[1:]:
            await pilot.press("right")
            assert screen.kind is kind
            found[kind] = keys_of(screen)
        assert found == {
            "running": ["j-118", "j-119"],
            "queued": ["j-120"],
            "done": ["j-117", "j-114"],
            "failed": ["j-116"],
            "cancelled": ["j-115"],
            "dead": ["j-116"],
        }
        await heard(pilot, screen, "j-116", 2)
        await pilot.press("l")
        await until(pilot, lambda: shows(app, "given up after 5 tries; R asks again"))
        await pilot.press("escape", "right")
        await pilot.press("slash", *"j-117", "enter")
        await until(pilot, lambda: keys_of(screen) == ["j-117"])
        await heard(pilot, screen, "j-117", 5)
        await pilot.press("enter", "right", "right")
        await until(pilot, lambda: shows(app, "[Text]"))
        assert shows(app, "Bees dance to tell the others where the flowers are.")
        assert shows(app, "[31mNot red."), "no control character is left"
        await pilot.press("escape", "escape", "y")
        assert len(keys_of(screen)) == 7


@anyio
async def test_a_hidden_screen_asks_nothing_and_a_lost_stream_is_taken_up(
    colony: ColonyDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rbee.tui.screens.jobs.AGAIN_SECONDS", 0.05)
    monkeypatch.setattr("rbee.tui.screens.jobs.WHY_SECONDS", 0.05)
    colony.stories["j-118"] = [*colony.stories["j-118"][:3], "break"]
    app = app_for(colony)
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await shown(pilot)
        streams = "/v1/jobs/j-118/stream?after=0&follow=false"
        await until(pilot, lambda: colony.asked.count(streams) > 1, "another try")
        await pilot.press("down", "down")
        await until(pilot, lambda: colony.asked.count("/v1/jobs/j-120/decision") > 2)
        await pilot.press("G")
        await until(pilot, lambda: "/v1/jobs/j-114/decision" in colony.asked)
        assert not [path for path in colony.asked if path.startswith("/v1/jobs/j-114/stream")], (
            "vectors are not read"
        )
        await pilot.press("1")
        await until(pilot, lambda: not [w for w in screen.workers if w.group == "job"])
        before = len(colony.asked)
        for _ in range(5):
            await pilot.pause(0.05)
        assert len(colony.asked) == before


@anyio
async def test_a_thousand_jobs_are_kept_and_no_more(colony: ColonyDouble) -> None:
    app = app_for(colony)
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await shown(pilot)
        old = JobInfo(job_id="", operation="infer", state=JobState.COMPLETED)
        screen._remember(
            replace(old, job_id=f"o-{at}", created_at=float(at)) for at in range(MOST + 50)
        )
        assert len(screen._known) == MOST
        assert "o-0" not in screen._known
        assert f"o-{MOST + 49}" in screen._known
        assert "j-118" in screen._known


async def waiting_state(pilot: Pilot[Any]) -> None:
    screen = await shown(pilot)
    store = screen.rbee.store
    store.tick()  # the clock stands still: it is the only sample
    store.throughput.extend([0, 12, 60, 143, 138, 90, 40, 0, 55, 143] * 5)
    store.queue_depth.extend([0, 0, 1, 2, 3, 1, 0, 0, 4, 1] * 5)
    await until(pilot, lambda: screen.table.has_focus and len(screen.table.rows) > 2, "the rows")
    await pilot.press("down", "down")
    await until(pilot, lambda: screen.table.cursor_key == "j-120", "the cursor")
    await heard(pilot, screen, "j-120", 2)
    await pilot.pause()


async def decision_state(pilot: Pilot[Any]) -> None:
    await waiting_state(pilot)
    await pilot.press("w")
    await until(pilot, lambda: shows(pilot.app, "[Decision]"))  # pyright: ignore[reportArgumentType]
    await pilot.pause()


async def empty_state(pilot: Pilot[Any]) -> None:
    app = await connected(pilot)
    await pilot.press("5")
    await until(pilot, lambda: app.current_mode == "jobs")
    app.store.tick()  # the clock stands still: it is the only sample
    repaint(app)
    await pilot.pause()
    await pilot.pause()


SIZES = [pytest.param(size, id=f"{size[0]}x{size[1]}") for size in ((80, 24), (160, 45))]
Before = Callable[[Pilot[Any]], Awaitable[None]]


@pytest.mark.parametrize("size", SIZES)
def test_jobs_waiting(
    snap_compare: Callable[..., bool], colony: ColonyDouble, size: tuple[int, int]
) -> None:
    assert snap_compare(app_for(colony), terminal_size=size, run_before=waiting_state)


@pytest.mark.parametrize("size", SIZES)
def test_jobs_empty(snap_compare: Callable[..., bool], size: tuple[int, int]) -> None:
    with ColonyDouble(data.quiet()) as double:
        assert snap_compare(app_for(double), terminal_size=size, run_before=empty_state)


def test_jobs_decision(snap_compare: Callable[..., bool], colony: ColonyDouble) -> None:
    assert snap_compare(app_for(colony), terminal_size=(80, 24), run_before=decision_state)


def told(name: str, payload: object, at: int = 1) -> ServerEvent:
    return ServerEvent(data=encode(payload).decode(), event=name, id=str(at))


def test_a_story_is_bounded_and_says_what_is_missing() -> None:
    story = JobStory(data.JOBS[0])
    for at in range(1000):
        story.apply(told("status", StatusData(stage=f"s-{at}", message="m")), None)
    assert len(story.steps) == STEPS
    for at in range(30):
        story.apply(told("token", TokenData(t="x" * 5000, i=at)), None)
    assert len(story.text()) <= TEXT_CHARACTERS
    assert "rbee job show j-118 prints all of it" in plain(text_lines(story, 60))
    assert story.tokens == 30


def test_progress_is_one_step_and_a_resumed_job_says_so() -> None:
    story = JobStory(replace(data.JOBS[0], resumes=1))
    for percent in range(0, 101, 10):
        status = StatusData(stage="loading", message="loading it", progress=percent / 100)
        story.apply(told("status", status), data.NOW)
    resumed = replace(jobs_data.STARTED, attempt=2, tokens_before=40)
    story.apply(told("started", resumed), data.NOW)
    words = plain(timeline_lines(story, 100))
    assert words.count("loading it") == 1
    assert "loading it 100%" in words
    assert "resumed     on w-03@mule cuda:1, after 40 tokens, try 2" in words
    assert "once, where a worker was lost" in words


def test_a_comment_tells_what_is_done_and_how_long_it_takes() -> None:
    story = JobStory(data.JOBS[2])
    story.apply(ServerEvent("", comment="keepalive position=1 eta_ms=4200 w-01 is busy"), None)
    assert "w-01 is busy; first token in about 4.2 s" in plain(timeline_lines(story, 100))


@pytest.mark.parametrize("width", [30, 61, 78])
def test_a_decision_fits_its_panel(width: int) -> None:
    for why in (jobs_data.why_waiting(), jobs_data.why_given()):
        lines = plain(decision_lines(why, UNICODE, width)).splitlines()
        assert width == 30 or max(len(line) for line in lines) <= width
    nothing = decision_lines(Why(job_id="j", state="completed", decisions=[]), UNICODE, width)
    assert "Nothing was decided" in plain(nothing)


@settings(deadline=None, max_examples=60)
@given(text=st.text(), width=st.integers(10, 120))
def test_whatever_a_model_writes_is_printable_and_narrow(text: str, width: int) -> None:
    from rich.cells import cell_len

    story = JobStory(data.JOBS[0])
    story.apply(told("token", TokenData(t=text, i=0)), None)
    for line in plain(text_lines(story, width)).split("\n"):
        assert line.isprintable()
        assert cell_len(line) <= width
