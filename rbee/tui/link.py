"""The way from the screens to the queen: keeps her alive through the keeper and reads her events.

Owns the client and the reconnection; every change goes into the store, then `changed` is called.
It decides nothing and shows nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import anyio

from rbee import __version__
from rbee.client import QueenClient, QueenKeeper, QueenStatus
from rbee.errors import QueenUnreachable, RbeeError, VersionMismatch
from rbee.protocol.base import Wire
from rbee.protocol.colony import Info
from rbee.tui.store import ColonyStore, Link
from rbee.tui.trouble import link_for

RETRY_FIRST, RETRY_MOST = 0.5, 16.0
"""Seconds until she is asked again, doubling until she answers."""


class QueenLink:
    """Runs until cancelled. `changed` gets each event; ("link", None) when the way changed."""

    def __init__(
        self,
        keeper: QueenKeeper,
        store: ColonyStore,
        changed: Callable[[str, Wire | None], None],
        *,
        version: str = __version__,
    ) -> None:
        """`version`: the rbee of these screens, which has to be the queen's too."""
        self.version = version
        self.keeper = keeper
        self.store = store
        self.client: QueenClient | None = None
        self.failure: RbeeError | None = None
        self._changed = changed
        self._url: str | None = None
        self._moved = anyio.Event()
        self._arrived = anyio.Event()
        self._pause = RETRY_FIRST
        self._reading: anyio.CancelScope | None = None
        self._stopping = False
        self._told = ""

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

    async def arrived(self) -> QueenClient:
        """The client, as soon as there is one."""
        while self.client is None:
            await self._arrived.wait()
        return self.client

    def hurry(self) -> None:
        """Try again now."""
        self._pause = RETRY_FIRST
        self._moved.set()
        self.keeper.hurry()

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
            self._set(Link.FAILED, exc.message, error=exc)
            self.store.say("queen", f"{exc.message} · {exc.action}", level="error")
            self._changed("link", None)

    def _report(self, status: QueenStatus) -> None:
        if self._stopping:
            return
        if status.message != self._told:
            self._told = status.message
            self.store.say("queen", status.message, level="info" if status.up else "error")
        self._url = status.url if status.up else None
        self._pause = RETRY_FIRST
        if status.up:
            self.store.link_changed(self.store.link, message=status.message, url=status.url)
        else:
            self._set(
                link_for(status.error), status.message, error=status.error, wait=status.retry_s
            )
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
                self._moved = anyio.Event()
                await self._read(self._url)
                with anyio.move_on_after(self._pause):
                    await self._moved.wait()
                self._pause = min(RETRY_MOST, self._pause * 2)

    async def _read(self, url: str) -> None:
        try:
            async with QueenClient(url) as client:
                info = await client.info()
                self._check(info)
                self.store.address, self.store.version = info.base_url, info.version
                self.client = client
                self._arrived.set()
                async for name, payload in client.events():
                    self.store.apply(name, payload)
                    if name == "snapshot":
                        self._pause, self._told = RETRY_FIRST, ""
                        self._set(Link.UP, self.store.message)
                    self._changed(name, payload)
        except RbeeError as exc:
            if not self._stopping:
                if exc.message != self._told:
                    self._told = exc.message
                    self.store.say("queen", exc.message, level="error")
                self._set(link_for(exc), exc.message, error=exc, wait=self._pause)
        finally:
            self.client = None
            if self._arrived.is_set():  # another one would leave those who wait for it alone
                self._arrived = anyio.Event()

    def _check(self, info: Info) -> None:
        if info.version != self.version:
            raise VersionMismatch(
                f"the queen at {info.base_url} is rbee {info.version}, "
                f"this screen is rbee {self.version}",
                action="rbee queen stop ends her; a queen of this version is then started here.",
            )

    def _set(
        self,
        link: Link,
        message: str,
        *,
        error: RbeeError | None = None,
        wait: float | None = None,
    ) -> None:
        at = None if wait is None else self.store.clock() + wait
        self.store.link_changed(link, message=message, error=error, retry_at=at)
        self._changed("link", None)
