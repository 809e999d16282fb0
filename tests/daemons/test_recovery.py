"""What becomes of jobs after their queen was killed, with a real database, journal and brain."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from rbee.core.colony import Colony
from rbee.core.events import (
    Append,
    Dispatch,
    Effect,
    HiveJoined,
    HiveSaid,
    SaveJob,
    StartWorker,
    Tick,
)
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
    CancelledData,
    EndData,
    ErrorData,
    EventType,
    JobInfo,
    JobState,
    MetricsData,
    StatusData,
)
from rbee.protocol.operations import Embed, Infer, Operation, Priority, WorkerSpawn
from rbee.protocol.workers import Heartbeat, WorkerReady, WorkerState
from rbee.settings import Settings
from tests.core.builders import capabilities, model

pytestmark = pytest.mark.anyio

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


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def say(stream: JobStream, *words: str) -> None:
    for number, word in enumerate(words, stream.tokens):
        data = b'{"t":"%b","i":%d}' % (word.encode(), number)
        stream.append(EventType.TOKEN, data, b"[%d]" % (100 + number))


def kinds(events: list[tuple[str, bytes]]) -> list[str]:
    return [str(kind) for kind, _ in events]


async def test_queued_jobs_run_again_in_their_order_and_have_waited_all_along(
    world: World,
) -> None:
    names = ["first", "second", "third"]
    async with world.reign() as queen:
        for name in names:
            await queen.accept(name)
            world.clock.passes(2)
        told = await queen.told("second")
        await queen.set_state("first", JobState.DISPATCHED, attempts=1, worker_id="w-01")
    async with world.reign() as queen:
        await queen.recovery.run()
        assert [job.job_id for job in queen.submitted()] == names
        assert queen.library.asked == ["tiny"]
        first, second, _ = queen.submitted()
        assert (first.worker_id, first.attempt, first.tokens_out) == (None, 1, 0)
        assert (first.created_at, first.client) == (1_000_000.0, "api")
        assert second.queued_mono == world.clock.mono - (world.clock.wall - second.created_at)
        now = await queen.told("second")
        assert now[:1] == told
        recovered = decode(now[1][1], StatusData)
        assert recovered.stage == "recovered"
        assert "queued" not in kinds(now)[1:]


async def test_an_answer_goes_on_where_its_readers_are(world: World) -> None:
    async with world.reign() as queen:
        stream = await queen.accept("a")
        stream.append(EventType.STARTED, b"{}")
        stream.note_ids_of("llamacpp")
        say(stream, "the", " bees")
        told = await queen.told("a")
        # The queen died before the database had the state `running`.
    for attempt in (2, 3):
        async with world.reign() as queen:
            await queen.recovery.run()
            (job,) = queen.submitted()
            assert (job.tokens_out, job.durable) == (2, True)
            assert queen.streams.create("a").emitted() == ("the bees", [100, 101], 2)
            assert queen.streams.create("a").ids_of == "llamacpp"
            now = await queen.told("a")
            assert now[: len(told)] == told
            await queen.brain.call(Tick({}))  # what comes back is placed with the next one
            queen.workers_come("w-01")
            await anyio.wait_all_tasks_blocked()
            (dispatch,) = [e for e in queen.effects if isinstance(e, Dispatch)]
            assert dispatch.attempt == attempt
            assert job.tokens_before == 2
            told = await queen.told("a")
            assert kinds(told).count("started") == attempt
            assert not ENDS & set(kinds(told))


METRICS = MetricsData(
    tokens_per_second=20.0, ttft_ms=30.0, prompt_tokens=7, cached_tokens=1, resumed=1
)


@pytest.mark.parametrize(
    "kind, data, state",
    [
        (EventType.END, EndData(finish_reason="stop", tokens_out=2, duration_ms=9), "completed"),
        (EventType.ERROR, ErrorData(code="DEVICE_FAILED", message="hot", details={}), "failed"),
        (EventType.CANCELLED, CancelledData(reason="asked"), "cancelled"),
    ],
)
async def test_an_end_that_was_sent_is_the_end(
    world: World, kind: EventType, data: Any, state: str
) -> None:
    async with world.reign() as queen:
        stream = await queen.accept("a")
        await queen.set_state("a", JobState.RUNNING)
        say(stream, "the", " end")
        stream.append(EventType.METRICS, encode(METRICS))
        stream.append(kind, encode(data))
        told = await queen.told("a")
    for _ in range(2):
        async with world.reign() as queen:
            await queen.recovery.run()
            assert not queen.submitted()
            info = await queen.state("a")
            assert (info.state, info.tokens_out) == (state, 2)
            assert info.finished_at
            assert (info.prompt_tokens, info.resumes, info.ttft_ms) == (7, 1, 30.0)
            assert info.finish_reason == ("stop" if kind is EventType.END else None)
            assert info.error_code == ("DEVICE_FAILED" if kind is EventType.ERROR else None)
            assert await queen.told("a") == told


async def test_an_end_in_the_database_without_its_stream_gets_it_from_the_journal(
    world: World,
) -> None:
    async with world.reign() as queen:
        stream = await queen.accept("a")
        stream.append(EventType.END, b'{"finish_reason":"stop","tokens_out":0,"duration_ms":1}')
        told = await queen.told("a")
        await queen.set_state("a", JobState.COMPLETED, finished_at=5.0)
        assert await queen.store.stream("a") is None
    async with world.reign() as queen:
        await queen.recovery.run()
        assert not queen.submitted()
        assert await queen.told("a") == told
        assert (await queen.state("a")).finished_at == 5.0


async def test_what_was_bound_to_the_queen_is_lost_and_says_so(world: World) -> None:
    async with world.reign() as queen:
        await queen.accept("chat", durable=False)
        spawn = await queen.accept("spawn", WorkerSpawn(model="tiny"))
        spawn.append(EventType.STATUS, b"{}")
        told = await queen.told("spawn")
    async with world.reign() as queen:
        await queen.recovery.run()
        assert not queen.submitted()
        for name in ("chat", "spawn"):
            info = await queen.state(name)
            assert (info.state, info.error_code) == ("failed", "WORKER_LOST")
        assert "worker_spawn" in ((await queen.state("spawn")).error_message or "")
        now = await queen.told("spawn")
        assert (now[:2], kinds(now)[2:]) == (told, ["error"])
        assert kinds(await queen.told("chat")) == ["error"]


async def test_a_running_job_that_the_journal_does_not_know_cannot_go_on(world: World) -> None:
    async with world.reign() as queen:
        await queen.accept("a")
        await queen.accept("waits")
        await queen.set_state("a", JobState.RUNNING)
    (world.folder / "rbee.journal").unlink()
    async with world.reign() as queen:
        await queen.recovery.run()
        assert [job.job_id for job in queen.submitted()] == ["waits"]
        assert (await queen.state("a")).error_code == "WORKER_LOST"
        assert kinds(await queen.told("waits")) == ["status", *kinds(await queen.told("waits"))[1:]]


async def test_with_a_damaged_journal_text_is_kept_and_its_job_ends(world: World) -> None:
    async with world.reign() as queen:
        stream = await queen.accept("a")
        await queen.accept("waits")
        say(stream, "partial", " text")
        told = await queen.told("a")
        sound = len(queen.journal.path.read_bytes())
        say(stream, " damaged")
        queen.journal.flush()
        say(stream, " sound")
        queen.journal.flush()
    content = bytearray(queen.journal.path.read_bytes())
    content[sound + 20] ^= 1
    queen.journal.path.write_bytes(content)
    async with world.reign() as queen:
        assert queen.journal.set_aside is not None
        await queen.recovery.run()
        assert [job.job_id for job in queen.submitted()] == ["waits"]
        now = await queen.told("a")
        assert (now[:-1], kinds(now)[-1]) == (told, "error")
        assert decode(now[-1][1], ErrorData).details["tokens_out"] == 2
        assert (await queen.state("a")).tokens_out == 2
    async with world.reign() as queen:
        assert queen.journal.set_aside is None
        assert kinds(await queen.told("a")) == kinds(now)


async def test_what_the_database_does_not_know_leaves_the_journal(world: World) -> None:
    async with world.reign() as queen:
        queen.streams.create("never-accepted", durable=True).append(EventType.QUEUED, b"{}")
        queen.journal.flush()
    async with world.reign() as queen:
        assert "never-accepted" in queen.journal.found
        await queen.recovery.run()
        assert not queen.submitted()
    async with world.reign() as queen:
        assert not queen.journal.found


async def test_a_whole_answer_only_gets_its_last_word(world: World) -> None:
    async with world.reign() as queen:
        vectors = await queen.accept("vectors", Embed(model="tiny", input="x"))
        vectors.append(EventType.RESULT, b'{"vectors":[[1.0]]}')
        text = await queen.accept("text", Infer(model="tiny", prompt="x", max_tokens=2))
        say(text, "all", " said")
        vectors_told, text_told = await queen.told("vectors"), await queen.told("text")
    async with world.reign() as queen:
        await queen.recovery.run()
        assert not queen.submitted()
        for name, told, reason in (
            ("vectors", vectors_told, "stop"),
            ("text", text_told, "length"),
        ):
            now = await queen.told(name)
            assert (now[:-1], kinds(now)[-1]) == (told, "end")
            info = await queen.state(name)
            assert (info.state, info.finish_reason) == ("completed", reason)


async def test_texts_without_vectors_yet_are_embedded_again(world: World) -> None:
    async with world.reign() as queen:
        await queen.accept("vectors", Embed(model="tiny", input="x"))
        await queen.set_state("vectors", JobState.DISPATCHED)
    async with world.reign() as queen:
        await queen.recovery.run()
        assert [job.job_id for job in queen.submitted()] == ["vectors"]


async def test_a_hive_that_goes_while_it_is_asked_loses_nobody(world: World) -> None:
    class Silent(Library):
        async def resolve(self, ref: str) -> ModelInfo:
            asked.set()
            await anyio.sleep_forever()
            raise AssertionError

    asked = anyio.Event()
    async with world.reign() as queen:
        await queen.accept("a")
    async with world.reign(hives=False) as queen:
        await queen.recovery.run()
        queen.links["home"] = Silent()
        async with anyio.create_task_group() as link:
            link.start_soon(queen.recovery.hive_joined)
            await asked.wait()
            link.cancel_scope.cancel()
        queen.links["home"] = queen.library
        await queen.brain.call(HiveJoined("home", "http", None, capabilities()))
        await queen.recovery.hive_joined()
        assert [job.job_id for job in queen.submitted()] == ["a"]


async def test_a_request_that_cannot_be_read_ends_without_harm(world: World) -> None:
    async with world.reign() as queen:
        await queen.accept("bad")
        await queen.accept("good")
    with sqlite3.connect(world.folder / "rbee.db") as db:
        db.execute("UPDATE jobs SET request = '{\"operation\":\"dance\"}' WHERE job_id = 'bad'")
    db.close()
    async with world.reign() as queen:
        await queen.recovery.run()
        assert [job.job_id for job in queen.submitted()] == ["good"]
        assert (await queen.state("bad")).state == "failed"


async def test_without_retention_nothing_of_what_had_ended_stays(world: World) -> None:
    async with world.reign(retention=0) as queen:
        stream = await queen.accept("a", Infer(model="tiny", prompt="secret question"))
        say(stream, "secret", " answer")
        stream.append(EventType.END, b'{"finish_reason":"stop","tokens_out":2,"duration_ms":1}')
        queen.journal.flush()
        assert b"secret" in files(world.folder)
    async with world.reign(retention=0) as queen:
        await queen.recovery.run()
        await queen.streams.settle()
        with anyio.fail_after(30):
            while queen.journal.path.read_bytes()[8:]:
                await anyio.lowlevel.checkpoint()
        assert b"secret" not in files(world.folder)


async def test_ten_thousand_jobs_come_back_in_order_with_each_model_looked_for_once(
    world: World,
) -> None:
    count = 10_000
    async with world.reign() as queen:
        for number in range(count):
            world.clock.passes(0.001)
            operation = Infer(model=f"model-{number % 3}", prompt="x", priority=Priority.BATCH)
            info = Job(
                job_id=f"job-{number}", request=operation, created_at=world.clock.wall,
                queued_mono=0.0,
            ).info()  # fmt: skip
            queen.store.save_job(info, encode(operation), durable=True)
            stream = queen.streams.create(info.job_id, durable=True)
            stream.append(EventType.QUEUED, b"{}")
        await queen.store.flush(limit=60)
        queen.journal.flush()
    async with world.reign() as queen:
        await queen.recovery.run()
        assert [job.job_id for job in queen.submitted()] == [f"job-{n}" for n in range(count)]
        assert sorted(queen.library.asked) == ["model-0", "model-1", "model-2"]


# ---- killed at any moment ---------------------------------------------------------------------

STEPS = st.lists(
    st.sampled_from(["save", "flush", "status", "word", "words", "end", "look", "retire"]),
    max_size=12,
)


@given(first=STEPS, second=STEPS)
@settings(deadline=None, max_examples=40)
def test_whenever_the_queen_is_killed_readers_see_one_stream_with_one_end(
    tmp_path_factory: pytest.TempPathFactory, first: list[str], second: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("reigns")
    anyio.run(_two_deaths, World(folder), first, second)


async def _two_deaths(world: World, first: list[str], second: list[str]) -> None:
    shown: list[tuple[str, bytes]] = []
    async with world.reign() as queen:
        stream = await queen.accept("a")
        shown = await _live(queen, stream, first, shown)
    for steps in (second, []):
        async with world.reign() as queen:
            await queen.recovery.run()
            now = await queen.told("a")
            assert now[: len(shown)] == shown
            info = await queen.state("a")
            ended = bool(ENDS & set(kinds(now)))
            assert ended is (info.finished_at is not None)
            assert ended is not (bool(queen.submitted()))
            assert sum(kind in ENDS for kind in kinds(now)) == ended
            live = queen.streams.live("a")
            numbers = [decode(data, dict[str, Any])["i"] for kind, data in now if kind == "token"]
            assert numbers == list(range(len(numbers)))
            if live is not None:
                assert queen.submitted()[0].tokens_out == len(numbers)
                shown = await _live(queen, live, steps, now)
            else:
                shown = now


async def _live(
    queen: Reign, stream: JobStream, steps: list[str], shown: list[tuple[str, bytes]]
) -> list[tuple[str, bytes]]:
    """One queen's time with the job; returns what a reader has seen of it."""
    for step in steps:
        match step:
            case "save" if stream.tokens and not stream.ended:
                await queen.set_state("a", JobState.RUNNING)
            case "flush":
                queen.journal.flush()
            case "status":
                stream.append(EventType.STATUS, b'{"stage":"x","message":"x"}')
            case "word":
                say(stream, "w")
            case "words":
                say(stream, "several", " words")
            case "end":
                data = EndData(finish_reason="stop", tokens_out=stream.tokens, duration_ms=1)
                stream.append(EventType.END, encode(data))
            case "look":
                shown = list(stream.events)
            case "retire" if stream.ended and queen.streams.live("a") is not None:
                await queen.set_state("a", JobState.COMPLETED, finished_at=queen.clock.wall)
                queen.store.save_stream("a", queen.streams.retire("a"))
                await queen.streams.settle()
                await anyio.lowlevel.checkpoint()
            case _:
                pass
    return shown


def files(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.iterdir())
