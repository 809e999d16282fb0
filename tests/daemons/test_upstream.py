"""The relay's own HTTP client: requests, replies, reuse."""

from __future__ import annotations

import asyncio
import socket
import threading
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.to_thread
import httptools
import pytest
from raw_server import (
    CHUNKED,
    END,
    LIMIT,
    OK,
    STREAM,
    Peer,
    Server,
    always,
    asked,
    chunk,
    client,
    once,
    serving,
)

from rbee.daemons.queen import exchange, upstream
from rbee.daemons.queen.upstream import (
    Broken,
    Reply,
)


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


# -- requests and replies ----------------------------------------------------------------------


@pytest.mark.anyio
async def test_a_request_arrives_as_it_was_meant() -> None:
    async with serving(always(OK)) as server, client() as up:
        reply = await up.post(
            server.url + "?a=1", b"\x00body", {"Authorization": "Bearer x"}, silence=LIMIT
        )
        await up.post(server.url, b"", {}, silence=LIMIT)
    assert reply == Reply(200, {"content-length": "2"}, b"ok")
    head, body = server.requests[0]
    assert body == b"\x00body"
    lines = head.split("\r\n")
    assert lines[0] == "POST /v1/execute?a=1 HTTP/1.1"
    assert {
        f"Host: {server.url.split('/')[2]}", "Connection: keep-alive",
        "Accept-Encoding: identity", "Content-Length: 5", "Authorization: Bearer x",
    } <= set(lines)  # fmt: skip
    assert server.requests[1][1] == b""


