"""A streamed answer on its way to a socket: at once, slowly, to its end, or to nobody."""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, cast

import anyio
import anyio.to_thread
import msgspec
import pytest
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from rbee.core.jobs import Job
from rbee.daemons.base import listen, make_server, serve
from rbee.daemons.queen import streams
from rbee.daemons.queen.answer_stream import AnswerStream
from rbee.daemons.queen.answering import Answering
from rbee.daemons.queen.openai_chat import Chunks
from rbee.daemons.queen.openai_replies import Run
from rbee.daemons.queen.streams import JobStream
from rbee.errors import ShuttingDown
from rbee.protocol.jobs import EventType
from rbee.protocol.operations import Infer
from rbee.sse import Decoder, ServerEvent

if TYPE_CHECKING:
    from rbee.daemons.queen.queen import Queen

pytestmark = pytest.mark.anyio
REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
END = b'{"finish_reason":"stop","tokens_out":3,"duration_ms":1}'
LARGE = 40_000
"""Characters of a token, so that sockets fill soon."""


class Answer:
    """A server whose one reply is a stream that the test fills."""

    def __init__(self, choices: int = 1) -> None:
        self.streams = [JobStream() for _ in range(choices)]
        self.left, self.gave_up, self.replied = anyio.Event(), anyio.Event(), anyio.Event()
        self.port = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        job = Job(
            job_id="j-1", request=Infer(model="m", prompt="x"), created_at=0.0, queued_mono=0.0
        )
        told = Chunks([Run(job, stream) for stream in self.streams], usage=True)
        reply = AnswerStream(
            told, headers={"X-Test": "1"}, on_leave=self.left.set, give_up=self.gave_up.set
        )
        await reply(scope, receive, send)
        self.replied.set()

    def token(self, text: str, choice: int = 0) -> None:
        stream = self.streams[choice]
        data = b'{"t":%b,"i":%d}' % (msgspec.json.encode(text), stream.tokens)
        stream.append(EventType.TOKEN, data)

    def end(self, choice: int = 0) -> None:
        self.streams[choice].append(EventType.END, END)


@asynccontextmanager
async def served(answer: Answer) -> AsyncGenerator[socket.socket]:
    """A connection that has asked."""
    with listen("127.0.0.1", 0) as sock:
        server = make_server(answer)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(serve, server, sock)
            with socket.socket() as client, anyio.fail_after(30):
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
                client.setblocking(False)
                client.settimeout(30)
                await anyio.to_thread.run_sync(client.connect, sock.getsockname())
                client.sendall(REQUEST)
                yield client
            server.stop()


