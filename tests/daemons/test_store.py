"""The queen's database and the streams of jobs."""

from __future__ import annotations

import sqlite3
import stat
from pathlib import Path

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from rbee.daemons.queen.store import Store
from rbee.daemons.queen.streams import JobStream, Streams
from rbee.errors import InternalError, NotFound, VersionMismatch
from rbee.protocol.base import encode
from rbee.protocol.jobs import EventType, JobState, TokenData
from tests.daemons.stores import content, info, locked, names, until

pytestmark = pytest.mark.anyio


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


async def test_a_write_lost_to_a_held_lock_fails_the_next_flush_only(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "rbee.db", patience=0.01)
    with locked(store.path):
        store.save_job(info("lost"), b"{}", durable=True)
        with pytest.raises(InternalError, match=r"rbee\.db") as caught:
            await store.flush()
        assert "Another program" in caught.value.action
    store.save_job(info("kept"), b"{}", durable=True)
    await store.flush()
    assert [j.job_id for j in await store.jobs(state=None, limit=9)] == ["kept"]
    store.close()


async def test_a_flush_in_a_later_batch_still_hears_of_a_lost_write(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store.open(tmp_path / "rbee.db", patience=0.01)
    with locked(store.path):
        store.save_job(info("lost"), b"{}", durable=True)
        await until(lambda: "were lost" in caplog.text)
    store.save_job(info("kept"), b"{}", durable=True)
    with pytest.raises(InternalError):
        await store.flush()
    assert await store.job("kept") is not None
    store.close()


async def test_a_lock_held_for_a_while_loses_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store.open(tmp_path / "rbee.db", patience=0.5)
    with locked(store.path):
        store.save_job(info("late"), b"{}", durable=True)
        await until(lambda: "trying again" in caplog.text)
    await store.flush()
    assert await store.job("late") is not None
    store.close()


async def test_a_write_at_fault_takes_no_other_with_it(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "rbee.db", patience=5.0)
    with sqlite3.connect(store.path) as db:
        db.execute(
            "CREATE TRIGGER bad BEFORE INSERT ON jobs WHEN NEW.job_id = 'bad'"
            " BEGIN SELECT RAISE(ABORT, 'no such luck'); END"
        )
    db.close()
    with locked(store.path):  # so that all four gather in one batch
        for name in ("a", "b", "bad", "c"):
            store.save_job(info(name), b"{}", durable=True)
    with pytest.raises(InternalError, match="no such luck"):
        await store.flush()
    await store.flush()
    assert {j.job_id for j in await store.jobs(state=None, limit=9)} == {"a", "b", "c"}
    store.close()


async def test_a_closed_store_does_not_keep_anyone_waiting(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "rbee.db")
    store.close()
    with pytest.raises(InternalError, match="closed"):
        await store.flush()


async def test_a_sound_database_that_is_locked_stays_where_it_is(tmp_path: Path) -> None:
    path = tmp_path / "rbee.db"
    Store.open(path).close()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("PRAGMA locking_mode = EXCLUSIVE")
    other.execute("PRAGMA journal_mode = DELETE")
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(InternalError, match=r"rbee\.db.*locked") as caught:
        Store.open(path, patience=0.05)
    assert "Another program" in caught.value.action
    other.close()
    Store.open(path).close()
    assert names(tmp_path) == ["rbee.db"]


async def test_a_folder_or_a_foreign_database_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "folder.db").mkdir()
    with pytest.raises(InternalError, match=r"folder\.db.*directory"):
        Store.open(tmp_path / "folder.db")
    foreign = tmp_path / "foreign.db"
    with sqlite3.connect(foreign) as db:
        db.execute("CREATE TABLE jobs (mine)")
    db.close()
    with pytest.raises(InternalError, match=r"foreign\.db.*already exists"):
        Store.open(foreign)
    assert not [name for name in names(tmp_path) if "corrupt" in name]


async def test_a_damaged_page_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "rbee.db"
    store = Store.open(path)
    for number in range(200):
        store.save_job(info(f"job-{number}"), b"x" * 200, durable=True)
    store.close()
    damaged = bytearray(path.read_bytes())
    damaged[4096:12288] = b"\xff" * 8192
    path.write_bytes(damaged)
    store = Store.open(path)
    assert store.set_aside is not None
    assert store.set_aside.read_bytes() == damaged
    store.close()


async def test_an_unreadable_row_hides_no_other(tmp_path: Path) -> None:
    path = tmp_path / "rbee.db"
    store = Store.open(path)
    for name in ("a", "bad", "worse", "c"):
        store.save_job(info(name), b'{"of":"another version"', durable=True)
    await store.flush()
    with sqlite3.connect(path) as db:
        db.execute("UPDATE jobs SET info = x'7bff', stream = x'7bff' WHERE job_id = 'bad'")
        db.execute("UPDATE jobs SET info = 7, request = 'text' WHERE job_id = 'worse'")
    db.close()
    assert {j.job_id for j in await store.jobs(state=None, limit=9)} == {"a", "c"}
    left = await store.unfinished()
    assert {(u.info.job_id, u.request) for u in left} == {
        ("a", b'{"of":"another version"'),
        ("c", b'{"of":"another version"'),
    }
    assert await store.job("bad") is None
    assert await store.stream("bad") is None
    store.close()


async def test_a_purge_of_everything_leaves_no_text_in_any_file(tmp_path: Path) -> None:
    secret = b"the bees know 5371"
    store = Store.open(tmp_path / "rbee.db")
    store.save_job(info("a"), secret, durable=True)
    await store.flush()
    assert secret in content(tmp_path)
    store.save_job(info("a", JobState.COMPLETED), secret, durable=True)
    store.purge(before=2.0, keep=0)
    await store.flush()
    assert await store.job("a") is None
    assert secret not in content(tmp_path)
    store.close()
