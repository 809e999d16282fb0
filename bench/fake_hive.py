"""A stand-in for hives: `python -m bench.fake_hive`, as many hives and workers as wished.

Says what a hive says (capabilities, telemetry, what already runs) and answers for its workers
(`fake_worker`); no process stands behind a worker and nothing is computed. Every second its devices
have changed, and the load of some of its workers; the heartbeats of those say nothing new, so that
the telemetry tells of them, as it does with a hive (`rbee.daemons.hive.news`). It announces
itself to a queen and is announced again while she does not listen. Each hive has a port of its own;
the workers of all share the first.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

import msgspec

from bench.fake_protocol import CHUNKED_HEAD, LAST_CHUNK, Connection, event, listen
from bench.fake_worker import FakeWorkers, Pace
from rbee import __version__
from rbee.daemons.hive.news import News
from rbee.protocol import PROTOCOL
from rbee.protocol.base import builtins, encode
from rbee.protocol.hives import (
    BackendStatus,
    Capabilities,
    Device,
    HiveHeartbeat,
    HiveReady,
    HiveTelemetry,
    HiveWorker,
    HiveWorkerExited,
    HiveWorkerReady,
    HiveWorkers,
    ModelInfo,
    WorkerLoad,
)
from rbee.protocol.workers import Heartbeat, WorkerReady, WorkerSpec, WorkerState

MODEL = "stand-in"
GIB = 1 << 30
CTX = 100_000
ANNOUNCE_EVERY = 2.0
ANNOUNCED_AT_ONCE = 16
CHANGING = 0.05
"""Of its workers, those whose load is another one each time."""
VARIANTS = 5
"""Different telemetries that follow each other, made beforehand."""


@dataclass(frozen=True)
class Shape:
    """How many of what, and how often they speak (seconds; 0: never)."""

    hives: int
    workers: int
    """Of each hive."""
    slots: int
    """Of each worker."""
    telemetry: float
    beat: float


class FakeHive:
    """One hive; `workers_url` is where its workers answer."""

    def __init__(self, number: int, shape: Shape, workers: FakeWorkers, token: str) -> None:
        self.name = f"fake-{number:04d}"
        self._shape = shape
        self._workers = workers
        self._token = token
        self._fleet: dict[str, HiveWorker] = {}
        self._follower: Connection | None = None
        self._turn = VARIANTS
        self._telemetry: list[bytes] = []
        """The next ones; the last of them is the first that a new reader gets, and tells all."""
        self.url = ""

    async def start(self, port: int, workers_url: str | None) -> None:
        """Listen, and begin to tell."""
        _, self.url = await listen(self._handle, port)
        url = workers_url or self.url
        for number in range(self._shape.workers):
            spec = WorkerSpec(
                worker_id=f"{self.name}-w{number:03d}", model_id=MODEL, model_path=f"/{MODEL}",
                format="fake", backend="fake", device="cpu", slots=self._shape.slots, ctx=CTX,
            )  # fmt: skip
            self._fleet[spec.worker_id] = self._made(spec, url)
        self._again()
        # Hives started together would all speak in the same moment; a colony's do not.
        loop = asyncio.get_running_loop()
        offset = hash(self.name) % 1000 / 1000
        if every := self._shape.telemetry:
            loop.call_later(every * offset, self._repeat, every)

    @property
    def followed(self) -> bool:
        """Whether a queen reads its telemetry."""
        return self._follower is not None

    def ready(self) -> bytes:
        """What it announces."""
        return encode(HiveReady(name=self.name, url=self.url, token=self._token,
                                version=__version__, protocol=PROTOCOL))  # fmt: skip

    def left(self) -> None:
        """See Leaver: the queen's reader has gone."""
        self._follower = None

    def _made(self, spec: WorkerSpec, url: str) -> HiveWorker:
        ready = WorkerReady(worker_id=spec.worker_id, url=url, model=spec.model_id, backend="fake",
                            device=spec.device, pid=os.getpid(), protocol=PROTOCOL)  # fmt: skip
        beat = Heartbeat(worker_id=spec.worker_id, state=WorkerState.IDLE, ctx=spec.ctx,
                         slots_total=spec.slots, memory_bytes=GIB)  # fmt: skip
        return HiveWorker(spec=spec, pid=os.getpid(), log_path="", started_at=time.time(),
                          ready=ready, beat=beat)  # fmt: skip

    def _again(self) -> None:
        """What is to be told from now on: everything, then what changes."""
        news = News(heartbeat=self._shape.beat, every=self._shape.telemetry)
        ages = {name: self._shape.beat * n / len(self._fleet) for n, name in enumerate(self._fleet)}
        few = max(1, round(CHANGING * len(self._fleet)))
        told: list[HiveTelemetry] = []
        for turn in range(1 + 2 * VARIANTS):  # the first round lays down what the second changes
            names = list(self._fleet)
            changing = {names[(turn * few + n) % len(names)] for n in range(few) if names}
            loads = [
                WorkerLoad(
                    worker_id=name,
                    cpu_percent=float(1 + turn % VARIANTS if name in changing else 0),
                    rss_bytes=GIB + (1 + turn % VARIANTS << 20 if name in changing else 0),
                )
                for name in names
            ]
            told.append(news.telemetry(([device(turn % VARIANTS)], loads), ages))
        rounds = told[-VARIANTS:] + told[:1]
        self._telemetry = [event(builtins(one)) for one in rounds]
        self._turn = VARIANTS

    def _repeat(self, every: float) -> None:
        if self._follower is not None:
            self._tell(self._telemetry[self._turn], 1)
            self._turn = (self._turn + 1) % VARIANTS
        asyncio.get_running_loop().call_later(every, self._repeat, every)

    def _tell(self, data: bytes, events: int) -> None:
        if self._follower is not None and data:
            self._follower.transport.write(data)
            self._workers.told += events

    def _handle(self, connection: Connection, method: str, path: str, body: bytes) -> None:
        if self._workers.handle(connection, method, path, body):
            return
        if path == "/v1/health":
            connection.reply({"status": "healthy", "name": self.name})
        elif path == "/v1/capabilities":
            connection.reply(capabilities(self.name, self._shape.slots))
        elif path == "/v1/telemetry/stream":
            self._follow(connection)
        elif path == "/v1/models/resolve":
            connection.reply(model())
        elif path == "/v1/models":
            connection.reply({"models": [model()]})
        elif path == "/v1/workers/spawn":
            self._spawn(connection, msgspec.json.decode(body, type=WorkerSpec))
        elif method == "POST" and path.startswith("/v1/workers/") and path.endswith("/stop"):
            self._stop(path.split("/")[3])
            connection.reply({}, 202)
        elif path == "/v1/shutdown":
            connection.reply({"status": "stopping"}, 202)
            asyncio.get_running_loop().call_later(0.05, asyncio.get_running_loop().stop)
        else:
            connection.reply({"error": {"code": "NOT_FOUND", "message": path}}, 404)

    def _follow(self, connection: Connection) -> None:
        if self._follower is not None:
            self._follower.stream = None
            self._follower.transport.write(LAST_CHUNK)
        self._follower = connection
        connection.stream = self
        connection.transport.write(CHUNKED_HEAD)
        self._turn = VARIANTS
        self._tell(event(builtins(HiveWorkers(workers=list(self._fleet.values())))), 1)

    def _spawn(self, connection: Connection, spec: WorkerSpec) -> None:
        made = self._made(spec, self.url)
        self._fleet[spec.worker_id] = made
        self._again()
        connection.reply({"worker_id": spec.worker_id}, 202)
        assert made.ready is not None
        assert made.beat is not None
        said = event(builtins(HiveWorkerReady(ready=made.ready)))
        self._tell(said + event(builtins(HiveHeartbeat(beat=made.beat))), 2)

    def _stop(self, worker_id: str) -> None:
        if self._fleet.pop(worker_id, None) is not None:
            self._again()
            gone = HiveWorkerExited(worker_id=worker_id, exit_code=0, expected=True, log_tail=[])
            self._tell(event(builtins(gone)), 1)


