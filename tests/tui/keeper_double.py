"""A double of the queen's keeper: says that she is up or gone when a test says so."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import anyio

from rbee.client import QueenStatus
from rbee.errors import RbeeError


class KeeperDouble:
    """Reports what a test says; remembers how it was let go."""

    def __init__(self, url: str | None, *, owned: bool = True) -> None:
        self.owned = owned
        self.url = url
        self.stopped = False
        self.left = False
        self.hurried = 0
        self.reloaded = 0
        self.stop_gate: threading.Event | None = None
        self.fail: RbeeError | None = None
        self._report: Callable[[QueenStatus], None] | None = None

    async def keep(self, report: Callable[[QueenStatus], None]) -> None:
        if self.fail is not None:
            raise self.fail
        self._report = report
        if self.url is not None:
            report(QueenStatus(up=True, url=self.url, message="queen is up"))
        await anyio.sleep_forever()

    def say(self, status: QueenStatus) -> None:
        """Report a change, from the app's own thread."""
        assert self._report is not None
        self._report(status)

    def hurry(self) -> None:
        self.hurried += 1

    def reload(self) -> bool:
        self.reloaded += 1
        return True

    async def stop(self) -> None:
        if self.stop_gate is not None:
            await opened(self.stop_gate)
        self.stopped = True

    async def leave(self) -> None:
        self.left = True


async def opened(gate: threading.Event, other: asyncio.Event | None = None) -> None:
    """Looks again and again: a thread that waited for the gate could not be called off."""
    while not gate.is_set() and not (other is not None and other.is_set()):  # noqa: ASYNC110
        await anyio.sleep(0.01)
