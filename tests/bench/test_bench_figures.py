"""Medians, ratios, gaps, targets."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.figures import Target, gaps, percentile, ratio, spread

VALUES = st.lists(st.floats(0.001, 1e6), min_size=1, max_size=30)


@settings(deadline=None, max_examples=60)
@given(VALUES)
def test_a_spread_holds_its_median(values: list[float]):
    found = spread(values)
    assert found.low <= found.median <= found.high
    assert found.count == len(values)


@settings(deadline=None, max_examples=60)
@given(VALUES, st.floats(0, 1))
def test_a_percentile_is_one_of_the_values_with_that_share_below(values: list[float], share: float):
    found = percentile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values) - 1e-9


def test_percentile_of_a_hundred():
    assert percentile([float(n) for n in range(1, 101)], 0.95) == 95
    assert percentile([3.0], 0.95) == 3.0


def test_a_ratio_by_rounds_is_not_moved_by_a_slow_round_of_both():
    found = ratio([100, 50, 100], [50, 25, 50])
    assert found is not None
    assert (found.of_medians, found.per_round, found.low, found.high) == (2, 2, 2, 2)


def test_ratio_pairs_rounds():
    found = ratio([1, 4, 6], [2, 2, 2])
    assert found is not None
    assert (found.of_medians, found.per_round, found.low, found.high) == (2, 2, 0.5, 3)


@pytest.mark.parametrize("ours, theirs", [([], [1.0]), ([1.0], []), ([1.0, 1.0], [1.0, 0.0])])
def test_no_ratio_out_of_nothing(ours: list[float], theirs: list[float]):
    assert ratio(ours, theirs) is None


def test_gaps_count_when_they_end_after_the_moment():
    times = [1.0, 2.0, 5.0, 5.5]
    assert gaps(times) == [1.0, 3.0, 0.5]
    assert gaps(times, since=2.0) == [3.0, 0.5]
    assert gaps(times, since=6.0) == []
    assert gaps([1.0]) == []


def test_targets():
    assert Target(1.0, least=True).met(0.996)
    assert not Target(1.0, least=True).met(0.99)
    assert Target(0.2, least=False).met(0.2)
    assert not Target(0.2, least=False).met(0.21)
    assert str(Target(2.5, least=True)) == "≥ 2.5"


def test_nothing_has_no_median():
    with pytest.raises(ValueError, match="no values"):
        spread([])
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)
