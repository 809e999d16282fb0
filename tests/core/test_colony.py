"""What the brain decides, without an event loop, a process or a clock."""

from __future__ import annotations

import pytest
from msgspec import structs

from rbee.core.effects import AbortRun, Append, Dispatch, StartWorker, StopWorker
from rbee.core.events import (
    HiveJoined,
    HiveSaid,
    JobCancelAsked,
    JobSubmitted,
    Loss,
    ModelLocated,
    ShutdownAsked,
    SpawnRefused,
    Tick,
)
from rbee.core.jobs import Job
from rbee.core.limits import Limits
from rbee.core.states import InvalidTransition
from rbee.errors import AllSlotsBusy, ModelLoadFailed, PortTaken
from rbee.protocol.hives import HiveHeartbeat, HiveWorkerExited
from rbee.protocol.jobs import TERMINAL_EVENTS, JobState
from rbee.protocol.operations import Infer, Priority, WorkerSpawn, WorkerStop
from rbee.protocol.workers import Heartbeat, Usage, WorkerState
from tests.core.builders import (
    World,
    capabilities,
    device,
    done,
    exited,
    failed,
    let_go,
    model,
    of,
    started,
)  # fmt: skip


def terminals(world: World, job_id: str) -> list[str]:
    return [kind for kind in world.stream(job_id) if kind in TERMINAL_EVENTS]


def test_cold_start_spawns_loads_and_dispatches() -> None:
    world = World()
    (start,) = of(world.submit("a"), StartWorker)
    assert isinstance(start, StartWorker)
    assert (start.spec.worker_id, start.spec.device, start.spec.backend) == (
        "w-01",
        "cpu",
        "llamacpp",
    )
    world.beat("w-01", WorkerState.LOADING, stage="weights", progress=0.4)
    assert world.jobs["a"].waiting_for == "w-01 is loading tiny 40%"
    (dispatch,) = of(world.bring_up("w-01"), Dispatch)
    assert isinstance(dispatch, Dispatch)
    assert dispatch.worker_id == "w-01"
    world.tell(started("a"))
    assert world.jobs["a"].state is JobState.RUNNING
    world.tell(done("a"))
    assert world.jobs["a"].state is JobState.COMPLETED
    assert world.stream("a")[0] == "queued"
    assert world.stream("a")[-3:] == ["started", "metrics", "end"]
    assert world.colony.fleet.workers["w-01"].state is WorkerState.IDLE


def test_a_warm_worker_is_used_and_no_second_one_started() -> None:
    world = World()
    world.submit("a")
    world.bring_up("w-01")
    world.tell(done("a"))
    effects = world.submit("b")
    assert of(effects, Dispatch)
    assert not of(effects, StartWorker)


def test_jobs_wait_for_the_slot_in_order_and_interactive_goes_first() -> None:
    world = World()
    world.submit("a")
    world.bring_up("w-01")
    world.submit("batch", priority=Priority.BATCH)
    world.submit("later")
    assert world.colony.queue.position(world.jobs["batch"], world.now) == 2
    (dispatch,) = of(world.tell(done("a")), Dispatch)
    assert isinstance(dispatch, Dispatch)
    assert dispatch.job.job_id == "later"


def test_waiting_batch_work_is_promoted_after_five_minutes() -> None:
    world = World(limits=Limits(remove_after=1e9, stale_after=1e9))
    world.submit("a")
    world.bring_up("w-01")
    world.submit("batch", priority=Priority.BATCH)
    world.tell(Tick(), after=301.0)
    world.submit("late")
    (dispatch,) = of(world.tell(done("a")), Dispatch)
    assert isinstance(dispatch, Dispatch)
    assert dispatch.job.job_id == "batch"


def test_not_wanting_to_wait_is_refused_with_counts() -> None:
    world = World()
    world.submit("a")
    world.bring_up("w-01")
    world.submit("b", wait=False)
    job = world.jobs["b"]
    assert (job.state, job.error_code) == (JobState.FAILED, "ALL_SLOTS_BUSY")


