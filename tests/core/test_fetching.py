"""Jobs whose model no hive has yet: where it goes, the wait for it, and every way that can end."""

from __future__ import annotations

import pytest
from msgspec import structs

from rbee.core import fetching, forecast
from rbee.core.effects import AbortFetch, Append, Dispatch, FetchModel, StartWorker
from rbee.core.events import (
    Fetched,
    FetchFailed,
    FetchProgress,
    HiveJoined,
    HiveLeft,
    JobCancelAsked,
    JobSubmitted,
    ShutdownAsked,
    Tick,
)
from rbee.core.jobs import Job
from rbee.core.scheduling import Ect
from rbee.errors import DownloadFailed, InsufficientDisk, InsufficientVram, RbeeError
from rbee.protocol.hives import ModelInfo
from rbee.protocol.jobs import EventType, JobState, StatusData
from rbee.protocol.operations import (
    Infer,
    ModelDownload,
    ModelPreload,
    Operation,
    Priority,
    WorkerSpawn,
)
from tests.core.builders import World, capabilities, device, done, model, of
from tests.core.scenes import Scene

POLICY = Ect(ctx=4096)
DIGEST = "sha256:" + "ab" * 32


def at_hub(name: str = "far", *, gib: float = 1.0) -> ModelInfo:
    """As it is known before it is fetched."""
    return structs.replace(model(name, gib=gib), path="", digest=DIGEST)


def on_disk(name: str = "far") -> ModelInfo:
    return structs.replace(at_hub(name), path=f"/models/{name}.gguf")


def submit(
    world: World,
    job_id: str,
    operation: Operation | None = None,
    *,
    durable: bool = True,
    client: str = "",
    recovered: bool = False,
) -> Job:
    job = Job(
        job_id=job_id, request=operation or Infer(model="far", prompt="hi"), created_at=0.0,
        queued_mono=world.now, model=at_hub(), fetch_on="home", durable=durable, client=client,
    )  # fmt: skip
    world.jobs[job_id] = job
    world.tell(JobSubmitted(job, recovered=recovered))
    return job


def statuses(world: World, job_id: str) -> list[StatusData]:
    return [
        e.data
        for e in world.all
        if isinstance(e, Append) and e.job_id == job_id and isinstance(e.data, StatusData)
    ]


# ---- the wait -----------------------------------------------------------------------------------


def test_a_job_waits_for_its_model_and_then_runs_with_the_path_on_that_hive() -> None:
    world = World()
    job = submit(world, "a")
    assert (job.state, job.waiting_for) == (JobState.QUEUED, "far is being fetched to home")
    assert of(world.all, FetchModel) == [FetchModel("a", "home", job)]
    assert not of(world.all, StartWorker)
    assert (len(world.colony.queue), world.colony.totals().jobs_queued) == (0, 1)
    world.tell(FetchProgress("a", "far: 40 %", 0.4))
    assert job.waiting_for == "far: 40 %"
    told = statuses(world, "a")[-1]
    assert (told.stage, told.message, told.progress) == ("downloading", "far: 40 %", 0.4)
    (start,) = of(world.tell(Fetched("a", "home", on_disk())), StartWorker)
    assert isinstance(start, StartWorker)
    assert (start.spec.model_path, start.spec.model_key) == ("/models/far.gguf", DIGEST)
    assert not world.colony.fetching
    assert of(world.bring_up("w-01"), Dispatch)
    world.tell(done("a"))
    assert job.state is JobState.COMPLETED
    assert world.stream("a").count("queued") == 1
    assert not of(world.all, AbortFetch)


def test_it_keeps_its_place_before_those_that_came_later() -> None:
    world = World()
    submit(world, "first")
    world.submit("warm")
    world.bring_up("w-01")
    world.now += 10
    late = Job(job_id="late", request=Infer(model="far", prompt="x"), created_at=0.0,
               queued_mono=world.now, model=on_disk())  # fmt: skip
    world.tell(Fetched("nobody", "home", on_disk()))
    world.tell(JobSubmitted(late))
    world.tell(Fetched("first", "home", on_disk()))
    assert [j.job_id for j in world.colony.queue.ordered(world.now)] == ["first", "late"]


def test_several_wait_for_one_model_each_by_itself() -> None:
    world = World()
    for job_id in ("a", "b"):
        submit(world, job_id)
    assert len(of(world.all, FetchModel)) == 2
    world.tell(Fetched("a", "home", on_disk()))
    assert set(world.colony.fetching) == {"b"}
    world.tell(FetchFailed("b", DownloadFailed("the disk is full")))
    assert world.stream("b")[-1] == "error"
    assert world.jobs["b"].error_code == "DOWNLOAD_FAILED"
    assert "a" in world.colony.jobs


