"""A hive that talks without end before its workers can be reached."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

import anyio
import anyio.abc
import pytest

from rbee.core.events import Event, HiveLeft
from rbee.daemons.queen import links
from rbee.daemons.queen.links import HttpLink, Way
from rbee.protocol import PROTOCOL
from rbee.protocol.base import encode
from rbee.protocol.hives import (
    AnyHiveEvent,
    Capabilities,
    HiveReady,
    HiveTelemetry,
    HiveWorker,
    HiveWorkers,
)

CAPABILITIES = Capabilities(
    hive="far", version="0", protocol=PROTOCOL, hostname="far", os="Linux", devices=[],
    absent_devices=[], backends=[], absent_backends=[], models=[], disk_free=0, disk_total=0,
)  # fmt: skip


class NoWays:
    """To workers: they never open."""

    async def opened(self, workers: Sequence[HiveWorker]) -> list[HiveWorker]:
        await anyio.sleep_forever()
        raise AssertionError(workers)

    def pass_on(self, said: AnyHiveEvent, post: Callable[[AnyHiveEvent], None]) -> None:
        raise AssertionError(said)


async def babble(stream: anyio.abc.SocketStream) -> None:
    """What it is; then, on the stream, all there is to say, for ever."""
    async with stream:
        with suppress(anyio.BrokenResourceError, anyio.EndOfStream):
            if b"/v1/capabilities" in await stream.receive():
                body = encode(CAPABILITIES)
                head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n"
                await stream.send(head % len(body) + body)
                await stream.receive()
            head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
            await stream.send(head)
            for event in (HiveWorkers(workers=[]), HiveTelemetry(measured=False)):
                said = b"data: %b\n\n" % encode(event)
                await stream.send(said * 20)
            while True:
                await stream.send(said * 20)


@pytest.mark.anyio
async def test_what_is_said_before_is_kept_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "MOST_EARLY", 500)
    told: list[Event] = []
    why = ""

    async def call(event: Event) -> None:
        told.append(event)

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port: int = listener.extra(anyio.abc.SocketAttribute.local_port)
    with anyio.fail_after(30):
        async with listener, anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, babble)
            ready = HiveReady(
                name="far", url=f"http://127.0.0.1:{port}", token="t", version="0",
                protocol=PROTOCOL,
            )  # fmt: skip
            why = await HttpLink(ready, call, told.append, Way(workers=NoWays())).run()
            tasks.cancel_scope.cancel()
    assert "500 events" in why
    assert [type(event) for event in told] == [HiveLeft]
