"""Many at once, slow ones, and those who leave: nobody else notices, and nothing is left open."""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx
import psutil
import pytest

from rbee.sse import Decoder
from tests.support.colony import Colony, words
from tests.support.home import Home, wait_for
from tests.support.told import Told

OPEN_STREAMS = 500
REQUESTS, CONNECTIONS = 1000, 25
MACHINES = [f"m-{number}" for number in range(10)]
LONG_WORDS = 39_000
LONG = f"@repeat={LONG_WORDS} {'long' * 50}"
"""Ten times as much as sockets hold for a reader who does not read."""
FOREVER = "@delay=20 @repeat=100000 on"


@pytest.fixture(scope="module")
def colony(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Colony]:
    one = Colony(
        Home(tmp_path_factory.mktemp("crowd")), RBEE_WORKER_SLOTS="8", RBEE_WORKER_CTX="40000"
    )
    one.start_worker()
    yield one
    one.close()


@asynccontextmanager
async def client(colony: Colony, connections: int) -> AsyncGenerator[httpx.AsyncClient]:
    limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
    async with httpx.AsyncClient(
        base_url=colony.url, limits=limits, timeout=90, trust_env=False
    ) as http:
        yield http


@pytest.mark.anyio
async def test_a_thousand_requests_are_all_answered(colony: Colony) -> None:
    files = colony.files()
    answers: dict[int, str] = {}
    todo = iter(range(REQUESTS))
    async with client(colony, CONNECTIONS) as http, anyio.create_task_group() as tasks:

        async def ask() -> None:
            for number in todo:
                message = {"role": "user", "content": f"question {number}"}
                body = {"model": "echo", "messages": [message]}
                reply = await http.post("/v1/chat/completions", json=body)
                assert reply.status_code == 200, reply.text
                assert number not in answers
                answers[number] = reply.json()["choices"][0]["message"]["content"]

        for _ in range(CONNECTIONS):
            tasks.start_soon(ask)
    assert answers == {number: f"question {number}" for number in range(REQUESTS)}
    colony.until_files(files)


@pytest.mark.anyio
async def test_five_hundred_streams_at_once_are_all_whole(colony: Colony) -> None:
    files = colony.files()
    job = await anyio.to_thread.run_sync(colony.infer, "@delay=200 @repeat=10000 on")
    told: list[Told] = []
    begun = 0
    all_begun = anyio.Event()
    async with client(colony, 1) as http, anyio.create_task_group() as tasks:

        async def read() -> None:
            """Bytes as they are: an HTTP client would take most of the time."""
            nonlocal begun
            stream = await anyio.connect_tcp("127.0.0.1", port_of(colony))
            async with stream:
                request = f"GET /v1/jobs/{job}/stream HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n"
                await stream.send(request.encode())
                reply = bytearray(await stream.receive())
                begun += 1
                if begun == OPEN_STREAMS:
                    all_begun.set()
                async for data in stream:
                    reply += data
            head, _, body = bytes(reply).partition(b"\r\n\r\n")
            assert b" 200 " in head.splitlines()[0]
            told.append(Told(Decoder().feed(body)).whole())

        for _ in range(OPEN_STREAMS):
            tasks.start_soon(read)
        await all_begun.wait()
        assert not told
        reply = await http.get("/health")  # takes its turn with them
        assert reply.json()["status"] == "healthy"
        await anyio.to_thread.run_sync(colony.until_said, job, 5)
        assert (await http.delete(f"/v1/jobs/{job}")).status_code == 200
    assert len(told) == OPEN_STREAMS
    assert {one.end for one in told} == {"cancelled"}
    (text,) = {one.text for one in told}
    assert len(text.split()) >= 5
    colony.until_files(files)


def test_a_reader_who_hardly_reads_holds_nobody_up_and_misses_nothing(colony: Colony) -> None:
    job = colony.infer(LONG)
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", port_of(colony)))
        request = f"GET /v1/jobs/{job}/stream HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
        slow.sendall(request.encode())
        first = slow.recv(1)
        quick = colony.follow(job).whole()
        assert quick.kinds.count("token") == LONG_WORDS
        assert colony.follow(colony.infer("in between")).whole().text == "in between"
        slow.settimeout(60)
        rest = bytearray(first)
        while not rest.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n"):
            data = slow.recv(1 << 16)
            assert data, bytes(rest[-200:])
            rest += data
    assert rest.count(b"event: token") == LONG_WORDS


