"""The groups that decisions look at are what a look at every worker would find."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rbee.core.choosing import SMALL, choose
from rbee.core.costs import Facts, of_worker
from rbee.core.index import MOST_SHARERS
from rbee.core.policy import Run
from rbee.core.scheduling import Ect
from rbee.core.states import WORKER_LIVE, WORKER_READY
from rbee.protocol.workers import WorkerState
from tests.core.builders import device
from tests.core.scenes import Scene

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["add", "remove", "ready", "give", "end", "stop", "flag", "speed"]),
        st.integers(0, 11),
        st.integers(0, 3),
    ),
    max_size=60,
)


def act(scene, step, n, choice):
    worker_id = f"w-{n:02d}"
    worker = scene.fleet.workers.get(worker_id)
    if step == "add":
        if worker is None:
            name, on = f"m{n % 2}", ("cpu", "cuda:0")[choice % 2]
            scene.worker(worker_id, name, hive=f"h{n % 3}", on=on, slots=2, up=choice < 2)
    elif worker is None:
        return
    elif step == "remove":
        scene.fleet.remove(worker_id)
    elif step == "ready" and worker.state is WorkerState.LOADING:
        worker.life.to(WorkerState.IDLE)
        worker.slots_total = 2
    elif step == "give" and worker.free_slots:
        scene.give(scene.make(f"{worker_id}-{len(scene.jobs)}", worker.spec.model_id), worker)
    elif step == "end" and worker.jobs and worker.state is WorkerState.BUSY:
        scene.end(scene.jobs[sorted(worker.jobs)[0]], worker)
    elif step == "stop" and worker.state in WORKER_LIVE:
        worker.life.to(WorkerState.STOPPING)
    elif step == "flag":
        worker.suspect = choice == 1
        worker.draining = choice == 2
        worker.claimed_for = "m9" if choice == 3 else None
        worker.settled = choice == 1
    elif step == "speed":
        scene.measured(worker, decode=10.0 + 20 * choice)
    if worker is not None:
        scene.fleet.touch(worker)


def check(scene):
    fleet, workers = scene.fleet, list(scene.fleet.workers.values())
    live = [w for w in workers if w.state in WORKER_LIVE]
    for name in ("m0", "m1"):
        pool = fleet.pool(name, f"/{name}.gguf")
        of = [w for w in live if w.spec.model_id == name]
        assert fleet.live_count(name) == len(of)
        assert {w.id for w in fleet.of_model(name, f"/{name}.gguf")} == {w.id for w in of}
        if pool is None:
            assert not of
            continue
        usable = [
            w
            for w in of
            if w.state in WORKER_READY and not (w.suspect or w.draining or w.claimed_for)
        ]
        assert pool.slots == sum(w.slots_total for w in usable)
        assert pool.busy == sum(len(w.jobs) for w in usable)
        assert pool.ready == sum(1 for w in of if w.state in WORKER_READY)
        lanes = [w.id for lane in pool.free.values() for w in lane.members]
        assert Counter(lanes) == Counter(w.id for w in of if w.free_slots)
        assert all(len(lane) for lane in pool.free.values())
        for (on, _, _, shared), lane in pool.free.items():
            for worker in lane.members:
                assert worker.spec.device == on
                assert min(worker.sharers, MOST_SHARERS) == shared
        assert {w.id for w in pool.loading.members} == {
            w.id for w in of if w.state is WorkerState.LOADING
        }
        others = {w.id for w in (*pool.full.members, *pool.barred.members)}
        assert others == {w.id for w in of if w.state in WORKER_READY and not w.free_slots}
    for worker in live:
        near = [
            w for w in live if w is not worker and w.jobs and (w.hive, w.spec.device) == _at(worker)
        ]
        assert worker.sharers == len(near)
    claimed = {w.id for w in live if w.state in WORKER_READY and w.claimed_for}
    assert {w.id for w in fleet.claimed_for("m9")} == claimed == {w.id for w in fleet.claimed()}
    draining = {w.id for w in live if w.state in WORKER_READY and w.draining}
    assert {w.id for w in fleet.draining()} == draining
    ready = [w for w in workers if w.state in WORKER_READY]
    assert {w.id for w in fleet.unready()} == {w.id for w in workers if w not in ready}
    assert {w.id for w in fleet.suspects()} == {w.id for w in ready if w.suspect}
    assert fleet.live_total() == len(live)
    resting = [w for w in ready if not w.jobs and not w.pinned]
    for name, idle in fleet.index.idle.items():
        assert {*idle} == {w.id for w in resting if w.spec.model_id == name}
        times = [w.idle_since for w in idle.values()]
        assert times == sorted(times)
    assert sum(map(len, fleet.index.idle.values())) == len(resting)
    for name in {w.hive for w in workers}:
        assert {w.id for w in fleet.on(name)} == {w.id for w in workers if w.hive == name}
    for hive in fleet.hives.values():
        assert fleet.hive_info(hive).workers == sum(1 for w in live if w.hive == hive.name)
        for at in hive.devices:
            loading = [
                w
                for w in workers
                if _at(w) == (hive.name, at.name)
                and (w.state is WorkerState.LOADING or (w.state in WORKER_READY and not w.settled))
            ]
            coming = sum(max(0, w.need_bytes - w.taken_bytes) for w in loading)
            assert fleet.free_memory(hive, at) == max(0, at.memory_free - coming)
            spot = fleet.spot(hive.name, at.name)
            idle = [
                w
                for w in workers
                if _at(w) == (hive.name, at.name) and w.state in WORKER_READY and not w.jobs
            ]
            assert (spot.idle_bytes if spot else 0) == sum(w.held_bytes for w in idle)


def _at(worker):
    return worker.hive, worker.spec.device


@settings(deadline=None, max_examples=120)
@given(steps=STEPS)
def test_every_group_is_what_a_look_at_all_would_find(steps):
    both = [device("cpu"), device("cuda:0")]
    scene = Scene(h0=both, h1=both, h2=both)
    for step in steps:
        act(scene, *step)
        check(scene)


@settings(deadline=None, max_examples=60)
@given(
    speeds=st.lists(st.sampled_from([10.0, 20.0, 40.0, 41.0, 80.0]), min_size=30, max_size=60),
    loads=st.lists(st.integers(0, 2), min_size=60, max_size=60),
    known=st.integers(0, 29),
    seed=st.integers(0, 1000),
)
def test_a_large_pool_gives_the_worker_that_scoring_all_would_give(speeds, loads, known, seed):
    assert len(speeds) > SMALL
    scene = Scene(**{f"h{n}": [device("cuda:0")] for n in range(len(speeds))})
    prompt = "x" * 6000
    for n, (speed, load) in enumerate(zip(speeds, loads, strict=False)):
        worker = scene.worker(f"w-{n:02d}", hive=f"h{n}", on="cuda:0", slots=2)
        scene.measured(worker, decode=speed, prefill=speed * 10)
        for _ in range(load):
            scene.give(scene.make(f"j{len(scene.jobs)}"), worker)
    scene.experience.prefixes.learn(f"w-{known:02d}", scene.make("first", prompt=prompt).prefix)
    job = scene.wait(f"job-{seed}", prompt=prompt)
    view, facts = scene.view(), Facts(job, scene.experience)
    free = [w for w in scene.fleet.workers.values() if w.free_slots]
    choice = choose(facts, scene.fleet.pool("tiny", "/tiny.gguf"), view)
    if not free:
        assert choice.free is None
        assert choice.soon is not None
        return
    best = min(of_worker(facts, w, view).total for w in free)
    assert choice.free in free
    # A lane is 5 % of decode speed wide, and a near tie is 5 % again.
    assert choice.free_terms.total <= best * 1.05**2 * 1.001


def test_a_lane_with_barred_members_gives_one_that_is_not():
    scene = Scene(**{f"h{n}": [device()] for n in range(60)})
    for n in range(60):
        scene.worker(f"w-{n:02d}", hive=f"h{n}")
    for n in range(59):
        for _ in range(5):
            scene.setbacks.worker(f"w-{n:02d}").failed(scene.now)
    verdict = Ect(ctx=4096).route(scene.wait("a"), scene.view())
    assert isinstance(verdict, Run)
    assert verdict.worker.id == "w-59"


def test_jobs_spread_over_a_large_pool_and_leave_the_worker_that_lost_them():
    scene = Scene(**{f"h{n}": [device()] for n in range(40)})
    for n in range(40):
        scene.worker(f"w-{n:02d}", hive=f"h{n}")
    policy, seen = Ect(ctx=4096), set()
    for n in range(60):
        job = scene.wait(f"job-{n}")
        first = policy.route(job, scene.view())
        assert isinstance(first, Run)
        assert policy.route(job, scene.view()) == first
        seen.add(first.worker.id)
        job.avoid.add(first.worker.id)
        second = policy.route(job, scene.view())
        assert isinstance(second, Run)
        assert second.worker is not first.worker
    assert len(seen) > 20


def test_a_worker_that_is_gone_leaves_its_memory_as_coming_until_the_next_telemetry():
    scene = Scene()
    scene.worker("w-01", gib=2.0)
    scene.fleet.remove("w-01")
    spot, hive = scene.fleet.spot("home", "cpu"), scene.fleet.hives["home"]
    assert spot is not None
    assert spot.settling == 2 << 30
    assert spot.settles_with is hive.devices
    hive.devices = [device()]
    assert spot.settles_with is not hive.devices
    assert scene.fleet.remove("w-01") is None


def test_adding_a_worker_again_replaces_it():
    scene = Scene()
    scene.worker("w-01", busy=1)
    scene.worker("w-01")
    assert scene.fleet.live_count("tiny") == 1
    assert scene.fleet.workers["w-01"].sharers == 0
    with pytest.raises(KeyError):
        scene.fleet.workers["w-02"]
