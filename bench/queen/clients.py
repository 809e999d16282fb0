"""Clients in a closed loop: each sends its next request when the last one is answered.

Raw asyncio protocols over kept connections. A reply is looked at for its status and its end only,
so that the clients take as little as possible of the machine that they share with what is measured.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import anyio

from bench.load import Wrong

LIMIT = 120.0
"""Seconds for one load."""
_LAST_CHUNK = b"0\r\n\r\n"
_SHOWN = 300
"""Bytes of a wrong reply that are told."""


@dataclass
class Sent:
    """What one load gave; times in seconds."""

    latencies: list[float] = field(default_factory=list[float])
    first_bytes: list[float] = field(default_factory=list[float])
    """From sending to the first byte of each reply."""
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Requests per second."""
        return len(self.latencies) / self.seconds


class _Client(asyncio.Protocol):
    def __init__(self, load: _Load) -> None:
        self._load = load
        self._transport: asyncio.Transport | None = None
        self._sent_at = 0.0
        self._first_at = 0.0
        self._head = b""
        self._length = -1
        """Bytes of the body still to come; -1: chunked."""
        self._tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._sent_at:
            self._load.fail(f"the connection was closed in an answer ({exc})")

    def next(self) -> None:
        request = self._load.take()
        if request is None:
            self._sent_at = 0.0
            self.close()
            return
        assert self._transport is not None
        self._first_at = 0.0
        self._head = self._tail = b""
        self._sent_at = time.perf_counter()
        self._transport.write(request)

    def close(self) -> None:
        self._sent_at = 0.0
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if not self._first_at:
            self._first_at = time.perf_counter()
            data = self._begin(data)
            if not data and self._length:
                return
        if self._length >= 0:
            self._length -= len(data)
            if self._length > 0:
                return
        else:
            self._tail = (self._tail + data)[-16:] if len(data) < 16 else data[-16:]
            if not self._tail.endswith(_LAST_CHUNK):
                return
        self._load.done(time.perf_counter() - self._sent_at, self._first_at - self._sent_at)
        self.next()

    def _begin(self, data: bytes) -> bytes:
        """The head, whole or in parts; returns what of the body came with it."""
        self._head += data
        head, end, body = self._head.partition(b"\r\n\r\n")
        if not end:
            self._first_at = 0.0
            self._length = 1
            return b""
        if head[9:12] not in (b"200", b"202"):
            self._load.fail(self._head[:_SHOWN].decode("latin-1"))
        self._length = -1
        for line in head.split(b"\r\n")[1:]:
            if line[:15].lower() == b"content-length:":
                self._length = int(line[15:])
        return body


class _Load:
    def __init__(self, request: Callable[[int], bytes], count: int) -> None:
        self._request = request
        self._count = count
        self._taken = 0
        self._answered = 0
        self.sent = Sent()
        self.ended = anyio.Event()
        self.wrong = ""

    def take(self) -> bytes | None:
        if self._taken >= self._count or self.wrong:
            return None
        self._taken += 1
        return self._request(self._taken)

    def done(self, latency: float, first: float) -> None:
        self.sent.latencies.append(latency)
        self.sent.first_bytes.append(first)
        self._answered += 1
        if self._answered == self._count:
            self.ended.set()

    def fail(self, why: str) -> None:
        self.wrong = self.wrong or why
        self.ended.set()


async def closed_loop(
    host: str, port: int, request: Callable[[int], bytes], *, count: int, clients: int
) -> Sent:
    """`count` requests from so many clients; `request(n)` makes the bytes of the n-th, from 1.

    Raises Wrong when one is not answered with 200 or 202.
    """
    load = _Load(request, count)
    loop = asyncio.get_running_loop()
    made: list[_Client] = []
    try:
        for _ in range(min(clients, count)):
            _, client = await loop.create_connection(lambda: _Client(load), host, port)
            made.append(client)
        began = time.perf_counter()
        for client in made:
            client.next()
        with anyio.move_on_after(LIMIT) as scope:
            await load.ended.wait()
        load.sent.seconds = time.perf_counter() - began
    except OSError as exc:
        raise Wrong(f"no connection ({exc})") from exc
    finally:
        for client in made:
            client.close()
    if scope.cancelled_caught:
        raise Wrong(f"{len(load.sent.latencies)} of {count} were answered in {LIMIT:g} s")
    if load.wrong:
        raise Wrong(load.wrong)
    return load.sent


def post(path: str, body: bytes, host: str, headers: dict[str, str] | None = None) -> bytes:
    """One request over a connection that is kept."""
    lines = [
        f"POST {path} HTTP/1.1",
        f"Host: {host}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *(f"{name}: {value}" for name, value in (headers or {}).items()),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
