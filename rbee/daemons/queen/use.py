"""When the queen was last used, for her linger. Owns that and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rbee.clock import Clock


class Use:
    """When the queen was last used: requests in flight, and the end of the last one."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.open = 0
        self.last = clock.monotonic()

    def __enter__(self) -> None:
        """One request begins."""
        self.open += 1

    def __exit__(self, *_: object) -> None:
        self.open -= 1
        self.last = self._clock.monotonic()
