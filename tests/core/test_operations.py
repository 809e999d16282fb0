"""Operations on models as jobs: carried out by hives, cancelled, taken in and out of memory."""

from __future__ import annotations

import pytest

from rbee.core.effects import AbortPerform, Append, Perform, StartWorker, StopWorker
from rbee.core.events import (
    HiveJoined,
    HiveLeft,
    JobCancelAsked,
    JobSubmitted,
    PerformCancelled,
    Performed,
    PerformFailed,
    PerformProgress,
    ShutdownAsked,
    Tick,
)
from rbee.core.jobs import Job
from rbee.core.performing import CLEANUP
from rbee.errors import Cancelled, Conflict
from rbee.protocol.jobs import EventType, JobState
from rbee.protocol.operations import (
    OPERATIONS,
    ModelCopy,
    ModelDelete,
    ModelDownload,
    ModelPreload,
    ModelUnload,
    ModelVerify,
    Operation,
    WorkerDrain,
    parse_operation,
)
from tests.core.builders import World, capabilities, device, done, exited, model, of, started

TASKS: list[Operation] = [
    ModelDownload(model="tiny"),
    ModelDelete(model="tiny", hive="home"),
    ModelVerify(model="tiny"),
    ModelCopy(model="tiny", to_hive="home"),
]


def submit(
    world: World, job_id: str, operation: Operation, *, durable: bool = True, known: bool = True
) -> Job:
    job = Job(job_id=job_id, request=operation, created_at=0.0, queued_mono=world.now,
              model=model("tiny") if known else None, durable=durable)  # fmt: skip
    world.jobs[job_id] = job
    world.tell(JobSubmitted(job))
    return job


def result(world: World, job_id: str) -> object:
    (found,) = [
        e.data for e in world.all
        if isinstance(e, Append) and e.job_id == job_id and e.type is EventType.RESULT
    ]  # fmt: skip
    return found


@pytest.mark.parametrize("name", [n for n in OPERATIONS if n.startswith("model_")])
def test_every_operation_on_models_is_understood(name: str) -> None:
    more = ', "to_hive": "b"' if name == "model_copy" else ""
    body = f'{{"operation": "{name}", "model": "tiny"{more}}}'
    assert parse_operation(body.encode()).__struct_config__.tag == name


# ---- carried out by hives -----------------------------------------------------------------------


@pytest.mark.parametrize("operation", TASKS)
def test_an_operation_runs_beside_the_queue_and_tells_its_result(operation: Operation) -> None:
    world = World()
    job = submit(world, "a", operation)
    assert job.state is JobState.RUNNING
    assert of(world.all, Perform) == [Perform("a", job)]
    assert (world.colony.totals().jobs_running, len(world.colony.queue)) == (1, 0)
    world.tell(PerformProgress("a", "copying", "half of it", 0.5))
    assert job.info().waiting_for == "half of it"
    told = {"model": "tiny", "hive": "home", "bytes": 7}
    world.tell(Performed("a", told))
    assert result(world, "a") == told
    assert (job.state, job.hive) == (JobState.COMPLETED, "home")
    assert world.stream("a")[-2:] == ["result", "end"]
    assert not world.colony.performing


def test_a_failed_one_has_the_code_of_what_went_wrong() -> None:
    world = World()
    job = submit(world, "a", TASKS[1])
    world.tell(PerformFailed("a", Conflict("w-01 uses tiny")))
    assert (job.state, job.error_code) == (JobState.FAILED, "CONFLICT")