def model() -> ModelInfo:
    """The only model there is; it has no weights."""
    return ModelInfo(id=MODEL, ref=MODEL, path=f"/{MODEL}", format="fake", size=0, context=CTX,
                     capabilities=["text-gen"])  # fmt: skip


def device(turn: int = 0) -> Device:
    """A place with memory to spare, each turn a little less."""
    used = GIB + (turn << 20)
    return Device(name="cpu", kind="cpu", label="stand-in", memory_total=1024 * GIB,
                  memory_used=used, memory_free=1024 * GIB - used, utilisation=turn / 100,
                  cores=64)  # fmt: skip


def capabilities(name: str, slots: int) -> Capabilities:
    """What a fake hive has."""
    backend = BackendStatus(name="fake", formats=["fake"], capabilities=["text-gen"],
                            devices=["cpu"], max_slots=max(8, slots))  # fmt: skip
    return Capabilities(
        hive=name, version=__version__, protocol=PROTOCOL, hostname=name, os="none",
        devices=[device()], absent_devices=[], backends=[backend], absent_backends=[],
        models=[model()], disk_free=GIB, disk_total=GIB,
    )  # fmt: skip


async def announce(hive: FakeHive, queen_url: str, token: str, gate: asyncio.Semaphore) -> None:
    """POST /v1/hives/ready; whether she took it shows by her following."""
    parts = urlsplit(queen_url)
    body = hive.ready()
    head = (
        f"POST /v1/hives/ready HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n"
        f"Authorization: Bearer {token}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    async with gate:
        try:
            async with asyncio.timeout(10):
                reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
                writer.write(head.encode() + body)
                await reader.read()
                writer.close()
        except OSError as exc:
            sys.stderr.write(f"{hive.name}: no queen at {queen_url} ({type(exc).__name__})\n")


async def run(shape: Shape, pace: Pace, *, port: int, queen_url: str, token: str) -> None:
    """Serve until the loop is stopped or the process is told to end."""
    workers = FakeWorkers(shape.hives * shape.workers * shape.slots, pace)
    hives = [FakeHive(number, shape, workers, token) for number in range(shape.hives)]
    for number, hive in enumerate(hives):
        await hive.start(port if number == 0 else 0, hives[0].url if number else None)
    sys.stdout.write(json.dumps({"url": hives[0].url, "hives": len(hives)}) + "\n")
    sys.stdout.flush()
    gate = asyncio.Semaphore(ANNOUNCED_AT_ONCE)
    while True:
        if queen_url:
            alone = [hive for hive in hives if not hive.followed]
            async with asyncio.TaskGroup() as tasks:
                for hive in alone:
                    tasks.create_task(announce(hive, queen_url, token, gate))
        await asyncio.sleep(ANNOUNCE_EVERY)


def main() -> int:
    """The command line; the queen's internal token comes in RBEE_INTERNAL_TOKEN."""
    parser = argparse.ArgumentParser(prog="python -m bench.fake_hive", description=__doc__)
    add = parser.add_argument
    add("--queen-url", default="", help="empty: wait to be asked, announce nothing")
    add("--port", type=int, default=0)
    add("--hives", type=int, default=1)
    add("--workers", type=int, default=1)
    add("--slots", type=int, default=64)
    add("--telemetry", type=float, default=1.0)
    add("--beat", type=float, default=2.0)
    add("--first", type=float, default=0.0, help="seconds to the first token")
    add("--gap", type=float, default=0.0, help="seconds from one token to the next")
    given = parser.parse_args()
    shape = Shape(given.hives, given.workers, given.slots, given.telemetry, given.beat)
    token = os.environ.get("RBEE_INTERNAL_TOKEN", "")
    pace = Pace(given.first, given.gap)
    try:
        import uvloop

        run_loop = uvloop.run
    except ImportError:
        run_loop = asyncio.run
    try:
        run_loop(run(shape, pace, port=given.port, queen_url=given.queen_url, token=token))
    except (KeyboardInterrupt, RuntimeError) as exc:  # stopped: the loop ended before `run` did
        if isinstance(exc, RuntimeError) and "stopped before" not in str(exc):
            raise
    return 0


if __name__ == "__main__":
    sys.exit(main())
