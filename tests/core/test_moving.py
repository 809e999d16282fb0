"""A job whose worker is lost goes on elsewhere, is tried again, or is given up: once, and told."""

from __future__ import annotations

import pytest

from rbee.core.effects import AbortRun, Append, Count, Dispatch, Effect, StartWorker, StopWorker
from rbee.core.events import (
    Counted,
    Event,
    HiveJoined,
    HiveLeft,
    JobCancelAsked,
    Loss,
    Tick,
)
from rbee.core.limits import Limits
from rbee.core.queue import PROMOTE_AFTER
from rbee.errors import (
    BadGateway,
    ContextLengthExceeded,
    InferenceTimeout,
    InternalError,
    ModelLoadFailed,
    RbeeError,
    ShuttingDown,
    ValidationFailed,
)
from rbee.protocol.jobs import TERMINAL_EVENTS, JobState, MetricsData, StartedData
from rbee.protocol.operations import Embed, Priority, WorkerSpawn
from rbee.protocol.workers import WorkerState
from tests.core.builders import (
    World,
    broke,
    capabilities,
    device,
    done,
    exited,
    failed,
    let_go,
    of,
    started,
)

CALM = Limits(stale_after=1e9, remove_after=1e9)


def two_workers(limits: Limits | None = None) -> World:
    """w-01 and w-02 on two devices, idle, each with the model and one slot."""
    world = World(device("cuda:0"), device("cuda:1"), limits=limits or Limits())
    for number in (0, 1):
        world.submit(f"warm-{number}", device=f"cuda:{number}")
        world.bring_up(f"w-0{number + 1}")
        world.tell(done(f"warm-{number}"))
    return world


def running(world: World, job_id: str = "job", **more: object) -> str:
    """Its worker."""
    world.submit(job_id, **more)
    job = world.jobs[job_id]
    assert job.state is JobState.DISPATCHED, job.waiting_for
    world.tell(started(job_id, job.attempt))
    return job.worker_id or ""


def running_alone(world: World, **more: object) -> None:
    world.submit("job", **more)
    world.bring_up("w-01")
    world.tell(started("job"))


def dispatched(effects: list[Effect]) -> Dispatch:
    (one,) = of(effects, Dispatch)
    assert isinstance(one, Dispatch)
    return one


def stopped(effects: list[Effect]) -> StopWorker:
    (one,) = of(effects, StopWorker)
    assert isinstance(one, StopWorker)
    return one


def last_data(world: World, kind: str) -> object:
    return [e.data for e in world.all if isinstance(e, Append) and e.type == kind][-1]


def terminals(world: World, job_id: str) -> list[str]:
    return [kind for kind in world.stream(job_id) if kind in TERMINAL_EVENTS]


@pytest.mark.parametrize("how", ["connection", "process"])
def test_a_stream_goes_on_with_another_worker_at_once(how: str) -> None:
    world = two_workers()
    first = running(world)
    event: Event = broke("job", tokens=7)
    if how == "process":
        world.tell(Tick({"job": 7}))
        event = exited(first)
    dispatch = dispatched(world.tell(event))
    assert dispatch.worker_id != first
    assert dispatch.attempt == 2
    job = world.jobs["job"]
    assert (job.tokens_before, job.resumes, job.failures) == (7, 1, 1)
    again = last_data(world, "started")
    assert isinstance(again, StartedData)
    assert (again.tokens_before, again.attempt) == (7, 2)
    world.tell(started("job", 2))
    world.tell(done("job", 2, tokens=20))
    assert terminals(world, "job") == ["end"]
    metrics = last_data(world, "metrics")
    assert isinstance(metrics, MetricsData)
    assert metrics.resumed == 1


def test_what_an_earlier_run_still_says_is_not_heard() -> None:
    world = two_workers()
    running(world)
    world.tell(broke("job"))
    before = len(world.stream("job"))
    for late in (broke("job"), done("job"), started("job"), let_go("job", tokens=3)):
        world.tell(late)
    assert world.jobs["job"].attempt == 2
    assert len(world.stream("job")) == before


