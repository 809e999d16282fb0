"""What is learnt: speeds by concurrency, prompts known, lengths, loads, heat; all of it bounded."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rbee.core.heat import FADES, Heat
from rbee.core.prefixes import BLOCK, Prefixes, canonical, chain
from rbee.core.speeds import Speeds, bucket, prior_rate
from rbee.protocol.messages import Function, Message, Tool
from rbee.protocol.operations import Infer
from rbee.protocol.workers import Usage
from tests.core.scenes import Scene


def usage(**more):
    told = {"prompt_tokens": 100, "completion_tokens": 50, "prefill_ms": 100.0, "decode_ms": 1000.0}
    return Usage(**{**told, **more})


def test_buckets_double():
    assert [bucket(k) for k in (0, 1, 2, 3, 4, 5, 8, 9, 16, 17)] == [0, 0, 1, 2, 2, 3, 3, 4, 4, 5]
    assert bucket(1 << 20) == bucket(257)


def test_a_bucket_never_measured_follows_from_its_nearest_neighbour():
    speeds = Speeds(100.0)
    assert speeds.decode_at(4) == pytest.approx(50.0)
    assert speeds.prefill_at(1) == pytest.approx(1000.0)
    speeds.measured(4, decode=80.0)
    assert speeds.decode_at(3) == pytest.approx(80.0)
    assert speeds.decode_at(1) == pytest.approx(160.0)
    assert speeds.decode_at(8) == pytest.approx(80.0 * math.sqrt(0.5))
    speeds.measured(4, decode=40.0)
    assert speeds.decode_at(4) == pytest.approx(68.0)
    speeds.measured(1, decode=90.0, prefill=700.0)
    assert (speeds.decode_at(1), speeds.prefill_at(1)) == (90.0, 700.0)
    assert speeds.decode_at(4) == pytest.approx(68.0)


def test_a_run_tells_speeds_lengths_and_tokens_of_a_character():
    scene = Scene()
    worker = scene.worker("w-01")
    job = scene.make("a", prompt="x" * 1000, client="ann")
    assert (job.prompt_estimate, len(job.prefix)) == (pytest.approx(1005 / 4), 0)
    scene.give(job, worker)
    assert job.expected_out == 256.0
    scene.end(job, worker, usage(prompt_tokens=500))
    assert worker.speeds is not None
    assert worker.speeds.decode_at(1) == pytest.approx(50.0)
    assert worker.speeds.prefill_at(1) == pytest.approx(5000.0)
    again = scene.make("b", prompt="x" * 1000, client="ann")
    assert again.prompt_estimate == pytest.approx(500.0)
    assert scene.experience.expected(again) == 50.0
    assert scene.experience.expected(scene.make("c", client="bob")) == 50.0
    assert scene.experience.expected(scene.make("d", max_tokens=7)) == 7.0
    assert scene.experience.expected(scene.make("e", "other")) == 256.0


def test_speeds_stay_known_for_the_next_worker_in_the_same_place():
    scene = Scene()
    first = scene.worker("w-01")
    scene.measured(first, decode=77.0)
    scene.fleet.remove("w-01")
    scene.experience.gone("w-01")
    assert scene.experience.speeds(scene.worker("w-02")).decode_at(1) == 77.0
    elsewhere = scene.experience.speeds(scene.worker("w-03", hive="away"))
    assert elsewhere.decode_at(1) == prior_rate("cpu", first.model.weights_bytes)


def test_a_run_on_a_shared_device_counts_for_what_it_would_be_alone():
    scene = Scene()
    worker = scene.worker("w-01")
    scene.worker("w-02", "other", busy=1)
    job = scene.make("a")
    scene.give(job, worker)
    scene.end(job, worker, usage())
    assert worker.speeds is not None
    assert worker.speeds.decode_at(1) == pytest.approx(100.0)


def test_loads_are_measured_per_place_and_teach_the_disk():
    scene = Scene()
    worker = scene.worker("w-01", gib=10.0)
    expected = scene.experience.reload(worker)
    assert expected == pytest.approx(2.0 + 10 * 1.073741824)
    scene.experience.loaded(worker, 22.0, scene.now)
    assert scene.experience.reload(worker) == 22.0
    half = scene.worker("w-02", "half", gib=5.0)
    assert scene.experience.reload(half) == pytest.approx(12.0)
    away = scene.worker("w-03", "half", gib=5.0, hive="away")
    assert scene.experience.reload(away) < 8.0


def test_heat_fades_and_becomes_a_chance():
    heat = Heat()
    assert heat.chance("m", 10.0, 0.0) == 0.0
    for at in range(100):
        heat.arrived("m", float(at))
    warm = heat.chance("m", 10.0, 100.0)
    assert 0.9 < warm < 1.0
    assert heat.chance("m", 100.0, 100.0) > warm
    assert heat.rate("m", 100.0 + FADES) == pytest.approx(heat.rate("m", 100.0) / math.e)
    assert heat.chance("m", 10.0, 100.0 + 10 * FADES) < 0.001


def test_a_conversation_that_goes_on_keeps_its_beginning():
    said = [Message(role="user", content="a" * 3000)]
    more = [*said, Message(role="assistant", content="b" * 3000)]
    first = chain(canonical(Infer(model="m", messages=said)))
    second = chain(canonical(Infer(model="m", messages=more)))
    assert len(first) == 2
    assert second[:2] == first
    assert len(second) == 5
    other = [Message(role="system", content="a" * 3000)]
    assert chain(canonical(Infer(model="m", messages=other)))[0] != first[0]
    tool = Tool(type="function", function=Function(name="f", parameters={"b": 1, "a": 2}))
    same = Tool(type="function", function=Function(name="f", parameters={"a": 2, "b": 1}))
    with_tool = canonical(Infer(model="m", messages=said, tools=[tool]))
    assert with_tool == canonical(Infer(model="m", messages=said, tools=[same]))
    assert chain(with_tool)[0] != first[0]


def test_a_worker_knows_what_was_sent_to_it_until_it_says_otherwise():
    scene = Scene()
    worker = scene.worker("w-01", slots=2)
    long = "x" * (4 * BLOCK)
    job = scene.make("a", prompt=long)
    assert scene.experience.hit(worker, job) == 0
    scene.give(job, worker)
    again = scene.make("b", prompt=long)
    assert scene.experience.hit(worker, again) == pytest.approx(4 * BLOCK / 4)
    assert scene.experience.hit(worker, scene.make("c", prompt=long, cache=False)) == 0
    other = scene.make("d", prompt="y" * (4 * BLOCK))
    scene.end(job, worker, usage(prompt_tokens=1024))
    scene.give(other, worker)
    scene.end(other, worker, usage(prompt_tokens=1024))
    scene.give(again, worker)
    scene.end(again, worker, usage(prompt_tokens=1024, cached_tokens=0))
    assert scene.experience.hit(worker, scene.make("e", prompt=long)) > 0
    assert scene.experience.hit(worker, scene.make("f", prompt="y" * (4 * BLOCK))) == 0
    scene.experience.gone("w-01")
    assert scene.experience.hit(worker, again) == 0


@settings(deadline=None, max_examples=60)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from("abc"), st.lists(st.integers(0, 8), max_size=6), st.booleans()),
        max_size=40,
    )
)
def test_the_map_is_bounded_and_agrees_with_itself(steps):
    prefixes = Prefixes(most=10)
    for worker, blocks, goes in steps:
        prefixes.learn(worker, tuple(blocks))
        if goes:
            prefixes.gone(worker)
            assert prefixes.blocks(worker, tuple(range(9))) == 0
        assert len(prefixes) <= 10
        for n in range(9):
            holders = prefixes.holders((n,))
            assert set(holders) == {w for w in "abc" if prefixes.blocks(w, (n,))}


def test_the_end_of_what_runs_is_foreseen_and_put_off_when_it_is_late():
    scene = Scene()
    worker = scene.worker("w-01", slots=2)
    scene.measured(worker, decode=10.0, prefill=100.0)
    short, long = scene.make("a", max_tokens=50, prompt="x" * 395), scene.make("b", max_tokens=100)
    scene.give(short, worker)
    (left,) = scene.experience.remaining(worker, scene.now)
    assert left == pytest.approx(1.0 + 5.0)
    scene.give(long, worker)
    first, second = scene.experience.remaining(worker, scene.now)
    assert first == pytest.approx((1.0 + 5.0) * math.sqrt(2))
    assert second == pytest.approx((0.0175 + 10.0) * math.sqrt(2), rel=0.01)
    long.tokens_out = 90
    assert scene.experience.remaining(worker, scene.now + 9)[0] < first
    long.tokens_out = 400
    assert scene.experience.remaining(worker, scene.now + 40)[-1] >= 100 / 10.0
    worker.jobs.add("from-before-the-restart")
    assert len(scene.experience.remaining(worker, scene.now)) == 3
