"""HTTP replies and server-sent events out of recorded bytes, with the time each event arrived.

Pure: the client only notes what came when, and the work of reading it is done here, after the
measurement, so that it takes no CPU from what is measured.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

Chunk = tuple[float, bytes]
"""When (seconds, any clock) and what one read of the socket gave."""


@dataclass(frozen=True)
class Event:
    """One event's data and when its last byte was there."""

    at: float
    data: bytes


@dataclass(frozen=True)
class Reply:
    """A whole HTTP reply; `events` is empty when the body is no event stream."""

    status: int
    headers: dict[str, str]
    body: bytes
    events: tuple[Event, ...]


class BadReply(ValueError):
    """Bytes that are no HTTP reply, or not all of one."""


def read_reply(chunks: Sequence[Chunk]) -> Reply:
    """The reply that these reads make up. Raises BadReply."""
    raw = b"".join(data for _, data in chunks)
    head, separator, _ = raw.partition(b"\r\n\r\n")
    if not separator:
        raise BadReply(f"no end of the header in {len(raw)} bytes: {raw[:80]!r}")
    status, headers = _read_head(head)
    begin = len(head) + 4
    if headers.get("transfer-encoding", "").lower() == "chunked":
        pieces = unchunk(raw, begin)
    else:
        pieces = [(begin, raw[begin:])]
    body = b"".join(data for _, data in pieces)
    events: list[Event] = []
    if headers.get("content-type", "").startswith("text/event-stream"):
        clock = _Arrivals(chunks, pieces)
        events = [Event(clock.at(end), data) for end, data in split_events(body)]
    return Reply(status, headers, body, tuple(events))


def unchunk(raw: bytes, begin: int) -> list[tuple[int, bytes]]:
    """The pieces of a chunked body: (offset of its first byte in `raw`, bytes). Raises BadReply."""
    pieces: list[tuple[int, bytes]] = []
    at = begin
    while True:
        line = raw.find(b"\r\n", at)
        if line < 0:
            raise BadReply("the chunked body has no end")
        try:
            size = int(raw[at:line].split(b";")[0], 16)
        except ValueError as exc:
            raise BadReply(f"no chunk size: {raw[at:line][:40]!r}") from exc
        if size == 0:
            return pieces
        start = line + 2
        if len(raw) < start + size + 2:
            raise BadReply("the chunked body ends in a chunk")
        pieces.append((start, raw[start : start + size]))
        at = start + size + 2


def split_events(body: bytes) -> list[tuple[int, bytes]]:
    """Each event's data and the offset just after it. LF, CRLF or CR end a line; comments fall out.

    https://html.spec.whatwg.org/multipage/server-sent-events.html
    """
    found: list[tuple[int, bytes]] = []
    data: list[bytes] = []
    at = 0
    for line in body.splitlines(keepends=True):
        at += len(line)
        text = line.rstrip(b"\r\n")
        if text.startswith(b"data:"):
            data.append(text[5:].removeprefix(b" "))
        elif not text and data:
            found.append((at, b"\n".join(data)))
            data = []
    return found


def _read_head(head: bytes) -> tuple[int, dict[str, str]]:
    first, *lines = head.decode("latin-1").split("\r\n")
    words = first.split(" ", 2)
    if len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].isdigit():
        raise BadReply(f"no HTTP reply: {first[:80]!r}")
    headers: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    return int(words[1]), headers


class _Arrivals:
    """From an offset in the body to the time at which that byte had arrived."""

    def __init__(self, chunks: Sequence[Chunk], pieces: Sequence[tuple[int, bytes]]) -> None:
        self._times = [at for at, _ in chunks]
        self._ends: list[int] = []
        total = 0
        for _, data in chunks:
            total += len(data)
            self._ends.append(total)
        self._starts = [start for start, _ in pieces]
        self._befores: list[int] = []
        total = 0
        for _, data in pieces:
            self._befores.append(total)
            total += len(data)

    def at(self, end: int) -> float:
        """When byte `end - 1` of the body had come."""
        piece = bisect.bisect_right(self._befores, end - 1) - 1
        raw = self._starts[piece] + (end - 1 - self._befores[piece])
        return self._times[bisect.bisect_right(self._ends, raw)]