def test_its_own_speed_counts_not_the_tokens_of_the_one_before() -> None:
    world = two_workers()
    running(world)
    world.tell(broke("job", tokens=10))
    world.tell(done("job", 2, tokens=20))  # 20 in all, 10 of its own, in 1000 ms
    assert world.jobs["job"].tokens_per_second == pytest.approx(10.0)


def test_a_lone_worker_is_waited_for_or_replaced() -> None:
    world = World()
    running_alone(world)
    world.tell(broke("job"))
    assert world.jobs["job"].state is JobState.QUEUED
    assert not of(world.all, StopWorker)
    assert dispatched(world.beat("w-01", WorkerState.IDLE)).worker_id == "w-01"
    world.tell(exited("w-01"))
    assert world.jobs["job"].state is JobState.QUEUED
    world.tell(Tick(), after=1.0)
    world.tell(Tick(), after=1.5)
    assert "w-02" in world.colony.fleet.workers
    assert dispatched(world.bring_up("w-02")).attempt == 3
    assert terminals(world, "job") == []


def test_the_fifth_loss_is_the_last_and_pauses_double_between() -> None:
    world = two_workers(CALM)
    running(world)
    job = world.jobs["job"]
    pauses: list[float] = []
    for attempt in range(1, 6):
        assert job.attempt == attempt
        world.tell(broke("job", attempt, tokens=attempt))
        pauses.append(max(0.0, job.not_before - world.now))
        for name in ("w-01", "w-02"):
            world.beat(name, WorkerState.IDLE)
        while attempt < 5 and job.state is JobState.QUEUED:
            assert world.now < job.not_before + 1
            world.tell(Tick(), after=0.1)
    assert (job.state, job.error_code, job.dead) == (JobState.FAILED, "WORKER_CRASHED", True)
    assert "tried 5 times" in (job.error_message or "")
    assert terminals(world, "job") == ["error"]
    assert job.tokens_out == 5
    assert pauses[0] == 0.0
    for pause, usual in zip(pauses[1:4], (1.0, 2.0, 4.0), strict=True):
        assert pause == pytest.approx(usual, rel=0.21)


def test_the_callers_own_fault_is_not_tried_again() -> None:
    world = two_workers()
    running(world)
    world.tell(failed("job", ValidationFailed("grammar: line 3")))
    assert world.jobs["job"].error_code == "VALIDATION_ERROR"
    assert not world.jobs["job"].dead
    running(world, "defect")
    world.tell(failed("defect", InternalError("the backend failed")))
    assert world.jobs["defect"].error_code == "INTERNAL_ERROR"


@pytest.mark.parametrize("error", [BadGateway("garbage"), ShuttingDown("w-01 is stopping")])
def test_what_says_nothing_of_the_job_is_tried_elsewhere(error: RbeeError) -> None:
    world = two_workers()
    first = running(world)
    assert dispatched(world.tell(failed("job", error))).worker_id != first


def test_a_worker_without_a_sign_of_life_is_killed_and_its_jobs_go_on() -> None:
    world = two_workers()
    first = running(world)
    other = "w-02" if first == "w-01" else "w-01"
    effects: list[Effect] = []
    for _ in range(6):
        effects += world.tell(Tick({"job": 4}), after=1.0)
        effects += world.beat(other, WorkerState.IDLE)
    assert stopped(effects) == StopWorker("home", first, force=True)
    assert dispatched(effects).worker_id == other
    assert AbortRun("job", 1) in effects


def test_tokens_are_a_sign_of_life_where_heartbeats_fail() -> None:
    world = two_workers()
    first = running(world)
    for second in range(1, 20):
        world.tell(Tick({"job": second}), after=1.0)
    assert world.colony.fleet.workers[first].suspect
    assert not any(e.worker_id == first for e in world.all if isinstance(e, StopWorker))


