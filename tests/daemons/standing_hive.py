"""A hive that stands by itself, as a queen on another machine has it: one command at a time."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil

from rbee import registry
from rbee.protocol.base import decode, encode
from rbee.protocol.hives import HiveUp
from rbee.protocol.workers import WorkerSpec
from tests.support.home import Home, processes_of, wait_for

LIMIT = 60.0


class StandingHive:
    """The hive `attic` of one user. `env` is added to that user's environment."""

    name = "attic"

    def __init__(self, home: Path, **env: str) -> None:
        self.home = Home(home, **env)
        self.state = home / "state"
        self.file = self.state / f"hive-{self.name}.json"
        self.log = self.state / f"hive-{self.name}.log"

    def command(self, *args: str) -> list[str]:
        return [str(Path(sys.executable).with_name("rbee-hive")), "--name", self.name, *args]

    def run(self, *args: str) -> subprocess.CompletedProcess[str]:
        """`rbee-hive …` to its end, which is when nobody has its output open any more."""
        return subprocess.run(
            self.command(*args), env=self.home.env, capture_output=True, text=True,
            timeout=LIMIT, stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip

    def start(self, *args: str) -> subprocess.Popen[str]:
        """The same in the background."""
        process = subprocess.Popen(
            self.command(*args), env=self.home.env, text=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self.home.adopt(process)
        return process

    def ensure(self, *args: str) -> HiveUp:
        done = self.run("--ensure", *args)
        assert done.returncode == 0, done.stderr
        return told(done.stdout)

    def close(self) -> None:
        self.home.close()


class Spoken:
    """One that runs, spoken to as its queen does."""

    def __init__(self, up: HiveUp) -> None:
        self.up = up
        headers = {"Authorization": f"Bearer {up.token}"}
        self.http = httpx.Client(base_url=up.url, headers=headers, timeout=30, trust_env=False)

    def __enter__(self) -> Spoken:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def json(self, method: str, path: str, body: Any = None) -> Any:
        reply = self.http.request(method, path, content=b"" if body is None else encode(body))
        assert reply.status_code < 300, reply.text
        return reply.json()

    def health(self) -> dict[str, Any]:
        return self.json("GET", "/v1/health")

    @contextmanager
    def followed(self) -> Generator[list[str]]:
        """Inside, a queen follows its telemetry: the types of what it has told."""
        seen: list[str] = []
        with self.http.stream("GET", "/v1/telemetry/stream", timeout=None) as events:
            assert events.status_code == 200
            lines = (line for line in events.iter_lines() if line.startswith("data: "))

            def read() -> None:
                with suppress(httpx.HTTPError):
                    seen.extend(json.loads(line.removeprefix("data: "))["type"] for line in lines)

            reader = threading.Thread(target=read, daemon=True)
            reader.start()
            wait_for(lambda: "telemetry" in seen, what="telemetry")
            try:
                yield seen
            finally:
                network: Any = events.extensions["network_stream"]
                with suppress(OSError):  # the hive may have gone first
                    network.get_extra_info("socket").shutdown(2)
                reader.join(10)
                assert not reader.is_alive()

    def spawn(self, worker_id: str = "w-01") -> psutil.Process:
        """A worker of it, which is ready."""
        reply = self.http.post("/v1/workers/spawn", content=encode(echo(worker_id)))
        assert reply.status_code == 202, reply.text
        return psutil.Process(wait_for(lambda: self._pid(worker_id), what=f"{worker_id} is ready"))

    def _pid(self, worker_id: str) -> int | None:
        for worker in self.json("GET", "/v1/workers")["workers"]:
            if worker["spec"]["worker_id"] == worker_id and worker["ready"]:
                return int(worker["ready"]["pid"])
        return None


def echo(worker_id: str) -> WorkerSpec:
    """A worker that needs no model."""
    model = registry.load("echo").models()[0]
    return WorkerSpec(
        worker_id=worker_id, model_id="echo", model_path=str(model.path), format="echo",
        backend="echo", device="cpu", slots=1, ctx=256,
    )  # fmt: skip


def told(stdout: str) -> HiveUp:
    """What the one line says."""
    line, _, rest = stdout.partition("\n")
    assert not rest, stdout
    assert line.startswith("rbee-hive {"), stdout
    return decode(line.removeprefix("rbee-hive ").encode(), HiveUp)


def gone(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def nobody(home: Path) -> bool:
    return not processes_of(home)
