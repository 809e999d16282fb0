"""How much each model is wanted: arrivals that fade, turned into the chance of the next one."""

from __future__ import annotations

import math
from collections import OrderedDict

FADES = 300.0
"""Seconds after which an arrival counts 1/e."""
MOST_MODELS = 10_000


class Heat:
    """Arrivals per model, exponentially decayed. Bounded: the longest unused is forgotten."""

    def __init__(self) -> None:
        self._counts: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def arrived(self, model: str, now: float) -> None:
        """Somebody asked for the model."""
        self._counts[model] = (self._count(model, now) + 1.0, now)
        self._counts.move_to_end(model)
        if len(self._counts) > MOST_MODELS:
            self._counts.popitem(last=False)

    def rate(self, model: str, now: float) -> float:
        """Arrivals per second, lately."""
        return self._count(model, now) / FADES

    def chance(self, model: str, horizon: float, now: float) -> float:
        """Probability (0..1) that it is asked for within `horizon` seconds: arrivals as Poisson."""
        return 1.0 - math.exp(-self.rate(model, now) * horizon)

    def _count(self, model: str, now: float) -> float:
        count, at = self._counts.get(model, (0.0, now))
        return count * math.exp((at - now) / FADES) if count else 0.0
