"""The random numbers of an answer: which they are, and that they are spread as they should be."""

from __future__ import annotations

import numpy as np
from rbee.backends.shared.dice import Dice


class Sequential:
    """SplitMix64 as it is published: a state that goes on by a constant, and its mix."""

    def __init__(self, state: int) -> None:
        self.state = state % (1 << 64)

    def next(self) -> int:
        self.state = (self.state + 0x9E3779B97F4A7C15) % (1 << 64)
        z = self.state
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % (1 << 64)
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % (1 << 64)
        return z ^ (z >> 31)


def numbers(seed: int, place: int, count: int) -> list[float]:
    dice = Dice(seed)
    dice.turn_to(place)
    return [dice.random() for _ in range(count)]


def test_they_are_those_of_the_published_generator():
    reference = Sequential(1234567)
    known = (6457827717110365317, 3203168211198807973, 9817491932198370423)
    assert tuple(reference.next() for _ in range(3)) == known
    for seed in (0, 1, 0xFFFFFFFF, -1, 1 << 63):
        reference = Sequential(Sequential(seed).next())
        assert numbers(seed, 0, 50) == [(reference.next() >> 11) / 2**53 for _ in range(50)]


def test_those_of_a_token_do_not_depend_on_what_was_drawn_before():
    dice = Dice(7)
    walked: list[list[float]] = []
    for place in range(40):
        dice.turn_to(place)
        walked.append([dice.random() for _ in range(1 + place % 3)])
    for place, drawn in enumerate(walked):
        assert numbers(7, place, len(drawn)) == drawn
    assert numbers(7, (1 << 31) - 1, 2) != numbers(7, 0, 2)


def test_they_fill_the_unit_evenly_over_tokens_seeds_and_draws():
    for drawn in (
        [numbers(3, place, 1)[0] for place in range(20_000)],
        [numbers(seed, 5, 1)[0] for seed in range(20_000)],
        numbers(3, 5, 20_000),
    ):
        assert len(set(drawn)) == len(drawn)
        assert 0 <= min(drawn) < max(drawn) < 1
        counts = np.histogram(drawn, 100, (0, 1))[0]
        chi_square = float(((counts - 200) ** 2 / 200).sum())
        assert 45 < chi_square < 180  # 99 degrees of freedom
        assert abs(float(np.corrcoef(drawn[:-1], drawn[1:])[0, 1])) < 0.03
