"""A short way from a running answer to its client's socket.

Through ASGI each piece of a stream wakes a task, which calls `send` through every layer: some 50 µs
a token, on the cores that compute the next one. Once a reply has begun, its pieces may be written
from wherever they arrive on the event loop. How the reply begins and ends stays with ASGI.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ClassVar, cast

from starlette.types import Scope
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from rbee.daemons.guests import Guests

_NAME = "rbee.wire"
HEAD_LIMIT = 64 << 10
"""Bytes that a request's line and headers may have, about; and what frames a body's chunks."""
FRAMING = 8
"""Bytes of framing that each byte of a body may bring: a chunk of one byte has five around it."""


class Gathering:
    """A transport that writes what it is given within one round of the event loop at once.

    The head of a reply and its body are two writes; a system call for each would take longer than
    all else that is done for a small one.
    """

    __slots__ = ("_parts", "_transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._parts: list[bytes] = []

    def is_closing(self) -> bool:
        """The transport's own."""
        return self._transport.is_closing()

    def get_extra_info(self, name: str, default: object = None) -> object:
        """The transport's own."""
        return self._transport.get_extra_info(name, default)

    def pause_reading(self) -> None:
        """The transport's own."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """The transport's own."""
        self._transport.resume_reading()

    def write(self, data: bytes) -> None:
        """Write it when the loop comes round, with what else there is by then."""
        if not self._parts:
            asyncio.get_running_loop().call_soon(self._flush)
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


class Signal:
    """An asyncio.Event without the 0.7 kB that one takes while nobody waits."""

    __slots__ = ("_set", "_waiters")

    def __init__(self, *, is_set: bool = False) -> None:
        self._set = is_set
        self._waiters: tuple[asyncio.Future[None], ...] = ()

    def is_set(self) -> bool:
        """Whether whoever waits may go on."""
        return self._set

    def set(self) -> None:
        """Let all go on."""
        self._set = True
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def clear(self) -> None:
        """From now on they wait."""
        self._set = False

    async def wait(self) -> bool:
        """Until it is set."""
        if not self._set:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters += (waiter,)
            try:
                await waiter
            finally:
                self._waiters = tuple(one for one in self._waiters if one is not waiter)
        return True


class Flow(FlowControl):
    """uvicorn's, with a lighter event."""

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__(transport)
        self._is_writable_event = Signal(is_set=True)  # type: ignore[assignment]


class Line(list[object]):
    """The deque of requests that came too early, lighter while there are none."""

    def appendleft(self, one: object) -> None:
        """Behind all others: they are taken from the right."""
        self.insert(0, one)


class _Heard(list[tuple[bytes, bytes]]):
    """Where headers go that come behind a body: they were looked at before it."""

    def append(self, one: tuple[bytes, bytes]) -> None:
        """To nowhere."""


_HEARD = _Heard()


