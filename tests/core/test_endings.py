"""Ends that come from an unexpected side: in a shutdown, in a probe, with a hive that goes."""

from __future__ import annotations

import pytest

from rbee.core.effects import AbortRun, Append
from rbee.core.events import Event, HiveLeft, HiveSaid, JobCancelAsked, Loss, ShutdownAsked, Tick
from rbee.core.limits import Limits
from rbee.core.setbacks import OPEN_SECONDS, OPENS_AT
from rbee.errors import AllSlotsBusy, ValidationFailed
from rbee.protocol.hives import HiveTelemetry, WorkerLoad
from rbee.protocol.jobs import TERMINAL_EVENTS, JobState
from rbee.protocol.operations import Priority, WorkerSpawn, WorkerStop
from rbee.protocol.workers import WorkerState
from tests.core.builders import GIB, World, device, done, exited, failed, let_go, of, started

CALM = Limits(stale_after=1e9, remove_after=1e9, keep_alive=1e9)


@pytest.mark.parametrize(
    "after", [let_go("b", tokens=3), HiveLeft("home", "gone"), exited("w-01", 0, expected=True)]
)
def test_nothing_ends_batch_work_that_goes_on_after_the_next_start(after: Event) -> None:
    world = World()
    world.submit("b", priority=Priority.BATCH)
    world.bring_up("w-01")
    world.tell(started("b"))
    world.tell(ShutdownAsked("test"))
    world.tell(after)
    assert not TERMINAL_EVENTS & set(world.stream("b"))
    assert world.jobs["b"].state is JobState.RUNNING


def test_batch_work_that_was_cancelled_does_not_go_on_after_the_next_start() -> None:
    world = World()
    world.submit("b", priority=Priority.BATCH)
    world.bring_up("w-01")
    world.tell(JobCancelAsked("b", "enough"))
    world.tell(ShutdownAsked("test"))
    world.tell(let_go("b"))
    assert [e.type for e in world.all if isinstance(e, Append)][-1] == "cancelled"
    assert world.jobs["b"].state is JobState.CANCELLED


@pytest.mark.parametrize(
    "end",
    [
        failed("probe", ValidationFailed("bad", field="stop", constraint="none")),
        failed("probe", AllSlotsBusy("busy", slots_total=1, slots_busy=1), loss=Loss.BUSY),
        exited("w-01"),
    ],
)
def test_a_probe_that_says_nothing_does_not_keep_the_breaker_shut(end: Event) -> None:
    world = World(limits=CALM)
    world.submit("first")
    world.bring_up("w-01")
    world.tell(done("first"))
    breaker = world.colony.setbacks.hive("home")
    for _ in range(OPENS_AT):
        breaker.failed(world.now)
    world.now += OPEN_SECONDS
    world.submit("probe")
    assert breaker.probing
    world.tell(end)
    world.tell(JobCancelAsked("probe", "not needed any more"))
    assert breaker.refuses(world.now) is None


def test_no_batch_work_is_put_back_for_one_that_could_not_use_its_slot() -> None:
    limits = Limits(stale_after=1e9, remove_after=1e9, swap_patience=1e6)
    world = World(device("cpu"), device("cuda:0", free_gib=2.5), limits=limits)
    world.submit("batch", device="cpu", priority=Priority.BATCH)
    world.bring_up("w-01")
    world.submit("other", model_name="other", device="cuda:0")
    world.bring_up("w-02")
    load = WorkerLoad(worker_id="w-02", cpu_percent=0.0, rss_bytes=2 * GIB)
    full = [device("cpu"), device("cuda:0", free_gib=0.5)]
    world.tell(HiveSaid("home", HiveTelemetry(devices=full, workers=[load])))
    world.submit("person", device="cuda:0")
    effects = world.tell(Tick(), after=2 * limits.preempt_after)
    assert world.jobs["person"].state is JobState.QUEUED
    assert of(effects, AbortRun) == []


def test_a_pinned_worker_whose_new_start_fails_is_started_once_more() -> None:
    world = World(limits=CALM)
    world.submit("pin", WorkerSpawn(model="tiny", pin=True))
    world.bring_up("w-01")
    world.tell(exited("w-01"))
    for name in ("w-02", "w-03"):
        while name not in world.colony.fleet.workers:
            world.tell(Tick(), after=1.0)
            assert world.now < 1000.0
        assert world.colony.fleet.workers[name].pinned
        world.tell(exited(name, 1))
    assert len(world.colony.missing) == 1


def test_a_pinned_worker_that_a_person_asks_for_and_that_does_not_load_is_not_tried_again() -> None:
    world = World(limits=CALM)
    world.submit("pin", WorkerSpawn(model="tiny", pin=True))
    world.tell(exited("w-01", 1))
    assert world.jobs["pin"].state is JobState.FAILED
    assert world.colony.missing == []


def test_a_stop_is_not_reported_done_when_the_hive_has_left() -> None:
    world = World(limits=CALM)
    world.submit("a")
    world.bring_up("w-01")
    world.tell(done("a"))
    world.submit("stop", WorkerStop(worker_id="w-01"))
    assert world.colony.fleet.workers["w-01"].state is WorkerState.STOPPING
    world.tell(HiveLeft("home", "no telemetry"))
    assert world.jobs["stop"].error_code == "HIVE_OFFLINE"