def test_an_idle_worker_that_is_silent_gets_nothing_and_is_then_removed() -> None:
    world = World()
    running_alone(world)
    world.tell(done("job"))
    world.tell(Tick(), after=7.0)
    world.submit("b")
    assert world.jobs["b"].state is JobState.QUEUED
    assert stopped(world.tell(Tick(), after=24.0)).force


def test_a_stalled_run_ends_its_worker() -> None:
    world = two_workers()
    first = running(world)
    effects = world.tell(failed("job", InferenceTimeout("no progress"), loss=Loss.STALLED))
    assert stopped(effects) == StopWorker("home", first, force=True)
    assert of(effects, Dispatch)
    assert world.jobs["job"].failures == 1


@pytest.mark.parametrize("back", [True, False])
def test_the_return_of_the_only_hive_is_waited_for_a_while(back: bool) -> None:
    world = World()
    running_alone(world)
    world.tell(HiveLeft("home", "silent"))
    job = world.jobs["job"]
    assert not world.colony.fleet.workers
    assert job.state is JobState.QUEUED
    assert "hive home is offline" in (job.waiting_for or "")
    world.tell(Tick(), after=50.0)
    if back:
        world.tell(HiveJoined("home", "http", "http://home", capabilities()))
        assert dispatched(world.bring_up("w-02")).attempt == 2
    else:
        world.tell(Tick(), after=11.0)
        assert job.error_code == "HIVE_OFFLINE"
        assert terminals(world, "job") == ["error"]


def test_a_cancelled_job_that_loses_its_worker_is_cancelled() -> None:
    world = World()
    running_alone(world)
    world.tell(JobCancelAsked("job", "enough"))
    world.tell(exited("w-01"))
    assert terminals(world, "job") == ["cancelled"]


def test_one_that_waits_for_its_next_try_can_be_cancelled() -> None:
    world = two_workers()
    running(world)
    world.tell(broke("job", 1))
    world.tell(broke("job", 2))
    assert "job" in world.colony.later
    world.tell(JobCancelAsked("job", "enough"))
    assert terminals(world, "job") == ["cancelled"]
    assert not world.colony.later
    world.tell(Tick(), after=100.0)
    assert terminals(world, "job") == ["cancelled"]


def test_vectors_are_made_anew() -> None:
    world = two_workers()
    world.submit("job", Embed(model="tiny", input=["a"]))
    assert dispatched(world.tell(broke("job", tokens=0))).attempt == 2
    assert world.jobs["job"].resumes == 0


def test_a_model_that_loads_nowhere_fails_at_once_with_the_reason() -> None:
    world = World(device("cuda:0"), device("cuda:1"))
    world.submit("job")
    where: list[str] = []
    for worker_id in ("w-01", "w-02"):
        (start,) = [
            e for e in world.all if isinstance(e, StartWorker) and e.spec.worker_id == worker_id
        ]
        where.append(start.spec.device)
        world.tell(exited(worker_id, 1))
    assert sorted(where) == ["cuda:0", "cuda:1"]
    job = world.jobs["job"]
    assert (job.state, job.error_code) == (JobState.FAILED, ModelLoadFailed.code)
    assert "boom" in (job.error_message or "")


def test_a_job_pinned_to_a_worker_that_died_is_told_so() -> None:
    world = two_workers()
    running(world, worker_id="w-01")
    world.tell(exited("w-01"))
    assert world.jobs["job"].error_code == "WORKER_CRASHED"


def test_batch_work_is_put_back_for_an_interactive_job_that_waits_too_long() -> None:
    world = World(limits=CALM)
    running_alone(world, priority=Priority.BATCH)
    world.submit("urgent")
    assert not of(world.tell(Tick({"job": 5}), after=5.0), AbortRun)
    (abort,) = of(world.tell(Tick({"job": 9}), after=6.0), AbortRun)
    assert abort == AbortRun("job", 1)
    assert not of(world.tell(Tick({"job": 9}), after=1.0), AbortRun)
    assert dispatched(world.tell(let_go("job", tokens=9))).job.job_id == "urgent"
    assert world.jobs["job"].state is JobState.QUEUED
    again = dispatched(world.tell(done("urgent")))
    assert (again.job.job_id, again.attempt, again.job.tokens_before) == ("job", 2, 9)
    assert world.jobs["job"].failures == 0


