"""The filters and the draw, against a plain reference over the whole vocabulary."""

from __future__ import annotations

import math
import random
import sys

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rbee.backends.shared.candidates import Filters, draw, most_likely, survivors

from rbee.errors import InternalError

LEVELS = [-math.inf, -30.0, -2.5, -1.0, 0.0, 0.25, 0.25, 3.0, 9.0]
tiny_rows = st.lists(
    st.one_of(st.sampled_from(LEVELS), st.floats(-20, 20, width=32)), min_size=1, max_size=40
).map(lambda values: np.array(values, np.float32))


@st.composite
def large_rows(draw_one):
    """Beyond the size where columns are folded; some with many ties, bans, and a long tail."""
    size = draw_one(st.sampled_from([4096, 8191, 8192, 8193, 12_000, 49_152]))
    rng = np.random.default_rng(draw_one(st.integers(0, 1 << 32)))
    row = (rng.standard_normal(size) * draw_one(st.sampled_from([0.01, 1, 4]))).astype(np.float32)
    if draw_one(st.booleans()):
        row = np.round(row)
    row[rng.integers(0, size, draw_one(st.sampled_from([0, 3, 5 * size])))] = -math.inf
    row[rng.integers(0, size, 4)] += np.float32(draw_one(st.sampled_from([0, 12])))
    row[-1] = draw_one(st.sampled_from([row[-1], 20]))
    return row


filters = st.builds(
    Filters,
    top_k=st.sampled_from([0, 1, 2, 5, 40, 200, 300, 2000, 3000, 100_000]),
    top_p=st.sampled_from([0.0, 0.3, 0.9, 0.95, 0.999, 1.0]),
    min_p=st.sampled_from([0.0, 0.001, 0.05, 0.5, 1.0, 1.5]),
)


def reference(row, kept: Filters) -> tuple[list[int], int, int]:
    """All tokens in order, and the least and most of them that rounding may leave."""
    order = sorted((i for i in range(len(row)) if row[i] > -math.inf), key=lambda i: (-row[i], i))
    order = order[: kept.top_k] if kept.top_k > 0 else order
    if not order:
        return [], 0, 0
    weights = [math.exp(float(row[i]) - float(row[order[0]])) for i in order]
    sums, total = np.cumsum(weights), sum(weights)
    bounds = []
    for slack in (-2e-6, 2e-6):
        count = len(order)
        if kept.top_p < 1:
            count = min(count, 1 + int(np.count_nonzero(sums < (kept.top_p + slack) * total)))
        if kept.min_p > 0:
            least = min(kept.min_p, 1.0) * (1 - slack)
            count = min(count, max(1, sum(weight >= least for weight in weights)))
        bounds.append(count)
    return order, *bounds


def check(row, kept):
    before = row.copy()
    order, least, most = reference(row, kept)
    ids, below = survivors(row, kept)
    assert np.array_equal(before, row, equal_nan=True)
    if kept.top_p >= 1 and kept.min_p <= 0 and not 0 < kept.top_k < len(row):
        drawable = np.flatnonzero(below > -math.inf)
        assert sorted(order) == ids[drawable].tolist()
    else:
        assert min(least, most) <= len(ids) <= max(least, most)
        assert ids.tolist() == order[: len(ids)]
    if order:
        assert below.tolist() == [float(row[i]) - float(row[order[0]]) for i in ids]


@settings(deadline=None, max_examples=300)
@given(tiny_rows, filters)
@example(np.array([-1.1754944e-38, 0.0, 0.25], np.float32), Filters(0, 0.9, 0.0))
def test_a_tiny_vocabulary_is_filtered_as_the_reference_does(row, kept):
    check(row, kept)


@settings(deadline=None, max_examples=40)
@given(large_rows(), filters)
def test_a_large_vocabulary_is_filtered_exactly_without_sorting_it(row, kept):
    check(row, kept)


@settings(deadline=None, max_examples=60)
@given(st.one_of(tiny_rows, large_rows()), st.integers(1, 400))
def test_the_most_likely_are_in_order_and_ties_go_by_id(row, count):
    ids, values = most_likely(row, count)
    order, _, _ = reference(row, Filters(0, 1.0, 0.0))
    assert ids.tolist() == order[:count]
    assert values.tolist() == row[ids].tolist()


@pytest.mark.parametrize("size", [3, 9000])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("kept", [Filters(2, 0.9, 0.1), Filters(0, 0.9, 0), Filters(0, 1, 0)])
def test_a_row_of_no_numbers_is_refused(size, bad, kept):
    for places in (slice(None), slice(1, 2), slice(size - 1, size)):
        row = np.zeros(size, np.float32)
        row[places] = bad
        with pytest.raises(InternalError, match="no numbers"):
            survivors(row, kept)


def test_of_a_row_of_bans_nothing_survives():
    for size in (3, 9000):
        row = np.full(size, -np.inf, np.float32)
        for kept in (Filters(2, 0.9, 0.1), Filters(0, 0.9, 0), Filters(0, 1, 0)):
            assert not len(survivors(row, kept)[0])


@pytest.mark.parametrize("count", [2, 7, 3000])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_probabilities(count, temperature):
    rng, below = random.Random(7), np.linspace(0, -3, count)
    draws = 20_000
    counts = np.bincount([draw(below, temperature, rng) for _ in range(draws)], minlength=count)
    expected = np.exp(below / temperature)
    expected *= draws / expected.sum()
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    freedom = count - 1
    assert chi_square < freedom + 4 * math.sqrt(2 * freedom) + 8


@pytest.mark.parametrize("temperature", [5e-324, 1e-30, 1e-3])
def test_a_temperature_of_nearly_nothing_draws_the_likeliest(temperature):
    below = np.array([0.0, -1.0, -1e30, -3e38])
    assert {draw(below, temperature, random.Random(seed)) for seed in range(50)} == {0}


class Edge(random.Random):
    """Gives the largest number that `random` can."""

    def random(self) -> float:
        return 1 - sys.float_info.epsilon / 2


@pytest.mark.parametrize("count", [3, 3000])
def test_the_last_point_of_the_scale_never_draws_a_banned_token(count):
    below = np.full(count, -math.inf)
    below[: count // 2 + 1] = np.linspace(0, -40, count // 2 + 1)
    assert below[draw(below, 1.0, Edge())] > -math.inf
