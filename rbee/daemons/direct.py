"""A short way from a running answer to its client's socket.

Through ASGI each piece of a stream wakes a task, which calls `send` through every layer: some 50 µs
a token, on the cores that compute the next one. Once a reply has begun, its pieces may be written
from wherever they arrive on the event loop. How the reply begins and ends stays with ASGI.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_NAME = "rbee.wire"


class Gathering:
    """A transport that writes what it is given within one round of the event loop at once.

    The head of a reply and its body are two writes; a system call for each would take longer than
    all else that is done for a small one.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._parts: list[bytes] = []
        self._loop = asyncio.get_running_loop()
        self.is_closing = transport.is_closing
        self.get_extra_info = transport.get_extra_info
        self.pause_reading = transport.pause_reading
        self.resume_reading = transport.resume_reading

    def write(self, data: bytes) -> None:
        """Write it when the loop comes round, with what else there is by then."""
        if not self._parts:
            self._loop.call_soon(self._flush)
        self._parts.append(data)

    def now(self, data: bytes) -> None:
        """Write it at once, or behind what waits."""
        if self._parts:
            self._parts.append(data)
        else:
            self._transport.write(data)

    def close(self) -> None:
        """Close when all is written."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        parts, self._parts = self._parts, []
        if parts and not self._transport.is_closing():
            self._transport.write(b"".join(parts))


class WireProtocol(HttpToolsProtocol):
    """uvicorn's, which tells the application of its wire."""

    gathering: Gathering

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # pyright: ignore[reportArgumentType]
        self.lost = False
        """Whether the connection is gone."""
        self.watchers: set[Callable[[], None]] = set()
        """Called when it is."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has come."""
        self.gathering = Gathering(cast("asyncio.Transport", transport))
        super().connection_made(cast("asyncio.Transport", self.gathering))

    def on_message_begin(self) -> None:
        """A request begins on this connection."""
        super().on_message_begin()
        self.scope["extensions"] = {_NAME: Wire(self)}  # pyright: ignore[reportGeneralTypeIssues]

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone, by whomever."""
        self.lost = True
        super().connection_lost(exc)
        for left in tuple(self.watchers):
            left()


class Wire:
    """The connection of one request. Writing is only for replies in chunks, between their begin and
    end."""

    __slots__ = ("_protocol",)

    def __init__(self, protocol: WireProtocol) -> None:
        self._protocol = protocol

    @property
    def paused(self) -> bool:
        """Whether the client is too slow: then use ASGI's `send`, which waits for it."""
        return bool(self._protocol.flow.write_paused)

    def write(self, body: bytes) -> None:
        """Write one chunk, which must not be empty; nothing when the client is gone."""
        gathering = self._protocol.gathering
        if not gathering.is_closing():
            gathering.now(b"%x\r\n%b\r\n" % (len(body), body))

    def watch(self, left: Callable[[], None]) -> None:
        """Call this when the client is gone; now, when it is. The request's body must be read."""
        protocol = self._protocol
        if protocol.lost:
            left()
            return
        protocol.flow.resume_reading()  # a large body may have stopped it
        protocol.watchers.add(left)

    def unwatch(self, left: Callable[[], None]) -> None:
        """Do not call it any more."""
        self._protocol.watchers.discard(left)


def wire_of(scope: Scope) -> Wire | None:
    """The request's wire, where its server has one."""
    wire = (scope.get("extensions") or {}).get(_NAME)
    return wire if isinstance(wire, Wire) else None
