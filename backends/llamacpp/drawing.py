"""Draws tokens for several slots at once.

The same arithmetic as `candidates`, for the usual case (a top-k, no grammar) and for all rows in
one go: thirty calls into numpy a step, where row by row it takes thirty for each. What is drawn for
a row does not depend on the rows beside it. Rows that are unusual are left to `candidates`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float32]
_WIDTH = 4096
_FOLD = 512
MOST = _FOLD // 2
"""The largest top-k that is drawn here."""
_CROWD = _WIDTH // 4
"""Columns of a row that may hold candidates; a flatter row is left to `candidates`."""
_COLDEST = 1e-9


class Draw(NamedTuple):
    """How one row is drawn. `top_k` is 1 to MOST, `temperature` above 0."""

    top_k: int
    top_p: float
    min_p: float
    temperature: float


def fits(size: int) -> bool:
    """Whether rows of this size are drawn here."""
    return size >= 2 * _WIDTH


def sorted_candidates(rows: Rows, counts: Sequence[int]) -> tuple[NDArray[np.intp], Rows]:
    """Per row the `counts` most likely tokens, the likeliest first: ids and logits, (rows, width).

    Of equal logits the smaller id goes first. Unused places have -inf; a row that is left out, for
    being too flat or no numbers, is -inf throughout.
    """
    number, size = rows.shape
    lines, rest = divmod(size, _WIDTH)
    body = rows[:, : lines * _WIDTH].reshape(number, lines, _WIDTH)
    columns = np.maximum.reduce(body, axis=1)
    if rest:
        np.maximum(columns[:, :rest], rows[:, lines * _WIDTH :], out=columns[:, :rest])
    maxima = np.sort(np.maximum.reduce(columns.reshape(number, -1, _FOLD), axis=1), axis=1)
    floors = maxima[np.arange(number), _FOLD - np.array(counts)]
    # A NaN is sorted last; infinities and rows with too few allowed tokens have no finite floor.
    good = np.isfinite(maxima[:, -1]) & np.isfinite(floors)
    reached = columns >= floors[:, None]
    good &= np.count_nonzero(reached, axis=1) <= _CROWD
    reached &= good[:, None]
    which, column = reached.nonzero()
    values = body[which, :, column]
    place, line = (values >= floors[which, None]).nonzero()
    owner, ids = which[place], line * _WIDTH + column[place]
    found = values[place, line]
    if rest:
        tails = (rows[:, lines * _WIDTH :] >= floors[:, None]) & good[:, None]
        more, last = tails.nonzero()
        owner = np.concatenate((owner, more))
        ids = np.concatenate((ids, last + lines * _WIDTH))
        found = np.concatenate((found, rows[more, last + lines * _WIDTH]))
    by_id = np.argsort(owner * size + ids)
    owner, ids, found = owner[by_id], ids[by_id], found[by_id]
    starts = owner.searchsorted(np.arange(number))
    width = max(int(np.bincount(owner, minlength=number).max(initial=0)), max(counts))
    places = np.arange(len(owner)) - starts[owner]
    table = np.full((number, width), -np.inf, np.float32)
    names = np.zeros((number, width), np.intp)
    table[owner, places], names[owner, places] = found, ids
    order = np.argsort(-table, axis=1, kind="stable")[:, : max(counts)]
    line_numbers = np.arange(number)[:, None]
    return names[line_numbers, order], table[line_numbers, order]


def draw_all(rows: Rows, draws: Sequence[Draw], points: Sequence[float]) -> list[int]:
    """One token per row; -1 for a row that is left to `candidates`.

    `points`: a random number in [0, 1) for each row.
    """
    top_k, top_p, min_p, temperature = (np.array(column) for column in zip(*draws, strict=True))
    ids, values = sorted_candidates(rows, top_k.tolist())
    wide = values.astype(np.float64)
    number, width = wide.shape
    left_out = wide[:, 0] == -math.inf
    wide[left_out, 0] = 0.0
    below = wide - wide[:, :1]
    below[np.arange(width) >= top_k[:, None]] = -math.inf
    sums = np.exp(below).cumsum(axis=1)
    keep = np.count_nonzero(below > -math.inf, axis=1)
    by_p = np.count_nonzero(sums < (top_p * sums[:, -1])[:, None], axis=1) + 1
    keep = np.where(top_p < 1, np.minimum(keep, by_p), keep)
    with np.errstate(divide="ignore"):
        least = np.log(np.minimum(min_p, 1.0))
    keep = np.minimum(keep, np.count_nonzero(below >= least[:, None], axis=1))
    weights = np.exp(below / np.maximum(temperature, _COLDEST)[:, None])
    sums = weights.cumsum(axis=1)
    last = sums[np.arange(number), keep - 1]
    drawn = np.count_nonzero(sums <= (np.array(points) * last)[:, None], axis=1)
    # Rounded up to the whole weight: the last candidate that has any.
    drawn = np.minimum(drawn, np.count_nonzero(sums < last[:, None], axis=1))
    tokens = ids[np.arange(number), drawn]
    tokens[left_out] = -1
    chosen: list[int] = tokens.tolist()
    return chosen
