"""How a step is filled, where requests are placed, what is kept of prompts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbee import registry

pytestmark = pytest.mark.skipif(
    not registry.load("llamacpp").probe().available, reason="llama-cpp-python is not installed"
)


def tokens(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int32)


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=12), st.integers(1, 2048))
def test_shares_use_the_budget_and_give_nobody_more_than_wanted(wanted, budget):
    from rbee.backends.shared.pace import shares

    given_ = shares(wanted, budget)
    assert all(0 <= part <= want for part, want in zip(given_, wanted, strict=True))
    assert sum(given_) == min(budget, sum(wanted))
    assert given_[0] >= min(wanted[0], budget // 2)


def test_a_short_prompt_does_not_wait_for_a_long_one():
    from rbee.backends.shared.pace import shares

    assert shares([5000, 30, 5000], 512) == [256, 30, 226]


def test_the_budget_follows_what_steps_cost():
    from rbee.backends.shared.pace import LEAST, Pace

    pace = Pace(200.0)
    assert pace.budget(answers=0, room=512) == 500  # one second at two milliseconds a token
    for _ in range(30):
        pace.learn(answers=4, prompt=0, ms=40.0)
        pace.learn(answers=4, prompt=100, ms=140.0)
    assert pace.budget(answers=4, room=512) == pytest.approx(160, abs=2)
    assert pace.budget(answers=0, room=512) == 512
    for _ in range(30):
        pace.learn(answers=4, prompt=100, ms=10_000.0)
    assert pace.budget(answers=4, room=512) == LEAST
    assert pace.budget(answers=4, room=5) == 5


def test_a_part_is_cut_to_whole_tiles_after_the_token_that_goes_with_the_answers():
    from rbee.backends.shared.pace import whole_tiles

    assert whole_tiles(200, left=3000, answers=0) == 192
    assert whole_tiles(200, left=3000, answers=4) == 193
    assert whole_tiles(200, left=200, answers=4) == 200
    assert whole_tiles(50, left=3000, answers=4) == 50


@given(st.lists(st.integers(0, 3), max_size=30), st.lists(st.integers(0, 3), max_size=30))
def test_the_common_beginning(one, other):
    from rbee.backends.shared.prefix import common

    expected = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        expected += 1
    assert common(tokens(*one), tokens(*other)) == expected


@given(st.lists(st.integers(1, 60), min_size=1, max_size=60))
def test_the_host_cache_never_mixes_states_up_and_keeps_the_newest(sizes):
    from rbee.backends.shared.prefix import HostCache

    cache = HostCache(100)
    kept = []
    for number, size in enumerate(sizes):

        def write(state: np.ndarray, number: int = number) -> bool:
            state[:] = number % 251
            return True

        entry = cache.put(tokens(number, number), 0, size, write)
        assert entry is not None
        kept.append((number, entry))
        assert cache.bytes <= 100
        alive = [(n, e) for n, e in kept if cache.holds(tokens(n, n)) is e]
        assert alive[-1][0] == number
        assert all((e.state == n % 251).all() for n, e in alive)
    assert cache.put(tokens(1), 0, 101, lambda _: True) is None
    assert HostCache(0).put(tokens(1), 0, 1, lambda _: True) is None


def placed(*busy: int, held: dict[int, np.ndarray] | None = None, adjacent: bool = True):
    from rbee.backends.shared.slots import Phase, Slots

    slots = Slots.of(6, 16, adjacent=adjacent)
    for slot in slots:
        if slot.number in busy:
            slot.task, slot.phase = _Task(), Phase.DECODE
        if held and slot.number in held:
            slot.past = len(held[slot.number])
            slot.tokens[: slot.past] = held[slot.number]
    return slots


class _Task:
    left = 100


def test_requests_are_placed_beside_the_active_ones():
    prompt = tokens(1, 2, 3)
    assert placed(2, 3).place(prompt).number in (1, 4)
    assert placed(0, 2).place(prompt).number == 1
    assert placed(held={5: tokens(1, 2)}).place(prompt).number == 5
    assert placed(0, held={5: tokens(1, 2), 1: tokens(9)}).place(prompt).number == 1
    assert placed(0, held={5: tokens(1, 2)}, adjacent=False).place(prompt).number == 5


def test_the_outermost_moves_into_a_hole():
    slots = placed(0, 1, 4)
    move = slots.to_move()
    assert move is not None
    assert (move[0].number, move[1].number) == (4, 2)
    slots.swap(*move)
    assert [slot.number for slot in slots.active()] == [0, 1, 2]
    assert slots.to_move() is None
    assert placed(0, 5, adjacent=False).to_move() is None
