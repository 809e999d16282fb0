"""The programs of these measurements: the queen, the bare proxy, LiteLLM, and the stand-ins.

All proxies are asked alike (OpenAI's chat completions) and stand before the same stand-in for
workers. Owns starting, asking and ending them, never what is measured.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import anyio.to_thread
import psutil

from bench import litellm_venv, processes
from bench.client import Request, fetch
from bench.fake_hive import MODEL
from bench.http_bytes import BadReply
from bench.load import Wrong
from bench.places import LOGS, ROOT
from bench.processes import ServerDied, ServerProcess
from bench.queen.clients import post
from bench.servers import free_port

START_LIMIT = 60.0
TREE = "RBEE_BENCH_TREE"
"""Environment: another checkout whose queen is measured, to compare before and after."""
PROFILE = "RBEE_BENCH_PROFILE"
"""Environment: a file for what cProfile sees in the queen; her figures are then worth nothing."""
HOST = "127.0.0.1"
_NUMBERS = itertools.count(1)


class Program:
    """One running program that answers on `port`."""

    name = ""
    path = "/v1/chat/completions"
    headers: Mapping[str, str] = {}

    def __init__(self, process: ServerProcess, port: int) -> None:
        self.process = process
        self.port = port

    @property
    def pid(self) -> int:
        """Of the process whose CPU and memory count."""
        return self.process.pid

    def chat(self, tokens: int, *, stream: bool) -> bytes:
        """One request for an answer of so many tokens."""
        body = {
            "model": MODEL,
            "messages": [{"role": "user", "content": "Say one word, then say it again."}],
            "max_tokens": tokens,
            "stream": stream,
        }
        return post(self.path, json.dumps(body).encode(), f"{HOST}:{self.port}",
                    dict(self.headers))  # fmt: skip

    def cpu(self) -> float:
        """Seconds of CPU time so far."""
        self.process.check()
        return processes.cpu_seconds([self.pid])

    def rss(self) -> int:
        """Bytes."""
        return processes.memory([self.pid]).rss

    def pin(self, core: int) -> bool:
        """Keep it, its threads included, on one core; False where the system cannot."""
        try:
            for task in Path(f"/proc/{self.pid}/task").iterdir():
                os.sched_setaffinity(int(task.name), {core})
        except (OSError, AttributeError):
            return False
        return True

    def unpin(self, cores: list[int]) -> None:
        """Let it run on all of these again."""
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            with suppress(OSError):
                os.sched_setaffinity(int(task.name), set(cores))

    async def get(self, path: str) -> Any:
        """JSON of a GET."""
        reply = await fetch(HOST, self.port, Request(path, method="GET", headers=self.headers))
        return json.loads(reply.body)

    async def post(self, path: str, body: Any, *, limit: float = 30.0) -> Any:
        """JSON of a POST. Raises Wrong when it is refused."""
        sent = Request(path, json.dumps(body).encode(), headers=self.headers)
        reply = await fetch(HOST, self.port, sent, limit=limit)
        if reply.status not in (200, 202):
            raise Wrong(f"{self.name}{path}: {reply.status} {reply.body[:200]!r}")
        return json.loads(reply.body)

    async def stop(self) -> None:
        """With everything it started."""
        await self.process.stop()

    async def until(self, path: str, good: Callable[[Any], object] = lambda _: True) -> None:
        """Wait until a GET gives what is good. Raises Wrong with the program's last words."""
        try:
            with anyio.fail_after(START_LIMIT):
                while not await self._is(path, good):
                    self.process.check()
                    await anyio.sleep(0.05)
        except (ServerDied, TimeoutError) as exc:
            raise Wrong(f"{self.name} is not ready: {exc or 'it does not answer'}") from exc

    async def _is(self, path: str, good: Callable[[Any], object]) -> bool:
        try:
            return bool(good(await self.get(path)))
        except (OSError, TimeoutError, BadReply, ValueError, KeyError):
            return False


def own_path() -> dict[str, str]:
    """Where the stand-ins are imported from: `bench` is not installed."""
    return {"PYTHONPATH": os.pathsep.join(filter(None, (os.environ.get(TREE), str(ROOT))))}


async def started(program: Program, path: str) -> None:
    """Wait for it; one that does not come is ended. Raises Wrong."""
    try:
        await program.until(path)
    except BaseException:
        await program.stop()
        raise


@dataclass(frozen=True)
class Fleet:
    """How many stand-ins there are; seconds as in fake_hive."""

    hives: int = 1
    workers: int = 1
    slots: int = 64
    telemetry: float = 1.0
    beat: float = 2.0


class StandIn(Program):
    """`bench.fake_hive`: hives and workers without models, asked directly too."""

    name = "direct"

    @classmethod
    async def start(cls, fleet: Fleet, queen: Queen | None) -> StandIn:
        """Known to the queen, if there is one. Raises Wrong."""
        port = free_port()
        command = [sys.executable, "-P", "-m", "bench.fake_hive", "--port", str(port)]
        for name in ("hives", "workers", "slots", "telemetry", "beat"):
            command += [f"--{name}", str(getattr(fleet, name))]
        env = own_path()
        if queen is not None:
            command += ["--queen-url", f"http://{HOST}:{queen.port}"]
            env["RBEE_INTERNAL_TOKEN"] = queen.token
        process = await processes.start(command, log=LOGS / "fake-hive.log", env=env)
        program = cls(process, port)
        await started(program, "/v1/health")
        return program

    async def pace(self, *, first: float = 0.0, gap: float = 0.0, hold: bool = False) -> None:
        """See fake_worker.Pace."""
        await self.post("/fake/pace", {"first": first, "gap": gap, "hold": hold})


