"""Chooses the next token of every slot that has come to a new one.

Owns which way each row goes: the highest of all by one argmax, the usual draws in one go, what is
unusual by its own sampler. The way depends on the request alone, so that a seed draws the same
tokens whoever else is drawn for.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from rbee.errors import InternalError, RbeeError

from .drawing import draw_all
from .sampling import Sampler


def choose_all(
    samplers: Mapping[int, Sampler], logits: NDArray[np.float32]
) -> dict[int, int | RbeeError]:
    """Row → its next token, or why there is none. Rows may be written to, see Sampler.sample."""
    chosen: dict[int, int | RbeeError] = {}
    greedy = [row for row, sampler in samplers.items() if sampler.greedy]
    if greedy:
        best: list[int] = logits.argmax(axis=1).tolist()
        for row in greedy:
            token = best[row]
            if token not in samplers[row].refused:
                chosen[row] = _number(token, float(logits[row, token]))
    drawn = [row for row, sampler in samplers.items() if sampler.draws]
    if drawn:
        chosen |= _draw(drawn, samplers, logits)
    for row, sampler in samplers.items():
        if row not in chosen:
            try:
                chosen[row] = sampler.sample(logits[row])
            except RbeeError as exc:
                chosen[row] = exc
    return chosen


def _draw(
    drawn: list[int], samplers: Mapping[int, Sampler], logits: NDArray[np.float32]
) -> dict[int, int | RbeeError]:
    for row in drawn:
        samplers[row].adjust(logits[row])
    rows = logits if len(drawn) == len(logits) else logits[drawn]
    points = [samplers[row].point() for row in drawn]
    tokens = draw_all(rows, [samplers[row].how for row in drawn], points)
    chosen: dict[int, int | RbeeError] = {}
    for row, token, point in zip(drawn, tokens, points, strict=True):
        try:
            chosen[row] = token if token >= 0 else samplers[row].unusual(logits[row], point)
        except RbeeError as exc:
            chosen[row] = exc
        samplers[row].restore(logits[row])
    return chosen


def _number(token: int, logit: float) -> int | RbeeError:
    """A row that is no numbers has its NaN for the highest."""
    if np.isfinite(logit):
        return token
    return InternalError("the model computed no numbers; its weights may be damaged")
