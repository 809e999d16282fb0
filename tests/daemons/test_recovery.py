"""What becomes of jobs after their queen was killed, with a real database, journal and brain."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from rbee.core.effects import Dispatch
from rbee.core.events import HiveJoined, Tick
from rbee.core.jobs import Job
from rbee.protocol.base import decode, encode
from rbee.protocol.hives import ModelInfo
from rbee.protocol.jobs import (
    CancelledData,
    EndData,
    ErrorData,
    EventType,
    JobState,
    MetricsData,
    StatusData,
)
from rbee.protocol.operations import Embed, Infer, Priority, WorkerSpawn
from tests.core.builders import capabilities
from tests.daemons.reigns import ENDS, Library, World, kinds, say
from tests.daemons.stores import content

pytestmark = pytest.mark.anyio


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


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
        assert b"secret" in content(world.folder)
    async with world.reign(retention=0) as queen:
        await queen.recovery.run()
        await queen.streams.settle()
        with anyio.fail_after(30):
            while queen.journal.path.read_bytes()[8:]:
                await anyio.lowlevel.checkpoint()
        assert b"secret" not in content(world.folder)


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
