"""The queue: nothing is lost, the order is the promised one, and nobody starves."""

from __future__ import annotations

from itertools import count

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rbee.core.fairness import Shares
from rbee.core.jobs import Job
from rbee.core.queue import PROMOTE_AFTER, JobQueue
from rbee.protocol.hives import ModelInfo
from rbee.protocol.operations import Infer, Priority

LIVE, BATCH = Priority.INTERACTIVE, Priority.BATCH
NUMBERS = count()


def job(
    name: str = "",
    client: str = "me",
    *,
    at: float = 0.0,
    priority: Priority = LIVE,
    model: str = "tiny",
) -> Job:
    return Job(
        job_id=name or f"j-{next(NUMBERS)}",
        request=Infer(model=model, prompt="hi", priority=priority),
        created_at=at,
        queued_mono=at,
        client=client,
        model=ModelInfo(
            id=model, ref=f"file:/{model}.gguf", path=f"/{model}.gguf", format="gguf", size=1
        ),
    )


def filled(*jobs: Job) -> JobQueue:
    queue = JobQueue()
    for one in jobs:
        queue.shares.enter(one.client)
        queue.push(one)
    return queue


def names(jobs: list[Job]) -> str:
    return " ".join(one.job_id for one in jobs)


def drain(queue: JobQueue, now: float, cost: float | None = None) -> list[Job]:
    """Serve what goes first until nothing waits, each job charged so many virtual tokens."""
    order: list[Job] = []
    while len(queue):
        served = queue.heads(now)[0]
        queue.remove(served)
        queue.shares.charge(
            served.client, input_tokens=queue.shares.typical if cost is None else cost
        )
        order.append(served)
    return order


# ---- plain cases -------------------------------------------------------------------------------


def test_one_client_is_served_in_order() -> None:
    jobs = [job(at=n) for n in range(5)]
    queue = filled(*jobs)
    assert queue.heads(10) == [jobs[0]]
    assert queue.ordered(10) == jobs
    assert [queue.position(j, 10) for j in jobs] == [1, 2, 3, 4, 5]
    assert drain(queue, 10) == jobs


def test_interactive_goes_before_batch() -> None:
    queue = filled(job("b1", priority=BATCH, at=1), job("b2", priority=BATCH, at=2), job("i", at=3))
    assert names(queue.heads(5)) == "i b1"
    assert names(queue.ordered(5)) == "i b1 b2"
    assert [queue.position(j, 5) for j in queue.ordered(5)] == [1, 2, 3]
    assert queue.depth() == {LIVE: 1, BATCH: 2}


def test_clients_take_turns_however_many_jobs_one_sends() -> None:
    crowd = [job(f"c{n}", "crowd", at=n) for n in range(4)]
    queue = filled(*crowd, job("g1", "guest", at=10), job("g2", "guest", at=11))
    assert names(queue.ordered(20)) == "c0 g1 c1 g2 c2 c3"
    assert [queue.position(j, 20) for j in queue.ordered(20)] == [1, 2, 3, 4, 5, 6]
    assert names(drain(queue, 20)) == "c0 g1 c1 g2 c2 c3"


def test_who_was_served_less_goes_first() -> None:
    queue = filled(job("a", "a", at=1), job("b", "b", at=2))
    queue.shares.charge("a", input_tokens=1)
    assert names(queue.heads(5)) == "b"
    assert [queue.position(j, 5) for j in queue.ordered(5)] == [1, 2]


def test_groups_go_by_class_then_counter_then_arrival() -> None:
    queue = filled(
        job("batch", "a", model="m1", priority=BATCH, at=0),
        job("late", "a", model="m2", at=3),
        job("early", "a", model="m3", at=1),
        job("much", "b", model="m4", at=0),
    )
    queue.shares.charge("b", output_tokens=9)
    assert names(queue.heads(5)) == "early late much batch"


def test_a_job_that_ran_already_goes_before_all_others_of_its_class() -> None:
    queue = filled(job("i1", "a", at=1), job("b1", "b", priority=BATCH, at=2))
    again = job("again", "c", at=5)
    queue.shares.enter("c")
    queue.shares.charge("c", output_tokens=1000)
    queue.push_front(again)
    queue.push_front(job("batch again", "c", priority=BATCH, at=6))
    assert names(queue.heads(10)) == "again batch again"
    assert names(queue.ordered(10)) == "again i1 batch again b1"
    assert [queue.position(j, 10) for j in queue.ordered(10)] == [1, 2, 3, 4]


def test_jobs_of_a_worker_that_died_keep_their_order() -> None:
    queue = filled(job("waits", at=0))
    for n in (2, 1, 3):
        queue.push_front(job(f"r{n}", at=n))
    assert names(drain(queue, 10)) == "r1 r2 r3 waits"


