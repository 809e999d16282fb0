"""Server-sent event replies that notice when their reader leaves.

A plain ASGI reply goes on writing into the void; this one watches `http.disconnect`, ends its
source and calls back. Owns nothing but that.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager

import anyio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from rbee.daemons.direct import Wire, wire_of

HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}
"""Of every stream: nobody on the way may keep or hold back what it says."""
WRITE_LIMIT = 60.0
"""Seconds a reader may block one write before it is dropped; it can resume by id."""


class EventStream(Response):
    """Blocks of bytes as `text/event-stream`. `on_leave` is called when the reader left early."""

    media_type = "text/event-stream"

    def __init__(
        self,
        blocks: AsyncGenerator[bytes],
        *,
        headers: Mapping[str, str] | None = None,
        on_leave: Callable[[], None] | None = None,
    ) -> None:
        self._blocks = blocks
        self._on_leave = on_leave
        self.status_code = 200
        self.background = None
        self.init_headers({**HEADERS, **(headers or {})})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the source ends or the reader leaves."""
        finished = False
        with anyio.CancelScope() as sending:
            async with leaving(scope, receive, sending.cancel):
                try:
                    await self._write(send, wire_of(scope))
                    finished = True
                finally:
                    if not finished and self._on_leave is not None:
                        self._on_leave()

    async def _write(self, send: Send, wire: Wire | None) -> None:
        headers = self.raw_headers
        await send({"type": "http.response.start", "status": self.status_code, "headers": headers})
        async with aclosing(self._blocks) as blocks:
            async for block in blocks:
                if wire is not None and block and not wire.paused:
                    wire.write(block)
                    continue
                with anyio.fail_after(WRITE_LIMIT):
                    await send({"type": "http.response.body", "body": block, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


@asynccontextmanager
async def leaving(scope: Scope, receive: Receive, left: Callable[[], None]) -> AsyncGenerator[None]:
    """Inside, `left` is called when the caller leaves; at once when it has.

    The request's body must have been read.
    """
    wire = wire_of(scope)
    if wire is not None:
        wire.watch(left)
        try:
            yield
        finally:
            wire.unwatch(left)
        return

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        left()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch)
        yield
        tasks.cancel_scope.cancel()
