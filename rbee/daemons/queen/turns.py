"""Operations on machines, one at a time for each.

Owns who has the turn; never does anything itself.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import anyio

from rbee.errors import Conflict


class Turns:
    """By the machine's name."""

    def __init__(self) -> None:
        self._busy: set[str] = set()
        self._change = anyio.Event()

    @contextmanager
    def of(self, name: str) -> Generator[None]:
        """For the length of a block. Raises Conflict while another has the turn."""
        if name in self._busy:
            raise Conflict(
                f"another operation on {name} is under way",
                action="`rbee job list` shows it; wait for it or cancel it.",
            )
        self._busy.add(name)
        try:
            yield
        finally:
            self._busy.discard(name)
            self._change.set()
            self._change = anyio.Event()

    async def over(self, limit: float) -> bool:
        """Return when nobody has one any more; whether it came to that in `limit` seconds."""
        with anyio.move_on_after(limit):
            while self._busy:
                await self._change.wait()
        return not self._busy
