"""One connection to a worker: an HTTP/1.1 request and its reply, one pair after the other.

Owns the framing of a reply, its silence and deadline, and when the connection may be used again;
which connections there are is the pool's business (`upstream`). An event stream goes to its taker
from within `data_received`: no task wakes per event, and no timer is set per event. Never decodes
a body, never follows a redirect, never speaks TLS.
"""

from __future__ import annotations

import asyncio
import math
import select
import sys
from collections.abc import Callable, Hashable, Mapping, Sized
from dataclasses import dataclass
from typing import cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

UNREAD_LIMIT = 64 << 10
"""Bytes that may follow each other without one of a body among them: head, trailer, chunk sizes."""
EARLY = 0.002
"""Seconds by which a timer may fire before its time: loops count in whole milliseconds."""


class UpstreamError(ConnectionError):
    """A request that got no whole reply; `begun` says whether any byte of one had come."""

    def __init__(self, message: str, *, begun: bool) -> None:
        super().__init__(message)
        self.begun = begun


class Unreachable(UpstreamError):
    """No connection was made, so nothing of the request was sent."""


class Broken(UpstreamError):
    """The connection ended before the reply did. The request may have been read."""


class BadReply(UpstreamError):
    """What came is no HTTP reply that is understood here, or larger than is taken."""


class UpstreamTimeout(TimeoutError):
    """The reply took too long; `begun` as above. The connection is closed."""

    def __init__(self, message: str, seconds: float, *, begun: bool) -> None:
        super().__init__(message)
        self.seconds = seconds
        self.begun = begun


class Silent(UpstreamTimeout):
    """Nothing at all came for `seconds`."""


class Overdue(UpstreamTimeout):
    """The reply was not whole `seconds` after it was asked for."""


@dataclass(frozen=True, slots=True)
class Reply:
    """Header names are lower case; they and `body` are empty when a taker had the body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(slots=True)
class Order:
    """A request ready to be written, and how its reply is taken. Times in seconds.

    Unless it is `repeatable`, head and body are let go of when they are written.
    """

    head: bytes
    body: bytes
    on_data: Callable[[bytes], None] | None
    silence: float
    total: float | None
    deadline: float
    """On the loop's clock; inf without `total`."""
    repeatable: bool = False


