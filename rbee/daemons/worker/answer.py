"""The reply to an execute request: a stream of events, or one JSON body.

Owns what goes over the wire and when: the first token leaves at once, an error before it is a
plain error reply, and a client that leaves cancels its request. Nothing is sent before there is
something to say, except that after five silent seconds a comment keeps the connection known alive
when the backend got on meanwhile: whoever listens may take longer silence for a hung backend.
"""

from __future__ import annotations

from collections.abc import Sequence

import anyio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from rbee import sse
from rbee.backend_api import Done, Embedded, Item, Piece, Prefill
from rbee.daemons.base import error_response, json_response
from rbee.daemons.direct import Wire, wire_of
from rbee.daemons.worker.running import Running
from rbee.daemons.worker.wire import text_event, vectors_of
from rbee.errors import RbeeError
from rbee.protocol.base import encode
from rbee.protocol.workers import DoneEvent, Usage

KEEPALIVE_SECONDS = 5.0
STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
]


class Answer(Response):
    """Sends what a running request yields, and cancels it when the client is gone."""

    def __init__(
        self, running: Running, *, stream: bool, ids: bool = False, index: int = 0
    ) -> None:
        """`ids`: whether the events tell them; `index`: that of the first token."""
        super().__init__()
        self._running = running
        self._stream = stream
        self._ids = ids
        self._index = index

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one client to the end of the answer or of its patience."""
        reply: Streamed | Whole = Whole()
        if self._stream:
            reply = Streamed(send, wire_of(scope), ids=self._ids, index=self._index)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_watch, receive, tasks.cancel_scope)
                tasks.start_soon(_keep_alive, Pulse(reply, self._running))
                final = await self._relay(reply)
                if final is not None:
                    await final(scope, receive, send)
                tasks.cancel_scope.cancel()
        finally:
            self._running.cancel()  # no effect on one that has ended

    async def _relay(self, reply: Streamed | Whole) -> Response | None:
        while True:
            items = await self._running.take()
            last = items[-1]
            spoken = reply.started or any(isinstance(item, Piece) for item in items)
            if isinstance(last, RbeeError) and not spoken:
                return error_response(last)
            if isinstance(last, Embedded):
                return json_response(vectors_of(last))
            await reply.say(items)
            if not isinstance(last, Piece | Prefill):
                return reply.response()
            self._running.pour = reply.pour


class Streamed:
    """Server-sent events; an event's index is that of its first token."""

    def __init__(
        self, send: Send, wire: Wire | None = None, *, ids: bool = False, index: int = 0
    ) -> None:
        self.started = False
        self.said = 0
        self._send = send
        self._wire = wire
        self._ids: list[int] | None = [] if ids else None
        """Those that no event has told yet."""
        self._spoken = False
        self._tokens = index
        self._prefill = ""
        self._writing = False

    async def say(self, items: Sequence[Item]) -> None:
        """All items in one write."""
        body = b"".join([self._event(item) for item in items])
        ended = not isinstance(items[-1], Piece | Prefill)
        self._writing = True
        await self._write(body + (sse.DONE if ended else b""), more=not ended)
        self._writing = False

    def pour(self, items: Sequence[Item]) -> bool:
        """Say it at once, without waiting for the client; False when that cannot be."""
        if self._wire is None or not self.started or self._wire.paused:
            return False
        body = b"".join([self._event(item) for item in items])
        if body:
            self.said += 1
            self._wire.write(body)
        return True

    async def alive(self) -> None:
        """A comment, when nothing was said for a while, unless a write is just waiting for the
        client: after it the reply may be at its end."""
        if self._writing:
            return
        text = "keepalive" if self._spoken else f"prefill{self._prefill}"
        await self._write(sse.encode_comment(text), more=True)

    def response(self) -> None:
        """Everything was sent."""

    def _event(self, item: Item) -> bytes:
        if isinstance(item, Piece):
            index = self._tokens
            self._tokens += item.tokens
            self._spoken = True
            if self._ids is not None:
                self._ids += item.ids
            if not item.text and item.logprob is None:
                return b""
            event = text_event(item, index, self._ids or ())
            if self._ids:
                self._ids = []
            return _data(event)
        if isinstance(item, Prefill):
            self._prefill = f" {item.done}/{item.total}" if item.total else ""
            return b""
        if isinstance(item, Done):
            return _data(
                DoneEvent(
                    done=True,
                    total_tokens=item.completion_tokens,
                    finish_reason=item.finish_reason,
                    usage=usage_of(item),
                    stop=item.stop,
                )
            )
        assert isinstance(item, RbeeError)
        return _data(item.body())

    async def _write(self, body: bytes, *, more: bool) -> None:
        if not body:
            return
        self.said += 1
        if not self.started:
            self.started = True
            await self._send(
                {"type": "http.response.start", "status": 200, "headers": list(STREAM_HEADERS)}
            )
        await self._send({"type": "http.response.body", "body": body, "more_body": more})


class Whole:
    """One JSON body at the end."""

    started = False
    said = 0
    pour = None

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._logprobs: list[object] = []
        self._last: Item | None = None

    async def say(self, items: Sequence[Item]) -> None:
        """Keep the text."""
        pieces = [item for item in items if isinstance(item, Piece)]
        self._parts += [piece.text for piece in pieces]
        self._logprobs += [text_event(piece, 0).logprob for piece in pieces if piece.logprob]
        self._last = items[-1]

    async def alive(self) -> None:
        """A body that is not yet known cannot be begun."""

    def response(self) -> Response:
        """`{text, finish_reason, usage, logprobs?}`, or the error."""
        last = self._last
        if isinstance(last, Done):
            body: dict[str, object] = {
                "text": "".join(self._parts),
                "finish_reason": last.finish_reason,
                "usage": usage_of(last),
            }
            if self._logprobs:
                body["logprobs"] = self._logprobs
            return json_response(body)
        assert isinstance(last, RbeeError)
        return error_response(last)


def usage_of(done: Done) -> Usage:
    """Counts and times as they travel."""
    return Usage(
        prompt_tokens=done.prompt_tokens,
        completion_tokens=done.completion_tokens,
        cached_tokens=done.cached_tokens,
        prefill_ms=round(done.prefill_ms, 3),
        decode_ms=round(done.decode_ms, 3),
    )


def _data(value: object) -> bytes:
    return sse.encode_event(encode(value))


class Pulse:
    """Says that a silent request is alive, when it is."""

    def __init__(self, reply: Streamed | Whole, running: Running) -> None:
        self._reply = reply
        self._running = running
        self._before = (reply.said, running.progress)

    async def beat(self) -> None:
        """One comment if nothing was said since the last beat though the backend got on."""
        said, progress = self._before
        if said == self._reply.said and progress != self._running.progress:
            await self._reply.alive()
        self._before = (self._reply.said, self._running.progress)


async def _keep_alive(pulse: Pulse) -> None:
    """One task for the whole answer: a time limit on each wait would cost more than the token."""
    while True:
        await anyio.sleep(KEEPALIVE_SECONDS)
        await pulse.beat()


async def _watch(receive: Receive, scope: anyio.CancelScope) -> None:
    """The server does not tell a writer that its reader has left; receive does."""
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
