"""One request on its way from the backend to whoever reads its answer.

Owns what was made and not yet read. All of it happens on the event loop: the runner puts items in
as the backend delivers them, one reader takes whatever has gathered. The last item is put in after
the slot is free again: whoever reads it may send the next request at once.
"""

from __future__ import annotations

from collections.abc import Callable

import anyio

from rbee.backend_api import Item


class Running:
    """A request that was given to the backend; `cancel` asks the backend to end it."""

    def __init__(self, request_id: str, cancel: Callable[[str], None]) -> None:
        self.id = request_id
        self.cancelled = False
        self._cancel = cancel
        self._items: list[Item] = []
        self._wake: anyio.Event | None = None

    async def take(self) -> list[Item]:
        """All items that wait, at least one; call it until a Last was among them."""
        while not self._items:
            self._wake = anyio.Event()
            await self._wake.wait()
        items, self._items = self._items, []
        return items

    def put(self, item: Item) -> None:
        """One item more."""
        self._items.append(item)
        if self._wake is not None:
            self._wake.set()
            self._wake = None

    def cancel(self) -> None:
        """Ask the backend to stop; it does so at its next step."""
        self.cancelled = True
        self._cancel(self.id)
