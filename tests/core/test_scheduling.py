"""Where a job goes: each filter's sentence, each term, waiting against starting, and refusals."""

from __future__ import annotations

import msgspec
import pytest

from rbee.core.bars import about
from rbee.core.costs import Facts, of_worker
from rbee.core.limits import Limits
from rbee.core.policies import LeastConnections, OwnLoad
from rbee.core.policy import Refuse, Run, Spawn, Wait
from rbee.core.scheduling import Ect
from rbee.errors import CircuitBreakerOpen, ModelLoadFailed, QueueFull
from rbee.protocol.operations import Embed
from tests.core.builders import device, model
from tests.core.scenes import Scene, with_capabilities

ECT = Ect(ctx=4096)
WHERE = ("tiny", "/tiny.gguf", "home", "cpu")


def route(scene: Scene, job, policy=ECT):
    return policy.route(job, scene.view())


def terms(scene: Scene, job, worker):
    return of_worker(Facts(job, scene.experience), worker, scene.view())


def refused(verdict) -> tuple[str, str]:
    assert isinstance(verdict, Refuse), verdict
    return verdict.error.code, verdict.error.message


# ---- terms ---------------------------------------------------------------------------------------


def test_a_free_worker_costs_its_prompt_and_its_answer():
    scene = Scene()
    worker = scene.worker("w-01", slots=4)
    scene.measured(worker, decode=10.0, prefill=100.0)
    job = scene.wait("a", prompt="x" * 395, max_tokens=20)
    cost = terms(scene, job, worker)
    assert (cost.wait, cost.load, cost.wake, cost.ext) == (0, 0, 0, 0)
    assert (cost.prefill, cost.decode) == (pytest.approx(1.0), pytest.approx(2.0))
    assert ECT.cost(job, worker, scene.view()) == pytest.approx(3.0)
    scene.give(scene.make("b"), worker)
    assert terms(scene, job, worker).decode == pytest.approx(2.0 * 2**0.5)


def test_a_full_worker_costs_the_shortest_rest_of_what_it_runs():
    scene = Scene()
    worker = scene.worker("w-01", slots=2)
    scene.measured(worker, decode=10.0)
    for n, tokens in enumerate((100, 40)):
        scene.give(scene.make(f"r{n}", max_tokens=tokens, prompt=""), worker)
    cost = terms(scene, scene.wait("a"), worker)
    assert cost.wait == pytest.approx(40 / 10 * 2**0.5, rel=0.01)


def test_a_loading_worker_costs_the_rest_of_its_load_and_longer_when_it_is_late():
    scene = Scene()
    worker = scene.worker("w-01", gib=8.0, up=False, since=scene.now - 4)
    cost = terms(scene, scene.wait("a"), worker)
    assert cost.load == pytest.approx(2.0 + 8.59 - 4.0, abs=0.01)
    scene.now += 96
    assert terms(scene, scene.wait("b"), worker).load == pytest.approx(25.0)


def test_a_known_prompt_is_not_computed_again():
    scene = Scene(home=[device()], away=[device()])
    scene.worker("w-01")
    knows = scene.worker("w-02", hive="away")
    scene.experience.prefixes.learn("w-02", scene.make("first", prompt="x" * 9000).prefix)
    job = scene.wait("a", prompt="x" * 9000)
    cost = terms(scene, job, knows)
    assert cost.hit == pytest.approx(8 * 1024 / 4)
    verdict = route(scene, job)
    assert isinstance(verdict, Run)
    assert verdict.worker is knows
    assert verdict.reason.startswith("w-02 has a free slot and is soonest done, in about")


def test_a_device_shared_with_others_who_compute_is_slower_by_their_number():
    scene = Scene(home=[device()], away=[device()])
    worker = scene.worker("w-01")
    job = scene.wait("a")
    alone = terms(scene, job, worker)
    scene.worker("w-02", "other", busy=1)
    scene.worker("w-03", "third")
    shared = terms(scene, job, worker)
    assert shared.decode == pytest.approx(2 * alone.decode)
    assert shared.prefill == pytest.approx(2 * alone.prefill)
    scene.worker("w-04", hive="away")
    verdict = route(scene, job)
    assert isinstance(verdict, Run)
    assert verdict.worker.id == "w-04"