REPLIES = {
    "length": (OK, 200, b"ok"),
    "chunked": (
        b"HTTP/1.1 409 Conflict\r\ntransfer-encoding: chunked\r\n\r\n"
        + chunk(b"a" * 300) + chunk(b"b") + END,
        409, b"a" * 300 + b"b",
    ),
    "until close": (b"HTTP/1.1 500 Oh\r\ncontent-type: x\r\n\r\nall of it", 500, b"all of it"),
    "nothing": (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
    "empty": (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", 200, b""),
    "continue": (b"HTTP/1.1 100 Continue\r\nx: y\r\n\r\nHTTP/1.1 103 H\r\n\r\n" + OK, 200, b"ok"),
    "stream failed": (STREAM.replace(b"200", b"503") + b"content-length: 1\r\n\r\nx", 503, b"x"),
    "trailer": (
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + chunk(b"ok")
        + b"0\r\nx-late: 1\r\n\r\n",
        200, b"ok",
    ),
}  # fmt: skip


@pytest.mark.anyio
@pytest.mark.parametrize("name", REPLIES)
async def test_each_form_of_a_reply_is_collected(name: str) -> None:
    data, status, body = REPLIES[name]
    seen: list[bytes] = []
    async with serving(once(data)) as server, client() as up:
        reply = await asked(server.url, up, on_data=seen.append)
    assert (reply.status, reply.body, seen) == (status, body, [])
    assert "x-late" not in reply.headers
    assert "x" not in reply.headers


@pytest.mark.anyio
async def test_a_header_that_comes_twice_is_one() -> None:
    reply = b"HTTP/1.1 200 OK\r\nX-A: 1\r\nx-a: 2\r\ncontent-length: 0\r\n\r\n"
    async with serving(always(reply)) as server, client() as up:
        assert (await asked(server.url, up)).headers["x-a"] == "1, 2"


@pytest.mark.anyio
@pytest.mark.parametrize(
    "data",
    [
        CHUNKED + chunk(b"one") + chunk(b"two") + END,
        STREAM + b"content-length: 6\r\n\r\nonetwo",
        STREAM + b"\r\nonetwo",
        STREAM.replace(b"text/event-stream", b"Text/Event-Stream") + b"\r\nonetwo",
    ],
)
async def test_a_stream_goes_to_its_taker_in_every_form(data: bytes) -> None:
    seen: list[bytes] = []
    async with serving(once(data)) as server, client() as up:
        reply = await asked(server.url, up, on_data=seen.append)
    assert (reply.status, reply.body, b"".join(seen)) == (200, b"", b"onetwo")


@pytest.mark.anyio
async def test_a_stream_without_taker_is_collected() -> None:
    async with serving(always(CHUNKED + chunk(b"one") + END)) as server, client() as up:
        assert (await asked(server.url, up)).body == b"one"


@pytest.mark.anyio
async def test_each_piece_is_taken_before_the_next_one_is_made() -> None:
    arrived = anyio.Event()

    async def handler(peer: Peer) -> None:
        nonlocal arrived
        await peer.request()
        await peer.send(CHUNKED)
        for number in range(20):
            arrived = anyio.Event()
            await peer.send(chunk(b"%d." % number))
            await arrived.wait()
        await peer.send(END)

    seen: list[bytes] = []

    def take(data: bytes) -> None:
        seen.append(data)
        arrived.set()

    async with serving(handler) as server, client() as up:
        await asked(server.url, up, on_data=take)
    assert seen == [b"%d." % number for number in range(20)]


class Loose(asyncio.Transport):
    """No socket: a test says what comes, in exactly which parts."""

    def __init__(self) -> None:
        super().__init__()
        self.aborted = False

    def writelines(self, list_of_data: Any) -> None:
        self.written = b"".join(list_of_data)

    def get_write_buffer_size(self) -> int:
        return 0

    def abort(self) -> None:
        self.aborted = True


@pytest.mark.anyio
async def test_any_cut_of_the_bytes_gives_the_same_reply() -> None:
    data = b"HTTP/1.1 100 Continue\r\n\r\n" + CHUNKED + chunk(b"one") + chunk(b"x" * 17) + END
    cuts = [[data[:at], data[at:]] for at in range(len(data))]
    cuts.append([data[at : at + 1] for at in range(len(data))])
    gone: list[exchange.Connection] = []
    for parts in cuts:
        seen: list[bytes] = []
        order = exchange.Order(b"head", b"body", seen.append, LIMIT, None, float("inf"))
        loop = asyncio.get_running_loop()
        connection = exchange.Connection(loop, "key", gone.append, largest=1 << 20)
        connection.connection_made(Loose())
        replies: list[Reply] = []

        async def ask(
            connection: exchange.Connection = connection,
            order: exchange.Order = order,
            replies: list[Reply] = replies,
        ) -> None:
            replies.append(await connection.exchange(order))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
            for part in parts:
                if part:
                    connection.data_received(part)
        assert [(reply.status, reply.body) for reply in replies] == [(200, b"")]
        assert b"".join(seen) == b"one" + b"x" * 17
        assert connection.reusable()
        connection.abort()
        connection.connection_lost(None)
    assert len(gone) == len(cuts)


# -- reuse -------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_a_connection_is_used_again_and_again() -> None:
    streamed = CHUNKED + chunk(b"one") + END
    replies = always(OK, streamed, OK, b"HTTP/1.1 204 X\r\n\r\n", OK)
    async with serving(replies) as server, client() as up:
        for _ in range(6):
            await asked(server.url, up, on_data=lambda _: None)
    assert (server.connections, len(server.requests)) == (1, 6)


@pytest.mark.anyio
@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
        OK + b"more",
        OK + OK,
    ],
)
async def test_a_connection_that_is_not_clean_is_closed(data: bytes) -> None:
    gone = [anyio.Event(), anyio.Event()]

    async def handler(peer: Peer) -> None:
        which = server.connections - 1
        await peer.request()
        await peer.send(data)
        await peer.gone()
        gone[which].set()

    async with serving(handler) as server, client() as up:
        for event in gone:
            assert (await asked(server.url, up)).body == b"ok"
            await event.wait()


@pytest.mark.anyio
async def test_an_idle_connection_that_was_closed_is_not_used() -> None:
    async with serving(once(OK)) as server, client() as up:
        for _ in range(5):
            assert (await asked(server.url, up)).body == b"ok"
            await anyio.wait_all_tasks_blocked()
    assert server.connections == 5


