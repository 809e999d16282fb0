"""Log-probabilities as OpenAI means them: of the model's own choice, before bias and filters."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from rbee.backend_api import Likely, Logprob

from .candidates import highest, most_likely
from .vocabulary import Vocabulary


def logprob_of(row: NDArray[np.float32], token: int, top: int, vocab: Vocabulary) -> Logprob:
    """The token's log-probability and those of the `top` most likely, the likeliest first.

    `row`: the raw logits; `Sampler.sample` leaves them so. Of equal ones the smaller id is first.
    A token's text is its bytes with U+FFFD where they are no whole characters. A log-probability
    is never -inf, which JSON cannot say, but the least a float32 holds. Raises InternalError when
    the row is no numbers.
    """
    peak = highest(row)
    weights = row - np.float32(peak)
    total = peak + math.log(float(np.exp(weights, out=weights).sum()))
    chosen = _likely(token, float(row[token]) - total, vocab)
    likeliest: tuple[Likely, ...] = ()
    if top > 0:
        ids, values = most_likely(row, top)
        pairs = zip(ids.tolist(), values.tolist(), strict=True)
        likeliest = tuple(_likely(other, value - total, vocab) for other, value in pairs)
    return Logprob(chosen.token, chosen.text, chosen.data, chosen.logprob, likeliest)


def _likely(token: int, logprob: float, vocab: Vocabulary) -> Likely:
    data = vocab.token_bytes(token)
    return Likely(token, data.decode("utf-8", "replace"), data, max(logprob, _LEAST))


_LEAST = float(np.finfo(np.float32).min)
