"""Which tokens may be drawn, and the draw: top-k, top-p, min-p, temperature, in llama.cpp's order.

Owns the arithmetic over one row of logits and nothing else: no state, no request, no library. The
order and the meaning of each filter are those of llama.cpp's default chain (llama-sampler.cpp:
top_k, top_p and min_p on the probabilities before temperature, temp, dist). Of equal logits the
smaller token id goes first, where llama.cpp's sorting leaves it open.

Nothing here is approximate, though a vocabulary of 262 k is hardly ever sorted:

* top-k: fold the row into 512 columns. The k-th largest of the column maxima is reached by at least
  k columns, so by at least k tokens, so every token of the top k reaches it too: only those are
  sorted, little more than k of them. Two passes over the row and few calls, since after a decode
  neither the row nor this code is in the core's caches.
* min-p keeps what lies within log(1 / min_p) of the highest logit, which no filter before removes.
* top-p alone keeps the first tokens in descending order whose sum reaches p of the total: when the
  tokens within some depth of the highest reach it, no other token matters; else look deeper.
* top-p and min-p both keep a beginning of the same descending order, so the shorter one is kept.

It is numpy and not llama.cpp's own chain after the same beginning. The chain takes 21 µs for a row
of 49 k where this takes 28, most of it for the beginning. For these 7 µs a wrong argument cannot
end the process, equal logits have an order, and a seed draws the same with every library.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from rbee.errors import InternalError

Row = NDArray[np.float32]
Ids = NDArray[np.intp]
Below = NDArray[np.float64]
_FOLD = 512
_LOWEST = float(np.finfo(np.float32).min)
_DEPTHS = (4.0, 6.0, 9.0, 13.0, 20.0, math.inf)
_COLDEST = 1e-9
"""Below this a float64 may not hold a logit divided by it; the draw is the same, of the highest."""
_BLOCK = 512


class Numbers(Protocol):
    """Where random numbers come from."""

    def random(self) -> float:
        """The next one, from 0 to below 1."""
        ...


class Filters(NamedTuple):
    """How a request narrows the choice; 0, 1 and 0 are off."""

    top_k: int
    top_p: float
    min_p: float


def highest(values: Row) -> float:
    """The highest logit; -inf when everything is banned. Raises InternalError for NaN or inf."""
    return _number(float(values.max(initial=-math.inf)))


def most_likely(row: Row, count: int) -> tuple[Ids, Row]:
    """The `count` most likely tokens (at least 1) and their logits, the likeliest first.

    Never a banned one (-inf), so perhaps fewer. Raises InternalError when the row is no numbers.
    """
    ids = _reaching_best(row, min(count, len(row)))
    values = row[ids]
    order = np.argsort(-values, kind="stable")[:count]
    return ids[order], values[order]


def survivors(row: Row, filters: Filters) -> tuple[Ids, Below]:
    """The tokens that pass the filters, and how far each logit lies below the highest (≤ 0).

    The likeliest first; with all filters off all tokens, even banned ones (-inf), in their order.
    Empty when every token is banned. Raises InternalError when the row is no numbers.
    """
    if 0 < filters.top_k < len(row):
        ids, values = most_likely(row, filters.top_k)
        wide = values.astype(np.float64)
        below = wide - wide[:1]
        keep = _length(below, filters, total=None)
        return ids[:keep], below[:keep]
    top = highest(row)
    if top == -math.inf:
        return np.empty(0, np.intp), np.empty(0)
    if filters.top_p >= 1 and filters.min_p <= 0:
        below = row.astype(np.float64)
        below -= top  # in place: fresh memory of this size costs more than the arithmetic
        return _every_id(len(row)), below
    return _beginning(row, top, filters)


def draw(below: Below, temperature: float, numbers: Numbers) -> int:
    """The position of the drawn one among logits given as distances below the highest."""
    if len(below) == 1:
        return 0
    weights = below / max(temperature, _COLDEST)
    np.exp(weights, out=weights)
    if len(weights) <= 2 * _BLOCK:
        return _place(weights, numbers.random())
    starts = np.arange(0, len(weights), _BLOCK)
    sums = np.add.reduceat(weights, starts)
    start = int(starts[_place(sums, numbers.random())])
    return start + _place(weights[start : start + _BLOCK], numbers.random())


@functools.lru_cache(maxsize=2)
def _every_id(size: int) -> Ids:
    ids = np.arange(size)
    ids.flags.writeable = False
    return ids


def _place(weights: NDArray[np.float64], point: float) -> int:
    """Where a point in [0, 1) of the whole weight lies."""
    sums = weights.cumsum()
    place = int(sums.searchsorted(point * sums[-1], side="right"))
    if place == len(sums):  # rounded up to the whole: the last that has any weight
        place = int(sums.searchsorted(sums[-1]))
    return place


def _reaching_best(row: Row, count: int) -> Ids:
    """Ascending ids of at least the `count` highest logits that are not -inf."""
    lines, rest = divmod(len(row), _FOLD)
    if lines < 2 or count > _FOLD // 2:
        best = np.partition(row, (len(row) - count, len(row) - 1))
        _number(float(best[-1]))
        return (row >= max(float(best[-count]), _LOWEST)).nonzero()[0]
    body, tail = row[: lines * _FOLD], row[lines * _FOLD :]
    columns = np.maximum.reduce(body.reshape(lines, _FOLD), axis=0)
    if rest:
        np.maximum(columns[:rest], tail, out=columns[:rest])
    columns.sort()
    _number(float(columns[-1]))  # a NaN is sorted last
    return (row >= max(float(columns[-count]), _LOWEST)).nonzero()[0]


def _beginning(row: Row, top: float, filters: Filters) -> tuple[Ids, Below]:
    """Top-p, min-p or both over a whole row."""
    total = None
    if filters.top_p < 1:
        weights = row - np.float32(top)
        total = float(np.exp(weights, out=weights).sum())
    min_p = min(filters.min_p, 1.0)
    depths = (-math.log(min_p),) if min_p > 0 else _DEPTHS
    ids, below = np.empty(0, np.intp), np.empty(0)
    for depth in depths:
        ids = (row >= max(top - depth, _LOWEST)).nonzero()[0]
        below = row[ids].astype(np.float64) - top
        if total is None or np.exp(below).sum() >= filters.top_p * total:
            break
    order = np.argsort(-row[ids], kind="stable")  # not by `below`: rounding makes ties of it
    ids, below = ids[order], below[order]
    keep = _length(below, filters, total)
    return ids[:keep], below[:keep]


def _length(below: Below, filters: Filters, total: float | None) -> int:
    """How many of these, sorted, top-p and min-p keep; at least 1 of any.

    `total`: the sum of exp over all tokens top-p counts, where these are only some of them.
    """
    keep = len(below)
    if keep > 1 and filters.top_p < 1:
        sums = np.exp(below).cumsum()
        wanted = filters.top_p * (float(sums[-1]) if total is None else total)
        keep = min(keep, int(sums.searchsorted(wanted)) + 1)
    if keep > 1 and filters.min_p > 0:
        least = math.log(min(filters.min_p, 1.0))
        keep = min(keep, int(np.count_nonzero(below[:keep] >= least)))
    return keep


def _number(top: float) -> float:
    if math.isnan(top) or top == math.inf:
        raise InternalError("the model computed no numbers: its weights may be damaged")
    return top
