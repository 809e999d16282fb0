"""The life of a hive with a process of its own, in either of two ways.

`announced`: it tells the queen of itself until she follows it; the token is hers. `standing`: it
says in a file where it is and waits to be followed; the token is its own, and while no queen
follows it takes no new work. Either way it stops its workers and itself when its lease has run out.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from rbee import __version__
from rbee.daemons.base import make_server, serve, url_of
from rbee.daemons.hive import standing
from rbee.daemons.hive.app import Feed, build
from rbee.daemons.hive.hive import Hive
from rbee.daemons.hive.lease import FRAMES, Lease
from rbee.daemons.hive.standing import Entry
from rbee.protocol import PROTOCOL
from rbee.protocol.base import encode
from rbee.protocol.hives import HiveReady

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from rbee.paths import Paths
    from rbee.settings import Settings

log = logging.getLogger("rbee.hive")
EVERY = 1.0
"""Seconds between announcements, and between looks at the lease."""


async def announced(
    settings: Settings, paths: Paths, sock: socket.socket, *, queen_url: str, token: str
) -> None:
    """Serve until told to stop, or until the lease has run out."""
    feed = Feed(Lease(settings.hive.lease))
    url = url_of(sock)
    hive = Hive(settings=settings, paths=paths, listener=feed.tell, callback_url=url, token=token)
    ready = HiveReady(name=hive.name, url=url, token=token, version=__version__, protocol=PROTOCOL)

    async def announce() -> None:
        if feed.lease.alone_seconds is not None:
            await _announce(ready, queen_url)

    await _live(hive, feed, sock, each=announce)


async def stand(
    settings: Settings, paths: Paths, sock: socket.socket, *, mark: str, alone: float | None
) -> None:
    """The same, known by its file. `alone`: seconds to stay without a queen, not its lease."""
    lease = Lease(settings.hive.lease, frames=FRAMES)
    if alone is not None:
        lease.frame(alone)
    feed = Feed(lease)
    url, token = url_of(sock), secrets.token_urlsafe(32)
    hive = Hive(settings=settings, paths=paths, listener=feed.tell, callback_url=url, token=token)
    entry = Entry(
        name=hive.name,
        url=url,
        token=token,
        version=__version__,
        protocol=PROTOCOL,
        pid=os.getpid(),
        started_at=time.time(),
        mark=mark,
    )
    await _live(
        hive,
        feed,
        sock,
        told=_in_file(paths, entry),
        own_log=standing.log_of(paths, hive.name),
    )


async def _live(
    hive: Hive,
    feed: Feed,
    sock: socket.socket,
    *,
    each: Callable[[], Awaitable[None]] | None = None,
    told: AbstractAsyncContextManager[None] | None = None,
    own_log: Path | None = None,
) -> None:
    async with anyio.create_task_group() as tasks:

        def stop(reason: str) -> None:
            count = len(hive.listing())
            log.info("hive %s stops, with %d workers: %s", hive.name, count, reason)
            tasks.cancel_scope.cancel()

        async def signals() -> None:
            with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as received:
                async for number in received:
                    stop(f"signal {signal.Signals(number).name}")

        async def lease() -> None:
            while True:
                if each is not None:
                    await each()
                if feed.lease.has_run_out:
                    stop(f"no queen for {feed.lease.seconds:g} s")
                await anyio.sleep(EVERY)

        async def tell() -> None:
            async with told or nullcontext():
                await anyio.sleep_forever()

        server = make_server(build(hive, feed, shutdown=stop, own_log=own_log))
        tasks.start_soon(signals)
        await tasks.start(hive.run)
        tasks.start_soon(serve, server, sock)
        tasks.start_soon(tell)
        tasks.start_soon(lease)
        log.info("hive %s listens on %s", hive.name, url_of(sock))


@asynccontextmanager
async def _in_file(paths: Paths, entry: Entry) -> AsyncGenerator[None]:
    await anyio.to_thread.run_sync(standing.write, paths, entry)
    try:
        yield
    finally:  # at once: whoever looks for this hive must not take one that leaves for hung
        standing.remove(paths, entry.name, entry.mark)


async def _announce(ready: HiveReady, queen_url: str) -> None:
    import httpx  # 140 ms

    headers = {"Authorization": f"Bearer {ready.token}"}
    try:
        async with httpx.AsyncClient(timeout=2.0, trust_env=False) as http:
            reply = await http.post(
                f"{queen_url}/v1/hives/ready", content=encode(ready), headers=headers
            )
        if reply.status_code != 202:
            log.warning("the queen at %s answered %d", queen_url, reply.status_code)
    except httpx.HTTPError as exc:
        log.warning("no queen at %s (%s)", queen_url, type(exc).__name__)
