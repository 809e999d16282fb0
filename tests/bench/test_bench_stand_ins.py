"""The stand-ins, the closed loop and the bare proxy: what they say, and what they refuse."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import pytest

from bench.client import Request, connect, fetch
from bench.dialects import read_answer, read_openai, read_worker
from bench.fake_protocol import Connection, listen
from bench.fake_worker import FakeWorkers, Pace
from bench.http_bytes import Reply
from bench.load import Wrong
from bench.queen.clients import closed_loop, post
from bench.queen.context import answers
from bench.queen.programs import HOST, Fleet, Floor, Queen, StandIn

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _logs_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.queen.programs.LOGS", tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))


@asynccontextmanager
async def served(workers: FakeWorkers) -> AsyncIterator[int]:
    def handle(connection: Connection, method: str, path: str, body: bytes) -> None:
        if not workers.handle(connection, method, path, body):
            connection.reply({}, 404)

    server, url = await listen(handle)
    try:
        yield int(urlsplit(url).port or 0)
    finally:
        server.close()
        await server.wait_closed()


def execute(tokens: int, request_id: str = "r-1") -> Request:
    body = {"request_id": request_id, "max_tokens": tokens}
    return Request("/v1/execute", json.dumps(body).encode())


def chat(tokens: int, *, stream: bool) -> Request:
    return Request("/v1/chat/completions", json.dumps(chat_body(tokens, stream)).encode())


def chat_body(tokens: int, stream: bool) -> dict[str, Any]:
    return {"model": "m", "messages": [], "max_tokens": tokens, "stream": stream}


async def get(port: int, path: str) -> Any:
    return json.loads((await fetch(HOST, port, Request(path, method="GET"))).body)


async def stream_of(port: int, request: Request) -> Reply:
    stream = await connect(HOST, port)
    stream.send(request.encode(HOST, port))
    await stream.done()
    return stream.reply()


async def test_a_worker_gives_as_many_tokens_as_are_asked_for():
    async with served(FakeWorkers(4, Pace())) as port:
        answer = read_answer(await stream_of(port, execute(5)), read_worker)
        assert (len(answer.times), answer.tokens, answer.finish) == (5, 5, "length")
        answer = read_answer(await stream_of(port, chat(3, stream=True)), read_openai)
        assert (answer.tokens, answer.finish, answer.error) == (3, "length", "")


async def test_a_pace_is_kept_and_all_end():
    async with served(FakeWorkers(4, Pace(first=0.01, gap=0.05))) as port:
        reply = await stream_of(port, execute(4))
        answer = read_answer(reply, read_worker)
        assert len(set(answer.times)) >= 3
        assert await get(port, "/fake/stats") == {"busy": 0, "served": 1, "told": 0}


async def test_held_answers_go_on_when_they_are_let_go():
    async with served(FakeWorkers(4, Pace(hold=True))) as port:
        streams = [await connect(HOST, port) for _ in range(3)]
        for number, stream in enumerate(streams):
            stream.expect(1)
            stream.send(execute(3, f"r-{number}").encode(HOST, port))
            await stream.reached()
        assert (await get(port, "/fake/stats"))["busy"] == 3
        assert not any(stream.ended.is_set() for stream in streams)
        await fetch(HOST, port, Request("/fake/pace", b"{}"))
        for stream in streams:
            await stream.done()
            assert read_answer(stream.reply(), read_worker).tokens == 3


async def test_a_cancelled_answer_says_so():
    async with served(FakeWorkers(4, Pace(hold=True))) as port:
        stream = await connect(HOST, port)
        stream.expect(1)
        stream.send(execute(9, "r-7").encode(HOST, port))
        await stream.reached()
        assert (
            await fetch(HOST, port, Request("/v1/cancel", b'{"request_id":"r-7"}'))
        ).status == 204
        await stream.done()
        answer = read_answer(stream.reply(), read_worker)
        assert (answer.tokens, answer.finish) == (1, "cancelled")


async def test_one_who_leaves_frees_the_slot_and_more_than_the_slots_are_refused():
    async with served(FakeWorkers(1, Pace(hold=True))) as port:
        stream = await connect(HOST, port)
        stream.expect(1)
        stream.send(execute(9).encode(HOST, port))
        await stream.reached()
        refused = await fetch(HOST, port, execute(1, "r-2"))
        assert refused.status == 503
        assert json.loads(refused.body)["error"]["code"] == "ALL_SLOTS_BUSY"
        stream.close()
        with anyio.fail_after(10):
            while (await get(port, "/fake/stats"))["busy"]:
                await anyio.lowlevel.checkpoint()


@pytest.mark.parametrize("stream", [True, False])
async def test_a_closed_loop_has_every_answer(stream: bool):
    workers = FakeWorkers(64, Pace())
    async with served(workers) as port:
        request = post("/v1/chat/completions", json.dumps(chat_body(7, stream)).encode(), HOST)
        sent = await closed_loop(HOST, port, lambda _: request, count=50, clients=8)
        assert len(sent.latencies) == len(sent.first_bytes) == 50
        assert all(0 < a <= b for a, b in zip(sent.first_bytes, sent.latencies, strict=True))
        assert sent.rate > 0
        assert workers.served == 50


async def test_a_closed_loop_tells_what_was_refused():
    async with served(FakeWorkers(4, Pace())) as port:
        with pytest.raises(Wrong, match="404 Not Found"):
            await closed_loop(HOST, port, lambda _: post("/x", b"{}", HOST), count=5, clients=2)


async def test_a_closed_loop_notices_a_server_that_leaves():
    def leave(connection: Connection, *_: object) -> None:
        connection.transport.close()

    server, url = await listen(leave)
    try:
        with pytest.raises(Wrong, match="closed in an answer"):
            await closed_loop(HOST, int(urlsplit(url).port or 0),
                              lambda _: post("/x", b"{}", HOST), count=5, clients=2)  # fmt: skip
    finally:
        server.close()
        await server.wait_closed()


async def test_the_bare_proxy_passes_what_it_gets():
    direct = await StandIn.start(Fleet(), None)
    try:
        floor = await Floor.start(direct)
        try:
            for stream in (True, False):
                asked = chat(4, stream=stream)
                ours, theirs = [
                    await stream_of(program.port, asked)
                    if stream
                    else await fetch(HOST, program.port, asked)
                    for program in (floor, direct)
                ]
                assert ours.status == theirs.status == 200
                assert ours.body == theirs.body
        finally:
            await floor.stop()
    finally:
        await direct.stop()


async def test_a_queen_serves_through_hives_that_are_none():
    queen = await Queen.start()
    try:
        direct = await StandIn.start(Fleet(hives=2, workers=3, slots=4), queen)
        try:
            await queen.hives(2)
            await queen.workers(6)
            cost = await answers(queen, count=20, clients=6, tokens=4, stream=True)
            assert cost.requests == 20
            assert cost.each >= 0
            stats = await direct.get("/fake/stats")
            assert stats["busy"] == 0
            assert stats["served"] == 20
            assert stats["told"] >= 2
        finally:
            await direct.stop()
    finally:
        await queen.stop()
