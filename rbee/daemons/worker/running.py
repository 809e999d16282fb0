"""One request on its way from the backend to whoever reads its answer.

Owns what was made and not yet read. All of it happens on the event loop: the runner puts items in
as the backend delivers them, one reader takes whatever has gathered, or has it poured to its client
at once. The last item is put in after the slot is free again: whoever reads it may send the next
request at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeAlias

import anyio

from rbee.backend_api import Item, Piece, Prefill
from rbee.daemons.logs import correlation

Pour: TypeAlias = Callable[[Sequence[Item]], bool]
"""Take items that are not the last; False when they must be kept for `take`."""


class Running:
    """A request that was given to the backend; `cancel` asks the backend to end it."""

    def __init__(
        self, request_id: str, cancel: Callable[[str], None], others: Callable[[], int]
    ) -> None:
        """`others`: a count that grows with whatever the backend delivers for any request."""
        self.id = request_id
        self.correlation_id = correlation.get()
        self.began = time.monotonic()
        self.tokens = 0
        """How many were made."""
        self.cancelled = False
        self.pour: Pour | None = None
        """Set by the reader for as long as it waits in `take`."""
        self._cancel = cancel
        self._others = others
        self._count = 0
        self._items: list[Item] = []
        self._ended = False
        self._wake: anyio.Event | None = None

    @property
    def progress(self) -> tuple[bool, int]:
        """Another value whenever the backend got on with this request; as long as it waits for its
        turn, which its first item ends, whenever it got on with any."""
        return (True, self._count) if self._count else (False, self._others())

    async def take(self) -> list[Item]:
        """All items that wait, at least one; call it until a Last was among them."""
        while not self._items:
            self._wake = anyio.Event()
            await self._wake.wait()
        items, self._items = self._items, []
        return items

    def put(self, item: Item) -> None:
        """One item more; `flush` after the last of a step."""
        self._items.append(item)
        self._count += 1
        if isinstance(item, Piece):
            self.tokens += item.tokens
        self._ended = not isinstance(item, Piece | Prefill)

    def flush(self) -> None:
        """Let the reader have what was put in."""
        if self._wake is None:  # the reader is busy and will look again
            return
        items = self._items
        if self.pour is not None and isinstance(items[-1], Piece | Prefill) and self.pour(items):
            self._items = []
            return
        self._wake.set()
        self._wake = None

    def cancel(self) -> None:
        """Ask the backend to stop; it does so at its next step. Nothing when it has ended: its id
        may be another request's by now."""
        if not self._ended:
            self.cancelled = True
            self._cancel(self.id)
