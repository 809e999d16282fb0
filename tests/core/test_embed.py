"""Work that makes vectors is placed, waits, and ends as work that makes text does."""

from __future__ import annotations

import pytest

from rbee.core.effects import AbortRun, Dispatch, StartWorker
from rbee.core.events import JobCancelAsked, RunCompleted, Tick
from rbee.errors import AllSlotsBusy, ModelIncompatible, ValidationFailed
from rbee.protocol.jobs import TERMINAL_EVENTS, JobState
from rbee.protocol.operations import Embed, Priority
from rbee.protocol.workers import Usage, WorkerState
from tests.core.builders import World, device, done, failed, of


def embed(**more: object) -> Embed:
    return Embed(model="tiny", input=["a", "b"], **more)  # type: ignore[arg-type]


def made(job_id: str) -> RunCompleted:
    usage = Usage(prompt_tokens=9, completion_tokens=0)
    return done(job_id, tokens=0, usage=usage)


def test_it_starts_a_worker_runs_in_its_slot_and_ends() -> None:
    world = World()
    assert of(world.submit("e", embed()), StartWorker)
    assert of(world.bring_up("w-01"), Dispatch)
    assert world.colony.fleet.workers["w-01"].state is WorkerState.BUSY
    job = world.jobs["e"]
    world.tell(made("e"))
    assert (job.state, job.prompt_tokens, job.tokens_out) == (JobState.COMPLETED, 9, 0)
    assert job.info().operation == "embed"
    assert world.colony.fleet.workers["w-01"].state is WorkerState.IDLE
    assert world.colony.fleet.workers["w-01"].decode_rate is None
    assert world.stream("e") == ["queued", "status", "status", "started", "metrics", "end"]


def test_it_waits_for_a_slot_in_one_line_with_other_work_for_the_model() -> None:
    world = World()
    world.submit("a")
    world.bring_up("w-01")
    world.submit("late", embed(priority=Priority.BATCH))
    world.submit("e", embed())
    world.submit("b")
    assert [job.job_id for job in world.colony.queue.ordered(world.now)] == ["e", "b", "late"]
    world.tell(done("a", tokens=1))
    assert world.jobs["e"].state is JobState.DISPATCHED


def test_not_waiting_pins_and_deadlines_hold_for_it() -> None:
    world = World(device(), device("cuda:0"))
    world.submit("a", embed(device="cuda:0"))
    world.bring_up("w-01")
    assert world.jobs["a"].worker_id == "w-01"
    world.submit("now", embed(wait=False))
    assert world.jobs["now"].error_code == AllSlotsBusy.code
    world.submit("soon", embed(deadline_ms=500))
    world.tell(Tick(), after=1.0)
    assert world.jobs["soon"].error_code == "DEADLINE_UNMET"


@pytest.mark.parametrize("stage", ["queued", "running"])
def test_cancelling_it_gives_one_terminal_event(stage: str) -> None:
    world = World()
    world.submit("e", embed())
    if stage == "running":
        world.bring_up("w-01")
    effects = world.tell(JobCancelAsked("e", "enough"))
    assert bool(of(effects, AbortRun)) == (stage == "running")
    if stage == "queued":
        assert [k for k in world.stream("e") if k in TERMINAL_EVENTS] == ["cancelled"]


@pytest.mark.parametrize("error", [ValidationFailed("grammar: line 3"), ModelIncompatible("no")])
def test_a_refusal_by_the_worker_is_not_repeated_and_no_failure_of_the_worker(
    error: ValidationFailed | ModelIncompatible,
) -> None:
    world = World()
    world.submit("e", embed())
    world.bring_up("w-01")
    effects = world.tell(failed("e", error))
    assert world.jobs["e"].error_code == error.code
    assert not of(effects, Dispatch)
    worker = world.colony.fleet.workers["w-01"]
    assert (worker.state, worker.suspect, worker.error) == (WorkerState.IDLE, False, None)
    assert of(world.submit("next"), Dispatch)