def test_waiting_for_a_model_is_no_waiting_for_a_turn() -> None:
    """Whoever waits for a download is lifted like everybody who comes: no credit is saved up."""
    world = World()
    submit(world, "a", client="x")
    shares = world.colony.queue.shares
    shares.enter("y")
    shares.charge("y", output_tokens=1000)
    world.tell(Fetched("a", "home", on_disk()))
    assert shares.of("x") >= shares.of("y")
    world.tell(JobCancelAsked("a", "enough"))
    submit(world, "b", client="x")
    world.tell(JobCancelAsked("b", "enough"))
    assert world.stream("b")[-1] == "cancelled"


@pytest.mark.parametrize("operation", [None, WorkerSpawn(model="far"), ModelPreload(model="far")])
def test_a_cancel_ends_it_at_once_and_the_fetch(operation: Operation | None) -> None:
    world = World()
    job = submit(world, "a", operation)
    effects = world.tell(JobCancelAsked("a", "enough"))
    assert of(effects, AbortFetch) == [AbortFetch("a")]
    assert job.state is JobState.CANCELLED
    story = world.stream("a")
    for late in (
        FetchProgress("a", "more"),
        Fetched("a", "home", on_disk()),
        FetchFailed("a", DownloadFailed("x")),
    ):
        world.tell(late)
    assert world.stream("a") == story
    assert "far" in {m.id for m, _, _ in world.colony.fleet.held_models()}


def test_the_deadline_passes_while_it_is_fetched() -> None:
    world = World()
    job = submit(world, "a", Infer(model="far", prompt="x", deadline_ms=2000))
    world.tell(Tick(), after=1.0)
    assert job.state is JobState.QUEUED
    effects = world.tell(Tick(), after=1.5)
    assert of(effects, AbortFetch) == [AbortFetch("a")]
    assert (job.state, job.error_code) == (JobState.FAILED, "DEADLINE_UNMET")
    assert "far is being fetched to home" in str(job.error_message)


def test_when_the_queen_goes_durable_work_stays_for_the_next_one() -> None:
    world = World()
    kept = submit(world, "kept")
    lost = submit(world, "lost", durable=False)
    spawn = submit(world, "spawn", WorkerSpawn(model="far"))
    effects = world.tell(ShutdownAsked("stop"))
    assert {e.job_id for e in effects if isinstance(e, AbortFetch)} == {"lost", "spawn"}
    assert kept.state is JobState.QUEUED
    assert (lost.error_code, spawn.error_code) == ("SHUTTING_DOWN", "SHUTTING_DOWN")
    for news in (FetchFailed("kept", DownloadFailed("gone")), Fetched("kept", "home", on_disk())):
        world.tell(news)
    assert kept.state is JobState.QUEUED
    assert not of(world.all, StartWorker)


def test_one_of_an_earlier_queen_waits_again_without_being_queued_twice() -> None:
    world = World()
    submit(world, "a", recovered=True)
    assert of(world.all, FetchModel)
    assert "queued" not in world.stream("a")


@pytest.mark.parametrize("operation", [WorkerSpawn(model="far"), ModelPreload(model="far")])
def test_a_worker_that_is_asked_for_is_started_when_its_model_is_there(
    operation: Operation,
) -> None:
    world = World()
    job = submit(world, "a", operation)
    assert job.state is JobState.QUEUED
    assert job.info().queue_position is None
    assert of(world.tell(Fetched("a", "home", on_disk())), StartWorker)
    assert job.state is JobState.RUNNING
    world.bring_up("w-01")
    assert world.stream("a")[-2:] == ["result", "end"]


# ---- where to -----------------------------------------------------------------------------------


def choose(scene: Scene, known: ModelInfo | None = None, **ask: str) -> str | RbeeError:
    wish = Infer(model="far", prompt="x", **ask)  # type: ignore[arg-type]
    return fetching.where_to_fetch(known or at_hub(), wish, POLICY, scene.view())


def test_it_goes_where_it_would_be_answered_soonest_ties_by_name() -> None:
    scene = Scene(zoo=[device()], attic=[device()], fast=[device("cuda:0")])
    assert choose(scene) == "fast"
    scene.fleet.hives["fast"].online = False
    assert choose(scene) == "attic"
    assert choose(scene, hive="zoo") == "zoo"
    assert choose(scene, device="cpu") == "attic"


def test_a_full_disk_is_passed_over_and_told_with_amounts_where_there_is_no_other() -> None:
    scene = Scene(home=[device("cuda:0")])
    scene.hive("small", device())
    hives = scene.fleet.hives
    hives["home"].capabilities = capabilities(device("cuda:0"), disk_gib=1.0)
    assert choose(scene) == "small"
    error = choose(scene, hive="home")
    assert isinstance(error, InsufficientDisk)
    assert error.details["required"] == (1 << 30) + (256 << 20)
    assert error.details["available"] == 1 << 30
    assert "1.2 GiB on the disk of home" in error.message
    exactly = structs.replace(at_hub(), size=(1 << 30) - (256 << 20))
    assert choose(scene, exactly, hive="home") == "home"