def test_batch_work_that_counts_as_interactive_is_not_put_back_to_be_the_next_again() -> None:
    world = World(limits=CALM)
    running_alone(world, priority=Priority.BATCH)
    world.tell(Tick({"job": 5}), after=PROMOTE_AFTER)
    world.beat("w-01", WorkerState.BUSY)
    world.submit("urgent")
    assert not of(world.tell(Tick({"job": 9}), after=11.0), AbortRun)
    assert dispatched(world.tell(done("job"))).job.job_id == "urgent"


def test_a_prompt_too_long_for_one_worker_goes_to_one_with_more_room() -> None:
    world = World(device("cuda:0"), device("cpu"), limits=CALM)
    for number, (place, ctx) in enumerate((("cuda:0", 256), ("cpu", 4096)), 1):
        world.submit(f"spawn-{number}", WorkerSpawn(model="tiny", device=place, ctx=ctx))
        world.bring_up(f"w-0{number}")
        world.beat(f"w-0{number}", WorkerState.IDLE, ctx=ctx)
    world.submit("job")
    assert world.jobs["job"].worker_id == "w-01"
    long = ContextLengthExceeded("1500 tokens, 256 fit", required=1500, available=256)
    assert dispatched(world.tell(failed("job", long))).worker_id == "w-02"
    assert world.jobs["job"].failures == 0
    longer = ContextLengthExceeded("5000 tokens, 4096 fit", required=5000, available=4096)
    world.tell(failed("job", longer, 2))
    assert world.jobs["job"].error_code == "CONTEXT_LENGTH_EXCEEDED"


def test_an_answer_that_its_next_worker_cannot_take_up_is_no_fault_of_the_caller() -> None:
    world = two_workers(Limits(attempts=2))
    running(world)
    world.tell(broke("job", tokens=4))
    refusal = ValidationFailed("emitted: too long", field="emitted", constraint="4 MiB")
    world.tell(failed("job", refusal, 2, tokens=4))
    assert world.jobs["job"].error_code == "WORKER_LOST"
    assert world.jobs["job"].tokens_out == 4


def test_tokens_made_for_nobody_are_counted() -> None:
    world = World()
    running_alone(world)
    world.tell(JobCancelAsked("job", "left"))
    effects = world.tell(let_go("job", tokens=4, wasted=6))
    assert Count("wasted_tokens", 6) in effects


def test_a_worker_that_dies_with_many_answers_is_one_failure_of_its_hive():
    world = World(device("cuda:0"))
    for number in range(8):
        world.submit(f"job-{number}")
    world.bring_up("w-01", slots=8)
    for number in range(8):
        world.tell(started(f"job-{number}"))
    for number in range(8):
        world.tell(broke(f"job-{number}"))
    assert world.colony.setbacks.hive("home").failures == 1
    assert world.colony.setbacks.hive_refuses("home", world.now) is None


def test_a_worker_that_lets_go_unasked_has_lost_the_job_and_another_goes_on():
    world = two_workers()
    worker = running(world)
    again = dispatched(world.tell(let_go("job", tokens=5)))
    assert again.worker_id != worker
    assert (again.attempt, again.job.tokens_before) == (2, 5)
    world.tell(done("job", 2))
    assert world.stream("job")[-1] == "end"


def test_what_a_lost_worker_had_said_is_known_from_the_count_before_the_news():
    world = two_workers()
    worker = running(world)
    assert not of(world.tell(Counted({"job": 7})), Dispatch)
    world.tell(exited(worker))
    job = world.jobs["job"]
    assert (job.tokens_out, job.tokens_before, job.resumes) == (7, 7, 1)
    begun = [e.data for e in world.all if isinstance(e, Append) and isinstance(e.data, StartedData)]
    assert begun[-1].tokens_before == 7
