"""Waiting, starting or refusing; what is admitted, and how a decision is explained."""

from __future__ import annotations

import msgspec
import pytest

from rbee.core.bars import about
from rbee.core.costs import Facts
from rbee.core.limits import Limits
from rbee.core.policies import LeastConnections, OwnLoad
from rbee.core.policy import Run, Spawn, Wait
from rbee.core.scheduling import Ect
from rbee.errors import QueueFull
from tests.core.builders import device, model
from tests.core.scenes import ECT, Scene, refused, route

# ---- waiting, starting, refusing -----------------------------------------------------------------


def test_no_wait_is_refused_with_counts():
    scene = Scene()
    scene.worker("w-01", slots=2, busy=2)
    error = route(scene, scene.wait("a", wait=False)).error
    assert error.message == "all 2 slot(s) of 1 worker(s) with tiny are busy"
    assert (error.details["slots_total"], error.details["slots_busy"]) == (2, 2)
    assert isinstance(route(scene, scene.wait("b")), Wait)


def two_machines(*, tokens: int = 2000, limits: Limits | None = None) -> Scene:
    """A slow worker, busy for some time, and a machine without one."""
    scene = Scene(limits, home=[device()], away=[device()])
    worker = scene.worker("w-01")
    scene.measured(worker, decode=20.0)
    scene.give(scene.make("runs", max_tokens=tokens, prompt=""), worker)
    scene.experience._lengths.put(float(tokens), "tiny")
    scene.jobs["runs"].expected_out = float(tokens)
    return scene


def test_a_second_worker_is_started_when_that_is_clearly_cheaper_than_waiting():
    verdict = route(scene := two_machines(), scene.wait("a"))
    assert isinstance(verdict, Spawn)
    assert verdict.place.hive.name == "away"
    assert verdict.reason.startswith("1 wait for tiny, the last for about 100 s; away cpu is ready")
    scene = two_machines(tokens=40)
    assert route(scene, scene.wait("a")) == Wait(
        "all 1 slot(s) of w-01 are busy", scene.fleet.workers["w-01"]
    )


def test_those_who_wait_behind_make_a_second_worker_worth_it():
    scene = two_machines(tokens=50)
    first = scene.wait("a")
    assert isinstance(route(scene, first), Wait)
    for n in range(10):
        scene.wait(f"more-{n}")
    assert isinstance(route(scene, first), Spawn)


def test_no_second_worker_on_the_same_device_nor_beyond_the_most():
    scene = two_machines(limits=Limits(max_workers={"tiny": 1}))
    assert isinstance(route(scene, scene.wait("a")), Wait)
    scene = two_machines()
    scene.fleet.hives["away"].online = False
    job = scene.wait("a")
    verdict = route(scene, job)
    assert isinstance(verdict, Wait)
    whys = [o.why for o in ECT.explain(job, scene.view(), verdict).options]
    assert "home cpu already has w-01 with tiny" in whys
    assert "hive away is offline" in whys


def test_one_that_loads_is_waited_for_by_as_many_as_it_will_take():
    scene = two_machines()
    scene.hive("third", device())
    scene.worker("w-02", hive="away", slots=2, up=False, since=scene.now)
    head = scene.wait("a")
    scene.wait("b")
    assert isinstance(route(scene, head), Wait)
    scene.worker("w-03", "big", gib=1.0)
    for n in range(9):
        scene.wait(f"more-{n}")
    assert isinstance(route(scene, head), Spawn)


def test_a_fast_worker_soon_free_is_better_than_a_slow_one_now():
    scene = Scene(home=[device("cuda:0")], away=[device()])
    fast = scene.worker("w-01", on="cuda:0")
    slow = scene.worker("w-02", hive="away")
    scene.measured(fast, decode=100.0)
    scene.measured(slow, decode=2.0)
    scene.give(scene.make("runs", max_tokens=100, prompt=""), fast)
    job = scene.wait("a", max_tokens=100)
    verdict = route(scene, job)
    assert verdict == Wait("w-01 is soonest done, although w-02 is free", fast)
    assert isinstance(route(scene, scene.make("b", max_tokens=100, wait=False)), Run)
    for n in range(80):
        scene.wait(f"more-{n}", max_tokens=100)
    assert route(scene, job).worker is slow
    assert LeastConnections(ctx=4096).route(job, scene.view()).worker is slow


def test_memory_that_never_suffices_is_refused_with_the_nearest_place():
    scene = Scene(home=[device(free_gib=0.5)], away=[device("cuda:0", free_gib=1.0)])
    verdict = route(scene, scene.wait("a"))
    assert refused(verdict)[0] == "INSUFFICIENT_VRAM"
    assert len(verdict.reasons) == 2


# ---- admission -----------------------------------------------------------------------------------


def test_a_deadline_that_cannot_be_met_is_refused_with_the_prediction():
    scene = two_machines()
    scene.fleet.hives["away"].online = False
    predicted = ECT.first_token(scene.make("x"), scene.view())
    assert predicted == pytest.approx(100, rel=0.05)
    error = ECT.admit(scene.make("a", deadline_ms=5000), scene.view())
    assert isinstance(error, QueueFull)
    assert error.details["retry_after"] == round(predicted)
    assert error.message == f"the first token is expected in {predicted:.1f} s, the deadline is 5 s"
    assert ECT.admit(scene.make("b", deadline_ms=200_000), scene.view()) is None
    assert ECT.admit(scene.make("c"), scene.view()) is None
    for n in range(3):
        scene.wait(f"more-{n}")
    longer = ECT.first_token(scene.make("y"), scene.view())
    assert longer is not None
    assert longer > 3 * predicted