class Connection(asyncio.Protocol):
    """Free, or in one exchange. `key` says to whom; `gone` is called once, when it is closed.

    `closed` is true from the moment that its end is certain.
    """

    __slots__ = (
        "_begun", "_came", "_check_at", "_framed", "_gone", "_headed", "_headers", "_heard",
        "_keep", "_largest", "_loop", "_order", "_parser", "_parts", "_patience", "_poll", "_size",
        "_status", "_take", "_timer", "_transport", "_unread", "_waiter", "closed", "key",
    )  # fmt: skip

    _transport: asyncio.Transport
    _parser: HttpResponseParser

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        key: Hashable,
        gone: Callable[[Connection], None],
        *,
        largest: int,
    ) -> None:
        self.key = key
        self._loop = loop
        self._gone = gone
        self._largest = largest
        self.closed = False
        self._keep = False
        self._order: Order | None = None
        self._waiter: asyncio.Future[Reply | BaseException] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._poll: Callable[[int], Sized] | None = None
        self._came: list[bytes] = []
        self._check_at = math.inf
        self._heard = 0.0
        self._patience = math.inf
        self._reset()

    def _reset(self) -> None:
        self._begun = False
        self._headed = False
        self._framed = False
        self._status = 0
        self._unread = 0
        self._size = 0
        self._headers: dict[str, str] = {}
        self._parts: list[bytes] = []
        self._take: Callable[[bytes], None] = self._collect

    # -- for the pool --------------------------------------------------------------------------

    async def exchange(self, order: Order) -> Reply:
        """Write the request and take its reply.

        Raises Broken, BadReply, Silent, Overdue, and whatever `on_data` raises. After any of those
        and after a cancellation the connection is closed and `on_data` is not called again.
        """
        outcome = await self.begin(order)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def begin(self, order: Order) -> asyncio.Future[Reply | BaseException]:
        """The same without waiting: the future's result is the reply or what `exchange` raises.
        Cancelling it closes the connection. Raises Broken when that is closed already."""
        if self.closed:
            raise Broken("the connection ended as soon as it was made", begun=False)
        self._reset()
        self._order = order
        self._keep = False
        self._patience = order.silence
        self._heard = self._loop.time()
        self._waiter = waiter = self._loop.create_future()
        self._watch()
        waiter.add_done_callback(self._over)  # before any of the caller's
        self._transport.writelines((order.head, order.body))
        if not order.repeatable:
            order.head = order.body = b""
        return waiter

    def _over(self, waiter: asyncio.Future[Reply | BaseException]) -> None:
        self._waiter = self._order = None
        self._reset()
        if waiter.cancelled() or isinstance(waiter.result(), BaseException):
            self.abort()

    def rest(self, seconds: float) -> None:
        """Nobody needs it now: close it when nobody came back after this time."""
        self._heard = self._loop.time()
        self._patience = seconds
        self._watch()

    def reusable(self) -> bool:
        """Whether the last exchange left it as good as new."""
        return self._keep and not self.closed and not self._transport.get_write_buffer_size()

    def alive(self) -> bool:
        """Whether it can take a request now; False also when the other end's goodbye has arrived
        and the loop has not looked yet."""
        if self.closed or self._transport.is_closing():
            return False
        if self._poll is None:
            self._poll = _poll_of(self._transport)
        return not self._poll(0)  # a free connection has nothing to say but goodbye

    def abort(self) -> None:
        """Close it at once; the other end sees it."""
        if not self.closed:
            self.closed = True
            self._stop_timer()
            self._transport.abort()

    def fail(self, error: BaseException) -> None:
        """Close it, and end the exchange in progress with this error."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(error)
        self.abort()

    # -- from the transport --------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Made."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one by its methods
        self._parser = HttpResponseParser(self)

    def data_received(self, data: bytes) -> None:
        """Some bytes of the reply."""
        waiter = self._waiter
        if waiter is None or waiter.done():
            self.abort()
            return
        self._heard = self._loop.time()
        self._unread += len(data)
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as exc:
            self._give()
            self.fail(BadReply(f"not an HTTP reply: {exc}", begun=True))
        if self._came:
            self._give()
        if self._unread > UNREAD_LIMIT:
            self.fail(BadReply(f"a head of more than {UNREAD_LIMIT >> 10} KiB", begun=True))

    def connection_lost(self, exc: Exception | None) -> None:
        """Closed, by whomever."""
        self.closed = True
        self._stop_timer()
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            if exc is None and self._headed and not self._framed:
                waiter.set_result(self._reply())
            else:
                when = "in the middle of" if self._begun else "before"
                what = f"the connection ended {when} the reply"
                waiter.set_result(Broken(f"{what} ({exc})" if exc else what, begun=self._begun))
        del self._parser  # it holds this object's methods: leave nothing for the collector
        self._gone(self)

    # -- from the parser -----------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """The first byte of a reply; of a second one, when nobody asked for it."""
        self._begun = True
        if self._headed:
            self.abort()

    def on_header(self, name: bytes, value: bytes) -> None:
        """One field; those after the body say nothing of interest."""
        if not self._headed:
            key, text = name.decode("latin-1").lower(), value.decode("latin-1")
            before = self._headers.get(key)
            self._headers[key] = text if before is None else f"{before}, {text}"

    def on_headers_complete(self) -> None:
        """The head has come."""
        if self._headed:
            return
        status = self._parser.get_status_code()
        if status < 200:
            self._headers = {}
            return
        self._headed = True
        self._framed = "content-length" in self._headers or "transfer-encoding" in self._headers
        self._status = status
        headers = self._headers
        if headers.get("transfer-encoding", "chunked").lower() != "chunked":
            self._refuse(f"transfer-encoding {headers['transfer-encoding'][:80]}")
        if headers.get("content-encoding", "identity").lower() != "identity":
            self._refuse(f"content-encoding {headers['content-encoding'][:80]}")
        on_data = self._order.on_data if self._order is not None else None
        if on_data is not None and status == 200 and _is_events(headers.get("content-type", "")):
            self._take = on_data
            self._headers = {}  # nobody asks for them, and a stream is long

    def on_body(self, body: bytes) -> None:
        """Some bytes of the body: they are taken with what else there is by now."""
        self._unread = 0
        self._came.append(body)

    def on_message_complete(self) -> None:
        """The reply is whole, unless it was only a word in between (1xx)."""
        self._give()
        waiter = self._waiter
        if self._headed and waiter is not None and not waiter.done():
            self._keep = self._parser.should_keep_alive()
            waiter.set_result(self._reply())

    # -- its own -------------------------------------------------------------------------------

    def _give(self) -> None:
        came = self._came
        if not came:
            return
        body = came[0] if len(came) == 1 else b"".join(came)
        came.clear()
        waiter = self._waiter
        if waiter is None or waiter.done():  # what was taken before led to a cancellation
            return
        try:
            self._take(body)
        except BaseException as exc:
            self.fail(exc)

    def _collect(self, body: bytes) -> None:
        self._size += len(body)
        if self._size > self._largest:
            raise BadReply(f"a reply of more than {self._largest >> 20} MiB", begun=True)
        self._parts.append(body)

    def _refuse(self, why: str) -> None:
        error = BadReply(f"a reply not understood here: {why}", begun=True)
        self.fail(error)
        raise error

    def _reply(self) -> Reply:
        return Reply(self._status, self._headers, b"".join(self._parts))

    def _watch(self) -> None:
        """See that the timer fires no later than is needed; when it is early, it is set again."""
        due = self._heard + self._patience
        if self._order is not None:
            due = min(due, self._order.deadline)
        if due < self._check_at:
            self._stop_timer()
            self._check_at = due
            self._timer = self._loop.call_at(due, self._check)

    def _check(self) -> None:
        self._timer = None
        self._check_at = math.inf
        now = self._loop.time() + EARLY
        order = self._order
        if order is not None and order.total is not None and now >= order.deadline:
            what = f"no whole reply within {order.total:g} s"
            self.fail(Overdue(what, order.total, begun=self._begun))
        elif now >= self._heard + self._patience:
            what = f"nothing came for {self._patience:g} s"
            self.fail(Silent(what, self._patience, begun=self._begun))
        else:
            self._watch()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._check_at = math.inf


def _is_events(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() == "text/event-stream"


def _poll_of(transport: asyncio.Transport) -> Callable[[int], Sized]:
    """What tells, without waiting, whether there is anything to read, by being not empty."""
    sock = transport.get_extra_info("socket")
    if sys.platform == "win32":
        return lambda _: select.select([sock.fileno()], [], [], 0)[0]
    poll = select.poll()  # select() refuses descriptors over 1023
    poll.register(sock.fileno(), select.POLLIN)
    return poll.poll