def test_batch_is_promoted_by_its_age() -> None:
    old, young = job("old", "a", priority=BATCH, at=0), job("young", "b", priority=BATCH, at=10)
    queue = filled(old, young, job("i", "c", at=100))
    queue.shares.charge("a", input_tokens=5)
    assert names(queue.heads(PROMOTE_AFTER - 1)) == "i young"
    assert queue.position(old, PROMOTE_AFTER - 1) == 3
    # the longest-waiting promoted one of its group, as an interactive job with its client's counter
    assert names(queue.heads(PROMOTE_AFTER)) == "i old"
    assert queue.position(old, PROMOTE_AFTER) == 2
    queue.shares.charge("c", input_tokens=6)
    assert names(queue.heads(PROMOTE_AFTER + 10)) == "old i"
    assert queue.depth() == {LIVE: 1, BATCH: 2}
    queue.remove(old)
    assert names(queue.heads(PROMOTE_AFTER + 10)) == "young i"


def test_batch_that_ran_already_is_promoted_too() -> None:
    queue = filled(job("i", "a", at=200))
    queue.push_front(job("b", "b", priority=BATCH, at=0))
    assert names(queue.ordered(PROMOTE_AFTER - 1)) == "i b"
    assert names(queue.ordered(PROMOTE_AFTER)) == "b i"
    assert queue.position(queue.heads(PROMOTE_AFTER)[0], PROMOTE_AFTER) == 1


def test_the_oldest_is_known_over_all_groups() -> None:
    queue = filled(job("a", at=7), job("b", priority=BATCH, at=3), job("c", model="m", at=5))
    assert queue.oldest() == 3
    queue.remove(list(queue.members(job(priority=BATCH).demand()))[-1])
    assert queue.oldest() == 5
    assert JobQueue().oldest() is None


def test_members_are_all_jobs_of_a_demand() -> None:
    jobs = [
        job("a", "x"),
        job("b", "y"),
        job("c", "x", priority=BATCH),
        job("d", "x", model="other"),
    ]
    queue = filled(*jobs)
    queue.push_front(job("e", "x"))
    assert sorted(names(queue.members(jobs[0].demand())).split()) == ["a", "b", "c", "e"]
    assert list(queue.members(jobs[0].demand()))[-1] is jobs[2]
    assert not list(queue.members(job(model="none").demand()))


def test_what_does_not_wait_cannot_leave_and_nothing_waits_twice() -> None:
    one = job()
    queue = filled(one)
    with pytest.raises(ValueError, match="already"):
        queue.push(one)
    with pytest.raises(ValueError, match="already"):
        queue.push_front(one)
    queue.remove(one)
    with pytest.raises(ValueError, match="not queued"):
        queue.remove(one)
    assert (len(queue), list(queue), queue.heads(0), queue.ordered(0)) == (0, [], [], [])


def test_the_place_of_a_job_that_does_not_wait_is_the_one_it_would_get() -> None:
    queue = filled(job(at=1), job(at=2), job(at=3, priority=BATCH))
    late, batch = job(at=4), job(at=4, priority=BATCH)
    assert (queue.position(late, 5), queue.position(batch, 5)) == (3, 4)
    queue.push(late)
    queue.push(batch)
    assert (queue.position(late, 5), queue.position(batch, 5)) == (3, 5)


def test_the_queue_reads_the_counters_it_was_given() -> None:
    shares = Shares()
    queue = JobQueue(shares)
    queue.push(job("a", "a", at=1))
    queue.push(job("b", "b", at=2))
    shares.charge("a", input_tokens=1)
    assert queue.shares is shares
    assert names(queue.ordered(5)) == "b a"


# ---- properties --------------------------------------------------------------------------------

CLIENTS = "abcd"
SPECS = st.tuples(
    st.sampled_from(CLIENTS),
    st.sampled_from([LIVE, LIVE, BATCH]),
    st.sampled_from(["m1", "m2"]),
    st.integers(0, 400),
    st.booleans(),
)
Spec = tuple[str, Priority, str, int, bool]


def made(spec: Spec) -> tuple[Job, bool]:
    client, priority, model, at, front = spec
    return job("", client, priority=priority, model=model, at=float(at)), front


def push(queue: JobQueue, spec: Spec) -> Job:
    one, front = made(spec)
    queue.shares.enter(one.client)
    (queue.push_front if front else queue.push)(one)
    return one