def test_the_first_token_of_a_cold_start_counts_the_load():
    scene = Scene()
    job = scene.make("a")
    load = scene.experience.load_seconds(model("tiny"), "home", "cpu", "llamacpp")
    first = ECT.first_token(job, scene.view())
    assert first is not None
    assert first > load
    scene.fleet.hives["home"].online = False
    assert ECT.first_token(job, scene.view()) is None


def test_more_tokens_than_the_context_are_not_admitted():
    scene = Scene()
    error = ECT.admit(scene.make("a", max_tokens=5000), scene.view())
    assert error is not None
    assert error.code == "CONTEXT_LENGTH_EXCEEDED"
    assert (error.details["required"], error.details["available"]) == (5000, 4096)


# ---- explaining ----------------------------------------------------------------------------------


def test_a_decision_has_every_option_the_best_first():
    scene = Scene(home=[device()], away=[device()], off=[device()])
    scene.fleet.hives["off"].online = False
    scene.worker("w-01", slots=2)
    scene.worker("w-02", hive="away", suspect=True)
    job = scene.wait("a")
    scene.now += 2
    verdict = route(scene, job)
    told = ECT.explain(job, scene.view(), verdict)
    assert (told.verdict, told.chosen, told.policy, told.model) == ("run", "w-01", "ect", "tiny")
    assert (told.waited_ms, told.at, told.left_out) == (2000, 1e9 + scene.now, 0)
    first = told.options[0]
    assert (first.worker_id, first.passed, first.why) == ("w-01", True, "2 of 2 slot(s) free")
    assert first.score is not None
    parts = msgspec.structs.asdict(first.score)
    total, _ = parts.pop("total"), parts.pop("hit_tokens")
    assert sum(parts.values()) == pytest.approx(total, abs=0.01)
    assert [o.why for o in told.options if not o.passed] == [
        "w-02 does not answer",
        "home cpu already has w-01 with tiny",
        "away cpu already has w-02 with tiny",
        "hive off is offline",
    ]


def test_a_decision_is_bounded():
    scene = Scene(**{f"h{n}": [device()] for n in range(50)})
    for n in range(50):
        scene.worker(f"w-{n:02d}", hive=f"h{n}")
    job = scene.wait("a")
    told = ECT.explain(job, scene.view(), route(scene, job))
    assert len(told.options) == 32
    assert told.left_out >= 18
    assert told.chosen in [o.worker_id for o in told.options]


def test_amounts_of_time_change_rarely():
    assert [about(s) for s in (0.2, 3.7, 31, 100, 5000)] == [
        "1 s",
        "5 s",
        "45 s",
        "120 s",
        "83 min",
    ]


def test_the_simpler_policies_say_who_they_are():
    names = [p(ctx=4096).name for p in (Ect, OwnLoad, LeastConnections)]
    assert names == ["ect", "own-load", "least-connections"]
    scene = Scene(home=[device()], away=[device()])
    scene.worker("w-01", slots=2, busy=1)
    scene.worker("w-02", slots=2, hive="away")
    verdict = route(scene, scene.wait("a"), LeastConnections(ctx=4096))
    assert isinstance(verdict, Run)
    assert (verdict.worker.id, verdict.reason) == ("w-02", "w-02 has the fewest jobs: 0")


# ---- many hives ----------------------------------------------------------------------------------


def test_a_cold_start_among_many_hives_looks_at_some_with_room_and_spreads():
    hives = {f"h{n}": [device(free_gib=0.1 if n % 2 else 16.0)] for n in range(200)}
    scene = Scene(**hives)
    chosen = set()
    for n in range(40):
        job = scene.wait(f"job-{n}")
        found = ECT.survey(Facts(job, scene.experience), scene.view())
        assert 0 < len(found.places) <= 16
        assert all(place.ready for _, place, _ in found.places)
        assert found.unseen > 100
        verdict = route(scene, job)
        assert isinstance(verdict, Spawn)
        chosen.add(verdict.place.hive.name)
    assert len(chosen) > 5
    for hive in scene.fleet.hives.values():
        hive.devices = [device(free_gib=0.1)]
    assert refused(route(scene, scene.wait("last")))[0] == "INSUFFICIENT_RAM"


def test_in_a_large_busy_pool_the_first_end_is_foreseen_from_a_sample():
    scene = Scene(**{f"h{n}": [device()] for n in range(60)})
    for n in range(60):
        worker = scene.worker(f"w-{n:02d}", hive=f"h{n}")
        scene.measured(worker, decode=10.0)
        scene.give(scene.make(f"runs-{n}", max_tokens=100, prompt=""), worker)
    job = scene.wait("a")
    verdict = route(scene, job)
    assert isinstance(verdict, Wait)
    assert verdict.worker is not None
    first = ECT.first_token(job, scene.view())
    assert first is not None
    assert 0 < first < 10.0
    assert refused(route(scene, scene.wait("b", wait=False)))[1] == (
        "all 60 slot(s) of 60 worker(s) with tiny are busy"
    )
    job.queued_mono = scene.now
    scene.end(scene.jobs["runs-7"], scene.fleet.workers["w-07"])
    assert route(scene, job).worker.id == "w-07"