class Queen(Program):
    """A queen in folders of her own; without a hive unless `env` says otherwise."""

    name = "queen"

    def __init__(self, process: ServerProcess, home: Path, env: dict[str, str]) -> None:
        super().__init__(process, 0)
        self.home = home
        self.env = env
        self.token = ""

    @classmethod
    async def start(cls, **extra: str) -> Queen:
        """`extra`: more of her environment. Raises Wrong."""
        home = Path(tempfile.mkdtemp(prefix="rbee-bench-"))
        env = {
            "RBEE_HOME": str(home),
            "RBEE_QUEEN_PORT": "0",
            "RBEE_QUEEN_LOCAL_HIVE": "false",
            "RBEE_WORKER_KEEP_ALIVE": "86400",
            "RBEE_LOG_LEVEL": "warning",
            **extra,
        }
        queen = cls(await cls._run(env), home, env)
        try:
            await queen._up()
        except BaseException:
            await queen.stop()
            raise
        return queen

    async def again(self) -> None:
        """The same queen once more, after she died."""
        self.process = await self._run(self.env)
        await self._up()

    async def stop(self) -> None:
        """With her folders."""
        await super().stop()
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(lambda: shutil.rmtree(self.home, ignore_errors=True))

    async def hives(self, count: int) -> None:
        """Wait until so many are known to her. Raises Wrong."""
        await self.until("/v1/hives", lambda said: len(said["hives"]) >= count)

    async def workers(self, count: int) -> None:
        """Wait until so many are ready. Raises Wrong."""

        def ready(said: Any) -> bool:
            return sum(w["state"] in ("idle", "busy") for w in said["workers"]) >= count

        await self.until("/v1/workers", ready)

    async def _up(self) -> None:
        try:
            with anyio.fail_after(START_LIMIT):
                while (state := self._state()) is None:
                    self.process.check()
                    await anyio.sleep(0.02)
        except (ServerDied, TimeoutError) as exc:
            raise Wrong(f"the queen did not start: {exc or 'she does not answer'}") from exc
        self.port, self.token = int(urlsplit(state["url"]).port or 0), state["token"]
        owner = self.home / "state" / "owner.token"
        if owner.exists():  # an older queen has none
            self.headers = {"Authorization": f"Bearer {owner.read_text('ascii')}"}

    def _state(self) -> dict[str, Any] | None:
        with suppress(OSError, ValueError):
            state = json.loads((self.home / "state" / "queen.json").read_bytes())
            return state if state["pid"] == self.process.pid else None
        return None

    @staticmethod
    async def _run(env: dict[str, str]) -> ServerProcess:
        if tree := os.environ.get(TREE):
            env = env | {"PYTHONPATH": tree}
        command = [sys.executable, "-P"]
        if profile := os.environ.get(PROFILE):
            command += ["-m", "cProfile", "-o", profile]
        command += ["-m", "rbee.daemons.queen.main"]
        return await processes.start(
            [*command, "--lifetime", "persistent"],
            log=LOGS / f"queen-{next(_NUMBERS)}.log",
            env=env,
        )


class Floor(Program):
    """`bench.floor`: passes bytes, and nothing else."""

    name = "bare proxy"

    @classmethod
    async def start(cls, target: StandIn) -> Floor:
        """Raises Wrong."""
        port = free_port()
        process = await processes.start(
            [sys.executable, "-P", "-m", "bench.floor", "--port", str(port),
             "--target", f"http://{HOST}:{target.port}"],
            log=LOGS / "floor.log",
            env=own_path(),
        )  # fmt: skip
        program = cls(process, port)
        await started(program, "/health")
        return program


class LiteLlm(Program):
    """LiteLLM's proxy with one worker process, a key, no database, and errors only in its log."""

    name = "LiteLLM"

    @classmethod
    async def start(cls, python: Path, target: StandIn) -> LiteLlm:
        """Raises Wrong."""
        port = free_port()
        config = LOGS / "litellm.json"  # JSON is YAML
        LOGS.mkdir(parents=True, exist_ok=True)
        config.write_text(json.dumps(litellm_venv.config(MODEL, f"http://{HOST}:{target.port}/v1")))
        process = await processes.start(
            [str(python.with_name("litellm")), "--config", str(config),
             "--host", HOST, "--port", str(port), "--num_workers", "1"],
            log=LOGS / "litellm.log",
            env=litellm_venv.ENVIRONMENT,
        )  # fmt: skip
        program = cls(process, port)
        program.headers = {"Authorization": f"Bearer {litellm_venv.KEY}"}
        await started(program, "/health/liveliness")
        return program

    @property
    def pid(self) -> int:
        """The process that listens, which need not be the one that was started."""
        for process in processes.tree(self.process.pid):
            with suppress(psutil.Error):
                if any(c.laddr.port == self.port for c in process.net_connections("tcp")):
                    return process.pid
        return self.process.pid
