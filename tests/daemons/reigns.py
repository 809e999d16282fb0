"""Queens that come and go over one folder, with a real database, journal and brain."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from msgspec.structs import replace

from rbee.core.colony import Colony
from rbee.core.effects import Append, Effect, SaveJob, StartWorker
from rbee.core.events import HiveJoined, HiveSaid
from rbee.core.jobs import Job
from rbee.core.limits import Limits
from rbee.core.scheduling import Ect
from rbee.daemons.queen.admission import Admission
from rbee.daemons.queen.board import Board
from rbee.daemons.queen.brain import Brain
from rbee.daemons.queen.catalog import Catalog
from rbee.daemons.queen.journal import Journal
from rbee.daemons.queen.metrics import Metrics
from rbee.daemons.queen.recovery import Recovery
from rbee.daemons.queen.store import Store
from rbee.daemons.queen.streams import JobStream, Streams
from rbee.errors import ModelNotFound
from rbee.protocol.base import decode, encode
from rbee.protocol.hives import HiveHeartbeat, HiveWorkerReady, ModelInfo
from rbee.protocol.jobs import (
    EventType,
    JobInfo,
    JobState,
)
from rbee.protocol.operations import Infer, Operation
from rbee.protocol.workers import Heartbeat, WorkerReady, WorkerState
from rbee.settings import Settings
from tests.core.builders import capabilities, model

INFER = Infer(model="tiny", prompt="hello", max_tokens=50)
ENDS = {"end", "error", "cancelled"}


class Time:
    """The machine's clocks, as the test sets them. The monotonic one begins anew with a queen."""

    def __init__(self) -> None:
        self.wall, self.mono = 1_000_000.0, 500.0

    def monotonic(self) -> float:
        return self.mono

    def utc(self) -> float:
        return self.wall

    def passes(self, seconds: float) -> None:
        self.wall += seconds
        self.mono += seconds


class Library:
    """What a hive knows of models."""

    name, token = "home", "token"

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def resolve(self, ref: str) -> ModelInfo:
        self.asked.append(ref)
        if ref == "gone":
            raise ModelNotFound("no model gone")
        return model(ref)


class Reign:
    """One queen: her memory and her brain; effects that need a worker are only noted."""

    def __init__(self, folder: Path, clock: Time, *, hives: bool, retention: float) -> None:
        self.clock = clock
        self.store = Store.open(folder / "rbee.db")
        self.journal = Journal.open(folder / "rbee.journal")
        self.journal.erases = retention == 0
        self.streams = Streams(self.store, self.journal)
        self.retention = retention
        self.library = Library()
        self.effects: list[Effect] = []
        self.colony = Colony(
            policy=Ect(ctx=4096), limits=Limits(), now=clock.mono, utc=clock.wall,
            started_mono=clock.mono,
        )  # fmt: skip
        self.brain = Brain(self.colony, clock, self.carry_out)
        self.links: dict[str, Any] = {"home": self.library} if hives else {}
        settings = with_retention(retention)
        self.catalog = Catalog(
            settings=lambda: settings,
            clock=clock,
            colony=self.colony,
            links=self.links,
            board=Board(lambda: pytest.fail("nobody looks")),
            metrics=Metrics(),
            post=self.brain.post,
            call=self.brain.call,
        )
        self.admission = Admission(
            settings=settings,
            clock=clock,
            brain=self.brain,
            catalog=self.catalog,
            streams=self.streams,
            store=self.store,
        )
        self.recovery = Recovery(
            store=self.store,
            streams=self.streams,
            brain=self.brain,
            admission=self.admission,
            clock=clock,
        )

    def carry_out(self, effect: Effect) -> None:
        self.effects.append(effect)
        match effect:
            case Append(job_id, kind, data):
                stream = self.streams.live(job_id)
                assert stream is not None
                stream.append(kind, encode(data))
            case SaveJob(job):
                self.store.save_job(job.info(), encode(job.request), durable=job.durable)
                stream = self.streams.live(job.job_id)
                if stream is not None and stream.ended:
                    self.store.save_stream(job.job_id, self.streams.retire(job.job_id))
            case _:
                pass

    async def accept(
        self, job_id: str, operation: Operation = INFER, *, durable: bool = True
    ) -> JobStream:
        """As admission does, without a brain that runs it at once."""
        job = Job(
            job_id=job_id, request=operation, created_at=self.clock.wall,
            queued_mono=self.clock.mono, durable=durable, client="api",
        )  # fmt: skip
        stream = self.streams.create(job_id, durable=durable)
        self.store.save_job(job.info(), encode(operation), durable=durable)
        await self.store.flush()
        stream.append(EventType.QUEUED, b'{"position":1}')
        return stream

    async def set_state(self, job_id: str, state: JobState, **more: Any) -> None:
        info = await self.store.job(job_id)
        request = await self.store.request(job_id)
        assert info is not None
        assert request is not None
        kept = decode(encode(info), dict[str, Any]) | {"state": state} | more
        self.store.save_job(decode(encode(kept), JobInfo), request[0], durable=True)
        await self.store.flush()

    def submitted(self) -> list[Job]:
        return list(self.colony.jobs.values())

    def workers_come(self, worker_id: str) -> None:
        """The worker that the brain asked for is up."""
        spec = next(
            e.spec
            for e in self.effects
            if isinstance(e, StartWorker) and e.spec.worker_id == worker_id
        )
        ready = WorkerReady(
            worker_id=worker_id, url="http://127.0.0.1:9300", model=spec.model_id,
            backend=spec.backend, device=spec.device, pid=1, protocol=1,
        )  # fmt: skip
        beat = Heartbeat(worker_id=worker_id, state=WorkerState.IDLE, slots_total=8)
        self.brain.post(HiveSaid("home", HiveWorkerReady(ready=ready)))
        self.brain.post(HiveSaid("home", HiveHeartbeat(beat=beat)))

    async def state(self, job_id: str) -> JobInfo:
        await self.store.flush()
        info = await self.store.job(job_id)
        assert info is not None
        return info

    async def told(self, job_id: str) -> list[tuple[str, bytes]]:
        """What a reader who comes now gets."""
        return list((await self.streams.get(job_id)).events)


def with_retention(seconds: float) -> Settings:
    asked = Settings()
    return replace(asked, job=replace(asked.job, retention=seconds))


class World:
    """A folder and a clock, and the queens that come and go over them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.clock = folder, Time()

    @asynccontextmanager
    async def reign(
        self, *, hives: bool = True, retention: float = 86_400.0
    ) -> AsyncGenerator[Reign]:
        """A queen from her start to her SIGKILL: what she has not written is gone."""
        queen = Reign(self.folder, self.clock, hives=hives, retention=retention)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(queen.brain.run)
            with anyio.fail_after(60):
                if hives:
                    await queen.brain.call(HiveJoined("home", "local", None, capabilities()))
                try:
                    yield queen
                finally:
                    queen.brain.close()
                    tasks.cancel_scope.cancel()
        os.close(queen.journal._fd)  # all that the kernel does for a killed process
        queen.journal._fd = -1
        queen.store.close()
        self.clock.passes(10)
        self.clock.mono = 20.0


def say(stream: JobStream, *words: str) -> None:
    for number, word in enumerate(words, stream.tokens):
        data = b'{"t":"%b","i":%d}' % (word.encode(), number)
        stream.append(EventType.TOKEN, data, b"[%d]" % (100 + number))


def kinds(events: list[tuple[str, bytes]]) -> list[str]:
    return [str(kind) for kind, _ in events]