def test_a_busy_refusal_puts_the_job_back_in_front() -> None:
    world = World()
    world.submit("a")
    world.bring_up("w-01")
    world.submit("b")
    world.tell(failed("a", AllSlotsBusy("full"), loss=Loss.BUSY))
    assert world.jobs["a"].state is JobState.QUEUED
    (dispatch,) = of(world.beat("w-01", WorkerState.IDLE), Dispatch)
    assert isinstance(dispatch, Dispatch)
    assert dispatch.job.job_id == "a"


def test_a_failed_load_fails_everything_that_waited_for_it() -> None:
    world = World()
    world.submit("a")
    world.submit("b")
    world.beat(
        "w-01",
        WorkerState.FAILED,
        error={"code": "MODEL_CORRUPTED", "message": "bad magic", "details": {}},
    )
    assert {world.jobs[j].error_code for j in "ab"} == {"MODEL_CORRUPTED"}
    assert not of(world.tell(exited("w-01", 1)), StartWorker)


def test_a_worker_that_dies_while_loading_fails_with_its_last_words() -> None:
    world = World()
    world.submit("a")
    world.tell(exited("w-01", 1))
    assert world.jobs["a"].error_code == ModelLoadFailed.code
    assert "boom" in (world.jobs["a"].error_message or "")


def test_a_process_that_cannot_be_started_fails_the_job() -> None:
    world = World()
    world.submit("a")
    world.tell(SpawnRefused("home", "w-01", PortTaken("no free port")))
    assert world.jobs["a"].error_code == "PORT_TAKEN"
    assert not world.colony.fleet.workers


def test_a_load_that_hangs_ends_with_its_stage() -> None:
    world = World(limits=Limits(load_timeout=10.0))
    world.submit("a")
    world.beat("w-01", WorkerState.LOADING, stage="weights", progress=0.4)
    (stop,) = of(world.tell(Tick(), after=11.0), StopWorker)
    assert isinstance(stop, StopWorker)
    assert stop.force
    assert world.jobs["a"].error_code == "LOADING_TIMEOUT"
    assert "weights" in (world.jobs["a"].error_message or "")


@pytest.mark.parametrize("stage", ["queued", "dispatched", "running"])
def test_cancel_at_every_stage_gives_one_terminal_event(stage: str) -> None:
    world = World()
    world.submit("a")
    if stage != "queued":
        world.bring_up("w-01")
    if stage == "running":
        world.tell(started("a"))
    effects = world.tell(JobCancelAsked("a", "test"))
    assert bool(of(effects, AbortRun)) == (stage != "queued")
    world.tell(JobCancelAsked("a", "again"))
    if stage != "queued":
        world.tell(let_go("a", tokens=2))
        assert world.colony.fleet.workers["w-01"].free_slots == 1
    assert world.jobs["a"].state is JobState.CANCELLED
    assert terminals(world, "a") == ["cancelled"]


def test_idle_workers_leave_after_keep_alive_and_pinned_ones_stay() -> None:
    world = World(limits=Limits(keep_alive=60.0, stale_after=1e9, remove_after=1e9))
    world.submit("spawn", WorkerSpawn(model="tiny", pin=True))
    world.bring_up("w-01")
    assert world.jobs["spawn"].state is JobState.COMPLETED
    world.submit("other", model_name="other")
    world.bring_up("w-02")
    world.tell(done("other"))
    stops = of(world.tell(Tick(), after=61.0), StopWorker)
    assert [s.worker_id for s in stops if isinstance(s, StopWorker)] == ["w-02"]


