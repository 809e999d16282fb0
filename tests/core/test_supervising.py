"""Workers that must be there, that leave in good order, that fail too often, that are silent."""

from __future__ import annotations

from rbee.core.effects import Dispatch, Effect, Narrate, StartWorker, StopWorker
from rbee.core.events import HiveJoined, JobCancelAsked, Tick
from rbee.core.limits import Limits
from rbee.core.setbacks import GIVEN_UP, LONGEST_PAUSE, OPEN_SECONDS, Breaker, Setbacks, pause
from rbee.errors import BadGateway, InsufficientRam, WorkerCrashed
from rbee.protocol.jobs import JobState
from rbee.protocol.operations import WorkerDrain, WorkerSpawn
from rbee.protocol.workers import WorkerState
from tests.core.builders import (
    World,
    capabilities,
    device,
    done,
    exited,
    failed,
    model,
    of,
    started,
)

CALM = Limits(stale_after=1e9, remove_after=1e9)


def starts(effects: list[Effect]) -> list[str]:
    return [e.spec.worker_id for e in effects if isinstance(e, StartWorker)]


def stops(effects: list[Effect]) -> list[str]:
    return [e.worker_id for e in effects if isinstance(e, StopWorker)]


def until_started(world: World, limit: float = 400.0) -> float:
    """Seconds until the next worker is started."""
    began = world.now
    while world.now < began + limit:
        if starts(world.tell(Tick(), after=0.5)):
            return world.now - began
    raise AssertionError("nothing was started")


def test_a_drained_worker_ends_what_it_runs_gets_nothing_more_and_goes() -> None:
    world = World(device("cuda:0"), device("cuda:1"), limits=CALM)
    world.submit("a", device="cuda:0")
    world.bring_up("w-01", slots=2)
    world.tell(started("a"))
    world.submit("drain", WorkerDrain(worker_id="w-01"))
    worker = world.colony.fleet.workers["w-01"]
    assert worker.info(world.now).draining
    assert worker.free_slots == 0
    assert not of(world.submit("b"), Dispatch)
    assert starts(world.all) == ["w-01", "w-02"]
    assert stops(world.all) == []
    assert world.jobs["drain"].state is JobState.RUNNING
    assert stops(world.tell(done("a"))) == ["w-01"]
    world.tell(exited("w-01", 0, expected=True))
    assert world.jobs["drain"].state is JobState.COMPLETED
    assert world.jobs["a"].state is JobState.COMPLETED


def test_a_drain_that_is_cancelled_is_taken_back() -> None:
    world = World(limits=CALM)
    world.submit("a")
    world.bring_up("w-01", slots=2)
    world.submit("drain", WorkerDrain(worker_id="w-01"))
    world.tell(JobCancelAsked("drain", "no"))
    assert of(world.submit("b"), Dispatch)
    assert not stops(world.tell(done("a")))


def test_an_idle_worker_that_is_drained_goes_at_once() -> None:
    world = World(limits=CALM)
    world.submit("a")
    world.bring_up("w-01")
    world.tell(done("a"))
    assert stops(world.submit("drain", WorkerDrain(worker_id="w-01"))) == ["w-01"]
    world.submit("other", WorkerDrain(worker_id="w-77"))
    assert world.jobs["other"].error_code == "NOT_FOUND"


def test_a_pinned_worker_that_crashes_is_started_again_after_pauses_that_double() -> None:
    world = World(limits=CALM)
    world.submit("spawn", WorkerSpawn(model="tiny", pin=True))
    pauses: list[float] = []
    for number in range(1, 5):
        world.bring_up(f"w-0{number}")
        assert world.colony.fleet.workers[f"w-0{number}"].pinned
        world.tell(exited(f"w-0{number}"))
        pauses.append(until_started(world))
    assert [round(p) for p in pauses] == [1, 2, 4, 8]


def test_stability_makes_a_crash_the_first_again() -> None:
    world = World(limits=CALM)
    world.submit("spawn", WorkerSpawn(model="tiny", pin=True))
    for number in (1, 2, 3):
        world.bring_up(f"w-0{number}")
        world.tell(exited(f"w-0{number}"))
        until_started(world)
    world.bring_up("w-04")
    world.tell(Tick(), after=301.0)
    world.tell(exited("w-04"))
    assert until_started(world) <= 2.0


def test_a_place_that_fails_more_than_ten_times_in_a_minute_is_given_up_and_that_is_told() -> None:
    setbacks, where = Setbacks(), ("m", "/m", "home", "cpu")
    for number in range(11):
        error = WorkerCrashed("x")
        setback = setbacks.ended_badly(where, error, float(number), lived=0.1, loaded=True)
        assert setback.given_up == (number == 10)
    assert setbacks.place(where, 10 + GIVEN_UP - 1) is not None
    assert setbacks.place(where, 10 + GIVEN_UP) is None


def test_pauses_double_to_a_minute_with_a_fifth_of_jitter() -> None:
    assert [pause(n) for n in (1, 2, 3, 7, 100)] == [1.0, 2.0, 4.0, LONGEST_PAUSE, LONGEST_PAUSE]
    assert pause(2, -1.0) == 1.6
    assert pause(2, 1.0) == 2.4


