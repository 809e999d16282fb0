"""A streamed answer on its way to the caller's socket.

An answer of one choice takes a short way: what its stream gets is written from where it arrives on
the event loop, so that a token wakes no task. A caller who is too slow for that waits in a task
like any other, and answers of several choices are told by one. Owns only how the bytes go, never
what they are: that is a `Telling`'s, one for each dialect.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import anyio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from rbee.daemons.direct import Wire, wire_of
from rbee.daemons.events import HEADERS, WRITE_LIMIT, EventStream
from rbee.daemons.queen import streams
from rbee.daemons.queen.openai_replies import FAILED
from rbee.daemons.queen.readers import EARLY
from rbee.daemons.queen.streams import read_all

if TYPE_CHECKING:
    from rbee.daemons.queen.openai_replies import Run


class Telling(Protocol):
    """An answer of one or more runs in some dialect, block by block."""

    runs: Sequence[Run]

    def opening(self) -> bytes:
        """What comes first."""
        ...

    def told(self, index: int, events: Sequence[tuple[str, bytes]]) -> bytes:
        """Some events of one run; of an end in failure, that is all there is to tell."""
        ...

    def failure(self, index: int) -> bytes:
        """The end, when that run has failed."""
        ...

    def closing(self) -> bytes:
        """The end, when none has."""
        ...

    def silence(self) -> bytes:
        """What keeps the connection known alive; may be empty."""
        ...


class AnswerStream(Response):
    """The reply. `on_leave`: the caller left early; `give_up`: a run has failed."""

    def __init__(
        self,
        told: Telling,
        *,
        headers: Mapping[str, str],
        on_leave: Callable[[], None],
        give_up: Callable[[], None],
        media_type: str = "text/event-stream",
    ) -> None:
        self.media_type = media_type
        self._told = told
        self._headers = headers
        self._on_leave = on_leave
        self._give_up = give_up
        self.status_code = 200
        self.background = None
        self.init_headers({**HEADERS, **headers})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the answer ends or the caller leaves."""
        wire = wire_of(scope)
        if wire is not None and len(self._told.runs) == 1:
            await self._pour(wire, send)
            return
        blocks = chunks(self._told, self._give_up)
        reply = EventStream(blocks, headers=self._headers, on_leave=self._on_leave)
        await reply(scope, receive, send)

    async def _pour(self, wire: Wire, send: Send) -> None:
        headers, self.raw_headers, self._headers = self.raw_headers, [], {}
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        del headers  # a stream is long, and there may be very many
        wire.settle()
        pour, finished = _Pour(wire, self._told), False
        try:
            while await pour.until_needed():
                with anyio.fail_after(WRITE_LIMIT):  # the caller was too slow
                    body = pour.take()
                    await send({"type": "http.response.body", "body": body, "more_body": True})
            if not pour.left:
                body = pour.take() + self._end()
                await send({"type": "http.response.body", "body": body, "more_body": False})
                finished = True
        finally:
            pour.close()
            if not finished:
                self._on_leave()

    def _end(self) -> bytes:
        events = self._told.runs[0].stream.log.events
        if events and events[-1][0] in FAILED:
            self._give_up()
            return self._told.failure(0)
        return self._told.closing()


class _Pour:
    """Writes what one stream gets, as long as the caller takes it."""

    __slots__ = (
        "_callbacks", "_future", "_heard", "_loop", "_opening", "_place", "_stream", "_timer",
        "_told", "_wire", "left",
    )  # fmt: skip

    def __init__(self, wire: Wire, told: Telling) -> None:
        self.left = False
        """The caller has gone."""
        self._wire = wire
        self._told = told
        self._stream = told.runs[0].stream
        self._place = 0
        self._opening = told.opening()
        self._loop = asyncio.get_running_loop()
        self._heard = self._loop.time()
        self._future: asyncio.Future[None] | None = None
        self._callbacks = self._news, self._leave
        self._stream.watch(self._callbacks[0])
        wire.watch(self._callbacks[1])
        self._timer = self._loop.call_later(streams.KEEPALIVE, self._check)
        self._news()

    @property
    def _over(self) -> bool:
        return self.left or self._stream.ended or self._stream.closed

    async def until_needed(self) -> bool:
        """Write all there is until somebody must wait for the caller; False: it is over."""
        while not self._over:
            if self._wire.paused:
                return True
            self._future = self._loop.create_future()
            try:
                await self._future
            finally:
                self._future = None
        return False

    def take(self) -> bytes:
        """What was not told yet; it counts as told now."""
        events = self._stream.events
        block, self._opening = self._opening, b""
        if len(events) > self._place:
            block += self._told.told(0, events[self._place :])
            self._place = len(events)
        return block

    def close(self) -> None:
        """Write no more."""
        news, leave = self._callbacks
        self._stream.unwatch(news)
        self._wire.unwatch(leave)
        self._timer.cancel()
        del self._callbacks, self._timer  # they hold this object: leave nothing for the collector

    def _news(self) -> None:
        """The stream has grown; its last events go out with the end of the reply."""
        if self._over or self._wire.paused:
            self._need()
            return
        block = self.take()
        if block:
            self._heard = self._loop.time()
            self._wire.write(block)

    def _leave(self) -> None:
        self.left = True
        self._need()

    def _need(self) -> None:
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    def _check(self) -> None:
        """Keep the connection alive when nothing has come for a while."""
        now = self._loop.time()
        if now - self._heard >= streams.KEEPALIVE - EARLY:
            self._heard = now
            if not self._over and not self._wire.paused and (block := self._told.silence()):
                self._wire.write(block)
        left = self._heard + streams.KEEPALIVE - now
        self._timer = self._loop.call_later(left, self._check)


async def chunks(told: Telling, give_up: Callable[[], None]) -> AsyncGenerator[bytes]:
    """The answer as it comes; `give_up` is called when one run has failed."""
    yield told.opening()
    async for index, batch in read_all([run.stream for run in told.runs]):
        if block := told.told(index, batch) if batch else told.silence():
            yield block
        if batch and batch[-1][0] in FAILED:
            give_up()
            yield told.failure(index)
            return
    yield told.closing()