def test_a_sleeping_machine_costs_its_waking():
    scene = Scene(home=[device()], away=[device("cuda:0")])
    away = scene.fleet.hives["away"]
    away.online, away.asleep = False, True
    verdict = route(scene, scene.wait("a"))
    assert isinstance(verdict, Spawn)
    assert verdict.place.hive.name == "home"
    away.wake_seconds = 0.5
    verdict = route(scene, scene.wait("b"))
    assert isinstance(verdict, Spawn)
    assert verdict.place.hive.name == "away"


def test_an_answer_that_is_carried_on_has_a_longer_prompt_and_less_to_come():
    scene = Scene()
    job = scene.wait("a", max_tokens=100)
    before = Facts(job, scene.experience)
    job.tokens_out = 60
    after = Facts(job, scene.experience)
    assert (after.prompt - before.prompt, after.out) == (60, 40)


def test_near_ties_are_broken_by_the_job_and_always_the_same_way():
    scene = Scene(home=[device()], away=[device()])
    scene.worker("w-01")
    scene.worker("w-02", hive="away")
    chosen = [route(scene, scene.wait(f"job-{n}")).worker.id for n in range(40)]
    assert set(chosen) == {"w-01", "w-02"}
    assert chosen == [route(scene, scene.jobs[f"job-{n}"]).worker.id for n in range(40)]


# ---- filters -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"suspect": True}, "w-01 does not answer"),
        ({"draining": True}, "w-01 is draining: it takes no more work"),
        ({"claimed_for": "qwen"}, "w-01 makes room for qwen"),
    ],
)
def test_a_worker_that_may_not_be_used_is_waited_for_with_its_sentence(change, sentence):
    scene = Scene()
    worker = scene.worker("w-01", **change)
    verdict = route(scene, scene.wait("a"))
    assert verdict == Wait(sentence, worker)
    scene.hive("away", device())
    assert isinstance(route(scene, scene.wait("b")), Spawn)


def test_open_breakers_are_waited_for_and_refuse_who_does_not_wait():
    scene = Scene()
    scene.worker("w-01")
    for _ in range(5):
        scene.setbacks.worker("w-01").failed(scene.now)
    verdict = route(scene, scene.wait("a"))
    assert isinstance(verdict, Wait)
    assert verdict.reason == "w-01 failed 5 times in a row; next try within 60 s"
    error = route(scene, scene.wait("b", wait=False)).error
    assert isinstance(error, CircuitBreakerOpen)
    assert (error.status, error.details["retry_after"]) == (503, 60)
    scene.now += 60
    assert isinstance(route(scene, scene.wait("c")), Run)
    scene.setbacks.worker("w-01").sent(scene.now)
    assert route(scene, scene.wait("d")).reason.endswith("; it is being tried")


def test_a_hive_with_an_open_breaker_gets_neither_jobs_nor_starts():
    scene = Scene()
    for _ in range(5):
        scene.setbacks.hive("home").failed(scene.now)
    sentence = "hive home failed 5 times in a row; next try within 60 s"
    assert route(scene, scene.wait("a")) == Wait(sentence)
    assert route(scene, scene.wait("b", wait=False)).error.code == "CIRCUIT_BREAKER_OPEN"
    scene.worker("w-01")
    assert route(scene, scene.wait("c")).reason == sentence