def test_a_breaker_opens_at_five_in_a_row_and_lets_one_probe_pass() -> None:
    breaker = Breaker()
    for _ in range(4):
        assert not breaker.failed(0.0)
    breaker.succeeded()
    for _ in range(4):
        assert not breaker.failed(1.0)
    assert breaker.refuses(1.0) is None
    assert breaker.failed(1.0)
    assert breaker.refuses(2.0) == OPEN_SECONDS - 1
    later = 1.0 + OPEN_SECONDS
    assert breaker.refuses(later) is None
    breaker.sent(later)
    assert breaker.refuses(later) == 0.0
    assert breaker.failed(later)
    assert breaker.refuses(later + 1) == OPEN_SECONDS - 1
    breaker.sent(later + OPEN_SECONDS)
    breaker.succeeded()
    assert breaker.refuses(later + OPEN_SECONDS) is None


def test_a_worker_that_only_fails_gets_nothing_for_a_minute() -> None:
    world = World(limits=CALM)
    for number in range(5):
        world.submit(f"j{number}")
        if number == 0:
            world.bring_up("w-01", slots=8)
    for number in range(5):
        world.tell(failed(f"j{number}", BadGateway("garbage"), world.jobs[f"j{number}"].attempt))
    assert not of(world.submit("next"), Dispatch)
    assert "w-01" in (world.jobs["next"].waiting_for or "")
    world.now += OPEN_SECONDS
    world.beat("w-01", WorkerState.IDLE, slots=8)
    probes = of(world.tell(Tick()), Dispatch)
    assert len(probes) == 1
    assert isinstance(probes[0], Dispatch)
    job = probes[0].job
    more = of(world.tell(done(job.job_id, job.attempt)), Dispatch)
    assert more


def test_so_many_workers_as_the_settings_want_are_kept_up() -> None:
    world = World(limits=Limits(min_workers={"tiny": 1}, keep_alive=10.0, stale_after=1e9))
    caps = capabilities(device())
    caps.models.append(model("tiny"))
    world.tell(HiveJoined("home", "local", None, caps))
    assert starts(world.tell(Tick())) == ["w-01"]
    assert starts(world.tell(Tick(), after=1.0)) == []
    world.bring_up("w-01")
    assert stops(world.tell(Tick(), after=20.0)) == []
    world.tell(exited("w-01"))
    assert until_started(world) <= 2.0


def test_a_model_may_be_kept_for_ever_or_not_at_all() -> None:
    keep = {"tiny": float("inf"), "other": 0.0}
    world = World(limits=Limits(keep_alives=keep, stale_after=1e9, remove_after=1e9))
    for number, name in enumerate(("tiny", "other"), 1):
        world.submit(name, model_name=name)
        world.bring_up(f"w-0{number}")
        world.tell(done(name))
    assert stops(world.tell(Tick(), after=1.0)) == ["w-02"]
    assert stops(world.tell(Tick(), after=1e6)) == []


def test_silence_proves_nothing_when_the_queen_did_not_listen() -> None:
    world = World()
    world.submit("a")
    world.bring_up("w-01")
    assert not stops(world.tell(Tick(late=True), after=60.0))
    assert not stops(world.tell(Tick(), after=5.0))
    assert stops(world.tell(Tick(), after=2.0)) == ["w-01"]


def test_a_start_that_needs_room_waits_for_it_and_says_so() -> None:
    world = World(device(free_gib=2.5), limits=CALM)
    world.submit("a")
    world.bring_up("w-01")
    worker = world.colony.fleet.workers["w-01"]
    worker.rss_bytes = 2 << 30
    world.colony.fleet.touch(worker)
    world.colony.fleet.hives["home"].devices = [device(free_gib=0.5)]
    world.submit("busy", WorkerSpawn(model="other"), model_name="other")
    assert world.jobs["busy"].error_code == InsufficientRam.code
    world.tell(done("a"))
    effects = world.submit("spawn", WorkerSpawn(model="other"), model_name="other")
    assert stops(effects) == ["w-01"]
    assert "w-01" in (world.jobs["spawn"].waiting_for or "")
    world.tell(exited("w-01", 0, expected=True))
    world.colony.fleet.hives["home"].devices = [device(free_gib=2.5)]
    assert starts([*world.all, *world.tell(Tick())]) == ["w-01", "w-02"]
    world.bring_up("w-02")
    assert world.jobs["spawn"].state is JobState.COMPLETED


def test_giving_up_is_narrated() -> None:
    world = World(limits=CALM)
    world.submit("spawn", WorkerSpawn(model="tiny", pin=True))
    worker_id = "w-01"
    world.bring_up(worker_id)
    where = world.colony.fleet.workers[worker_id].where
    for second in range(10):
        world.colony.setbacks.ended_badly(
            where, WorkerCrashed("x"), world.now + second / 10, lived=0.1, loaded=True
        )
    told = world.tell(exited(worker_id), after=1.0)
    assert any(isinstance(e, Narrate) and "not started there any more" in e.message for e in told)
