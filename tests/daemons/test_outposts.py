"""Hives that come, come again, and are slow to say what they are; numbers that outlive a queen."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.abc
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream

from rbee.core.events import Event, HiveJoined, HiveLeft, HiveSaid
from rbee.daemons.queen.links import HiveLink
from rbee.daemons.queen.numbers import BLOCK, Numbers
from rbee.daemons.queen.outposts import Outposts
from rbee.errors import VersionMismatch
from rbee.protocol import PROTOCOL
from rbee.protocol.base import encode
from rbee.protocol.hives import Capabilities, HiveReady, HiveWorkers
from tests.support.colony import Colony
from tests.support.home import Home, wait_for

LIMIT = 30.0
CAPABILITIES = Capabilities(
    hive="far", version="0", protocol=PROTOCOL, hostname="far", os="Linux", devices=[],
    absent_devices=[], backends=[], absent_backends=[], models=[], disk_free=0, disk_total=0,
)  # fmt: skip


class FarHive:
    """Says what it is when it is let, then that it runs nothing, and then no more."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.came = anyio.Event()
        self.may_answer = anyio.Event()
        self.url = ""

    async def handle(self, stream: anyio.abc.SocketStream) -> None:
        async with stream:
            buffer = BufferedByteReceiveStream(stream)
            while True:
                try:
                    head = (await buffer.receive_until(b"\r\n\r\n", 1 << 16)).decode()
                except (anyio.IncompleteRead, anyio.BrokenResourceError):
                    return
                path = head.split(" ")[1]
                token = head.lower().partition("authorization: bearer ")[2].partition("\r\n")[0]
                self.asked.append(f"{path} {token}")
                self.came.set()
                await self.may_answer.wait()
                try:
                    await stream.send(self._answer(path))
                except anyio.BrokenResourceError:
                    return

    def _answer(self, path: str) -> bytes:
        if path == "/v1/capabilities":
            body = encode(CAPABILITIES)
            return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
        event = b"data: %b\n\n" % encode(HiveWorkers(workers=[]))
        start = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
        start += b"transfer-encoding: chunked\r\n\r\n"
        return start + b"%x\r\n%b\r\n" % (len(event), event)

    def ready(self, token: str = "t", protocol: int = PROTOCOL) -> HiveReady:
        return HiveReady(name="far", url=self.url, token=token, version="0", protocol=protocol)


class Told:
    """What the brain was told, in order."""

    def __init__(self) -> None:
        self.events: list[type[Event]] = []
        self.joins = 0
        self._more = anyio.Event()

    async def call(self, event: Event) -> None:
        await anyio.lowlevel.checkpoint()
        self.events.append(type(event))

    async def joined(self) -> None:
        self.joins += 1
        self._more.set()
        self._more = anyio.Event()

    async def until(self, joins: int) -> None:
        while self.joins < joins:
            await self._more.wait()


@asynccontextmanager
async def far_hive() -> AsyncGenerator[tuple[FarHive, anyio.abc.TaskGroup]]:
    hive = FarHive()
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port: int = listener.extra(anyio.abc.SocketAttribute.local_port)
    hive.url = f"http://127.0.0.1:{port}"
    with anyio.fail_after(LIMIT):
        async with listener, anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, hive.handle)
            yield hive, tasks
            tasks.cancel_scope.cancel()


def outposts(told: Told, links: dict[str, HiveLink]) -> Outposts:
    return Outposts(
        links=links, call=told.call, post=lambda e: told.events.append(type(e)), joined=told.joined
    )


@pytest.mark.anyio
async def test_a_hive_that_announces_itself_while_it_is_asked_is_asked_once() -> None:
    told, links = Told(), dict[str, HiveLink]()
    posts = outposts(told, links)
    async with far_hive() as (hive, tasks):
        posts.ready(hive.ready(), tasks)
        posts.ready(hive.ready(), tasks)  # before the first has begun
        await hive.came.wait()
        for _ in range(3):
            posts.ready(hive.ready(), tasks)
            await anyio.wait_all_tasks_blocked()
        assert links == {}
        hive.may_answer.set()
        await told.until(1)
        assert hive.asked == ["/v1/capabilities t", "/v1/telemetry/stream t"]
        assert told.events == [HiveJoined]
        assert set(links) == {"far"}


