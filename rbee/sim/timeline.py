"""Virtual time: what happens when, and when what goes on will end.

Owns the order of events: by time, and at one time as they were foreseen.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count

from rbee.sim.speed import Fluid

Step = Callable[[], None]


class Timeline:
    """Steps at virtual seconds, from `now` on."""

    def __init__(self, now: float) -> None:
        self.now = now
        self._heap: list[tuple[float, int, Step]] = []
        self._order = count()

    def at(self, when: float, step: Step) -> None:
        """Do it then."""
        heappush(self._heap, (when, next(self._order), step))

    def after(self, seconds: float, step: Step) -> None:
        """Do it so much later; after 0 seconds: once all is done that was foreseen for now."""
        self.at(self.now + seconds, step)

    def foresee(self, fluid: Fluid) -> None:
        """After a change of a settled fluid: be there when its next part ends."""
        end = fluid.next_end()
        if end is not None:
            version = fluid.version
            self.after(end, lambda: self._due(fluid, version))

    def run(self) -> None:
        """Until nothing is foreseen."""
        while self._heap:
            self.now, _, step = heappop(self._heap)
            step()

    def stop(self) -> None:
        """Nothing more happens."""
        self._heap.clear()

    def _due(self, fluid: Fluid, version: int) -> None:
        if version != fluid.version:
            return
        fluid.settle(self.now)
        for part in fluid.ended():
            part.done()
        self.foresee(fluid)
