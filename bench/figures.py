"""Numbers out of measurements: medians, ratios, gaps. Pure."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """What several rounds gave."""

    median: float
    low: float
    high: float
    count: int


def spread(values: Sequence[float]) -> Spread:
    """Median, least and greatest. Raises ValueError for none."""
    if not values:
        raise ValueError("no values")
    return Spread(statistics.median(values), min(values), max(values), len(values))


def percentile(values: Sequence[float], share: float) -> float:
    """The nearest-rank percentile, `share` in 0..1. Raises ValueError for no values."""
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


@dataclass(frozen=True)
class Ratio:
    """Ours against theirs."""

    of_medians: float
    per_round: float
    """Median of the ratios of each round: what both met in one round falls out."""
    low: float
    high: float
    """Least and greatest of the ratios of each round."""


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Ratio | None:
    """None when either has no values, or theirs has a 0; rounds are paired by their order."""
    if not ours or not theirs or not all(theirs):
        return None
    pairs = [a / b for a, b in zip(ours, theirs, strict=False)]
    return Ratio(
        statistics.median(ours) / statistics.median(theirs),
        statistics.median(pairs),
        min(pairs),
        max(pairs),
    )


def gaps(times: Sequence[float], since: float = -math.inf) -> list[float]:
    """Seconds between one arrival and the next, of those that end after `since`."""
    return [b - a for a, b in itertools.pairwise(times) if b > since]


@dataclass(frozen=True)
class Target:
    """What a ratio must reach: `at least` or `at most` a limit."""

    limit: float
    least: bool

    def met(self, value: float) -> bool:
        """Compared at the two decimals that are shown."""
        value = round(value, 2)
        return value >= self.limit if self.least else value <= self.limit

    def __str__(self) -> str:
        return f"{'≥' if self.least else '≤'} {self.limit:g}"
