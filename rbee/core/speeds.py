"""How fast a model is on a device: moving averages by concurrency, and what holds before them.

Owns tokens per second. Knows nothing of workers, jobs or time.

Prior: each generated token reads all weights once, so tokens/s ≈ bandwidth / bytes of weights
(roofline of a memory-bound decode). Law between concurrencies: a stream's speed goes with
1 / sqrt(k), halfway between weights read once for all streams (1) and none of them shared (1 / k);
it only fills the gaps between what was measured.
"""

from __future__ import annotations

import math
from functools import lru_cache

BANDWIDTH = {"cpu": 30e9, "metal": 200e9, "vulkan": 200e9, "cuda": 500e9}
"""Bytes per second, typical of a home machine's DDR4, an M-series chip, and an RTX 3060–4090."""
PREFILL_FACTOR = 10.0
"""Prompt tokens are about this much cheaper than generated ones (batched, compute-bound)."""
WEIGHT = 0.3
"""Of the newest measurement in a moving average."""
BUCKETS = 10
"""Concurrency 1, 2, 3–4, 5–8, … 257 and more."""
STEP = math.log(1.05)
"""Speeds within 5 % are one class."""
_FALL = tuple(math.sqrt(0.5) ** steps for steps in range(BUCKETS))
"""How much slower a stream is so many buckets further; divided by, how much faster before."""
LEAST_WEIGHTS = 1 << 26
"""Bytes; a smaller (or unknown) model is not taken for a faster one."""


def bucket(concurrency: int) -> int:
    """Index of the bucket of so many streams at a time."""
    return min(BUCKETS - 1, (max(1, concurrency) - 1).bit_length())


def averaged(old: float | None, new: float) -> float:
    """The moving average after one more measurement."""
    return new if old is None else old + WEIGHT * (new - old)


class Speeds:
    """Of one model on one device of one hive under one backend."""

    __slots__ = ("_measured", "_prior", "decode", "prefill", "shape")

    def __init__(self, prior: float) -> None:
        """`prior`: tokens per second of one stream as long as nothing was measured."""
        self._prior = prior
        self._measured: tuple[dict[int, float], dict[int, float]] = {}, {}
        self.decode: list[float] = []
        """Tokens per second of each stream, by bucket."""
        self.prefill: list[float] = []
        """Prompt tokens per second, by bucket."""
        self.shape: list[tuple[int, int]] = []
        """Both on a logarithmic scale of 5 % and 25 %: equal shapes are as good as each other."""
        self._resolve()

    def measured(
        self, concurrency: int, *, decode: float | None = None, prefill: float | None = None
    ) -> None:
        """One run's tokens per second while so many streams ran."""
        at = bucket(concurrency)
        for known, value in zip(self._measured, (decode, prefill), strict=True):
            if value is not None and value > 0:
                known[at] = averaged(known.get(at), value)
        self._resolve()

    def decode_at(self, concurrency: int) -> float:
        """Tokens per second of one of so many streams."""
        return self.decode[bucket(concurrency)]

    def prefill_at(self, concurrency: int) -> float:
        """Prompt tokens per second of one of so many streams."""
        return self.prefill[bucket(concurrency)]

    def _resolve(self) -> None:
        decode, prefill = self._measured
        self.decode = _filled(decode, self._prior)
        self.prefill = _filled(prefill, PREFILL_FACTOR * self.decode[0])
        log = math.log
        self.shape = [
            (round(log(d) / STEP), round(log(p) / (5 * STEP)))
            for d, p in zip(self.decode, self.prefill, strict=True)
        ]


def _filled(known: dict[int, float], single: float) -> list[float]:
    """Measured at the nearest bucket, scaled by the law; buckets double, so 2^-½ for each."""
    if not known:
        return [single * fall for fall in _FALL]
    filled: list[float] = []
    measured = sorted(known)
    here, further = measured[0], measured[1:]
    for at in range(BUCKETS):
        while further and further[0] - at < at - here:
            here = further.pop(0)
        speed = known[here]
        filled.append(speed * _FALL[at - here] if at >= here else speed / _FALL[here - at])
    return filled


@lru_cache(maxsize=4096)
def prior_speeds(kind: str, weights_bytes: int) -> Speeds:
    """Shared by all who were never measured; never to be given a measurement."""
    return Speeds(prior_rate(kind, weights_bytes))


def prior_rate(kind: str, weights_bytes: int) -> float:
    """Tokens per second expected of a device kind before anything was measured."""
    return BANDWIDTH.get(kind, BANDWIDTH["cpu"]) / max(weights_bytes, LEAST_WEIGHTS)
