"""A hive in a process of its own, without a queen: spoken to as its queen would."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx

from rbee.protocol.base import encode
from rbee.protocol.models import DownloadOrder
from tests.support.home import wait_for

TOKEN = "secret-of-the-test"
STAYS = "300"
"""Seconds it lives without a queen."""


class HiveProcess:
    """`home` is its user's folder; `start` again after `kill` finds what the first left."""

    def __init__(self, home: Path, name: str = "here", **env: str) -> None:
        self.home = home
        self.name = name
        home.mkdir(parents=True, exist_ok=True)
        self._env = {
            "PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8",
            "RBEE_HOME": str(home), "RBEE_INTERNAL_TOKEN": TOKEN, "RBEE_HIVE_LEASE": STAYS, **env,
        }  # fmt: skip
        self._starts = 0
        self._process: subprocess.Popen[bytes] | None = None
        self.http: httpx.Client | None = None

    def __enter__(self) -> HiveProcess:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def log(self) -> Path:
        return self.home / f"hive-{self._starts}.log"

    def start(self) -> HiveProcess:
        self._starts += 1
        command = Path(sys.executable).with_name("rbee-hive")
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [command, "--port", "0", "--name", self.name, "--queen-url", "http://127.0.0.1:9"],
                env=self._env, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        found = wait_for(self._listens, limit=60, what=f"{self.name} listens")
        headers = {"Authorization": f"Bearer {TOKEN}"}
        url = found.group(1)
        self.http = httpx.Client(base_url=url, headers=headers, timeout=60, trust_env=False)
        return self

    def _listens(self) -> re.Match[str] | None:
        assert self._process is not None
        text = self.log.read_text("utf-8")
        assert self._process.poll() is None, text
        return re.search(r"listens on (http://\S+)", text)

    def kill(self) -> None:
        """kill -9"""
        assert self._process is not None
        self._process.kill()
        self._end()

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._end()

    def _end(self) -> None:
        assert self._process is not None
        assert self.http is not None
        self._process.wait(30)
        self.http.close()
        self._process = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        assert self.http is not None
        return self.http.request(method, path, **more)

    def json(self, method: str, path: str, **more: Any) -> Any:
        reply = self.ask(method, path, **more)
        assert reply.status_code < 300, reply.text
        return reply.json()

    def download(self, order: DownloadOrder) -> dict[str, Any]:
        """Begin it."""
        return self.json("POST", "/v1/models/download", content=encode(order))

    def follow(self, key: str, *, until: int | None = None) -> dict[str, Any]:
        """The last thing told; with `until` the first that has so many bytes."""
        assert self.http is not None
        told: dict[str, Any] = {}
        with self.http.stream("GET", f"/v1/models/download/{key}/progress") as events:
            assert events.status_code == 200
            for line in events.iter_lines():
                if line == "data: [DONE]":
                    return told
                if line.startswith("data: "):
                    told = json.loads(line.removeprefix("data: "))
                    if until is not None and told["bytes_done"] >= until:
                        return told
        raise AssertionError(f"no [DONE] after {told}")
