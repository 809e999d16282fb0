"""One request on its way from the backend's thread to the event loop.

Owns the hand-over: pieces are appended in the thread, taken in the loop, and at most one wake-up is
under way at a time, so whatever has gathered meanwhile is taken together. The last item is put in
from the loop, after the slot is free again: whoever reads it may send the next request at once.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from typing import TypeAlias

import anyio

from rbee.backend_api import Done, Generation, LoadedModel, Piece
from rbee.errors import InternalError, RbeeError

log = logging.getLogger("rbee.worker")
Item: TypeAlias = Piece | Done | RbeeError
"""Pieces, then exactly one Done or error."""


class Running:
    """Made and read in the event loop; `work` runs in a thread."""

    def __init__(self, request_id: str, generation: Generation) -> None:
        self.id = request_id
        self.cancelled = threading.Event()
        self._generation = generation
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._items: deque[Item] = deque()
        self._notified = False
        self._wake = anyio.Event()

    def work(self, model: LoadedModel) -> Done | RbeeError:
        """Run the request in this thread, to its end; returns the last item, never raises."""
        last: Done | RbeeError | None = None
        try:
            for item in model.run(self._generation, self.cancelled):
                if isinstance(item, Done):
                    last = item
                elif last is None:
                    self._push(item)
        except RbeeError as exc:
            return exc
        except Exception as exc:  # the backend is a plug-in: one request fails, not the worker
            log.exception("request %s: the backend failed", self.id)
            return InternalError(f"the backend failed: {type(exc).__name__}")
        return last or InternalError("the backend ended the answer without saying how")

    async def take(self) -> list[Item]:
        """All items that wait, at least one; call it until Done or an error was among them."""
        while True:
            with self._lock:
                items = list(self._items)
                self._items.clear()
                self._notified = False
            if items:
                return items
            self._wake = anyio.Event()
            await self._wake.wait()

    def finish(self, last: Done | RbeeError) -> None:
        """Put in the last item; from the event loop, after the slot was freed."""
        with self._lock:
            self._items.append(last)
        self._wake.set()

    def cancel(self) -> None:
        """Ask the backend to stop; it does so at its next step."""
        self.cancelled.set()

    def _push(self, piece: Piece) -> None:
        with self._lock:
            self._items.append(piece)
            if self._notified:
                return
            self._notified = True
        self._loop.call_soon_threadsafe(self._notify)

    def _notify(self) -> None:
        self._wake.set()