@pytest.mark.parametrize("operation", TASKS)
@pytest.mark.parametrize(
    ("end", "state"),
    [
        (PerformCancelled("a"), JobState.CANCELLED),
        (PerformFailed("a", Cancelled("stopped")), JobState.CANCELLED),
        (PerformFailed("a", Conflict("no")), JobState.FAILED),
        (Performed("a", {"hive": "home"}), JobState.COMPLETED),
        (None, JobState.CANCELLED),
    ],
)
def test_a_cancel_ends_it_once_whatever_its_hive_says_or_does_not(
    operation: Operation, end: PerformCancelled | PerformFailed | Performed | None, state: JobState
) -> None:
    world = World()
    job = submit(world, "a", operation)
    effects = world.tell(JobCancelAsked("a", "enough"))
    assert of(effects, AbortPerform) == [AbortPerform("a")]
    assert not of(world.tell(JobCancelAsked("a", "again")), AbortPerform)
    world.tell(Tick(), after=CLEANUP - 1)
    assert job.state is JobState.RUNNING
    if end is not None:
        world.tell(end)
    else:
        world.tell(Tick(), after=1.0)
    assert job.state is state
    story = world.stream("a")
    for late in (Performed("a", {}), PerformCancelled("a"), PerformFailed("a", Conflict("x"))):
        world.tell(late)
    world.tell(PerformProgress("a", "late", "late"))
    world.tell(Tick(), after=60.0)
    assert world.stream("a") == story
    assert job.job_id not in world.colony.jobs


def test_one_that_somebody_else_broke_off_ends_as_cancelled() -> None:
    world = World()
    job = submit(world, "a", TASKS[0])
    world.tell(PerformCancelled("a"))
    assert (job.state, job.cancel_reason) == (JobState.CANCELLED, "broken off at its hive")


def test_when_the_queen_goes_a_download_is_left_to_the_next_one() -> None:
    world = World()
    jobs = [submit(world, f"j{n}", task) for n, task in enumerate(TASKS)]
    direct = submit(world, "direct", TASKS[0], durable=False)
    unwanted = submit(world, "unwanted", TASKS[0])
    world.tell(JobCancelAsked("unwanted", "enough"))
    effects = world.tell(ShutdownAsked("stop"))
    assert len(of(effects, AbortPerform)) == len(jobs) + 2
    assert [j.state for j in jobs] == [JobState.RUNNING] + [JobState.FAILED] * 3
    assert {j.error_code for j in (*jobs[1:], direct)} == {"SHUTTING_DOWN"}
    assert unwanted.state is JobState.CANCELLED
    assert not world.colony.jobs
    story = world.stream("j0")
    world.tell(PerformFailed("j0", Conflict("x")))
    assert world.stream("j0") == story


# ---- into memory --------------------------------------------------------------------------------


def test_a_preload_starts_a_worker_that_is_not_pinned_where_it_is_fastest() -> None:
    world = World(device(), device("cuda:0"))
    submit(world, "a", ModelPreload(model="tiny"))
    (start,) = of(world.all, StartWorker)
    assert isinstance(start, StartWorker)
    assert (start.spec.device, start.spec.pinned) == ("cuda:0", False)
    world.bring_up("w-01")
    assert world.stream("a")[-2:] == ["result", "end"]


def test_a_preload_of_what_is_there_says_so_and_starts_nothing() -> None:
    world = World()
    world.submit("job")
    world.bring_up("w-01")
    before = len(of(world.all, StartWorker))
    job = submit(world, "a", ModelPreload(model="tiny"))
    assert job.state is JobState.COMPLETED
    assert world.stream("a") == ["status", "result", "end"]
    assert len(of(world.all, StartWorker)) == before
    assert result(world, "a").worker_id == "w-01"  # type: ignore[attr-defined]


def test_a_preload_waits_for_a_worker_that_loads_and_its_cancel_leaves_that_alone() -> None:
    world = World()
    world.submit("job")
    one, two = (submit(world, name, ModelPreload(model="tiny")) for name in ("one", "two"))
    assert len(of(world.all, StartWorker)) == 1
    world.tell(JobCancelAsked("one", "enough"))
    assert one.state is JobState.CANCELLED
    assert not of(world.all, StopWorker)
    world.bring_up("w-01")
    assert two.state is JobState.COMPLETED


