"""A short way from a running answer to its client's socket.

Through ASGI each piece of a stream wakes a task, which calls `send` through every layer: some 50 µs
a token, on the cores that compute the next one. Once a reply has begun, its pieces may be written
from wherever they arrive on the event loop. How the reply begins and ends stays with ASGI.
"""

from __future__ import annotations

from collections.abc import Callable

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_NAME = "rbee.wire"


class WireProtocol(HttpToolsProtocol):
    """uvicorn's, which tells the application of its wire."""

    lost = False
    """Whether the connection is gone."""

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

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # pyright: ignore[reportArgumentType]
        self.watchers: set[Callable[[], None]] = set()
        """Called when the connection is gone."""


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
        transport = self._protocol.transport
        if not transport.is_closing():
            transport.write(b"%x\r\n%b\r\n" % (len(body), body))

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
