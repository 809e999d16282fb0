"""HTTP to workers, as fast as the relay of tokens needs it: a pool of kept connections.

Owns which connections exist, their reuse, and the form of a request. What passes over one is told
in `exchange`. Plain HTTP/1.1 over loopback, a private network or a unix socket; no TLS, no
redirects, no compression, and no request is ever sent twice unless the caller said it may be.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from urllib.parse import unquote, urlsplit

import anyio

from rbee.daemons.queen.exchange import (
    BadReply,
    Broken,
    Connection,
    Order,
    Overdue,
    Reply,
    Silent,
    Unreachable,
    UpstreamError,
    UpstreamTimeout,
)

__all__ = [
    "BadReply",
    "Broken",
    "Overdue",
    "Prepared",
    "Reply",
    "Silent",
    "Unreachable",
    "Upstream",
    "UpstreamError",
    "UpstreamTimeout",
]

IDLE_SECONDS = 60.0
"""Less than the 75 s after which a worker closes what is idle, so that the two do not meet."""
IDLE_EACH = 32
"""Idle connections kept per worker."""
LARGEST = 64 << 20
"""Bytes of a reply that is not a stream."""
GOODBYE = 1.0
"""Seconds for the sockets to be closed at the end."""

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t\x20-\x7e]*")
_TARGET = re.compile(r"/[\x21-\x7e]*")
_OURS = frozenset({"host", "connection", "content-length", "transfer-encoding", "accept-encoding"})


@dataclass(frozen=True, slots=True)
class _Target:
    """Where a request goes; with `path` to a unix socket, `host` and `port` mean nothing."""

    host: str
    port: int
    path: str
    authority: str
    request: str

    @property
    def key(self) -> tuple[str, int, str]:
        return self.host, self.port, self.path

    @property
    def name(self) -> str:
        return self.path or self.authority


Prepared = tuple[_Target, Order]
"""A request, and where it goes."""


class Upstream:
    """All connections to workers. Belongs to the event loop of its first request."""

    def __init__(self, *, connect_timeout: float = 2.0, largest: int = LARGEST) -> None:
        self._connect_timeout = connect_timeout
        self._largest = largest
        self._idle: dict[object, list[Connection]] = {}
        self._open: set[Connection] = set()
        self._closed = False
        self._all_gone: anyio.Event | None = None

    def post(
        self,
        url: str,
        body: bytes,
        headers: Mapping[str, str],
        *,
        on_data: Callable[[bytes], None] | None = None,
        silence: float,
        total: float | None = None,
        repeatable: bool = False,
    ) -> Coroutine[None, None, Reply]:
        """Send one request and return its reply. Times in seconds.

        `url` is `http://host:port/path` or `http+unix://%2Fpath%2Fto%2Fsocket/path`. With `on_data`
        an event stream with status 200 is not collected: each piece of its body goes there as it
        comes, from within the event loop, until it ends; any other reply is returned whole.

        An idle connection that the worker has closed is never written to. One that breaks after the
        request was written and before any byte of the reply came is tried once more on a new
        connection only when the request is `repeatable`: an execute may already be running there.

        Raises ValueError for a request that cannot be written, Unreachable when nothing was sent,
        Broken, BadReply, Silent after `silence` seconds without a byte, Overdue after `total`
        seconds, and what `on_data` raises. Cancelling closes the connection at once.
        """
        target = _target(url)
        deadline = math.inf if total is None else asyncio.get_running_loop().time() + total
        head = _head(target, headers, len(body), "POST")
        return self._send(target, Order(head, body, on_data, silence, total, deadline, repeatable))

    def prepared(
        self,
        url: str,
        body: bytes,
        headers: Mapping[str, str],
        *,
        on_data: Callable[[bytes], None] | None,
        silence: float,
    ) -> Prepared:
        """A request for `begin` or `begin_kept`. Raises ValueError when it cannot be written."""
        target = _target(url)
        head = _head(target, headers, len(body), "POST")
        return target, Order(head, body, on_data, silence, None, math.inf)

    async def begin(self, request: Prepared) -> asyncio.Future[Reply | BaseException]:
        """`post` without waiting for the reply: while a stream lasts, no task need be there for it.

        The future's result is the reply or the error that `post` raises; cancelling it closes the
        connection. Raises Unreachable, Broken before anything was sent.
        """
        return self.begin_kept(request) or self._begun(await self._connect(*request), request[1])

    def begin_kept(self, request: Prepared) -> asyncio.Future[Reply | BaseException] | None:
        """The same at once, on a connection that is there; None: there is none."""
        kept = self._kept(request[0])
        return self._begun(kept, request[1]) if kept is not None else None

    def _begun(self, connection: Connection, order: Order) -> asyncio.Future[Reply | BaseException]:
        reply = connection.begin(order)
        reply.add_done_callback(partial(self._ended, connection))
        return reply

    def _ended(self, connection: Connection, future: asyncio.Future[Reply | BaseException]) -> None:
        reply = None if future.cancelled() else future.result()
        if isinstance(reply, Reply):
            self._after(connection, reply)

    def get(
        self,
        url: str,
        headers: Mapping[str, str],
        *,
        on_data: Callable[[bytes], None] | None = None,
        silence: float,
    ) -> Coroutine[None, None, Reply]:
        """The same without a body, for what may be asked twice."""
        target = _target(url)
        head = _head(target, headers, 0, "GET")
        return self._send(target, Order(head, b"", on_data, silence, None, math.inf, True))

    async def _send(self, target: _Target, order: Order) -> Reply:
        kept = self._kept(target)
        if kept is not None:
            try:
                reply = await kept.exchange(order)
            except Broken as exc:
                if exc.begun or not order.repeatable:
                    raise
            else:
                return self._after(kept, reply)
        made = await self._connect(target, order)
        return self._after(made, await made.exchange(order))

    async def close(self) -> None:
        """Close all connections; requests in progress end with Broken."""
        self._closed = True
        for connection in list(self._open):
            connection.fail(Broken("the connections to workers are closed", begun=False))
        if self._open:
            self._all_gone = anyio.Event()
            with anyio.move_on_after(GOODBYE):
                await self._all_gone.wait()

    def _after(self, connection: Connection, reply: Reply) -> Reply:
        """Keep the connection for the next one, where it is as good as new."""
        if connection.reusable() and not self._closed:
            idle = self._idle.setdefault(connection.key, [])
            if len(idle) < IDLE_EACH:
                idle.append(connection)
                connection.rest(IDLE_SECONDS)
                return reply
        connection.abort()
        return reply

    def _kept(self, target: _Target) -> Connection | None:
        """The connection that was used last: the others may grow old and go."""
        idle = self._idle.get(target.key)
        while idle:
            connection = idle.pop()
            if connection.alive():
                return connection
            connection.abort()
        return None

    async def _connect(self, target: _Target, order: Order) -> Connection:
        if self._closed:
            raise Unreachable("the connections to workers are closed", begun=False)
        loop = asyncio.get_running_loop()
        limit = max(0.0, min(self._connect_timeout, order.deadline - loop.time()))
        connection = Connection(loop, target.key, self._gone, largest=self._largest)
        try:
            with anyio.fail_after(limit):
                if target.path:
                    await loop.create_unix_connection(lambda: connection, target.path)
                else:
                    await loop.create_connection(lambda: connection, target.host, target.port)
        except TimeoutError as exc:
            what = f"{target.name} took no connection within {limit:g} s"
            raise Unreachable(what, begun=False) from exc
        except OSError as exc:
            raise Unreachable(f"{target.name}: {exc.strerror or exc}", begun=False) from exc
        if not connection.closed:
            self._open.add(connection)
        if self._closed:
            connection.abort()
        return connection

    def _gone(self, connection: Connection) -> None:
        self._open.discard(connection)
        idle = self._idle.get(connection.key, [])
        if connection in idle:
            idle.remove(connection)
        if not idle:
            self._idle.pop(connection.key, None)
        if not self._open and self._all_gone is not None:
            self._all_gone.set()


@lru_cache(maxsize=1024)
def _target(url: str) -> _Target:
    """Raises ValueError for what is no address of a worker."""
    parts = urlsplit(url)
    request = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not parts.netloc or "@" in parts.netloc or not _TARGET.fullmatch(request):
        raise ValueError(f"{url!r} is no address of a worker")
    if parts.scheme == "http+unix":
        return _Target("", 0, unquote(parts.netloc), "localhost", request)
    if parts.scheme != "http" or not parts.hostname or not _VALUE.fullmatch(parts.netloc):
        raise ValueError(f"{url!r} is no address of a worker")
    return _Target(parts.hostname, parts.port or 80, "", parts.netloc, request)


def _head(target: _Target, headers: Mapping[str, str], length: int, method: str) -> bytes:
    """Raises ValueError for a field that cannot be sent, or that is said here."""
    lines = [
        f"{method} {target.request} HTTP/1.1",
        f"Host: {target.authority}",
        "Connection: keep-alive",
        "Accept-Encoding: identity",
        f"Content-Length: {length}",
    ]
    for name, value in headers.items():
        if not _TOKEN.fullmatch(name) or not _VALUE.fullmatch(value) or name.lower() in _OURS:
            raise ValueError(f"the header {name!r} cannot be sent")
        lines.append(f"{name}: {value}")
    return "\r\n".join([*lines, "", ""]).encode("ascii")
