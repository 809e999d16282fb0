"""The way from the screens to the queen: keeps her alive through the keeper and reads her events.

Owns the client and the reconnection; every change goes into the store, then `changed` is called.
It decides nothing and shows nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import anyio

from rbee.client import QueenClient, QueenKeeper, QueenStatus
from rbee.errors import QueenUnreachable, RbeeError
from rbee.protocol.base import Wire
from rbee.tui.store import ColonyStore, Link

RETRY_SECONDS = 0.5


class QueenLink:
    """Runs until cancelled. `changed` gets each event; ("link", None) when the way changed."""

    def __init__(
        self,
        keeper: QueenKeeper,
        store: ColonyStore,
        changed: Callable[[str, Wire | None], None],
    ) -> None:
        self.keeper = keeper
        self.store = store
        self.client: QueenClient | None = None
        self.failure: RbeeError | None = None
        self._changed = changed
        self._url: str | None = None
        self._moved = anyio.Event()
        self._reading: anyio.CancelScope | None = None
        self._stopping = False

    async def run(self) -> None:
        """Keep and follow the queen, side by side."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._keep)
            tasks.start_soon(self._follow)

    def require(self) -> QueenClient:
        """The client, or QueenUnreachable while there is no queen."""
        if self.client is None:
            raise QueenUnreachable(
                self.store.message or "the queen is not up yet",
                action="Wait for `● queen` in the first line.",
            )
        return self.client

    async def stop_queen(self) -> None:
        """Take the queen down; from now on nothing reconnects."""
        self._stopping = True
        self._set(Link.STOPPING, "stopping")
        await self.keeper.stop()

    async def leave_queen(self) -> None:
        """Let her go on without us."""
        self._stopping = True
        await self.keeper.leave()

    async def _keep(self) -> None:
        try:
            await self.keeper.keep(self._report)
        except RbeeError as exc:
            self.failure = exc
            self._set(Link.FAILED, exc.message)
            self.store.say("queen", f"{exc.message} · {exc.action}", level="error")
            self._changed("link", None)

    def _report(self, status: QueenStatus) -> None:
        if self._stopping:
            return
        self.store.say("queen", status.message, level="info" if status.up else "error")
        self._url = status.url if status.up else None
        if status.up:
            self.store.link_changed(self.store.link, message=status.message, url=status.url)
        else:
            self._set(Link.LOST, status.message)
        self._moved.set()
        if self._reading is not None:
            self._reading.cancel()
        self._changed("link", None)

    async def _follow(self) -> None:
        while True:
            while self._url is None:
                self._moved = anyio.Event()
                await self._moved.wait()
            with anyio.CancelScope() as self._reading:
                await self._read(self._url)
                self._moved = anyio.Event()
                with anyio.move_on_after(RETRY_SECONDS):
                    await self._moved.wait()

    async def _read(self, url: str) -> None:
        try:
            async with QueenClient(url) as client:
                info = await client.info()
                self.store.address, self.store.version = info.base_url, info.version
                self.client = client
                async for name, payload in client.events():
                    self.store.apply(name, payload)
                    if name == "snapshot":
                        self._set(Link.UP, self.store.message)
                    self._changed(name, payload)
        except RbeeError as exc:
            if not self._stopping and self.store.link is Link.UP:
                self.store.say("queen", exc.message, level="error")
                self._set(Link.LOST, exc.message)
        finally:
            self.client = None

    def _set(self, link: Link, message: str) -> None:
        self.store.link_changed(link, message=message)
        self._changed("link", None)
