"""HTTP on every socket the queen answers on, by one app. Owns when they begin and end to serve."""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING

import anyio

from rbee.daemons.base import make_server, serve
from rbee.daemons.guests import Guests

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from rbee.daemons.queen.doors import Doors


class Front:
    """`patience`: seconds within which a request must have come whole."""

    def __init__(self, app: ASGIApp, doors: Doors, *, patience: float) -> None:
        tls = (doors.tls.cert, doors.tls.key) if doors.tls is not None else None
        guests = Guests(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        self._served = [(make_server(app, patience=patience), doors.inner)]
        for sock in (doors.outer, doors.ollama):
            if sock is not None:
                server = make_server(app, patience=patience, tls=tls, guests=guests)
                self._served.append((server, sock))
        self.ended = anyio.Event()

    async def run(self) -> None:
        """Until stopped; `ended` when the last replies are out."""
        async with anyio.create_task_group() as each:
            for server, sock in self._served:
                each.start_soon(serve, server, sock)
        self.ended.set()

    def stop(self) -> None:
        """Finish the running replies (at most a second), take no more."""
        for server, _ in self._served:
            server.stop()
