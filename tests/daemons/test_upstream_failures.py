"""The relay's own HTTP client, when something goes wrong."""

from __future__ import annotations

import contextlib
import socket

import anyio
import anyio.abc
import anyio.to_thread
import msgspec
import pytest
from raw_server import (
    CHUNKED,
    END,
    LIMIT,
    OK,
    Peer,
    asked,
    chunk,
    client,
    once,
    serving,
)

from rbee.daemons.queen import exchange
from rbee.daemons.queen.upstream import (
    BadReply,
    Broken,
    Overdue,
    Silent,
    Unreachable,
    Upstream,
)


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


# -- failures ----------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_nobody_there() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # bound and not listening: refused, and nobody else takes it
        async with client() as up:
            with pytest.raises(Unreachable, match=r"127\.0\.0\.1") as caught:
                await asked(f"http://127.0.0.1:{bound.getsockname()[1]}/", up)
    assert isinstance(caught.value, ConnectionError)
    assert not caught.value.begun


@pytest.mark.anyio
async def test_nobody_who_answers() -> None:
    """A full backlog: the kernel takes no more connections."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        try:
            for sock in waiting:
                sock.setblocking(False)
                sock.connect_ex(address)
            async with client(connect_timeout=0.1) as up:
                with pytest.raises(Unreachable, match=r"within 0\.1 s"):
                    await asked(f"http://127.0.0.1:{address[1]}/", up)
        finally:
            for sock in waiting:
                sock.close()


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("data", "begun"),
    [
        (b"", False),
        (b"HTTP/1.1 200 OK\r\ncontent-le", True),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nfour", True),
        (CHUNKED + chunk(b"one") + b"3\r\ntw", True),
        (CHUNKED + chunk(b"one"), True),
        (b"HTTP/1.1 100 Continue\r\n\r\n", True),
    ],
)
async def test_a_reply_that_ends_too_early(data: bytes, begun: bool) -> None:
    async with serving(once(data) if data else silent) as server, client() as up:
        with pytest.raises(Broken) as caught:
            await asked(server.url, up, on_data=lambda _: None)
    assert caught.value.begun is begun


async def silent(peer: Peer) -> None:
    await peer.request()


@pytest.mark.anyio
async def test_a_connection_that_is_reset() -> None:
    async def handler(peer: Peer) -> None:
        """Leaves with the request unread, which the kernel tells the other end as a reset."""

    async with serving(handler) as server, client() as up:
        with pytest.raises(Broken) as caught:
            await up.post(server.url, b"x" * (4 << 20), {}, silence=LIMIT)
    assert not caught.value.begun


GARBAGE = {
    "no HTTP": b"SSH-2.0-OpenSSH_9.6\r\n",
    "no chunk": CHUNKED + b"zzz\r\n",
    "two lengths": OK.replace(b"\r\n\r\n", b"\r\ntransfer-encoding: chunked\r\n\r\n"),
    "upgrade": b"HTTP/1.1 101 X\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nx",
    "compressed": OK.replace(b"\r\n\r\n", b"\r\ncontent-encoding: gzip\r\n\r\n"),
    "coded": b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n" + END,
    "endless head": b"HTTP/1.1 200 OK\r\nx: " + b"y" * (exchange.UNREAD_LIMIT + 1),
    "endless trailer": CHUNKED + chunk(b"x") + b"0\r\nx: " + b"y" * (4 * exchange.UNREAD_LIMIT),
}


@pytest.mark.anyio
@pytest.mark.parametrize("name", GARBAGE)
async def test_garbage_is_refused_and_the_connection_closed(name: str) -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.send(GARBAGE[name])
        await peer.gone()
        gone.set()

    gone = anyio.Event()
    async with serving(handler) as server, client() as up:
        with pytest.raises(BadReply) as caught:
            await asked(server.url, up, on_data=lambda _: None)
        await gone.wait()
    assert caught.value.begun


@pytest.mark.anyio
async def test_a_reply_larger_than_is_taken() -> None:
    reply = b"HTTP/1.1 200 OK\r\ncontent-length: 2097153\r\n\r\n" + b"x" * ((2 << 20) + 1)
    async with serving(once(reply)) as server, client(largest=2 << 20) as up:
        with pytest.raises(BadReply, match="more than 2 MiB"):
            await asked(server.url, up)


@pytest.mark.anyio
@pytest.mark.parametrize("said", [b"", CHUNKED + chunk(b": prefill\n\n")])
async def test_silence_ends_it_and_closes_the_connection(said: bytes) -> None:
    gone = anyio.Event()

    async def handler(peer: Peer) -> None:
        await peer.request()
        if said:
            await peer.send(said)
        await peer.gone()
        gone.set()

    async with serving(handler) as server, client() as up:
        with pytest.raises(Silent) as caught:
            await asked(server.url, up, silence=0.1, on_data=lambda _: None)
        await gone.wait()
    assert isinstance(caught.value, TimeoutError)
    assert (caught.value.seconds, caught.value.begun) == (0.1, bool(said))


@pytest.mark.anyio
async def test_a_shorter_patience_holds_on_a_connection_that_had_a_longer_one() -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        await peer.request()
        await peer.gone()

    async with serving(handler) as server, client() as up:
        await asked(server.url, up, silence=3600.0)
        with pytest.raises(Silent):
            await asked(server.url, up, silence=0.1)
    assert server.connections == 1


@pytest.mark.anyio
async def test_a_word_now_and_then_is_not_silence_but_may_be_too_long() -> None:
    heard = 0

    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED)
        with contextlib.suppress(anyio.BrokenResourceError):
            while True:
                await peer.send(chunk(b": keepalive\n\n"))
                await anyio.sleep(0.01)  # what is tested is the time between words, and in all

    def hear(_: bytes) -> None:
        nonlocal heard
        heard += 1

    async with serving(handler) as server, client() as up:
        with pytest.raises(Overdue, match=r"0\.5 s"):
            await asked(server.url, up, silence=LIMIT, total=0.5, on_data=hear)
    assert heard > 1


@pytest.mark.anyio
async def test_cancelling_closes_the_connection_and_nothing_comes_after() -> None:
    left, took = anyio.Event(), anyio.Event()
    seen: list[bytes] = []

    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED + chunk(b"one") + chunk(b"two"))
        await took.wait()
        with contextlib.suppress(anyio.BrokenResourceError):
            await peer.send(chunk(b"three"))
        await peer.gone()
        left.set()

    scope = anyio.CancelScope()

    def take(data: bytes) -> None:
        seen.append(data)
        scope.cancel()
        took.set()

    async with serving(handler) as server, client() as up:
        with scope:
            await asked(server.url, up, on_data=take)
        assert scope.cancelled_caught
        await left.wait()
    assert seen == [b"onetwo"]


@pytest.mark.anyio
async def test_an_error_of_the_taker_is_the_error_of_the_request() -> None:
    left = anyio.Event()
    seen: list[bytes] = []

    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED + chunk(b"one") + chunk(b"two"))
        await peer.gone()
        left.set()

    def take(data: bytes) -> None:
        seen.append(data)
        raise msgspec.ValidationError("not this")

    async with serving(handler) as server, client() as up:
        with pytest.raises(msgspec.ValidationError, match="not this"):
            await asked(server.url, up, on_data=take)
        await left.wait()
    assert seen == [b"onetwo"]


@pytest.mark.anyio
async def test_closing_ends_what_is_in_progress_and_nothing_begins_after_it() -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        asked_for.set()
        await peer.gone()

    async def ask() -> None:
        with pytest.raises(Broken):
            await asked(server.url, up)
        ended.set()

    asked_for, ended = anyio.Event(), anyio.Event()
    up = Upstream()
    async with serving(handler) as server, anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        await asked_for.wait()
        await up.close()
        await ended.wait()
        with pytest.raises(Unreachable):
            await asked(server.url, up)
        await up.close()


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("url", "headers"),
    [
        ("https://x/", {}),
        ("http:///path", {}),
        ("http://u:p@x/", {}),
        ("http://x/a b", {}),
        ("http://x/a\r\nX: y", {}),
        ("http://x:99999/", {}),
        ("http://x/", {"X": "a\r\nY: b"}),
        ("http://x/", {"X Y": "a"}),
        ("http://x/", {"Content-length": "3"}),
    ],
)
async def test_what_cannot_be_written_is_refused(url: str, headers: dict[str, str]) -> None:
    async with client() as up:
        with pytest.raises(ValueError, match=r"no address|cannot be sent|out of range"):
            await up.post(url, b"", headers, silence=LIMIT)