class Client:
    """Reads events from a reply in chunks."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._rest = b""
        self._events = Decoder()
        self.head = b""
        self.events: list[ServerEvent] = []
        self.over = False

    async def until(self, met: Callable[[], bool]) -> None:
        """Read on until that holds."""
        while not met():
            data = await anyio.to_thread.run_sync(self._sock.recv, 65536)
            assert data, "the server hung up"
            self._rest += data
            if not self.head and b"\r\n\r\n" in self._rest:
                self.head, _, self._rest = self._rest.partition(b"\r\n\r\n")
            if self.head:
                self._cut()

    def _cut(self) -> None:
        while b"\r\n" in self._rest:
            size, _, rest = self._rest.partition(b"\r\n")
            length = int(size, 16)
            if len(rest) < length + 2:
                return
            self.over |= length == 0
            self.events += self._events.feed(rest[:length])
            self._rest = rest[length + 2 :]

    def text(self, choice: int = 0) -> str:
        parts: list[str] = []
        for event in self.events:
            if event.data and event.data != "[DONE]":
                said = msgspec.json.decode(event.data).get("choices", ())
                parts += [s["delta"].get("content") or "" for s in said if s["index"] == choice]
        return "".join(parts)


async def test_each_token_goes_out_before_the_next_is_there():
    answer = Answer()
    answer.token("one")
    async with served(answer) as sock:
        client = Client(sock)
        await client.until(lambda: client.text() == "one")
        assert b"x-test: 1" in client.head
        for number, word in enumerate((" two", " three", " é\n"), 2):
            answer.token(word)
            await client.until(lambda want=number: len(client.events) == want + 1)
        answer.end()
        await client.until(lambda: client.over)
    assert client.text() == "one two three é\n"
    last = [msgspec.json.decode(e.data) for e in client.events[-3:-1]]
    assert last[0]["choices"][0]["finish_reason"] == "stop"
    assert last[1]["usage"]["completion_tokens"] == 3
    assert client.events[-1].data == "[DONE]"
    assert not answer.left.is_set()
    assert not answer.gave_up.is_set()
    assert not answer.streams[0].wakers


@pytest.mark.parametrize("choices", [1, 2])
async def test_who_reads_slowly_misses_nothing(choices: int):
    answer = Answer(choices)
    words = [f"{n:04d}" * (LARGE // 4) for n in range(100)]  # 4 MB: more than sockets take
    for choice in range(choices):
        answer.token("first", choice)
    async with served(answer) as sock:
        client = Client(sock)
        await client.until(lambda: client.text() == "first")
        for word in words:
            for choice in range(choices):
                answer.token(word, choice)
            await anyio.wait_all_tasks_blocked()
        for choice in range(choices):
            answer.end(choice)
        await client.until(lambda: client.over)
    for choice in range(choices):
        assert client.text(choice) == "first" + "".join(words)
    assert client.events[-1].data == "[DONE]"


@pytest.mark.parametrize("choices", [1, 2])
async def test_who_leaves_is_noticed_while_nothing_comes(choices: int):
    answer = Answer(choices)
    answer.token("one")
    async with served(answer) as sock:
        client = Client(sock)
        await client.until(lambda: client.text() == "one")
        sock.close()
        await answer.left.wait()
        await answer.replied.wait()
    assert not any(stream.wakers for stream in answer.streams)


async def test_who_leaves_while_too_slow_is_noticed():
    answer = Answer()
    answer.token("first")
    async with served(answer) as sock:
        client = Client(sock)
        await client.until(lambda: client.text() == "first")
        for _ in range(200):
            answer.token("x" * LARGE)
            await anyio.wait_all_tasks_blocked()
        sock.close()
        await answer.left.wait()
        await answer.replied.wait()
    assert not answer.streams[0].wakers


@pytest.mark.parametrize("choices", [1, 2])
async def test_a_failure_in_the_middle_is_told_and_gives_up(choices: int):
    answer = Answer(choices)
    answer.token("one")
    async with served(answer) as sock:
        client = Client(sock)
        await client.until(lambda: client.text() == "one")
        body = b'{"code":"WORKER_LOST","message":"gone","details":{}}'
        answer.streams[0].append(EventType.ERROR, body)
        await client.until(lambda: client.over)
    told = msgspec.json.decode(client.events[-2].data)
    assert told["error"]["code"] == "WORKER_LOST"
    assert client.events[-1].data == "[DONE]"
    assert answer.gave_up.is_set()


async def test_a_queen_that_leaves_says_so():
    answer = Answer()
    answer.token("one")
    async with served(answer) as sock:
        client = Client(sock)
        await client.until(lambda: client.text() == "one")
        answer.streams[0].close()
        await client.until(lambda: client.over)
    assert msgspec.json.decode(client.events[-2].data)["error"]["code"] == "SHUTTING_DOWN"


@pytest.mark.parametrize("choices", [1, 2])
async def test_silence_is_filled_with_comments(choices: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(streams, "KEEPALIVE", 0.02)
    answer = Answer(choices)
    answer.token("one")
    async with served(answer) as sock:
        client = Client(sock)
        await client.until(lambda: sum(e.comment is not None for e in client.events) >= 3)
        assert client.text() == "one"
        for choice in range(choices):
            answer.end(choice)
        await client.until(lambda: client.over)
    assert client.text() == "one"


async def test_what_the_queen_did_not_see_the_end_of_is_no_success():
    job = Job(job_id="j-1", request=Infer(model="m", prompt="x"), created_at=0.0, queued_mono=0.0)
    answer, fetched = JobStream(), JobStream()
    request = Request({"type": "http"}, receive=anyio.sleep_forever)
    fetched.append(EventType.END, END)
    answering = Answering(cast("Queen", None), client="ollama")
    with anyio.fail_after(30):
        await answering.done(request, [Run(job, fetched)])
        answer.close()
        with pytest.raises(ShuttingDown):
            await answering.done(request, [Run(job, fetched), Run(job, answer)])
