"""Hives that come with workers, speak for their own, go, and come back with them or without."""

from __future__ import annotations

import pytest

from rbee.core.effects import Effect, StartWorker
from rbee.core.events import HiveJoined, HiveLeft, HiveSaid, SpawnRefused, Tick
from rbee.core.fleet import Worker
from rbee.core.limits import Limits
from rbee.errors import NotFound
from rbee.protocol.hives import HiveTelemetry, HiveWorker, WorkerLoad
from rbee.protocol.jobs import JobState
from rbee.protocol.operations import WorkerDrain, WorkerSpawn, WorkerStop
from rbee.protocol.workers import Heartbeat, WorkerReady, WorkerSpec, WorkerState
from tests.core.builders import World, capabilities, device, done, exited, model, of, started

CALM = Limits(stale_after=1e9, remove_after=1e9, keep_alive=60.0)


def known(spec: WorkerSpec) -> HiveWorker:
    """What its hive tells of an idle worker."""
    ready = WorkerReady(
        worker_id=spec.worker_id, url="http://127.0.0.1:9300", model=spec.model_id,
        backend=spec.backend, device=spec.device, pid=1, protocol=1,
    )  # fmt: skip
    beat = Heartbeat(worker_id=spec.worker_id, state=WorkerState.IDLE, slots_total=spec.slots)
    return HiveWorker(spec=spec, pid=1, log_path="", started_at=5.0, ready=ready, beat=beat)


def spec(worker_id: str, *, pinned: bool = False) -> WorkerSpec:
    return WorkerSpec(
        worker_id=worker_id, model_id="tiny", model_path="/tiny.gguf", format="gguf",
        backend="llamacpp", device="cpu", slots=1, ctx=4096, pinned=pinned,
    )  # fmt: skip


def join(world: World, name: str = "home", *workers: WorkerSpec) -> list[Effect]:
    """A hive that lists the model comes with these workers."""
    told = capabilities(device())
    told.models.append(model("tiny"))
    kind = "local" if name == "home" else "http"
    return world.tell(HiveJoined(name, kind, None, told, [known(w) for w in workers]))


def specs(effects: list[Effect]) -> list[tuple[str, WorkerSpec]]:
    return [(e.hive, e.spec) for e in effects if isinstance(e, StartWorker)]


def pinned_one(world: World) -> Worker:
    """A pinned worker that a person asked for, ready."""
    world.submit("spawn", WorkerSpawn(model="tiny", pin=True))
    world.bring_up("w-01")
    assert world.jobs["spawn"].state is JobState.COMPLETED
    return world.colony.fleet.workers["w-01"]


def wait(world: World, seconds: float) -> list[Effect]:
    effects: list[Effect] = []
    for _ in range(round(seconds)):
        effects += world.tell(Tick(), after=1.0)
    return effects


# ---- a hive speaks for its own ------------------------------------------------------------------


def test_what_a_hive_does_not_have_is_not_taken_from_another_one() -> None:
    world = World(limits=CALM)
    join(world, "far")
    world.submit("a", hive="home")
    world.bring_up("w-01")
    world.tell(started("a"))
    world.tell(SpawnRefused("far", "w-01", NotFound("no worker w-01 runs on this hive")))
    assert world.jobs["a"].state is JobState.RUNNING
    assert world.colony.fleet.workers["w-01"].state is WorkerState.BUSY
    world.tell(SpawnRefused("home", "w-01", NotFound("no worker w-01 runs on this hive")))
    assert "w-01" not in world.colony.fleet.workers


def test_a_hive_tells_the_load_of_its_own_workers_only() -> None:
    world = World(limits=CALM)
    join(world, "far")
    world.submit("a", hive="home")
    world.bring_up("w-01")
    worker = world.colony.fleet.workers["w-01"]
    load = WorkerLoad(worker_id="w-01", cpu_percent=50.0, rss_bytes=77)
    said = HiveTelemetry(devices=[device()], workers=[load])
    world.tell(HiveSaid("far", said))
    assert (worker.cpu_percent, worker.rss_bytes, worker.settled) == (0.0, 0, False)
    world.tell(HiveSaid("home", said))
    assert (worker.cpu_percent, worker.rss_bytes, worker.settled) == (50.0, 77, True)


# ---- ids ----------------------------------------------------------------------------------------