@pytest.mark.anyio
async def test_not_even_when_the_loop_has_not_heard_of_it() -> None:
    """The goodbye lies in the kernel: whoever writes now writes into nothing."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(LIMIT)
    answered, close, closed = threading.Event(), threading.Event(), threading.Event()

    def serve() -> None:
        first, _ = listener.accept()
        with first:
            first.recv(4096)
            first.sendall(OK)
            answered.set()
            assert close.wait(LIMIT)
        closed.set()
        second, _ = listener.accept()
        with second:
            second.recv(4096)
            second.sendall(OK)

    thread = threading.Thread(target=serve)
    thread.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
    try:
        async with client() as up:
            await asked(url, up)
            close.set()
            assert closed.wait(LIMIT)  # blocks: the loop must not look in between
            assert (await asked(url, up)).body == b"ok"
    finally:
        await anyio.to_thread.run_sync(thread.join)
        listener.close()


@pytest.mark.anyio
@pytest.mark.parametrize("repeatable", [False, True])
async def test_what_may_have_been_read_is_sent_again_only_when_it_may_be(repeatable: bool) -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        await peer.request()  # and not a word

    async with serving(handler) as server, client() as up:
        await asked(server.url, up)
        if repeatable:
            assert (await asked(server.url, up, repeatable=True)).body == b"ok"
        else:
            with pytest.raises(Broken) as caught:
                await asked(server.url, up)
            assert not caught.value.begun
    assert len(server.requests) == (3 if repeatable else 2)


@pytest.mark.anyio
async def test_a_reply_that_had_begun_is_never_asked_for_again() -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        await peer.request()
        await peer.send(b"HTTP/1.1")

    async with serving(handler) as server, client() as up:
        await asked(server.url, up)
        with pytest.raises(Broken) as caught:
            await asked(server.url, up, repeatable=True)
    assert caught.value.begun
    assert len(server.requests) == 2


@pytest.mark.anyio
async def test_idle_connections_are_few_and_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "IDLE_SECONDS", 0.05)
    monkeypatch.setattr(upstream, "IDLE_EACH", 3)
    together = anyio.Event()
    closed = 0

    async def handler(peer: Peer) -> None:
        nonlocal closed
        await peer.request()
        if len(server.requests) == 8:
            together.set()
        await together.wait()
        await peer.send(OK)
        await peer.gone()
        closed += 1
        if closed == 5:
            extra.set()
        if closed == 8:
            every.set()

    extra, every = anyio.Event(), anyio.Event()
    async with serving(handler) as server, client() as up:
        async with anyio.create_task_group() as tasks:
            for _ in range(8):
                tasks.start_soon(asked, server.url, up)
        await extra.wait()
        await every.wait()


@pytest.mark.anyio
async def test_two_hundred_at_once() -> None:
    async def handler(peer: Peer) -> None:
        _, body = await peer.request()
        await peer.send(CHUNKED)
        for _ in range(5):
            await peer.send(chunk(body))
        await peer.send(END)
        await peer.gone()

    seen: dict[int, list[bytes]] = {number: [] for number in range(200)}
    async with serving(handler) as server, client() as up:

        async def ask(number: int) -> None:
            await up.post(
                server.url, b"%d," % number, {}, on_data=seen[number].append, silence=LIMIT
            )

        async with anyio.create_task_group() as tasks:
            for number in seen:
                tasks.start_soon(ask, number)
    assert all(b"".join(parts) == b"%d," % number * 5 for number, parts in seen.items())
    assert server.connections == 200


@pytest.mark.anyio
async def test_a_unix_socket_is_a_worker_too(tmp_path: Path) -> None:
    listener = await anyio.create_unix_listener(tmp_path / "w.sock")
    server = Server()

    async def handle(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await once(OK)(Peer(stream, server))

    url = f"http+unix://{str(tmp_path / 'w.sock').replace('/', '%2F')}/v1/cancel"
    with anyio.fail_after(LIMIT):
        async with listener, client() as up, anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, handle)
            assert (await asked(url, up)).body == b"ok"
            tasks.cancel_scope.cancel()
    assert server.requests[0][0].startswith("POST /v1/cancel HTTP/1.1\r\nHost: localhost\r\n")


def test_the_parser_hands_out_what_it_is_used_for() -> None:
    """The methods that httptools looks for by name, among those that exist here."""
    calls = {name for name in dir(exchange.Connection) if name.startswith("on_")}
    known = {name for name in dir(httptools.HTTPProtocol) if name.startswith("on_")}
    assert calls <= known
