"""A short way from a running answer to its client's socket.

Through ASGI each piece of a stream wakes a task, which calls `send` through every layer: some 50 µs
a token, on the cores that compute the next one. Once a reply has begun, its pieces may be written
from wherever they arrive on the event loop. How the reply begins and ends stays with ASGI.
"""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_NAME = "rbee.wire"


class Wire:
    """The connection of one request. Only for replies in chunks, between their begin and end."""

    def __init__(self, transport: asyncio.Transport, flow: Any) -> None:
        self._transport = transport
        self._flow = flow

    @property
    def paused(self) -> bool:
        """Whether the client is too slow: then use ASGI's `send`, which waits for it."""
        return bool(self._flow.write_paused)

    def write(self, body: bytes) -> None:
        """Write one chunk, which must not be empty; nothing when the client is gone."""
        if not self._transport.is_closing():
            self._transport.write(b"%x\r\n%b\r\n" % (len(body), body))


class WireProtocol(HttpToolsProtocol):
    """uvicorn's, which tells the application of its wire."""

    def on_message_begin(self) -> None:
        """A request begins on this connection."""
        super().on_message_begin()
        extensions: Any = {_NAME: Wire(self.transport, self.flow)}
        self.scope["extensions"] = extensions


def wire_of(scope: Scope) -> Wire | None:
    """The request's wire, where its server has one."""
    wire = (scope.get("extensions") or {}).get(_NAME)
    return wire if isinstance(wire, Wire) else None
