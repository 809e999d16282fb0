"""A hive's link at its end, and a run that ends in a way nobody has thought of."""

from __future__ import annotations

import gzip
from contextlib import suppress
from functools import partial
from pathlib import Path

import anyio
import pytest
from raw_server import LIMIT, OK, STREAM, Peer, Server, serving

from rbee.core.effects import Dispatch
from rbee.core.events import Event, HiveLeft, RunFailed
from rbee.core.jobs import Job
from rbee.daemons.queen import links
from rbee.daemons.queen.bounded import Bounded
from rbee.daemons.queen.links import HttpLink
from rbee.daemons.queen.relay import Relay
from rbee.daemons.queen.store import Store
from rbee.daemons.queen.streams import Streams
from rbee.errors import HiveOffline, RbeeError
from rbee.protocol import PROTOCOL
from rbee.protocol.hives import HiveReady
from rbee.protocol.operations import Infer

pytestmark = pytest.mark.anyio


async def test_a_link_that_tells_its_end_says_offline_to_whoever_still_asks() -> None:
    said: list[object] = []

    async def hear(event: Event) -> None:
        said.append(event)
        for asked in (
            link.stop("w-01", force=True),
            link.resolve("echo"),
            link.log_tail("w-01", 1),
            link.lease(),
        ):
            with pytest.raises(HiveOffline):
                await asked

    nobody = "http://127.0.0.1:9"
    ready = HiveReady(name="far", url=nobody, token="t", version="0", protocol=PROTOCOL)
    link = HttpLink(ready, hear, said.append)
    with anyio.fail_after(LIMIT):
        await link.run()
    assert [type(event) for event in said] == [HiveLeft]


async def leasing(server: Server, *frames: float | None) -> None:
    """Tell a hive there that its queen is, so many times."""

    async def hear(_event: Event) -> None: ...

    url = server.url.removesuffix("/v1/execute")
    ready = HiveReady(name="far", url=url, token="t0k", version="0", protocol=PROTOCOL)
    link = HttpLink(ready, hear, lambda _: None)
    with anyio.fail_after(LIMIT):
        for alone in frames:
            await link.lease(alone)


async def test_signs_of_life_go_over_one_connection_with_the_hives_token() -> None:
    async def hive(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(OK)

    async with serving(hive) as server:
        await leasing(server, None, 30.0, None)
        assert server.connections == 1
        assert [body for _, body in server.requests] == [b"{}", b'{"alone":30.0}', b"{}"]
        for head, _ in server.requests:
            assert head.startswith("POST /v1/lease HTTP/1.1\r\n")
            assert "\r\nAuthorization: Bearer t0k" in head


async def test_a_hive_that_hears_no_sign_of_life_or_refuses_it_says_so() -> None:
    async def closing(peer: Peer) -> None:
        await peer.request()

    async with serving(closing) as server:
        with pytest.raises(HiveOffline, match="far"):
            await leasing(server, None)

    body = b'{"error": {"code": "FORBIDDEN", "message": "no", "details": {}}}'

    async def refusing(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 403 No\r\ncontent-length: %d\r\n\r\n" % len(body) + body)

    async with serving(refusing) as server:
        with pytest.raises(RbeeError) as caught:
            await leasing(server, None)
    assert caught.value.code == "FORBIDDEN"


async def test_a_reply_that_nobody_foresaw_ends_its_run_and_not_the_queen(tmp_path: Path) -> None:
    deep = b'data: {"token":"x","ids":' + b"[" * 100_000 + b"\n\n"

    async def worker(peer: Peer) -> None:
        await peer.request()
        await peer.send(STREAM + b"connection: close\r\n\r\n" + deep)

    store = Store.open(tmp_path / "rbee.db")
    streams = Streams(store)
    job = Job(job_id="j-1", request=Infer(model="m", prompt="p"), created_at=0.0, queued_mono=0.0)
    job.durable = False
    ended, told = anyio.Event(), list[Event]()

    def post(event: Event) -> None:
        told.append(event)
        ended.set()

    async with serving(worker) as server, anyio.create_task_group() as tasks:
        relay = Relay(
            tasks=tasks, post=post, streams=streams, token_of=lambda _: "t", stall_timeout=LIMIT
        )
        base = server.url.removesuffix("/v1/execute")
        relay.start(Dispatch(job, 1, "home", "w-01", base, "llamacpp"))
        await ended.wait()
        await relay.close()
    store.close()
    (event,) = told
    assert isinstance(event, RunFailed)
    assert event.error.code == "INTERNAL_ERROR"


@pytest.mark.parametrize("details", [5, "why", ["a"], None])
def test_an_error_whose_details_are_none_is_still_that_error(details: object) -> None:
    error = RbeeError.from_body(
        {"error": {"code": "QUEUE_FULL", "message": "m", "details": details}}
    )
    assert (error.code, error.message) == ("QUEUE_FULL", "m")


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (b"transfer-encoding: chunked", b"400\r\n" + b"x" * 1024 + b"\r\n"),
        (b"connection: close", b"x" * 1024),
        (b"content-length: 40\r\ncontent-encoding: gzip", gzip.compress(b" " * 20_000)[:40]),
        (b"content-type: text/event-stream", b"x" * 1024),
    ],
    ids=["chunked", "plain", "packed", "events"],
)
@pytest.mark.parametrize("status", [b"200 OK", b"500 No"], ids=["good", "bad"])
async def test_a_reply_that_never_ends_is_not_kept(
    head: bytes, body: bytes, status: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = 0

    async def endless(peer: Peer) -> None:
        nonlocal sent
        await peer.request()
        await peer.send(b"HTTP/1.1 " + status + b"\r\n" + head + b"\r\n\r\n")
        with suppress(anyio.BrokenResourceError):
            while True:
                await peer.send(body)
                sent += len(body)

    async def hear(_event: Event) -> None: ...

    monkeypatch.setattr(links, "Bounded", partial(Bounded, largest=20_000))
    async with serving(endless) as server:
        url = server.url.removesuffix("/v1/execute")
        ready = HiveReady(name="far", url=url, token="t", version="0", protocol=PROTOCOL)
        link = HttpLink(ready, hear, lambda _: None)
        with anyio.fail_after(LIMIT), pytest.raises(RbeeError):
            await link.resolve("m")
    assert sent < 64 << 20
