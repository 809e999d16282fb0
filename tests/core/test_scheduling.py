"""Where a job goes: each term of the expected time, and each filter's sentence."""

from __future__ import annotations

import pytest

from rbee.core.costs import Facts, of_worker
from rbee.core.policy import Run, Spawn, Wait
from rbee.errors import CircuitBreakerOpen, ModelLoadFailed
from rbee.protocol.operations import Embed
from tests.core.builders import device, model
from tests.core.scenes import ECT, Scene, refused, route, with_capabilities

WHERE = ("tiny", "/tiny.gguf", "home", "cpu")


def terms(scene: Scene, job, worker):
    return of_worker(Facts(job, scene.experience), worker, scene.view())


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
