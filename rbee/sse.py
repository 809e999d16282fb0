"""Server-sent events: encode, and decode incrementally from any chunking of bytes.

Owns the text format only, never I/O: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

from dataclasses import dataclass

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True)
class ServerEvent:
    """One event; `comment` is set instead of data for a comment line (a heartbeat)."""

    data: str
    event: str = "message"
    id: str | None = None
    comment: str | None = None


def encode_event(data: bytes, *, event: str | None = None, id: int | None = None) -> bytes:  # noqa: A002
    """One event whose data has no newline (compact JSON has none)."""
    head = b"" if id is None else b"id: %d\n" % id
    if event is not None:
        head += b"event: " + event.encode() + b"\n"
    return head + b"data: " + data + b"\n\n"


def encode_comment(text: str) -> bytes:
    """A comment: keeps the connection alive, means nothing to a parser."""
    return b": " + text.replace("\n", " ").encode() + b"\n\n"


class DataDecoder:
    """Only the data of events, as bytes: for streams of our own, whose lines end with LF.

    Raises ValueError when one event exceeds `limit` bytes.
    """

    def __init__(self, limit: int = 8 << 20) -> None:
        self._parts: list[bytes] = []
        self._size = 0
        self._limit = limit

    def feed(self, chunk: bytes) -> list[bytes]:
        """The data of each event that this chunk completes, in order; comments have none."""
        if self._parts and (chunk.startswith(b"\n") or b"\n\n" in chunk):
            chunk = b"".join([*self._parts, chunk])
            self._parts, self._size = [], 0
        *blocks, rest = chunk.split(b"\n\n")
        if rest:
            self._parts.append(rest)
            self._size += len(rest)
            if self._size > self._limit:
                raise ValueError(f"server-sent event larger than {self._limit} bytes")
        return [data for block in blocks if (data := _data_of(block))]


def _data_of(block: bytes) -> bytes:
    if block.startswith(b"data: ") and b"\n" not in block:
        return block[6:]
    lines = (line for line in block.split(b"\n") if line.startswith(b"data:"))
    return b"\n".join(line[5:].removeprefix(b" ") for line in lines)


class Decoder:
    """Feed bytes, get whole events. Raises ValueError when one event exceeds `limit` bytes."""

    def __init__(self, limit: int = 8 << 20) -> None:
        self._buffer = bytearray()
        self._limit = limit
        self._held = b""
        self._last_id: str | None = None

    def feed(self, chunk: bytes) -> list[ServerEvent]:
        """Events completed by this chunk, in order; CRLF and LF both end lines."""
        if b"\r" in chunk or self._held:
            chunk = self._held + chunk
            self._held = b"\r" if chunk.endswith(b"\r") else b""
            chunk = chunk[: len(chunk) - len(self._held)].replace(b"\r\n", b"\n")
        # What was there has been searched; a large event that comes in parts would cost its square.
        start = max(0, len(self._buffer) - 1)
        self._buffer += chunk
        out: list[ServerEvent] = []
        while (end := self._buffer.find(b"\n\n", start)) >= 0:
            block = bytes(self._buffer[:end]).decode("utf-8", "replace")
            del self._buffer[: end + 2]
            start = 0
            if (event := self._parse(block)) is not None:
                out.append(event)
        if len(self._buffer) > self._limit:
            raise ValueError(f"server-sent event larger than {self._limit} bytes")
        return out

    def _parse(self, block: str) -> ServerEvent | None:
        data: list[str] = []
        name, comment = "message", None
        for line in filter(None, block.split("\n")):
            field, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if field == "data":
                data.append(value)
            elif field == "event":
                name = value
            elif field == "id":
                self._last_id = value
            elif field == "":
                comment = value
        if data:
            return ServerEvent("\n".join(data), name, self._last_id)
        return ServerEvent("", "comment", self._last_id, comment) if comment is not None else None
