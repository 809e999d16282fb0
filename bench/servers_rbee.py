"""rbee's two ways in: a worker alone over its own port, and the queen before her worker.

The worker is started as a hive does it; who takes its heartbeats is a small sink of ours.
"""

from __future__ import annotations

import itertools
import json
import os
import secrets
import shutil
import socket
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import anyio.abc

from bench import processes
from bench.client import Request, fetch
from bench.dialects import Ask, Said, openai_body, read_openai, read_worker, worker_body
from bench.http_bytes import Reply
from bench.load import Wrong
from bench.places import LOGS
from bench.processes import ServerDied, ServerProcess
from bench.servers import START_LIMIT, Server, Setup
from rbee.protocol.base import encode
from rbee.protocol.workers import WorkerSpec

MODEL = "bench"
_IDS = itertools.count(1)


class Worker(Server):
    """`rbee.daemons.worker`, asked directly."""

    name = "rbee"

    def __init__(self, process: ServerProcess, port: int, setup: Setup, token: str) -> None:
        super().__init__(process, port, setup)
        self._headers = {"Authorization": f"Bearer {token}"}

    @classmethod
    async def start(
        cls, setup: Setup, sink_url: str, *, backend: str = "llamacpp", kind: str = "gguf"
    ) -> Worker:
        """Raises Wrong."""
        token = secrets.token_hex(16)
        spec = WorkerSpec(
            worker_id="w-bench",
            model_id=MODEL,
            model_path=str(setup.model),
            format=kind,
            backend=backend,
            device="cpu",
            slots=setup.slots,
            ctx=setup.ctx,
        )
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            sock.listen(128)
            port = int(sock.getsockname()[1])
            command = [sys.executable, "-P", "-m", "rbee.daemons.worker.main"]
            command += ["--spec", encode(spec).decode(), "--fd", str(sock.fileno())]
            command += ["--callback-url", sink_url]
            process = await processes.start(
                command,
                log=LOGS / "rbee-worker.log",
                env={"RBEE_INTERNAL_TOKEN": token},
                pass_fds=[sock.fileno()],
            )
        server = cls(process, port, setup, token)
        await server._up("/v1/ready", server._headers)
        return server

    def read(self, event: dict[str, Any]) -> Said:
        """See Server."""
        return read_worker(event)

    def request(self, ask: Ask) -> Request:
        """POST /v1/execute"""
        body = worker_body(ask, request_id=f"r-{next(_IDS)}")
        return Request("/v1/execute", json.dumps(body).encode(), headers=self._headers)

    async def stats(self) -> dict[str, Any] | None:
        """GET /v1/stats, and the CPU time of the process's first thread, its event loop."""
        reply = await self.get("/v1/stats")
        if reply.status != 200:
            return None
        pid = self.process.pid
        return json.loads(reply.body) | {"loop_s": processes.thread_seconds(pid, pid)}

    async def health(self) -> dict[str, Any]:
        """GET /v1/health"""
        return json.loads((await self.get("/v1/health")).body)

    async def cancel(self, request_id: str) -> None:
        """POST /v1/cancel"""
        body = json.dumps({"request_id": request_id}).encode()
        request = Request("/v1/cancel", body, headers=self._headers)
        await fetch(self.host, self.port, request)

    async def get(self, path: str) -> Reply:
        """One GET with the token."""
        request = Request(path, method="GET", headers=self._headers)
        return await fetch(self.host, self.port, request)