def test_stopping_a_worker_is_a_job_that_ends_when_the_process_has() -> None:
    world = World()
    world.submit("a")
    world.bring_up("w-01")
    world.tell(done("a"))
    world.submit("stop", WorkerStop(worker_id="w-01"))
    assert world.jobs["stop"].state is JobState.RUNNING
    world.tell(exited("w-01", 0))
    assert world.jobs["stop"].state is JobState.COMPLETED
    world.submit("again", WorkerStop(worker_id="w-01"))
    assert world.jobs["again"].error_code == "NOT_FOUND"


def test_too_little_memory_is_refused_with_both_amounts_before_anything_starts() -> None:
    world = World(device(free_gib=0.5))
    effects = world.submit("a")
    assert not of(effects, StartWorker)
    (error,) = [e for e in effects if isinstance(e, Append) and e.type == "error"]
    assert world.jobs["a"].error_code == "INSUFFICIENT_RAM"
    assert error.data.details["required"] > error.data.details["available"]  # type: ignore[union-attr]


def test_idle_workers_make_room_and_busy_ones_are_waited_for() -> None:
    world = World(device(free_gib=2.5), limits=Limits(stale_after=1e9, remove_after=1e9))
    world.submit("a")
    world.bring_up("w-01")
    fleet = world.colony.fleet
    worker = fleet.workers["w-01"]
    worker.rss_bytes = 2 << 30
    fleet.touch(worker)
    fleet.hives["home"].devices = [device(free_gib=0.5)]
    world.submit("other", model_name="other")
    assert world.jobs["other"].state is JobState.QUEUED
    assert "w-01" in (world.jobs["other"].waiting_for or "")
    assert not of(world.all, StopWorker)
    effects = world.tell(done("a"))
    for _ in range(40):
        effects += world.tell(Tick(), after=1.0)
    assert [e.worker_id for e in effects if isinstance(e, StopWorker)] == ["w-01"]
    assert not of(effects, StartWorker)
    assert not of(world.tell(Tick()), StopWorker)
    world.tell(exited("w-01", 0))
    fleet.hives["home"].devices = [device(free_gib=2.5)]
    start = next(
        e
        for e in (*world.all, *world.tell(Tick()))
        if isinstance(e, StartWorker) and e.spec.model_id == "other"
    )
    assert start.spec.worker_id == "w-02"


def test_a_missing_device_or_hive_is_named() -> None:
    world = World()
    world.submit("gpu", device="cuda:0")
    assert world.jobs["gpu"].error_code == "BACKEND_UNAVAILABLE"
    assert "cuda:0" in (world.jobs["gpu"].error_message or "")
    world.submit("far", hive="attic")
    assert world.jobs["far"].error_code == "HIVE_NOT_FOUND"
    world.submit("pinned", worker_id="w-77")
    assert world.jobs["pinned"].error_code == "NOT_FOUND"


def test_a_gpu_is_preferred_where_the_backend_can_use_it() -> None:
    world = World(device("cpu"), device("cuda:0"))
    (start,) = of(world.submit("a"), StartWorker)
    assert isinstance(start, StartWorker)
    assert start.spec.device == "cuda:0"


def test_shutdown_ends_what_runs_and_keeps_what_waits_and_batch_work_on_disk() -> None:
    world = World()
    world.submit("a")
    world.bring_up("w-01", slots=2)
    world.submit("batch", priority=Priority.BATCH)
    world.submit("waiting")
    world.submit("sync")
    world.jobs["sync"].durable = False
    effects = world.tell(ShutdownAsked("test"))
    assert {e.job_id for e in effects if isinstance(e, AbortRun)} == {"a", "batch"}
    assert world.jobs["a"].error_code == "SHUTTING_DOWN"
    assert world.jobs["sync"].error_code == "SHUTTING_DOWN"
    for job_id in ("waiting", "batch"):
        assert terminals(world, job_id) == []


