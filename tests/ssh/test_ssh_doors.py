"""Ways to the workers of a machine that says more, or other things, than can be."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import anyio
import pytest

from rbee.daemons.queen import ways as module
from rbee.daemons.queen.ways import Ways
from rbee.protocol.hives import AnyHiveEvent, HiveWorker, HiveWorkerReady
from rbee.protocol.workers import WorkerReady, WorkerSpec
from rbee.ssh.known import KnownHosts
from rbee.ssh.session import Session

pytestmark = pytest.mark.anyio
MOST = 5


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="rs", dir="/tmp") as folder:
        yield Path(folder)


def ready(worker_id: str, url: str) -> WorkerReady:
    return WorkerReady(
        worker_id=worker_id, url=url, model="m", backend="b", device="cpu", pid=1, protocol=1
    )


def running(worker_id: str, url: str) -> HiveWorker:
    spec = WorkerSpec(
        worker_id=worker_id, model_id="m", model_path="/m", format="gguf", backend="b",
        device="cpu", slots=1, ctx=512,
    )  # fmt: skip
    return HiveWorker(spec=spec, pid=1, log_path="", started_at=0.0, ready=ready(worker_id, url))


async def test_a_worker_is_on_its_own_machine_wherever_it_is_said_to_be(
    session: Session, folder: Path
) -> None:
    async def answer(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.send(b"on its own machine")

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    known = KnownHosts(folder / "known_hosts")
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, answer)
        ways = Ways(session, known, folder, tasks, "ssh")
        told = [
            running("w-01", f"http://169.254.169.254:{port}"),
            running("w-02", f"http+unix://%2Frun%2Fdocker.sock:{port}"),
            running("../../../w", f"http://user:word@example.org:{port}/v1?x"),
        ]
        for worker in await ways.opened(told):
            assert worker.ready is not None
            scheme, _, path = worker.ready.url.partition("://")
            assert (scheme, Path(unquote(path)).parent) == ("http+unix", folder)
            async with await anyio.connect_unix(unquote(path)) as stream:
                with anyio.fail_after(20):
                    assert await stream.receive() == b"on its own machine"
        tasks.cancel_scope.cancel()


async def test_a_machine_that_tells_of_workers_without_end_gets_few_ways(
    session: Session, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST", MOST)
    said: list[AnyHiveEvent] = []
    async with anyio.create_task_group() as tasks:
        ways = Ways(session, KnownHosts(folder / "known_hosts"), folder, tasks, "ssh")
        told = [running(f"w-{number}", "http://127.0.0.1:9") for number in range(50)]
        found = await ways.opened([running("w" * 5000, "http://127.0.0.1:9"), *told, *told])
        assert len({w.ready.url for w in found if w.ready is not None}) == MOST
        for number in range(50, 100):
            more = HiveWorkerReady(ready=ready(f"w-{number}", "http://127.0.0.1:9"))
            ways.pass_on(more, said.append)
        assert len([n for n in os.listdir(folder) if n.endswith(".sock")]) == MOST
        tasks.cancel_scope.cancel()
    assert said == []
