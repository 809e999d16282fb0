"""A worker whose device has failed gets nothing more, and its end counts once."""

from __future__ import annotations

import pytest

from rbee.core.effects import StartWorker
from rbee.core.events import HiveSaid, Tick
from rbee.errors import DeviceFailed
from rbee.protocol.hives import HiveTelemetry
from rbee.protocol.jobs import JobState
from rbee.protocol.workers import WorkerState
from tests.core.builders import World, device, exited, failed, of, started


def test_a_worker_whose_device_failed_gets_nothing_though_it_still_beats() -> None:
    world = World()
    world.submit("job")
    world.bring_up("w-01")
    world.tell(started("job"))
    world.tell(failed("job", DeviceFailed("hot"), tokens=2))
    for _ in range(3):
        assert world.jobs["job"].state is JobState.QUEUED
        world.beat("w-01", WorkerState.FAILED)
        world.tell(HiveSaid("home", HiveTelemetry(devices=[device()], workers=[], heard=["w-01"])))
    effects = [*world.tell(exited("w-01", 1)), *world.tell(Tick(), after=2.0)]
    assert [e.spec.worker_id for e in effects if isinstance(e, StartWorker)] == ["w-02"]


@pytest.mark.parametrize("beaten", [False, True])
def test_a_failed_device_is_one_failure_of_its_machine_however_many_it_answered(
    beaten: bool,
) -> None:
    world = World()
    names = [f"j{at}" for at in range(8)]
    for name in names:
        world.submit(name)
    world.bring_up("w-01", slots=8)
    if beaten:  # its own word may come before those of its answers
        world.beat("w-01", WorkerState.FAILED)
    for name in names:
        world.tell(failed(name, DeviceFailed("hot")))
    world.beat("w-01", WorkerState.FAILED)
    assert world.colony.setbacks.hives["home"].failures == 1
    effects = [*world.tell(exited("w-01", 1)), *world.tell(Tick(), after=2.0)]
    assert of(effects, StartWorker)
