"""Models that compete for memory: who goes, when, and that nobody spends the day loading."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from rbee.core.eviction import Room, claim_for, evict_for, overdue
from rbee.core.limits import Limits
from rbee.core.policies import LeastConnections, OwnLoad
from rbee.core.policy import Claim, Refuse, Run, Spawn, Wait
from rbee.core.scheduling import Ect
from rbee.protocol.operations import Priority
from rbee.protocol.workers import WorkerState
from tests.core.builders import GIB, device
from tests.core.scenes import Scene

ECT = Ect(ctx=4096, slots=1)


def route(scene: Scene, job, policy=ECT):
    return policy.route(job, scene.view())


def full(limits: Limits | None = None, *, busy: int = 0, hot: bool = True, **more) -> Scene:
    """One machine whose memory `old` on w-01 takes up."""
    scene = Scene(limits, home=[device(free_gib=0.5)])
    scene.worker("w-01", "old", gib=8.0, busy=busy, **more)
    if hot:
        scene.used("old")
    return scene


# ---- who goes ------------------------------------------------------------------------------------


def test_what_is_least_missed_goes_and_nobody_who_is_not_needed():
    scene = Scene()
    small = scene.worker("w-01", "small", gib=1.0)
    scene.worker("w-02", "pinned", pinned=True)
    scene.worker("w-03", "busy", busy=1)
    large = scene.worker("w-04", "large", gib=4.0)
    missed = {"small": 1.0, "large": 2.0}
    room = Room(losing=lambda w: missed.get(w.spec.model_id, 0.0))
    workers = scene.fleet.workers.values()
    assert evict_for(GIB, workers, room) == [small]
    assert evict_for(3 * GIB, workers, room) == [large]
    assert evict_for(5 * GIB, workers, room) == [small, large]
    assert evict_for(6 * GIB, workers, room) is None
    assert claim_for(6 * GIB, workers, room) == [scene.fleet.workers["w-03"], small, large]
    large.claimed_for = "somebody"
    assert evict_for(3 * GIB, workers, room) is None
    ours = Room(losing=room.losing, model_id="somebody")
    assert evict_for(3 * GIB, workers, ours) == [large]


@settings(deadline=None, max_examples=80)
@given(
    held=st.lists(st.tuples(st.integers(1, 8), st.booleans(), st.booleans()), max_size=8),
    missing=st.integers(0, 30),
)
def test_enough_is_evicted_and_never_the_busy_or_the_pinned(held, missing):
    scene = Scene()
    for n, (gib, busy, pinned) in enumerate(held):
        scene.worker(f"w-{n}", f"m{n}", gib=gib, busy=int(busy), pinned=pinned)
    chosen = evict_for(missing * GIB, scene.fleet.workers.values())
    able = [w for w in scene.fleet.workers.values() if not (w.jobs or w.pinned)]
    if chosen is None:
        assert sum(w.held_bytes for w in able) < missing * GIB
        return
    assert all(w in able for w in chosen)
    total = sum(w.held_bytes for w in chosen)
    assert total >= missing * GIB
    assert all(total - w.held_bytes < missing * GIB for w in chosen)


def test_idle_workers_go_after_their_time_but_the_last_few_stay():
    limits = Limits(keep_alive=10.0, keep_alives={"kept": 1e9}, min_workers={"some": 1})
    scene = Scene(limits)
    for n, name in enumerate(("one", "kept", "some", "some", "pinned")):
        scene.worker(f"w-{n}", name, since=990.0, pinned=name == "pinned")
    assert [w.id for w in overdue(scene.fleet, 1000.0, limits)] == ["w-0", "w-2"]
    assert overdue(scene.fleet, 999.0, limits) == []


def test_the_last_few_are_not_evicted_either():
    scene = full(Limits(min_workers={"old": 1}))
    verdict = route(scene, scene.wait("a", "new"))
    assert isinstance(verdict, Refuse)
    assert verdict.error.code == "INSUFFICIENT_RAM"


# ---- when ----------------------------------------------------------------------------------------


def test_a_model_nobody_asks_for_makes_room_at_once():
    scene = full(hot=False)
    verdict = route(scene, scene.wait("a", "new"))
    assert isinstance(verdict, Spawn)
    assert [w.id for w in verdict.place.evict] == ["w-01"]
    assert verdict.reason.startswith(
        "no worker has new to offer; home cpu is soonest ready after stopping idle w-01"
    )


def test_a_wanted_model_stays_until_as_much_was_waited_as_losing_it_costs():
    scene = full()
    job = scene.wait("a", "new")
    scene.now += 3
    verdict = route(scene, job)
    assert verdict == Wait(
        "waiting: evicting w-01 (old) would cost others 11 s; less than 5 s waited so far"
    )
    for n in range(3):
        scene.wait(f"more-{n}", "new")
    scene.now += 1.0
    assert isinstance(route(scene, job), Wait)
    scene.now += 1.5
    assert isinstance(route(scene, job), Spawn)


def test_the_first_never_waits_longer_than_the_patience_batch_work_ten_times_that():
    limits = Limits(swap_patience=4.0)
    for priority, most in ((Priority.INTERACTIVE, 4.0), (Priority.BATCH, 40.0)):
        scene = full(limits)
        scene.fleet.workers["w-01"].model = structs.replace(
            scene.fleet.workers["w-01"].model, size=200 * GIB
        )
        job = scene.wait("a", "new", priority=priority)
        scene.now += most - 0.1
        scene.used("old")
        assert isinstance(route(scene, job), Wait)
        scene.now += 0.2
        verdict = route(scene, job)
        assert isinstance(verdict, Spawn)
        assert f"the most is {most:.0f} s" in verdict.reason


def test_a_model_that_has_just_come_up_is_not_sent_away_by_what_was_waited_before():
    scene = full()
    job = scene.wait("a", "new")
    scene.now += 500
    scene.used("old")
    scene.fleet.workers["w-01"].ready_mono = scene.now
    verdict = route(scene, job)
    assert isinstance(verdict, Wait)
    assert verdict.reason.endswith("it has only just come up")
    scene.now += 12
    scene.used("old")
    assert isinstance(route(scene, job), Spawn)


def test_who_does_not_wait_is_refused_instead():
    scene = full(busy=1)
    verdict = route(scene, scene.wait("a", "new", wait=False))
    assert isinstance(verdict, Refuse)
    assert verdict.error.code == "ALL_SLOTS_BUSY"
    assert "the place of w-01" in verdict.error.message
    assert (verdict.error.details["slots_total"], verdict.error.details["slots_busy"]) == (1, 1)


def test_busy_workers_are_claimed_after_the_same_wait_and_replaced_once_idle():
    scene = full(busy=1)
    worker = scene.fleet.workers["w-01"]
    job = scene.wait("a", "new")
    assert isinstance(route(scene, job), Wait)
    scene.now += 11
    verdict = route(scene, job)
    assert isinstance(verdict, Claim)
    assert list(verdict.victims) == [worker]
    worker.claimed_for = "new"
    scene.fleet.touch(worker)
    assert route(scene, job) == Wait("waiting for w-01 (old), which makes room for new")
    assert worker.free_slots == 0
    old = route(scene, scene.wait("b", "old"))
    assert old == Wait("w-01 makes room for new", worker)
    scene.end(scene.jobs["w-01-0"], worker)
    verdict = route(scene, job)
    assert isinstance(verdict, Spawn)
    assert verdict.place.evict == [worker]
    told = ECT.explain(job, scene.view(), verdict)
    assert (told.verdict, told.evicted) == ("start", ["w-01"])


def test_while_a_claim_stands_no_second_set_is_claimed_and_others_wait():
    scene = Scene(home=[device(free_gib=0.5)], away=[device(free_gib=0.5)])
    first = scene.worker("w-01", "old", gib=8.0, busy=1)
    scene.worker("w-02", "older", gib=8.0, hive="away", busy=1)
    job = scene.wait("a", "new")
    first.claimed_for = "new"
    scene.fleet.touch(first)
    scene.now += 100
    assert route(scene, job) == Wait("waiting for w-01 (old), which makes room for new")
    scene.fleet.remove("w-02")
    scene.fleet.hives["away"].online = False
    third = scene.wait("b", "third")
    scene.now += 100
    assert route(scene, third) == Wait("waiting for the memory of w-01")


def test_memory_on_its_way_is_waited_for():
    scene = full()
    worker = scene.fleet.workers["w-01"]
    worker.life.to(WorkerState.STOPPING)
    scene.fleet.touch(worker)
    job = scene.wait("a", "new")
    assert route(scene, job) == Wait("waiting for the memory of w-01, which is stopping")
    scene.fleet.remove("w-01")
    assert route(scene, job) == Wait("waiting for the memory of what has just stopped on home")
    scene.fleet.hives["home"].devices = [device(free_gib=8.5)]
    assert isinstance(route(scene, job), Spawn)


def test_a_place_that_displaces_nobody_is_better():
    scene = full()
    scene.hive("away", device())
    verdict = route(scene, scene.wait("a", "new"))
    assert isinstance(verdict, Spawn)
    assert verdict.place.hive.name == "away"
    assert verdict.reason.startswith("no worker has new to offer; away cpu is soonest ready, in")


# ---- no thrash -----------------------------------------------------------------------------------


LOAD, RUN, STEP = 8.0, 1.0, 0.25


def alternate(policy, *, seconds: float = 400.0, gap: float = 2.0, models: str = "ab"):
    """A machine with room for one model, asked for all in turn: loads, jobs done, longest wait."""
    scene = Scene(home=[device(free_gib=9.0)])
    scene.now = 0.0
    roomy, short = scene.fleet.hives["home"].devices, [device(free_gib=0.5)]
    ends: deque = deque()
    loads = done = submitted = 0
    longest = 0.0
    while scene.now < seconds:
        if scene.now >= submitted * gap:
            scene.wait(f"job-{submitted}", models[submitted % len(models)], gib=8.0)
            submitted += 1
        for worker in list(scene.fleet.workers.values()):
            if worker.state is WorkerState.LOADING and scene.now - worker.started_mono >= LOAD:
                worker.life.to(WorkerState.IDLE)
                worker.slots_total, worker.ready_mono = 1, scene.now
                worker.rss_bytes = 8 * GIB + GIB // 2
                scene.fleet.hives["home"].devices = list(short)
                scene.experience.loaded(worker, LOAD, scene.now)
                scene.fleet.touch(worker)
        while ends and ends[0][0] <= scene.now:
            _, job, worker = ends.popleft()
            job.tokens_out = 10
            scene.end(job, worker)
            done += 1
        again = True
        while again:
            again = False
            for job in scene.queue.heads(scene.now):
                match route(scene, job, policy):
                    case Run(worker):
                        longest = max(longest, scene.now - job.queued_mono)
                        scene.give(job, worker)
                        ends.append((scene.now + RUN, job, worker))
                        again = True
                    case Claim(victims):
                        for victim in victims:
                            victim.claimed_for = job.demand().model_id
                            scene.fleet.touch(victim)
                        again = True
                    case Spawn(place):
                        for victim in place.evict:
                            scene.fleet.remove(victim.id)
                        if place.evict:
                            scene.fleet.hives["home"].devices = list(roomy)
                        else:
                            name = scene.fleet.new_worker_id()
                            fresh = scene.worker(
                                name, job.demand().model_id, up=False, since=scene.now
                            )
                            fresh.model = job.model
                            fresh.need_bytes = 8 * GIB
                            loads += 1
                        again = True
                    case Refuse(error):
                        raise error
                    case Wait():
                        pass
        scene.now += STEP
    return loads, done, submitted, longest


def test_two_models_that_alternate_do_not_spend_the_day_loading():
    loads, done, submitted, longest = alternate(ECT)
    assert loads * LOAD < 400 * 0.55
    assert done >= 0.95 * submitted
    assert longest < 40
    for simple in (OwnLoad(ctx=4096, slots=1), LeastConnections(ctx=4096, slots=1)):
        thrashing, less, _, _ = alternate(simple)
        assert thrashing * LOAD > 400 * 0.8
        assert less < done / 3


@pytest.mark.parametrize("policy", [ECT, OwnLoad(ctx=4096, slots=1), LeastConnections(ctx=4096)])
def test_every_policy_serves_one_model_without_ever_loading_it_again(policy):
    loads, done, submitted, _ = alternate(policy, models="a", seconds=100.0)
    assert loads == 1
    assert done >= submitted - 3
