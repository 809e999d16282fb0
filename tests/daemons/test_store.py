"""The queen's database and the streams of jobs."""

from __future__ import annotations

import sqlite3
import stat
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from rbee.daemons.queen.store import Store
from rbee.daemons.queen.streams import JobStream, Streams
from rbee.errors import NotFound, VersionMismatch
from rbee.protocol.base import encode
from rbee.protocol.jobs import EventType, JobInfo, JobState, TokenData

pytestmark = pytest.mark.anyio


def info(job_id: str, state: JobState = JobState.QUEUED, *, at: float = 1.0) -> JobInfo:
    ended = None if state in (JobState.QUEUED, JobState.RUNNING) else at
    return JobInfo(job_id=job_id, operation="infer", state=state, created_at=at, finished_at=ended)


async def test_what_was_flushed_is_there_after_opening_again(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "rbee.db")
    store.save_job(info("a"), b"{}", durable=True)
    store.save_job(info("b", at=2.0), b"{}", durable=False)
    store.save_job(info("b", JobState.COMPLETED, at=2.0), b"{}", durable=False)
    store.save_stream("b", [("token", b'{"t":"x","i":0}')])
    await store.flush()
    other = Store.open(tmp_path / "rbee.db")
    assert [j.job_id for j in await other.jobs(state=None, limit=10)] == ["b", "a"]
    assert [j.job_id for j in await other.jobs(state="queued", limit=10)] == ["a"]
    (left,) = await other.unfinished()
    assert (left.info.job_id, left.request, left.durable) == ("a", b"{}", True)
    assert await other.stream("b") == [("token", b'{"t":"x","i":0}')]
    assert await other.job("nope") is None
    other.close()
    store.close()


async def test_the_file_is_private_and_writes_after_close_are_in_it(tmp_path: Path) -> None:
    path = tmp_path / "rbee.db"
    store = Store.open(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for number in range(500):
        store.save_job(info(f"job-{number}"), b"{}", durable=True)
    store.close()
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT count(*) FROM jobs").fetchone() == (500,)
    db.close()


async def test_purge_keeps_the_newest_and_never_an_unfinished_one(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "rbee.db")
    for number in range(5):
        store.save_job(
            info(f"j{number}", JobState.COMPLETED, at=float(number)), b"{}", durable=True
        )
    store.save_job(info("waits", at=0.0), b"{}", durable=True)
    store.purge(before=1.0, keep=3)
    await store.flush()
    assert [j.job_id for j in await store.jobs(state=None, limit=9)] == ["j4", "j3", "j2", "waits"]
    store.close()


async def test_a_database_of_a_newer_rbee_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "rbee.db"
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 999")
    db.close()
    before = path.read_bytes()
    with pytest.raises(VersionMismatch, match="schema 999"):
        Store.open(path)
    assert path.read_bytes() == before


async def test_an_unusable_database_is_set_aside_not_deleted(tmp_path: Path) -> None:
    path = tmp_path / "rbee.db"
    path.write_bytes(b"this is no database" * 100)
    before = path.read_bytes()
    store = Store.open(path)
    assert store.set_aside is not None
    assert store.set_aside.read_bytes() == before
    store.save_job(info("a"), b"{}", durable=True)
    await store.flush()
    assert await store.job("a") is not None
    store.close()


async def test_readers_at_their_own_pace_see_the_same(tmp_path: Path) -> None:
    stream = JobStream()
    seen: dict[int, list[int]] = {}

    async def reader(number: int) -> None:
        seen[number] = []
        async for first, batch in stream.read(after=number):
            seen[number] += range(first, first + len(batch))
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as tasks:
        for number in range(3):
            stream.append(EventType.TOKEN, encode(TokenData(t="x", i=number)))
            tasks.start_soon(reader, number)
        for number in range(3, 50):
            stream.append(EventType.TOKEN, encode(TokenData(t="x", i=number)))
            if number % 7 == 0:
                await anyio.lowlevel.checkpoint()
        stream.append(EventType.END, b"{}")
        stream.append(EventType.ERROR, b"{}")
    assert {n: (ids[0], ids[-1], len(ids)) for n, ids in seen.items()} == {
        n: (n + 1, 51, 51 - n) for n in range(3)
    }


async def test_an_ended_stream_is_read_back_from_the_store(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "rbee.db")
    streams = Streams(store)
    streams.create("a").append(EventType.END, b'{"x":1}')
    store.save_job(info("a", JobState.COMPLETED), b"{}", durable=True)
    store.save_stream("a", streams.retire("a"))
    await store.flush()
    fresh = Streams(store)
    assert (await fresh.get("a")).events == [("end", b'{"x":1}')]
    with pytest.raises(NotFound):
        await fresh.get("b")
    store.close()


async def test_a_reader_ahead_of_a_stream_that_began_again_starts_over() -> None:
    stream = JobStream()
    stream.append(EventType.QUEUED, b"{}")
    stream.append(EventType.END, b"{}")
    assert [first async for first, _ in stream.read(after=9)] == [1]
    assert [first async for first, _ in stream.read(after=2)] == []