@given(
    st.lists(
        st.one_of(
            SPECS,
            st.tuples(st.just("remove"), st.integers(0, 1000)),
            st.tuples(st.just("serve"), st.integers(0, 1000)),
            st.tuples(st.just("charge"), st.sampled_from(CLIENTS), st.integers(0, 2000)),
            st.tuples(st.just("wait"), st.integers(0, 200)),
        ),
        max_size=60,
    )
)
@settings(max_examples=200, deadline=None)
def test_whatever_happens_every_job_is_in_the_queue_once_until_it_is_taken(
    steps: list[tuple[object, ...]],
) -> None:
    queue, waiting, now = JobQueue(), dict[str, Job](), 0.0
    for step in steps:
        match step:
            case ("remove", int(n)):
                if waiting:
                    queue.remove(waiting.pop(sorted(waiting)[n % len(waiting)]))
            case ("serve", int(n)):
                if heads := queue.heads(now):
                    queue.remove(heads[n % len(heads)])
                    del waiting[heads[n % len(heads)].job_id]
            case ("charge", str(client), int(n)):
                queue.shares.charge(client, input_tokens=n)
            case ("wait", int(n)):
                now += n
            case (str(client), Priority() as priority, str(model), int(at), bool(front)):
                one = push(queue, (client, priority, model, at, front))
                waiting[one.job_id] = one
            case _:
                raise AssertionError(step)
        heads = queue.heads(now)
        demands = {j.demand() for j in waiting.values()}
        members = [j for d in demands for j in queue.members(d)]
        for jobs in (list(queue), queue.ordered(now), members):
            assert sorted(j.job_id for j in jobs) == sorted(waiting)
        assert len(queue) == len(waiting)
        assert {(j.demand(), j.priority) for j in heads} == {
            (j.demand(), j.priority) for j in waiting.values()
        }
        assert len(heads) == len({(j.demand(), j.priority) for j in heads})
        assert queue.oldest() == min((j.queued_mono for j in waiting.values()), default=None)
        assert queue.depth() == {
            p: sum(j.priority is p for j in waiting.values()) for p in (LIVE, BATCH)
        }
        for one in waiting.values():
            assert 1 <= queue.position(one, now) <= len(waiting)


@given(st.lists(SPECS, min_size=1, max_size=40), st.integers(0, 700))
@settings(max_examples=200, deadline=None)
def test_the_foreseen_order_is_the_one_in_which_jobs_of_equal_cost_are_served(
    specs: list[Spec], now: int
) -> None:
    queue = JobQueue()
    jobs = [push(queue, spec) for spec in specs]
    foreseen = queue.ordered(now)
    assert foreseen[0] is queue.heads(now)[0]
    served = drain(queue, now)
    assert foreseen == served
    assert sorted(j.job_id for j in served) == sorted(j.job_id for j in jobs)
    urgent = [j.priority is LIVE or now - j.queued_mono >= PROMOTE_AFTER for j in served]
    assert urgent == sorted(urgent, reverse=True)  # never after an unpromoted batch job


@given(st.lists(SPECS, min_size=1, max_size=40), st.lists(st.integers(0, 9), max_size=4))
@settings(max_examples=200, deadline=None)
def test_positions_are_places_in_the_foreseen_order(specs: list[Spec], owed: list[int]) -> None:
    """Whatever the counters and the jobs in front; promoted batch of several clients apart."""
    queue = JobQueue()
    assume(all(priority is LIVE or now < PROMOTE_AFTER for _, priority, _, now, _ in specs))
    for spec in specs:
        push(queue, spec)
    for client, jobs in zip(CLIENTS, owed, strict=False):
        queue.shares.charge(client, input_tokens=jobs * queue.shares.typical / 2)
    now = 299.0
    order = queue.ordered(now)
    assert [queue.position(j, now) for j in order] == list(range(1, len(order) + 1))


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(1, 400)), min_size=40, max_size=200))
@settings(max_examples=100, deadline=None)
def test_two_clients_with_endless_work_get_shares_within_one_job_of_each_other(
    costs: list[tuple[int, int]],
) -> None:
    queue, had = JobQueue(), {"a": 0.0, "b": 0.0}
    for client in had:
        for _ in range(2):
            queue.shares.enter(client)
            queue.push(job("", client))
    largest = 0
    for prompt, answer in costs:
        served = queue.heads(0.0)[0]
        queue.remove(served)
        queue.shares.charge(served.client, input_tokens=prompt, output_tokens=answer)
        queue.shares.enter(served.client)
        queue.push(job("", served.client))
        queue.shares.leave(served.client)
        largest = max(largest, prompt + 2 * answer)
        had[served.client] += prompt + 2 * answer
        assert abs(had["a"] - had["b"]) <= largest


@given(st.integers(0, 60), st.lists(st.integers(1, 300), min_size=30, max_size=80))
@settings(max_examples=100, deadline=None)
def test_absence_earns_no_credit(away: int, costs: list[int]) -> None:
    """However long it stayed away, after its return it gets no more than its equal share."""
    queue, largest = JobQueue(), 0
    queue.shares.enter("stays")
    for _ in range(away):
        queue.shares.charge("stays", output_tokens=100)
    queue.shares.enter("returns")
    had = {"stays": 0, "returns": 0}
    for cost in costs:
        for client in had:
            queue.push(job("", client))
        served = queue.heads(0.0)[0]
        for one in list(queue):
            queue.remove(one)
        queue.shares.charge(served.client, output_tokens=cost)
        had[served.client] += cost
        largest = max(largest, cost)
        assert had["returns"] - had["stays"] <= largest