class WireProtocol(HttpToolsProtocol):
    """uvicorn's, which tells the application of its wire.

    What it makes for each connection and each request is made lighter where it can be: very many
    streams may be open.
    """

    # In the object's dict, a 31st attribute would make that three times as large.
    __slots__ = ("frame", "gathering", "guest", "head", "hurry", "lost", "watchers")

    patience: ClassVar[float | None] = None
    """Seconds within which a request must have come whole."""
    guests: ClassVar[Guests | None] = None
    """Counts connections of other machines."""
    guest: str | None
    """As whom this one is counted."""
    frame: int
    """Bytes of a body's request, about, that were not the body's."""
    head: int
    """Bytes, about, that came of a request whose headers are not all there; 0: they are."""
    hurry: asyncio.TimerHandle | None
    """Runs while a request is awaited or has come in part."""
    gathering: Gathering
    lost: bool
    """Whether the connection is gone."""
    watchers: tuple[Callable[[], None], ...]
    """Called when it is."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # pyright: ignore[reportArgumentType]
        self.pipeline = Line()  # type: ignore[assignment]
        self.lost = False
        self.watchers = ()
        self.head = self.frame = 0
        self.hurry = None
        self.guest = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has come."""
        self.gathering = Gathering(cast("asyncio.Transport", transport))
        super().connection_made(cast("asyncio.Transport", self.gathering))
        self.flow = Flow(cast("asyncio.Transport", self.gathering))
        if self.guests is not None and self.client is not None:
            self.guest = self.guests.enter(self.client[0])
            if self.guest is None:
                self._cut(b"503 Service Unavailable")
                return
        self._await_request()

    def data_received(self, data: bytes) -> None:
        """Some of a request, or of several."""
        super().data_received(data)
        cycle = cast("RequestResponseCycle | None", self.cycle)
        if self.head:
            self.head += len(data)
            if self.head > HEAD_LIMIT:
                self._cut(b"431 Request Header Fields Too Large")
                return
        elif cycle is not None and cycle.more_body:
            self.frame += len(data)
            if self.frame > 2 * HEAD_LIMIT:
                self._cut(None if cycle.response_started else b"400 Bad Request")
                return
        elif cycle is not None and not cycle.response_complete:
            return
        # Else bytes came that begin nothing, and uvicorn has put its own clock away.
        self._await_request()

    def on_body(self, body: bytes) -> None:
        """Some of a request's body."""
        self.frame -= FRAMING * len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """All of a request has come."""
        super().on_message_complete()
        self._at_ease()

    def _await_request(self) -> None:
        if self.patience is not None and self.hurry is None:
            self.hurry = self.loop.call_later(self.patience, self._late)

    def _at_ease(self) -> None:
        if self.hurry is not None:
            self.hurry.cancel()
            self.hurry = None

    def _late(self) -> None:
        """It has not come whole in time; nobody waits for the rest."""
        self.hurry = None
        cycle = cast("RequestResponseCycle | None", self.cycle)
        if self._lacks_body():
            self._cut(b"408 Request Timeout" if cycle and not cycle.response_started else None)
        elif cycle is None or cycle.response_complete:
            self._cut(b"408 Request Timeout")

    def _lacks_body(self) -> bool:
        """Whether a request's headers have come, and its body has not all."""
        cycle = cast("RequestResponseCycle | None", self.cycle)
        return cycle is not None and cycle.more_body and not cycle.response_complete

    def _cut(self, status: bytes | None) -> None:
        if not self.gathering.is_closing():
            if status is not None:
                self.gathering.write(
                    b"HTTP/1.1 %b\r\ncontent-length: 0\r\nconnection: close\r\n\r\n" % status
                )
            self.gathering.close()

    def on_message_begin(self) -> None:
        """A request begins on this connection."""
        super().on_message_begin()
        self.head, self.frame = 1, 0
        self.scope["extensions"] = {_NAME: Wire(self)}  # pyright: ignore[reportGeneralTypeIssues]

    def on_headers_complete(self) -> None:
        """Its head has come: it is handled from the loop's next round on."""
        self.head = 0
        before = self.cycle
        super().on_headers_complete()
        if self.cycle is not before:
            self.cycle.message_event = Signal()  # type: ignore[assignment]
        self.headers = _HEARD

    def _unsupported_upgrade_warning(self) -> None:
        """It wants to speak something else: it is answered, and understood no further."""
        cycle = cast("RequestResponseCycle | None", self.cycle)
        if cycle is None or cycle.response_complete:
            self._cut(None)
        else:
            cycle.keep_alive = False

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone, by whomever."""
        self.lost = True
        self._at_ease()
        if self.guest is not None and self.guests is not None:
            self.guests.leave(self.guest)
        super().connection_lost(exc)
        for left in self.watchers:
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
        protocol.watchers = (*protocol.watchers, left)

    def unwatch(self, left: Callable[[], None]) -> None:
        """Do not call it any more."""
        protocol = self._protocol
        protocol.watchers = tuple(one for one in protocol.watchers if one != left)

    def settle(self) -> None:
        """The reply has begun and will take long: nobody asks for the request's head any more."""
        self._protocol.scope["headers"] = []


def patient(patience: float | None, guests: Guests | None = None) -> type[WireProtocol]:
    """The protocol with that patience, for connections that are counted so."""

    class Patient(WireProtocol):
        __slots__ = ()

    Patient.patience, Patient.guests = patience, guests
    return Patient


def wire_of(scope: Scope) -> Wire | None:
    """The request's wire, where its server has one."""
    wire = (scope.get("extensions") or {}).get(_NAME)
    return wire if isinstance(wire, Wire) else None