def test_the_cancel_of_a_preload_ends_the_worker_it_started() -> None:
    world = World()
    submit(world, "a", ModelPreload(model="tiny"))
    world.tell(JobCancelAsked("a", "enough"))
    assert of(world.all, StopWorker) == [StopWorker("home", "w-01", True)]


def test_a_preload_that_fails_tells_why() -> None:
    world = World()
    job = submit(world, "a", ModelPreload(model="tiny"))
    world.tell(exited("w-01"))
    assert (job.state, job.error_code) == (JobState.FAILED, "MODEL_LOAD_FAILED")
    far = World(device())
    far.tell(HiveJoined("bare", "http", None, capabilities(models=())))
    missing = submit(far, "b", ModelPreload(model="tiny", hive="bare"))
    assert missing.error_message == "bare does not have tiny"


# ---- out of memory ------------------------------------------------------------------------------


def both() -> World:
    """With a worker that is busy, and one that is idle."""
    world = World(device(free_gib=8.0), device("cuda:0", free_gib=0.5))
    world.submit("busy")
    world.bring_up("w-01")
    world.tell(started("busy"))
    world.colony.fleet.hives["home"].devices = [device(), device("cuda:0")]
    submit(world, "more", ModelPreload(model="tiny", device="cuda"))
    world.bring_up("w-02")
    return world


def test_an_unload_ends_idle_workers_at_once_and_busy_ones_when_they_are_done() -> None:
    world = both()
    job = submit(world, "a", ModelUnload(model="tiny"))
    assert of(world.all, StopWorker) == [StopWorker("home", "w-02", False)]
    world.tell(exited("w-02", 0, expected=True))
    assert job.state is JobState.RUNNING
    world.tell(done("busy"))
    assert world.jobs["busy"].state is JobState.COMPLETED
    assert of(world.all, StopWorker)[-1] == StopWorker("home", "w-01", False)
    world.tell(exited("w-01", 0, expected=True))
    assert job.state is JobState.COMPLETED
    assert result(world, "a") == {"workers": ["w-01", "w-02"]}


def test_an_unload_is_of_the_named_place_only() -> None:
    world = both()
    submit(world, "a", ModelUnload(model="tiny", device="cuda"))
    world.tell(exited("w-02", 0, expected=True))
    assert result(world, "a") == {"workers": ["w-02"]}
    assert not world.colony.fleet.workers["w-01"].draining


def test_an_unload_of_what_is_not_loaded_is_done() -> None:
    world = World()
    job = submit(world, "a", ModelUnload(model="tiny"), known=False)
    assert job.state is JobState.COMPLETED
    assert result(world, "a") == {"workers": []}


def test_a_worker_that_loads_is_ended_at_once_and_found_by_its_models_name() -> None:
    world = World()
    submit(world, "load", ModelPreload(model="tiny"))
    submit(world, "a", ModelUnload(model="file:/tiny.gguf"), known=False)
    assert of(world.all, StopWorker) == [StopWorker("home", "w-01", True)]
    world.tell(exited("w-01"))
    assert result(world, "a") == {"workers": ["w-01"]}
    assert world.jobs["load"].state is JobState.FAILED


def test_an_unload_that_is_cancelled_is_taken_back_unless_somebody_else_drains_too() -> None:
    world = both()
    busy = world.colony.fleet.workers["w-01"]
    submit(world, "a", ModelUnload(model="tiny", device="cpu"))
    assert busy.draining
    world.tell(JobCancelAsked("a", "enough"))
    assert not busy.draining
    submit(world, "drain", WorkerDrain(worker_id="w-01"), known=False)
    submit(world, "b", ModelUnload(model="tiny", device="cpu"))
    world.tell(JobCancelAsked("b", "enough"))
    assert busy.draining


def test_an_unload_fails_with_the_hive_that_goes() -> None:
    world = both()
    job = submit(world, "a", ModelUnload(model="tiny"))
    world.tell(HiveLeft("home", "silent"))
    assert (job.state, job.error_code) == (JobState.FAILED, "HIVE_OFFLINE")