@pytest.mark.anyio
@pytest.mark.parametrize("token", ["t", "other"])
async def test_a_hive_that_has_joined_and_comes_again_is_followed_anew(token: str) -> None:
    told, links = Told(), dict[str, HiveLink]()
    posts = outposts(told, links)
    async with far_hive() as (hive, tasks):
        hive.may_answer.set()
        posts.ready(hive.ready(), tasks)
        await told.until(1)
        posts.ready(hive.ready(token), tasks)
        await told.until(2)
        assert told.events == [HiveJoined, HiveLeft, HiveJoined]
        assert links["far"].token == token


@pytest.mark.anyio
async def test_another_hive_of_that_name_is_not_held_up_by_the_one_that_is_asked() -> None:
    told, links = Told(), dict[str, HiveLink]()
    posts = outposts(told, links)
    async with far_hive() as (hive, tasks), far_hive() as (other, _):
        posts.ready(hive.ready(), tasks)
        await hive.came.wait()
        other.may_answer.set()
        posts.ready(other.ready("new"), tasks)
        await told.until(1)
        assert told.events == [HiveLeft, HiveJoined]
        assert links["far"].token == "new"
        assert hive.asked == ["/v1/capabilities t"]


@pytest.mark.anyio
async def test_a_hive_of_another_protocol_leaves_the_one_that_is_there() -> None:
    told, links = Told(), dict[str, HiveLink]()
    posts = outposts(told, links)
    async with far_hive() as (hive, tasks):
        hive.may_answer.set()
        posts.ready(hive.ready(), tasks)
        await told.until(1)
        with pytest.raises(VersionMismatch):
            posts.ready(hive.ready(protocol=PROTOCOL + 1), tasks)
        await anyio.wait_all_tasks_blocked()
        assert set(links) == {"far"}
        assert [event for event in told.events if event is not HiveSaid] == [HiveJoined]


# ---- numbers ------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_the_next_queen_counts_on_whatever_ended_the_last_one(tmp_path: Path) -> None:
    path = tmp_path / "rbee.workers"
    numbers = Numbers(path)
    assert numbers.first == 1
    assert not path.exists()
    await numbers.cover(1)
    killed = Numbers(path)
    assert killed.first == 1 + BLOCK
    path.unlink()
    await numbers.cover(BLOCK)
    assert not path.exists()  # it was covered by the first write
    await numbers.cover(BLOCK + 1)
    assert Numbers(path).first == 2 * BLOCK + 1
    numbers.close(BLOCK + 2)
    assert Numbers(path).first == BLOCK + 2
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.anyio
async def test_a_file_of_numbers_that_is_no_use_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "rbee.workers"
    path.write_bytes(b"\xff\x00")
    with caplog.at_level(logging.WARNING, "rbee.queen"):
        numbers = Numbers(path)
        await numbers.cover(1)
        lost = Numbers(tmp_path / "no folder" / "rbee.workers")
        await lost.cover(1)
    assert (numbers.first, lost.first, Numbers(path).first) == (1, 1, 1 + BLOCK)
    assert len(caplog.records) == 2


@pytest.fixture
def colony(tmp_path: Path) -> Iterator[Colony]:
    one = Colony(Home(tmp_path / "home"), ("attic",))
    yield one
    one.close()
    one.home.until_empty(10)


def test_a_killed_queen_leaves_a_pinned_worker_to_the_next_one_and_no_number(
    colony: Colony,
) -> None:
    pin = {"operation": "worker_spawn", "model": "echo", "hive": "attic", "pin": True}
    assert colony.follow(colony.post(pin)).end == "end"
    before = colony.workers()["w-01"]
    colony.kill_queen()
    colony.start_queen()
    wait_for(lambda: "w-01" in colony.workers(), what="w-01 is adopted")
    after = colony.workers()["w-01"]
    assert after["pid"] == before["pid"]
    assert (before["pinned"], after["pinned"]) == (True, True)
    assert colony.start_worker("attic") == f"w-{1 + BLOCK}"
    assert colony.home.rbee("queen", "stop").returncode == 0
    numbers = Numbers(colony.home.path / "data" / "rbee.workers")
    assert numbers.first == 2 + BLOCK
