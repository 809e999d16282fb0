"""The reply to an execute request: a stream of events, or one JSON body.

Owns what goes over the wire and when: the first token leaves at once, an error before it is a
plain error reply, and a client that leaves cancels its request. Nothing is sent before there is
something to say, except that after five silent seconds comments keep the connection known alive.
"""

from __future__ import annotations

from collections.abc import Sequence

import anyio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from rbee import sse
from rbee.backend_api import Done, Piece
from rbee.daemons.base import error_response, json_response
from rbee.daemons.worker.running import Item, Running
from rbee.errors import RbeeError
from rbee.protocol.base import encode
from rbee.protocol.workers import DoneEvent, TextEvent, Usage

KEEPALIVE_SECONDS = 5.0
STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
]


class Answer(Response):
    """Sends what a running request yields, and cancels it when the client is gone."""

    def __init__(self, running: Running, *, stream: bool) -> None:
        super().__init__()
        self._running = running
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one client to the end of the answer or of its patience."""
        reply = Streamed(send) if self._stream else Whole()
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_watch, receive, tasks.cancel_scope)
                final = await self._relay(reply)
                if final is not None:
                    await final(scope, receive, send)
                tasks.cancel_scope.cancel()
        finally:
            self._running.cancel()  # no effect on one that has ended

    async def _relay(self, reply: Streamed | Whole) -> Response | None:
        while True:
            items: list[Item] | None = None
            with anyio.move_on_after(KEEPALIVE_SECONDS):
                items = await self._running.take()
            if items is None:
                await reply.alive()
                continue
            first = items[0]
            if isinstance(first, RbeeError) and not reply.started:
                return error_response(first)
            await reply.say(items)
            if not isinstance(items[-1], Piece):
                return reply.response()


class Streamed:
    """Server-sent events; an event's index is that of its first token."""

    def __init__(self, send: Send) -> None:
        self.started = False
        self._send = send
        self._tokens = 0

    async def say(self, items: Sequence[Item]) -> None:
        """All items in one write."""
        body = b"".join(self._event(item) for item in items)
        ended = not isinstance(items[-1], Piece)
        await self._write(body + (sse.DONE if ended else b""), more=not ended)

    async def alive(self) -> None:
        """A comment, when nothing was said for a while."""
        text = "keepalive" if self._tokens else "prefill"
        await self._write(sse.encode_comment(text), more=True)

    def response(self) -> None:
        """Everything was sent."""

    def _event(self, item: Item) -> bytes:
        if isinstance(item, Piece):
            index = self._tokens
            self._tokens += item.tokens
            return _data(TextEvent(token=item.text, index=index)) if item.text else b""
        if isinstance(item, Done):
            return _data(
                DoneEvent(
                    done=True,
                    total_tokens=item.completion_tokens,
                    finish_reason=item.finish_reason,
                    usage=usage_of(item),
                )
            )
        return _data(item.body())

    async def _write(self, body: bytes, *, more: bool) -> None:
        if not body:
            return
        if not self.started:
            self.started = True
            await self._send(
                {"type": "http.response.start", "status": 200, "headers": list(STREAM_HEADERS)}
            )
        await self._send({"type": "http.response.body", "body": body, "more_body": more})


class Whole:
    """One JSON body at the end."""

    started = False

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._last: Item | None = None

    async def say(self, items: Sequence[Item]) -> None:
        """Keep the text."""
        self._parts += [item.text for item in items if isinstance(item, Piece)]
        self._last = items[-1]

    async def alive(self) -> None:
        """A body that is not yet known cannot be begun."""

    def response(self) -> Response:
        """`{text, finish_reason, usage}`, or the error."""
        last = self._last
        if isinstance(last, Done):
            return json_response(
                {
                    "text": "".join(self._parts),
                    "finish_reason": last.finish_reason,
                    "usage": usage_of(last),
                }
            )
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


async def _watch(receive: Receive, scope: anyio.CancelScope) -> None:
    """The server does not tell a writer that its reader has left; receive does."""
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