def test_who_leaves_frees_a_slot_or_a_place_in_the_queue(
    colony: Colony,
) -> None:
    files = colony.files()
    body = {"model": "echo", "stream": True, "messages": [{"role": "user", "content": FOREVER}]}
    with ThreadPoolExecutor(20) as callers:
        leavers = [callers.submit(leave, colony, body) for _ in range(8)]
        for leaver in leavers:
            leaver.result()
    wait_for(lambda: idle(colony), what="free slots")
    assert not colony.jobs("running")

    holding = [colony.infer(FOREVER) for _ in range(8)]
    wait_for(lambda: len(colony.jobs("running")) == 8, what="all slots are taken")
    with socket.create_connection(("127.0.0.1", port_of(colony))) as waiting:
        text = '{"model":"echo","messages":[{"role":"user","content":"x"}]}'
        waiting.sendall(
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            f"Content-Length: {len(text)}\r\n\r\n{text}".encode()
        )
        wait_for(lambda: len(colony.home.get("/v1/queue")["jobs"]) == 1, what="it waits")
    wait_for(lambda: not colony.home.get("/v1/queue")["jobs"], limit=5, what="it left the queue")
    for job in holding:
        httpx.delete(f"{colony.url}/v1/jobs/{job}", timeout=10, trust_env=False)
    wait_for(lambda: idle(colony), what="free slots")
    assert {colony.job(job)["state"] for job in holding} == {"cancelled"}
    colony.until_files(files)


def test_what_was_made_for_nobody_is_counted(colony: Colony) -> None:
    """The worker makes words faster than a cancellation reaches it."""
    before = colony.metric("rbee_wasted_tokens_total")

    def some_wasted() -> bool:
        job = colony.infer("@repeat=30000 fast")
        colony.until_said(job, 1)
        httpx.delete(f"{colony.url}/v1/jobs/{job}", timeout=10, trust_env=False)
        colony.follow(job).whole()
        return colony.metric("rbee_wasted_tokens_total") > before

    wait_for(some_wasted, what="tokens made after the end")


def test_a_crash_with_every_slot_in_use_is_made_good_at_once(colony: Colony) -> None:
    (worker,) = colony.workers()
    asked = {
        colony.infer(f"@delay=40 {text}"): text for text in (words(50, f"{n}-") for n in range(8))
    }
    readers = {job: colony.reader(job) for job in asked}
    for job in asked:
        colony.until_said(job, 5)
    colony.signal_worker(worker)
    assert {job: reader.whole().text for job, reader in readers.items()} == asked
    for reader in readers.values():
        assert [data["attempt"] for data in reader.told.of("started")] == [1, 2]
        assert not any("hive home failed" in data["message"] for data in reader.told.of("status"))


def test_ten_machines_and_their_workers_come_at_once(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    colony = Colony(Home(tmp_path_factory.mktemp("ten")), MACHINES)
    try:
        assert colony.online() == set(MACHINES)
        spawn = {"operation": "worker_spawn", "model": "echo"}
        jobs = [colony.post(spawn | {"hive": machine}) for machine in MACHINES]
        told = [colony.follow(job).whole() for job in jobs]
        started = [one.of("result")[0] for one in told]
        assert {one["hive"] for one in started} == set(MACHINES)
        assert len({one["worker_id"] for one in started}) == len(MACHINES)
        assert len({one["url"] for one in started}) == len(MACHINES)
        asked = [colony.infer(f"to {machine}", hive=machine) for machine in MACHINES]
        assert [colony.follow(job).whole().text for job in asked] == [f"to {m}" for m in MACHINES]
    finally:
        colony.close()


def leave(colony: Colony, body: dict[str, Any]) -> None:
    """After the first word."""
    url = f"{colony.url}/v1/chat/completions"
    with httpx.stream("POST", url, json=body, timeout=30, trust_env=False) as reply:
        assert reply.status_code == 200
        seen = b""
        for chunk in reply.iter_raw():
            seen += chunk
            if b'"content":"on ' in seen:
                return


def idle(colony: Colony) -> bool:
    (worker,) = colony.home.workers()
    process = psutil.Process(worker["pid"])
    assert process.is_running()
    health = httpx.get(f"{worker['url']}/v1/health", timeout=5, trust_env=False).json()
    return worker["slots_busy"] == health["slots_busy"] == 0


def port_of(colony: Colony) -> int:
    return int(colony.url.rpartition(":")[2])
