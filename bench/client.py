"""The load client, the same for every server: sends a request and notes when which bytes came.

As little CPU as possible while the clock runs: one protocol object per stream, no parsing but for
counting, connections made before the start. Reading the answers is `http_bytes`' work, afterwards.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import anyio

from bench.http_bytes import Chunk, Reply, read_reply

STREAM_LIMIT = 180.0
"""Seconds until a stream that has not ended fails."""
_LAST_CHUNK = b"\r\n0\r\n\r\n"


@dataclass(frozen=True)
class Request:
    """One request as it goes over the wire."""

    path: str
    body: bytes = b""
    method: str = "POST"
    headers: Mapping[str, str] = field(default_factory=dict)

    def encode(self, host: str, port: int) -> bytes:
        """HTTP/1.1, the connection for this request only."""
        lines = [
            f"{self.method} {self.path} HTTP/1.1",
            f"Host: {host}:{port}",
            "Connection: close",
            "Content-Type: application/json",
            f"Content-Length: {len(self.body)}",
            *(f"{name}: {value}" for name, value in self.headers.items()),
        ]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + self.body


class Stream(asyncio.Protocol):
    """One connection: a request out, the reply noted down."""

    def __init__(self) -> None:
        self.chunks: list[Chunk] = []
        self.sent_at = 0.0
        self.seen = 0
        """Events so far, counted roughly: `data:` cut by two reads is missed."""
        self.ended = anyio.Event()
        self._wanted = 0
        self._enough = anyio.Event()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way out."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Note it."""
        self.chunks.append((time.perf_counter(), data))
        if self._wanted:
            self.seen += data.count(b"data:")
            if self.seen >= self._wanted:
                self._enough.set()
        if data.endswith(_LAST_CHUNK) or data == _LAST_CHUNK[2:]:
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Over, either way."""
        self.ended.set()
        self._enough.set()

    def send(self, data: bytes) -> None:
        """Start the clock and ask."""
        assert self._transport is not None
        self.sent_at = time.perf_counter()
        self._transport.write(data)

    def expect(self, events: int) -> None:
        """Count events from now on, for `reached`."""
        self._wanted = events

    async def reached(self) -> None:
        """Return when the expected number of events has come, or the stream ended."""
        await self._enough.wait()

    async def done(self) -> None:
        """Return when the stream ended. Raises TimeoutError."""
        with anyio.fail_after(STREAM_LIMIT):
            await self.ended.wait()

    def close(self) -> None:
        """End the connection at once: a server takes this for a caller who left."""
        if self._transport is not None:
            self._transport.abort()

    def reply(self) -> Reply:
        """What was received. Raises BadReply."""
        return read_reply(self.chunks)


async def connect(host: str, port: int) -> Stream:
    """A connection over which nothing was sent. Raises OSError, TimeoutError."""
    loop = asyncio.get_running_loop()
    with anyio.fail_after(10):
        _, stream = await loop.create_connection(Stream, host, port)
    return stream


async def fetch(host: str, port: int, request: Request, *, limit: float = 10.0) -> Reply:
    """One request and its whole reply. Raises OSError, TimeoutError, BadReply."""
    stream = await connect(host, port)
    try:
        stream.send(request.encode(host, port))
        with anyio.fail_after(limit):
            await stream.ended.wait()
        return stream.reply()
    finally:
        stream.close()


async def together(host: str, port: int, requests: Sequence[Request]) -> list[Stream]:
    """All at once, each over a connection made before; returns when all have ended."""
    streams = [await connect(host, port) for _ in requests]
    try:
        for stream, request in zip(streams, requests, strict=True):
            stream.send(request.encode(host, port))
        for stream in streams:
            await stream.done()
    finally:
        for stream in streams:
            stream.close()
    return streams