def test_measured_speed_replaces_the_prior() -> None:
    world = World()
    world.submit("a")
    world.bring_up("w-01")
    world.tell(done("a"))
    assert world.colony.fleet.workers["w-01"].decode_rate == pytest.approx(20.0)
    world.submit("b")
    faster = Usage(prompt_tokens=1, completion_tokens=20, decode_ms=500.0)
    world.tell(done("b", usage=faster))
    assert world.colony.fleet.workers["w-01"].decode_rate == pytest.approx(26.0)


def test_tokens_per_second_of_the_colony_come_from_the_counts() -> None:
    world = World()
    world.submit("a")
    world.bring_up("w-01")
    world.tell(Tick({"a": 10}), after=1.0)
    world.tell(Tick({"a": 30}), after=1.0)
    assert world.colony.totals().tokens_per_second == pytest.approx(20.0)


def test_late_and_unknown_reports_change_nothing() -> None:
    world = World()
    world.submit("a")
    world.bring_up("w-01")
    world.tell(done("a"))
    before = len(world.stream("a"))
    for event in (
        done("a"),
        let_go("a", tokens=1),
        started("zz"),
        JobCancelAsked("zz", "x"),
        exited("w-99"),
    ):
        world.tell(event)
    assert len(world.stream("a")) == before


def test_an_illegal_step_tells_the_story() -> None:
    world = World()
    world.submit("a")
    with pytest.raises(InvalidTransition, match=r"queued → completed.*Story: queued"):
        world.jobs["a"].life.to(JobState.COMPLETED)


def test_pins_wait_for_their_own_worker_only() -> None:
    world = World(device("cpu"), device("cuda:0"))
    world.submit("a", device="cpu")
    world.bring_up("w-01")
    world.submit("b", Infer(model="tiny", prompt="x", device="cuda:0"))
    assert world.jobs["b"].waits_on == "w-02"


def test_a_name_shared_by_two_files_is_two_models() -> None:
    world = World()
    world.submit("a")
    world.bring_up("w-01")
    other = model("tiny")
    twin = structs.replace(other, path="/elsewhere/tiny.gguf")
    world.tell(ModelLocated("home", twin))
    job = Job(
        job_id="b",
        request=Infer(model="file:/elsewhere/tiny.gguf", prompt="x"),
        created_at=0.0,
        queued_mono=world.now,
        model=twin,
    )
    (start,) = of(world.tell(JobSubmitted(job)), StartWorker)
    assert isinstance(start, StartWorker)
    assert start.spec.model_path == "/elsewhere/tiny.gguf"


def test_a_deadline_that_passes_in_the_queue_is_told() -> None:
    world = World()
    world.submit("a", deadline_ms=500)
    world.tell(Tick(), after=1.0)
    assert world.jobs["a"].error_code == "DEADLINE_UNMET"
    assert "500 ms" in (world.jobs["a"].error_message or "")


def test_a_hive_speaks_for_its_own_workers_only() -> None:
    world = World()
    world.submit("a")
    world.bring_up("w-01")
    world.tell(HiveJoined("other", "http", "http://x", capabilities()))
    foreign = HiveWorkerExited(worker_id="w-01", exit_code=0, expected=True, log_tail=[])
    world.tell(HiveSaid("other", foreign))
    assert "w-01" in world.colony.fleet.workers
    beat = Heartbeat(worker_id="w-09", state=WorkerState.IDLE)
    (stop,) = of(world.tell(HiveSaid("home", HiveHeartbeat(beat=beat))), StopWorker)
    assert isinstance(stop, StopWorker)
    assert (stop.hive, stop.worker_id, stop.force) == ("home", "w-09", True)


def test_a_worker_that_cannot_be_ended_is_told_and_given_up() -> None:
    world = World()
    world.submit("a")
    world.bring_up("w-01")
    world.tell(done("a"))
    world.submit("stop", WorkerStop(worker_id="w-01"))
    world.tell(Tick(), after=31.0)
    assert world.jobs["stop"].error_code == "WORKER_STUCK"
    assert not world.colony.fleet.workers
