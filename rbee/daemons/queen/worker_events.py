"""What a worker says in its stream, out of bytes in any chunking.

Owns the cut into events and their reading, on the path that every token takes: the usual event is
cut and read without a decoded string, a line loop or an object besides itself. Whatever is written
in another way the standard allows goes through `rbee.sse`, so both read the same. Never looks into
a text or a log-probability: those stay the JSON they came as.
"""

from __future__ import annotations

import msgspec

from rbee.protocol.workers import DoneEvent, Usage
from rbee.sse import Decoder, ServerEvent

LIMIT = 8 << 20
"""Bytes of one event."""
_NONE = msgspec.Raw()
_USUAL = b'data: {"token":"'
_SKIP = len("data: ")


class WorkerEvent(msgspec.Struct, gc=False):
    """A piece of the answer when `token` is not empty, its end when `done`, its failure when
    `error` is there; anything else is unknown and means nothing.

    `token` is a JSON string, `logprob` and `ids` are JSON or empty; all are views of the bytes that
    were fed and fit into `b"%b" %`. `error` is the inner object of an RbeeError body.
    """

    token: msgspec.Raw = _NONE
    logprob: msgspec.Raw = _NONE
    ids: msgspec.Raw = _NONE
    done: bool = False
    error: dict[str, object] | None = None
    finish_reason: str = ""
    total_tokens: int = 0
    usage: Usage | None = None
    stop: str = ""

    def end(self) -> DoneEvent:
        """The end as the worker told it. Raises ValueError when it left out what an end says."""
        if not self.done or not self.finish_reason or self.usage is None:
            raise ValueError("the end of an answer without its reason or its usage")
        return DoneEvent(
            done=True,
            total_tokens=self.total_tokens,
            finish_reason=self.finish_reason,
            usage=self.usage,
            stop=self.stop,
        )


class WorkerEvents:
    """Feed bytes, get whole events.

    `comment` is the last comment (`prefill 3/10`, `keepalive`), a sign of life and nothing else;
    `ended` says that [DONE] came.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self.comment = ""
        self.ended = False
        self._limit = limit
        self._rest = bytearray()
        self._lenient: Decoder | None = None

    def feed(self, chunk: bytes) -> list[WorkerEvent]:
        """The events that this chunk completes, in order; none for comments and [DONE].

        Raises ValueError for an event larger than the limit or of no known form (msgspec's errors
        are such).
        """
        if self._lenient is not None:
            return self._known(self._lenient.feed(chunk))
        if (
            chunk.startswith(_USUAL)
            and chunk.find(b"\n") == len(chunk) - 2
            and chunk.endswith(b"\n\n")
            and chunk.isascii()
            and not self._rest
            and b"\r" not in chunk
        ):
            return [_decode(chunk[_SKIP:])]  # one event in one piece, as a worker writes it
        if b"\r" in chunk:  # no event of ours has one: lines may end in CRLF from here on
            self._lenient = Decoder(self._limit)
            chunk = bytes(self._rest) + chunk
            self._rest.clear()
            return self._known(self._lenient.feed(chunk))
        if self._rest:
            chunk = self._joined(chunk)
        *blocks, rest = chunk.split(b"\n\n")
        if rest:
            self._keep(rest)
        out: list[WorkerEvent] = []
        for block in blocks:
            if block.startswith(_USUAL) and b"\n" not in block:
                if not block.isascii():  # msgspec takes a Raw as it is, broken UTF-8 included
                    block = block.decode("utf-8", "replace").encode()
                out.append(_decode(block[_SKIP:]))
            else:
                out += self._known(Decoder(self._limit).feed(block + b"\n\n"))
        return out

    def _joined(self, chunk: bytes) -> bytes:
        """All that is not yet cut; empty while no event is whole, so that a large one that comes in
        many parts is neither copied nor searched again for each."""
        start = len(self._rest) - 1
        self._rest += chunk
        if self._rest.find(b"\n\n", start) < 0:
            self._check()
            return b""
        whole = bytes(self._rest)
        self._rest.clear()
        return whole

    def _keep(self, rest: bytes) -> None:
        self._rest += rest
        self._check()

    def _check(self) -> None:
        if len(self._rest) > self._limit:
            raise ValueError(f"server-sent event larger than {self._limit} bytes")

    def _known(self, events: list[ServerEvent]) -> list[WorkerEvent]:
        out: list[WorkerEvent] = []
        for event in events:
            if event.comment is not None:
                self.comment = event.comment
            elif event.data == "[DONE]":
                self.ended = True
            elif event.data:
                out.append(_checked(_decode(event.data)))
        return out


_decode = msgspec.json.Decoder(WorkerEvent).decode


def _checked(event: WorkerEvent) -> WorkerEvent:
    if event.token and not bytes(event.token).startswith(b'"'):
        raise ValueError("a token that is no text")
    return event
