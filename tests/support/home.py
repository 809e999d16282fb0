"""A user of rbee in a test: the real command in a home of its own, and eyes on what it leaves."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil

from rbee.access.keys import owner_token
from rbee.access.presented import Presented, present

T = TypeVar("T")
_PAUSE = threading.Event()


def wait_for(condition: Callable[[], T | None], *, limit: float = 20.0, what: str = "") -> T:
    """Return the condition's first true value; fails after `limit` seconds, saying for what."""
    deadline = time.monotonic() + limit
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {limit} s: {what or condition}"
        _PAUSE.wait(0.02)


def processes_of(folder: Path) -> list[psutil.Process]:
    """Living processes whose environment names the folder."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        try:
            if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                continue
            env = process.environ()
        except (psutil.Error, OSError):
            continue
        named = " ".join(env.get(name, "") for name in ("RBEE_HOME", "RBEE_TREE", "HOME"))
        if str(folder) in named:
            found.append(process)
    return found


def words_of(process: psutil.Process) -> list[str]:
    """Its command line; of one that has gone meanwhile, none."""
    with contextlib.suppress(psutil.Error):
        return process.cmdline()
    return []


def told(processes: list[psutil.Process]) -> list[str]:
    """Number and command of each, for people."""
    return [f"{process.pid} {' '.join(words_of(process))[:160]}" for process in processes]


class Home:
    """Folders, environment and commands of one user. `extra` adds to the environment."""

    def __init__(self, path: Path, **extra: str) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(path),
            "LANG": "C.UTF-8",
            "RBEE_HOME": str(path),
            "RBEE_QUEEN_PORT": "0",
            "RBEE_HIVE_NAME": "home",
            **extra,
        }
        self._running: list[subprocess.Popen[str]] = []
        self._others: list[subprocess.Popen[str]] = []

    def command(self, *args: str) -> list[str]:
        """The installed `rbee` of this interpreter."""
        return [str(Path(sys.executable).with_name("rbee")), *args]

    def rbee(
        self, *args: str, stdin: str | None = None, timeout: float = 100.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            self.command(*args), env=self.env, capture_output=True, text=True, timeout=timeout,
            input=stdin, stdin=None if stdin is not None else subprocess.DEVNULL, check=False,
            cwd=self.path,
        )  # fmt: skip

    def start(self, *args: str) -> subprocess.Popen[str]:
        """Run a command in the background, output to files beside the home."""
        out = (self.path / f"out-{len(self._running)}.txt").open("w", encoding="utf-8")
        err = (self.path / f"err-{len(self._running)}.txt").open("w", encoding="utf-8")
        with out, err:
            process = subprocess.Popen(
                self.command(*args), env=self.env, stdout=out, stderr=err, text=True,
                stdin=subprocess.DEVNULL, cwd=self.path,
            )  # fmt: skip
        self._running.append(process)
        return process

    def adopt(self, process: subprocess.Popen[str]) -> None:
        """End it with the home when it has not ended by then."""
        self._others.append(process)

    def out(self, process: subprocess.Popen[str]) -> str:
        """What a background command has written to stdout so far."""
        return (self.path / f"out-{self._running.index(process)}.txt").read_text("utf-8")

    def err(self, process: subprocess.Popen[str]) -> str:
        """What it has written to stderr so far."""
        return (self.path / f"err-{self._running.index(process)}.txt").read_text("utf-8")

    @property
    def state(self) -> dict[str, Any] | None:
        """The state file's content, None when there is none."""
        try:
            return json.loads((self.path / "state" / "queen.json").read_text("utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            return None

    @property
    def url(self) -> str:
        """The running queen's address; waits for it."""
        url = wait_for(lambda: self.state, what="a queen's state file")["url"]
        present(url, Presented(self.token))
        return url

    @property
    def token(self) -> str:
        """By which the queen knows this user; empty before she was ever started."""
        return owner_token(self.path / "state" / "owner.token") or ""

    @property
    def owner(self) -> dict[str, str]:
        """Headers of this user's own requests."""
        return {"Authorization": f"Bearer {self.token}"}

    def get(self, path: str) -> Any:
        """JSON of a GET on the queen."""
        return httpx.get(self.url + path, headers=self.owner, timeout=10.0, trust_env=False).json()

    def post(self, path: str, body: Any) -> httpx.Response:
        """A POST on the queen."""
        return httpx.post(
            self.url + path, json=body, headers=self.owner, timeout=60.0, trust_env=False
        )

    def workers(self) -> list[dict[str, Any]]:
        """The queen's list of workers."""
        return self.get("/v1/workers")["workers"]

    def processes(self) -> list[psutil.Process]:
        """Everything this user's rbee runs."""
        return processes_of(self.path)

    def until_empty(self, limit: float) -> None:
        """All processes are gone within the limit."""
        wait_for(
            lambda: not self.processes(), limit=limit,
            what=f"all gone, left: {told(self.processes())}",
        )  # fmt: skip

    def close(self) -> None:
        """End what the test left running on purpose."""
        for process in (*self._running, *self._others):
            if process.poll() is None:
                process.kill()
            process.wait(10)
        for name in ("RBEE_QUEEN_URL", "RBEE_API_KEY"):
            self.env.pop(name, None)
        if self.state is not None:
            self.rbee("queen", "stop")
        for process in self.processes():
            process.kill()