def test_an_id_is_given_once() -> None:
    world = World(limits=CALM)
    for number in (1, 2):
        world.submit(f"spawn-{number}", WorkerSpawn(model="tiny"))
        world.bring_up(f"w-0{number}")
        world.tell(exited(f"w-0{number}", 0, expected=True))
    join(world, "far", spec("w-41"))
    world.submit("a", hive="home")
    assert [s.worker_id for _, s in specs(world.all)] == ["w-01", "w-02", "w-42"]


@pytest.mark.parametrize("strange", ["w-", "w-x", "other", "w-" + "9" * 5000, "w-²"])
def test_an_id_that_is_not_like_ours_changes_no_number(strange: str) -> None:
    world = World(limits=CALM)
    join(world, "far", spec(strange))
    assert strange in world.colony.fleet.workers
    assert world.colony.fleet.new_worker_id() == "w-01"


# ---- adopted ------------------------------------------------------------------------------------


def test_an_adopted_worker_has_the_pin_and_the_model_that_its_hive_tells_of() -> None:
    world = World(limits=CALM)
    join(world, "far", spec("w-07", pinned=True), spec("w-08"))
    worker, other = (world.colony.fleet.workers[name] for name in ("w-07", "w-08"))
    assert worker.model == model("tiny")
    info = worker.info(world.now)
    assert (info.quant, info.pinned, info.state) == ("Q4_0", True, WorkerState.IDLE)
    wait(world, 100)
    assert worker.state is WorkerState.IDLE
    assert other.stop_reason == "idle for 60 s"


def test_a_model_that_the_hive_does_not_list_is_adopted_by_its_name() -> None:
    world = World(limits=CALM)
    world.tell(HiveJoined("far", "http", None, capabilities(models=()), [known(spec("w-07"))]))
    adopted = world.colony.fleet.workers["w-07"].model
    assert (adopted.id, adopted.path, adopted.size) == ("tiny", "/tiny.gguf", 0)


# ---- away and back ------------------------------------------------------------------------------


def test_a_pin_outlives_a_broken_link() -> None:
    world = World(limits=CALM)
    there = pinned_one(world).spec
    world.tell(HiveLeft("home", "the link broke"))
    assert not world.colony.fleet.workers
    assert specs(wait(world, 5)) == []
    join(world, "home", there)
    assert specs(wait(world, 100)) == []
    worker = world.colony.fleet.workers["w-01"]
    assert (worker.pinned, worker.state) == (True, WorkerState.IDLE)
    assert world.colony.missing == []


def test_a_pinned_worker_is_started_again_when_its_hive_is_back_without_it() -> None:
    world = World(limits=CALM)
    join(world, "far")
    world.submit("spawn", WorkerSpawn(model="tiny", pin=True, hive="home"))
    world.bring_up("w-01")
    world.tell(HiveLeft("home", "it died"))
    assert specs(wait(world, 30)) == []
    join(world, "home")
    ((hive, again),) = specs(wait(world, 10))
    assert (hive, again.worker_id, again.pinned) == ("home", "w-02", True)
    assert world.colony.fleet.workers["w-02"].pinned


def test_one_of_two_that_is_back_is_not_started_twice() -> None:
    world = World(limits=CALM)
    first = pinned_one(world).spec
    world.submit("more", WorkerSpawn(model="tiny", pin=True))
    world.bring_up("w-02")
    world.tell(HiveLeft("home", "the link broke"))
    assert len(world.colony.missing) == 2
    join(world, "home", first)
    assert [s.worker_id for _, s in specs(wait(world, 10))] == ["w-03"]
    assert world.colony.missing == []


@pytest.mark.parametrize("end", [WorkerStop, WorkerDrain])
def test_a_pinned_worker_that_was_to_end_is_not_started_again(
    end: type[WorkerStop] | type[WorkerDrain],
) -> None:
    world = World(limits=CALM)
    pinned_one(world)
    world.submit("a")
    world.tell(started("a"))
    world.submit("end", end(worker_id="w-01"))
    world.tell(HiveLeft("home", "it died"))
    join(world, "home")
    assert world.colony.missing == []
    assert all(not s.pinned for _, s in specs(wait(world, 10)))


def test_an_unpinned_worker_of_a_hive_that_left_is_not_missed() -> None:
    world = World(limits=CALM)
    world.submit("a")
    world.bring_up("w-01")
    world.tell(done("a"))
    assert of(world.all, StartWorker)
    world.tell(HiveLeft("home", "it died"))
    join(world, "home")
    assert specs(wait(world, 10)) == []
