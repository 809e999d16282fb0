"""A real worker process, and a small real HTTP server that stands in for its hive."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from rbee.protocol.workers import WorkerSpec
from rbee.sse import Decoder

TOKEN = "token-of-the-tests"
LIMIT = 60.0


def listening() -> socket.socket:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen(128)
    return sock


class HiveStandIn:
    """Takes the callbacks of workers and keeps them, in order."""

    def __init__(self, *, refuse: int = 0) -> None:
        self.posts: list[tuple[str, dict[str, Any], str]] = []
        self.refuse = refuse
        self._news = threading.Condition()
        self._sock = listening()
        self.url = f"http://127.0.0.1:{self._sock.getsockname()[1]}"
        routes = [
            Route(path, self._take, methods=["POST"])
            for path in ("/v1/workers/ready", "/v1/worker-heartbeat")
        ]
        config = uvicorn.Config(Starlette(routes=routes), log_config=None, lifespan="off")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([self._sock],))

    async def _take(self, request: Request) -> Response:
        body = msgspec.json.decode(await request.body())
        with self._news:
            if self.refuse > 0:
                self.refuse -= 1
                return Response(status_code=503)
            self.posts.append((request.url.path, body, request.headers.get("authorization", "")))
            self._news.notify_all()
        return Response(status_code=204)

    def __enter__(self) -> HiveStandIn:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join()
        self._sock.close()

    @property
    def beats(self) -> list[dict[str, Any]]:
        return [body for path, body, _ in self.posts if path == "/v1/worker-heartbeat"]

    def wait(self, found: Callable[[list[dict[str, Any]]], bool], limit: float = LIMIT) -> None:
        """Until the heartbeats satisfy the condition."""
        with self._news:
            assert self._news.wait_for(lambda: found(self.beats), limit), self.beats[-3:]

    def wait_for_state(self, state: str, limit: float = LIMIT) -> dict[str, Any]:
        self.wait(lambda beats: any(beat["state"] == state for beat in beats), limit)
        return next(beat for beat in self.beats if beat["state"] == state)


@dataclass
class Answer:
    """A stream as it was received."""

    events: list[dict[str, Any]] = field(default_factory=list)
    comments: list[str] = field(default_factory=list)
    ended: bool = False

    @property
    def text(self) -> str:
        return "".join(event["token"] for event in self.events if "token" in event)

    @property
    def done(self) -> dict[str, Any]:
        return self.events[-1]


class WorkerProcess:
    """Started with an inherited socket, as a hive does it."""

    def __init__(self, hive_url: str, log: Path, **spec: Any) -> None:
        self.spec = WorkerSpec(
            **(
                {
                    "worker_id": "w-1",
                    "model_id": "echo",
                    "model_path": "/nowhere",
                    "format": "echo",
                    "backend": "echo",
                    "device": "cpu",
                    "slots": 2,
                    "ctx": 4096,
                }
                | spec
            )
        )
        self._log = log
        sock = listening()
        self.url = f"http://127.0.0.1:{sock.getsockname()[1]}"
        command = [sys.executable, "-m", "rbee.daemons.worker.main"]
        command += ["--spec", msgspec.json.encode(self.spec).decode(), "--fd", str(sock.fileno())]
        command += ["--callback-url", hive_url]
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                command,
                pass_fds=[sock.fileno()],
                env=os.environ | {"RBEE_INTERNAL_TOKEN": TOKEN},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        sock.close()
        self.http = httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {TOKEN}"},
            timeout=LIMIT,
            trust_env=False,
        )

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(LIMIT)

    @property
    def log(self) -> str:
        return self._log.read_text()

    def execute(self, prompt: str, request_id: str = "r-1", **options: Any) -> httpx.Response:
        body = {"request_id": request_id, "prompt": prompt, "stream": False} | options
        return self.http.post("/v1/execute", json=body)

    @contextlib.contextmanager
    def stream(
        self, prompt: str | None, request_id: str = "r-1", **options: Any
    ) -> Iterator[Iterator[Any]]:
        """Events one by one: dicts, comments as strings, then None for [DONE]."""
        body = {"request_id": request_id, "prompt": prompt} | options
        with self.http.stream("POST", "/v1/execute", json=body) as reply:
            assert reply.status_code == 200, reply.read()
            yield decoded(reply)

    def answer(self, prompt: str | None, request_id: str = "r-1", **options: Any) -> Answer:
        out = Answer()
        with self.stream(prompt, request_id, **options) as events:
            for event in events:
                if event is None:
                    out.ended = True
                elif isinstance(event, str):
                    out.comments.append(event)
                else:
                    out.events.append(event)
        return out

    def exit_code(self, limit: float = LIMIT) -> int:
        return self.process.wait(limit)

    def exit_seconds(self) -> float:
        began = time.monotonic()
        self.process.wait(LIMIT)
        return time.monotonic() - began


def decoded(reply: httpx.Response) -> Iterator[Any]:
    decoder = Decoder()
    for chunk in reply.iter_raw():
        for event in decoder.feed(chunk):
            if event.comment is not None:
                yield event.comment
            else:
                yield None if event.data == "[DONE]" else msgspec.json.decode(event.data)