class Queen(Server):
    """`rbee --no-tui` in folders of its own, with one worker; asked like OpenAI's API."""

    name = "through the queen"

    def __init__(self, process: ServerProcess, port: int, setup: Setup, home: Path) -> None:
        super().__init__(process, port, setup)
        self._home = home
        self.ignore_eos = True
        """Whether her API knows the word; then both sides of the comparison use it."""
        self.direct: Direct

    @classmethod
    async def start(cls, setup: Setup) -> Queen:
        """With the worker loaded. Raises Wrong."""
        home = Path(tempfile.mkdtemp(prefix="rbee-bench-"))
        env = {
            "RBEE_HOME": str(home),
            "RBEE_QUEEN_PORT": "0",
            "RBEE_WORKER_SLOTS": str(setup.slots),
            "RBEE_WORKER_CTX": str(setup.ctx),
            "RBEE_MODELS_ALIASES": f"{MODEL}=file:{setup.model}",
        }
        process = await processes.start(
            [sys.executable, "-P", "-m", "rbee", "--no-tui"],
            log=LOGS / "rbee-queen.log",
            env=env,
        )
        server = cls(process, 0, setup, home)
        try:
            with anyio.fail_after(START_LIMIT):
                await server._begin()
        except (ServerDied, TimeoutError, Wrong) as exc:
            await server.stop()
            raise Wrong(f"the queen did not start: {exc or 'she does not answer'}") from exc
        except BaseException:
            await server.stop()
            raise
        return server

    async def stop(self) -> None:
        """With everything she runs, and her folders."""
        await super().stop()
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(lambda: shutil.rmtree(self._home, ignore_errors=True))

    def pids(self) -> list[int]:
        """Her own process only: the worker is the same on both sides."""
        return [self.process.pid]

    def read(self, event: dict[str, Any]) -> Said:
        """See Server."""
        return read_openai(event)

    def request(self, ask: Ask) -> Request:
        """POST /v1/chat/completions"""
        body = openai_body(ask, model=MODEL, ignore_eos=self.ignore_eos)
        return Request("/v1/chat/completions", json.dumps(body).encode())

    async def _begin(self) -> None:
        state = await self._state()
        self.port = int(urlsplit(state["url"]).port or 0)
        spawn = {"operation": "worker_spawn", "model": MODEL, "device": "cpu", "pin": True}
        reply = await self._post("/v1/jobs", spawn)
        if reply.status != 202:
            raise Wrong(f"no worker: {reply.body[:300]!r}")
        worker = await self._worker()
        process = ServerProcess(self.process.process, self.process.log)
        port = int(urlsplit(worker["url"]).port or 0)
        self.direct = Direct(process, port, self.setup, state["token"], worker["pid"])
        probe = Request("/v1/chat/completions", self.request(Ask("Hello", 1, chat=True)).body)
        if (await fetch(self.host, self.port, probe, limit=30)).status != 200:
            self.ignore_eos = False
        self.direct.ignore_eos = self.ignore_eos

    async def _state(self) -> dict[str, Any]:
        file = self._home / "state" / "queen.json"
        while True:
            self.process.check()
            with suppress(OSError, ValueError):
                return json.loads(file.read_bytes())
            await anyio.sleep(0.05)

    async def _worker(self) -> dict[str, Any]:
        while True:
            self.process.check()
            request = Request("/v1/workers", method="GET")
            reply = await fetch(self.host, self.port, request)
            for worker in json.loads(reply.body)["workers"]:
                if worker["state"] == "failed":
                    raise Wrong(f"the worker failed: {worker['error']}")
                if worker["state"] in ("idle", "busy"):
                    return worker
            await anyio.sleep(0.05)

    async def _post(self, path: str, body: dict[str, Any]) -> Reply:
        return await fetch(self.host, self.port, Request(path, json.dumps(body).encode()))


class Direct(Worker):
    """The queen's worker, asked past her with the token of her state file. She ends it."""

    name = "direct"

    def __init__(
        self, process: ServerProcess, port: int, setup: Setup, token: str, pid: int
    ) -> None:
        super().__init__(process, port, setup, token)
        self._pid = pid
        self.ignore_eos = True

    def pids(self) -> list[int]:
        """The worker's process."""
        return [self._pid]

    async def stop(self) -> None:
        """Nothing: it is the queen's."""

    def request(self, ask: Ask) -> Request:
        """As the queen would, in the same length."""
        body = worker_body(ask, request_id=f"d-{os.getpid()}-{next(_IDS)}")
        body["ignore_eos"] = self.ignore_eos
        return Request("/v1/execute", json.dumps(body).encode(), headers=self._headers)


class Sink:
    """Takes every post of workers with a 204. `url` is known inside `serve`."""

    url = ""

    async def serve(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        """Until cancelled."""
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        self.url = f"http://127.0.0.1:{port}"
        async with listener:
            task_status.started()
            await listener.serve(self._take)

    async def _take(self, stream: anyio.abc.ByteStream) -> None:
        buffer = b""
        async with stream:
            with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                while True:
                    buffer += await stream.receive()
                    while (rest := whole_request(buffer)) is not None:
                        buffer = rest
                        await stream.send(b"HTTP/1.1 204 No Content\r\n\r\n")


def whole_request(data: bytes) -> bytes | None:
    """What follows the first whole request in `data`; None when it is not there in full."""
    head, end, body = data.partition(b"\r\n\r\n")
    if not end:
        return None
    length = 0
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            length = int(value)
    return body[length:] if len(body) >= length else None
