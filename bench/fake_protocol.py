"""HTTP/1.1 for the stand-ins: requests parsed by httptools, replies written as ready-made bytes.

Owns the wire of one connection, never what a request means. As little work per event as possible,
so that what stands before it in a measurement shows its own cost.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any, Protocol, cast

import httptools
import msgspec

CHUNKED_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"cache-control: no-store\r\ntransfer-encoding: chunked\r\n\r\n"
)
LAST_CHUNK = b"0\r\n\r\n"
_REASONS = {200: b"OK", 202: b"Accepted", 204: b"No Content", 404: b"Not Found",
            503: b"Service Unavailable"}  # fmt: skip


class Leaver(Protocol):
    """Who wants to know that the other side has gone."""

    def left(self) -> None:
        """The connection is closed; nothing can be written any more."""
        ...


Handler = Callable[["Connection", str, str, bytes], None]
"""(connection, method, path without query, body): replies at once or later."""


class Connection(asyncio.Protocol):
    """One client; its requests one after another go to `handler`."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._parser: Any = httptools.HttpRequestParser(self)
        self._url = b""
        self._body: list[bytes] = []
        self._kept = True
        self.transport: asyncio.Transport
        self.stream: Leaver | None = None
        """What is being written here; it hears when the client leaves."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way out."""
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Whatever is being written here ends."""
        if self.stream is not None:
            self.stream.left()
            self.stream = None

    def data_received(self, data: bytes) -> None:
        """Parse; a broken request closes the connection."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.transport.close()

    def on_message_begin(self) -> None:
        """httptools: a new request."""
        self._url, self._body = b"", []

    def on_url(self, url: bytes) -> None:
        """httptools: (a part of) the path."""
        self._url += url

    def on_body(self, body: bytes) -> None:
        """httptools: a part of the body."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """httptools: the request is whole."""
        path = self._url.partition(b"?")[0].decode("latin-1")
        method = self._parser.get_method().decode("ascii")
        self._kept = self._parser.should_keep_alive()
        self._handler(self, method, path, b"".join(self._body))

    def reply(self, value: Any, status: int = 200) -> None:
        """A JSON body."""
        body = b"" if status == 204 else msgspec.json.encode(value)
        head = b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        self.transport.write(head % (status, _REASONS[status], len(body)) + body)
        if not self._kept:
            self.transport.close()


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(data: Any) -> bytes:
    """One server-sent event of JSON, as one chunk."""
    return chunk(b"data: " + msgspec.json.encode(data) + b"\n\n")


async def listen(handler: Handler, port: int = 0) -> tuple[asyncio.Server, str]:
    """Serve on loopback; returns the server and its `http://` address."""
    sock = socket.create_server(("127.0.0.1", port), backlog=4096)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(handler), sock=sock, backlog=4096)
    return server, f"http://127.0.0.1:{sock.getsockname()[1]}"
