"""Texts as vectors of their words: the hashing trick with signs, nothing learnt.

Source: Weinberger et al., Feature Hashing for Large Scale Multitask Learning, 2009.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from hashlib import blake2b

SIZE = 64


def vector(words: Sequence[str], *, normalize: bool) -> list[float]:
    """SIZE numbers, of length 1 when `normalize`; the same on every machine."""
    found = [0.0] * SIZE
    for word in words or ("",):  # a text without words has a direction too
        place, sign = blake2b(word.casefold().encode(), digest_size=2).digest()
        found[place % SIZE] += 1.0 if sign % 2 else -1.0
    length = math.sqrt(sum(x * x for x in found))
    if not length:  # two words at one place with opposite signs
        found[0] = length = 1.0
    return [x / length for x in found] if normalize else found
