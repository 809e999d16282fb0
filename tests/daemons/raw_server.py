"""A server that says just the bytes a test wants, and the upstream that asks it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import anyio.abc
import anyio.to_thread
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream

from rbee.daemons.queen.upstream import (
    Reply,
    Upstream,
)

LIMIT = 30.0
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
CHUNKED = STREAM + b"transfer-encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


def chunk(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(body), body)


class Peer:
    """The server's end of one connection."""

    def __init__(self, stream: anyio.abc.ByteStream, server: Server) -> None:
        self._stream = stream
        self._server = server
        self._buffer = BufferedByteReceiveStream(stream)

    async def request(self) -> tuple[str, bytes]:
        """Head and body of the next one."""
        head = (await self._buffer.receive_until(b"\r\n\r\n", 1 << 20)).decode()
        lines = head.lower().split("\r\n")
        length = next(line for line in lines if line.startswith("content-length:"))
        body = await self._buffer.receive_exactly(int(length.split(":")[1]))
        self._server.requests.append((head, body))
        return head, body

    async def send(self, data: bytes) -> None:
        await self._stream.send(data)

    async def gone(self) -> None:
        """Until the client has closed it."""
        with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
            await self._stream.receive()


@dataclass
class Server:
    """Counts what came to it."""

    requests: list[tuple[str, bytes]] = field(default_factory=list)
    connections: int = 0
    url: str = ""


Handler = Callable[[Peer], Awaitable[None]]


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[Server]:
    """`handler` for each connection, which closes when it returns."""
    server = Server()

    async def handle(stream: anyio.abc.SocketStream) -> None:
        server.connections += 1
        async with stream:
            await handler(Peer(stream, server))

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", backlog=512)
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    server.url = f"http://127.0.0.1:{port}/v1/execute"
    with anyio.fail_after(LIMIT):
        async with listener, anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, handle)
            yield server
            tasks.cancel_scope.cancel()


@asynccontextmanager
async def client(**options: Any) -> AsyncIterator[Upstream]:
    made = Upstream(**options)
    try:
        yield made
    finally:
        await made.close()


def always(*replies: bytes) -> Handler:
    """One reply per request, the last one for ever; the pieces are sent one after the other."""

    async def handler(peer: Peer) -> None:
        left = list(replies)
        try:
            while True:
                await peer.request()
                await peer.send(left[0] if len(left) == 1 else left.pop(0))
        except (anyio.IncompleteRead, anyio.BrokenResourceError):
            return

    return handler


def once(reply: bytes) -> Handler:
    """One reply, then the connection is closed."""

    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.send(reply)

    return handler


async def asked(url: str, up: Upstream, **options: Any) -> Reply:
    return await up.post(url, b"{}", {}, **({"silence": LIMIT} | options))
