"""Percentiles, fairness, and what a worker remembers of prompts."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rbee.protocol.jobs import EventType
from rbee.protocol.operations import Priority
from rbee.sim.asks import Ask, Segment
from rbee.sim.prompts import Remembered
from rbee.sim.tally import Record, Tally, fairness, figures


def record(
    client: str, began: float, ended: float, tokens: int, priority: str = "interactive"
) -> Record:
    ask = Ask(
        f"{client}{began}", client, "m", (("p/user", tokens),), ("p/assistant", tokens),
        Priority(priority), None, None,
    )  # fmt: skip
    return Record(ask, began, began, ended, EventType.END)


def test_percentiles_are_of_nearest_rank():
    found = figures(float(n) for n in range(1, 101))
    assert (found.p50, found.p95, found.most, found.mean) == (50.0, 95.0, 100.0, 50.5)
    assert figures([7.0]).p95 == 7.0
    assert figures([]).p95 == 0.0


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0, 1e6), min_size=1))
def test_percentiles_are_values_and_in_order(values: list[float]):
    found = figures(values)
    rounded = {round(v, 3) for v in values}
    assert {found.p50, found.p95, found.most} <= rounded
    assert found.p50 <= found.p95 <= found.most


def test_equal_service_is_fair():
    found = fairness([record("a", 0, 10, 100), record("b", 5, 15, 100)])
    assert (found.clients, found.most_to_least, found.jain) == (2, 1.0, 1.0)


def test_one_who_gets_a_third_is_told():
    found = fairness([record("a", 0, 10, 300), record("b", 0, 10, 100)])
    assert found.most_to_least == 3.0
    assert found.jain == pytest.approx((3 + 1) ** 2 / (2 * (9 + 1)))


def test_time_with_nothing_open_does_not_count():
    waits = [record("a", 0, 10, 100), record("a", 5, 10, 100), record("a", 90, 100, 200)]
    assert fairness([*waits, record("b", 0, 20, 400)]).most_to_least == 1.0


def test_batch_work_is_not_compared_with_people():
    people = [record("a", 0, 10, 100), record("b", 0, 10, 100)]
    found = fairness([*people, record("c", 0, 100, 1, "batch")])
    assert (found.clients, found.jain) == (2, 1.0)


def test_a_second_end_is_seen():
    tally = Tally()
    ask = record("a", 0, 1, 10).ask
    tally.begun(ask, 0.0)
    tally.ended(ask.ask_id, EventType.END, 1.0)
    tally.ended(ask.ask_id, EventType.ERROR, 2.0, "LATE")
    found = tally.records[ask.ask_id]
    assert (found.terminals, found.end, found.ended) == (2, EventType.END, 1.0)
    assert tally.open == 0


def test_the_longest_beginning_is_known_but_never_all():
    memory = Remembered(1000)
    memory.keep((("s", 100), ("u", 50), ("a", 30)))
    assert memory.known((("s", 100), ("u", 50), ("a", 30), ("u2", 20))) == 180
    assert memory.known((("s", 100), ("other", 50))) == 100
    assert memory.known((("s", 100),)) == 99
    assert memory.known((("s", 40), ("u", 50))) == 40
    assert memory.known((("t", 100),)) == 0


def test_a_part_of_an_answer_is_known_too():
    memory = Remembered(1000)
    memory.keep((("u", 50), ("a", 300)))
    assert memory.known((("u", 50), ("a", 120), ("more", 10))) == 170


def test_what_was_not_used_for_longest_is_forgotten():
    memory = Remembered(250)
    memory.keep((("a", 100),))
    memory.keep((("b", 100),))
    assert memory.known((("a", 100), ("x", 1))) == 100
    memory.keep((("c", 100),))
    assert memory.known((("b", 100), ("x", 1))) == 0
    assert memory.known((("a", 100), ("x", 1))) == 100


segments = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(1, 40)), min_size=1, max_size=5
).map(tuple)


@settings(deadline=None, max_examples=100)
@given(st.lists(segments, max_size=20), segments)
def test_memory_is_bounded_and_honest(kept: list[tuple[Segment, ...]], asked: tuple[Segment, ...]):
    memory = Remembered(100)
    for text in kept:
        memory.keep(text)
        assert 0 <= memory.tokens <= 100
    total = sum(tokens for _, tokens in asked)
    assert 0 <= memory.known(asked) < total
    if not any(text[0][0] == asked[0][0] for text in kept):
        assert memory.known(asked) == 0