def test_what_fits_nowhere_is_refused_with_the_amounts_of_the_nearest_place() -> None:
    scene = Scene(home=[device(free_gib=2.0), device("cuda:0", free_gib=6.0)])
    error = choose(scene, at_hub(gib=20.0))
    assert isinstance(error, InsufficientVram)
    assert error.details["required"] > error.details["available"] == 6 << 30


def test_idle_workers_may_have_to_go_and_busy_ones_when_they_are_done() -> None:
    scene = Scene(home=[device(free_gib=1.0)])
    assert isinstance(choose(scene), RbeeError)
    worker = scene.worker("w-01", "large", gib=8.0)
    assert choose(scene) == "home"
    scene.give(scene.make("busy", "large"), worker)
    assert choose(scene) == "home"
    worker.pinned = True
    scene.fleet.touch(worker)
    assert isinstance(choose(scene), RbeeError)


def test_a_download_goes_where_its_user_says_and_by_itself_where_it_can_run() -> None:
    scene = Scene(home=[device(free_gib=0.2)], away=[device()])
    known = at_hub()

    def put(hive: str | None) -> str | RbeeError:
        ask = ModelDownload(model="far", hive=hive)
        return fetching.where_to_fetch(known, ask, POLICY, scene.view())

    assert (put("home"), put(None)) == ("home", "away")
    scene.fleet.hives["home"].online = False
    for hive, code in (("home", "HIVE_OFFLINE"), ("nowhere", "HIVE_NOT_FOUND")):
        error = put(hive)
        assert isinstance(error, RbeeError)
        assert error.code == code


def test_without_any_hive_nobody_can_have_it() -> None:
    scene = Scene()
    scene.fleet.hives.clear()
    error = choose(scene)
    assert isinstance(error, RbeeError)
    assert error.code == "NO_WORKERS"


def test_what_fits_where_names_hives_and_devices() -> None:
    scene = Scene(home=[device(free_gib=16.0), device("cuda:0", free_gib=4.0)])
    scene.hive("other", device("metal:0"))
    found = fetching.fits(at_hub(gib=6.0), POLICY, scene.view())
    assert found == (["home cpu"], ["home cuda:0"])


def test_every_place_says_why_in_the_words_of_the_scheduler() -> None:
    scene = Scene(home=[device(free_gib=16.0), device("cuda:0", free_gib=4.0)])
    scene.hive("full", device(free_gib=1.0))
    scene.worker("w-01", "large", gib=8.0, hive="full")
    scene.fleet.hives["full"].capabilities = capabilities(device(free_gib=1.0), disk_gib=1.0)
    scene.hive("gone", device())
    scene.fleet.hives["gone"].online = False
    told = {
        f"{spot.hive} {spot.device}": spot
        for spot in forecast.spots(at_hub(gib=6.0), ["home"], POLICY, scene.view())
    }
    assert told["home cpu"].fits
    assert "16.0 GiB is free" in told["home cpu"].words
    assert (told["home cpu"].here, told["home cpu"].disk) == (True, "")
    small = told["home cuda:0"]
    assert (small.fits, "4.0 GiB is free" in small.words) == (False, True)
    assert small.action
    room = told["full cpu"]
    assert (room.fits, room.here) == (True, False)
    assert "w-01, idle, would be stopped for it" in room.words
    assert "on the disk of full" in room.disk
    assert told["gone "].words == "hive gone is offline"


# ---- who has it ---------------------------------------------------------------------------------


def test_a_better_hive_without_the_model_is_not_used_and_said_to_lack_it() -> None:
    world = World(device())
    fast = capabilities(device("cuda:0"), models=())
    world.tell(HiveJoined("fast", "http", None, fast))
    (start,) = of(world.submit("a"), StartWorker)
    assert isinstance(start, StartWorker)
    assert start.hive == "home"
    world.submit("b", Infer(model="tiny", prompt="x", hive="fast"))
    job = world.jobs["b"]
    assert job.error_message == "fast does not have tiny"
    (error,) = [
        e.data for e in world.all
        if isinstance(e, Append) and e.job_id == "b" and e.type is EventType.ERROR
    ]  # fmt: skip
    assert error.details["suggested_action"] == "rbee model copy tiny --to fast"  # type: ignore[union-attr]


def test_only_a_hive_that_had_the_model_is_waited_for() -> None:
    world = World(device("cuda:0"))
    empty = capabilities(device(), models=())
    world.tell(HiveJoined("empty", "http", None, empty))
    world.tell(HiveLeft("empty", "silent"))
    world.submit("a", model_name="tiny", priority=Priority.BATCH)
    world.tell(HiveLeft("home", "silent"))
    world.submit("b", model_name="unheard-of")
    assert world.jobs["b"].state is JobState.FAILED
    assert world.jobs["a"].state is JobState.QUEUED
    assert str(world.jobs["a"].waiting_for).startswith("hive home is offline")