def test_a_place_that_failed_is_waited_for_and_one_given_up_is_not():
    scene = Scene()
    error = ModelLoadFailed("no such tensor")
    for _ in range(3):
        scene.setbacks.ended_badly(WHERE, error, scene.now, lived=0.0, loaded=False)
    verdict = route(scene, scene.wait("a"))
    assert verdict == Wait("tiny failed 3 times on home cpu; next try within 5 s")
    for _ in range(9):
        scene.setbacks.ended_badly(WHERE, error, scene.now, lived=0.0, loaded=False)
    code, message = refused(route(scene, scene.wait("b")))
    assert code == "MODEL_LOAD_FAILED"
    assert message == "tiny failed 12 times on home cpu and is given up there: no such tensor"
    scene.hive("away", device())
    assert isinstance(route(scene, scene.wait("c")), Spawn)


def test_where_this_jobs_model_did_not_load_it_is_not_tried_again():
    scene = Scene(home=[device()], away=[device("cuda:0", free_gib=0.1)])
    job = scene.wait("a")
    job.failed_places[WHERE] = ModelLoadFailed("no such tensor")
    code, message = refused(route(scene, job))
    assert (code, message) == ("MODEL_LOAD_FAILED", "no such tensor")
    scene.hive("third", device())
    verdict = route(scene, job)
    assert isinstance(verdict, Spawn)
    assert verdict.place.hive.name == "third"


def test_what_a_model_cannot_do_is_refused_and_an_unknown_ability_is_tried():
    scene = Scene()
    job = scene.wait("a")
    job.model = with_capabilities(model("tiny"), "embedding")
    code, message = refused(route(scene, job))
    assert (code, message) == (
        "MODEL_INCOMPATIBLE",
        "tiny makes embeddings; it cannot generate text",
    )
    error = ECT.admit(job, scene.view())
    assert error is not None
    assert error.code == "MODEL_INCOMPATIBLE"
    embed = scene.wait("b", request=Embed(model="tiny", input="x"))
    assert isinstance(route(scene, embed), Spawn)
    embed.model = with_capabilities(model("tiny"), "text-gen")
    assert refused(route(scene, embed))[1] == "tiny generates text; it cannot embed"


def test_a_worker_with_too_little_context_is_passed_over():
    scene = Scene(home=[device()], away=[device()])
    scene.worker("w-01", ctx=512)
    job = scene.wait("a", max_tokens=1000)
    verdict = route(scene, job)
    assert isinstance(verdict, Spawn)
    options = ECT.explain(job, scene.view(), verdict).options
    assert "w-01: max_tokens 1000 does not fit the context of 512 tokens" in [
        o.why for o in options
    ]
    other = scene.wait("b", max_tokens=1000, worker_id="w-01")
    assert refused(route(scene, other))[0] == "CONTEXT_LENGTH_EXCEEDED"


def test_pins_are_obeyed():
    scene = Scene(home=[device(), device("cuda:0")], away=[device()])
    scene.worker("w-01")
    scene.worker("w-02", on="cuda:0")
    scene.worker("w-03", hive="away")
    for pin, expected in (
        ({"worker_id": "w-01"}, "w-01"),
        ({"device": "cuda"}, "w-02"),
        ({"hive": "away"}, "w-03"),
    ):
        assert route(scene, scene.wait(f"{pin}", **pin)).worker.id == expected
    code, message = refused(route(scene, scene.wait("x", worker_id="w-09")))
    assert (code, message) == ("NOT_FOUND", "no worker w-09")
    code, message = refused(route(scene, scene.wait("y", worker_id="w-01", hive="away")))
    assert message == "worker w-01 is up on home cpu, which is not what was asked for"
    scene.worker("w-10", "other")
    _, message = refused(route(scene, scene.wait("z", worker_id="w-10")))
    assert message == "worker w-10 has other, not tiny"
    spawn = route(scene, scene.wait("s", "new", hive="away"))
    assert isinstance(spawn, Spawn)
    assert spawn.place.hive.name == "away"


def test_a_worker_that_lost_the_job_is_used_only_when_there_is_no_other():
    scene = Scene(home=[device()], away=[device()])
    scene.worker("w-01")
    job = scene.wait("a")
    job.avoid.add("w-01")
    assert route(scene, job).worker.id == "w-01"
    scene.worker("w-02", hive="away")
    assert route(scene, job).worker.id == "w-02"


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
