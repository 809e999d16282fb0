"""The queen's database and the streams of jobs."""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from msgspec.structs import replace

from rbee.daemons.queen import store as store_module
from rbee.daemons.queen.database import MIGRATIONS
from rbee.daemons.queen.store import Store
from rbee.daemons.queen.streams import JobStream, Streams
from rbee.errors import InternalError, NotFound, VersionMismatch
from rbee.protocol.base import encode
from rbee.protocol.jobs import EventType, JobInfo, JobState, TokenData
from tests.support.home import wait_for

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


@contextmanager
def locked(path: Path) -> Generator[sqlite3.Connection]:
    """Another program in the middle of a write."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    try:
        yield other
    finally:
        other.close()


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


async def until(condition: Callable[[], bool]) -> None:
    await anyio.to_thread.run_sync(lambda: wait_for(condition))


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def content(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.iterdir())


# ---- admissions -------------------------------------------------------------------------------


async def test_an_accepted_job_is_on_disk_and_many_share_a_transaction(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "rbee.db")
    async with anyio.create_task_group() as tasks:
        for number in range(200):
            tasks.start_soon(store.accept, info(f"job-{number}"), b"{}")
    with sqlite3.connect(store.path) as db:
        assert db.execute("SELECT count(*) FROM jobs WHERE durable").fetchone() == (200,)
    db.close()
    store.close()


async def test_an_admission_waits_for_a_held_lock_so_long_and_leaves_no_job(
    tmp_path: Path,
) -> None:
    store = Store.open(tmp_path / "rbee.db")
    with locked(store.path):
        with pytest.raises(InternalError, match="another program holds it") as caught:
            await store.accept(info("refused"), b"{}", limit=0.05)
        assert "End the other program" in caught.value.action
        with pytest.raises(InternalError, match="another program holds it"):
            await store.flush(limit=0.05)
    await store.accept(info("accepted"), b"{}")
    assert [job.job_id for job in await store.jobs(limit=9)] == ["accepted"]
    store.close()


async def test_an_admission_that_is_given_up_leaves_no_job(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "rbee.db")
    with locked(store.path):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(store.accept, info("waits"), b"{}")
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
    await store.flush()
    assert await store.job("waits") is None
    await store.accept(info("kept"), b"{}")
    store.withdraw("kept")
    await store.flush()
    assert await store.unfinished() == []
    store.close()


async def test_an_admission_hears_of_its_own_fault_and_of_no_other(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "rbee.db", patience=5.0)
    with sqlite3.connect(store.path) as db:
        db.execute(
            "CREATE TRIGGER bad BEFORE INSERT ON jobs WHEN NEW.job_id LIKE 'bad%'"
            " BEGIN SELECT RAISE(ABORT, 'no such luck'); END"
        )
    db.close()
    failed: dict[str, str] = {}

    async def accept(name: str) -> None:
        try:
            await store.accept(info(name), b"{}")
        except InternalError as exc:
            failed[name] = exc.message

    async with anyio.create_task_group() as tasks:
        with locked(store.path):  # so that all gather in one batch
            for name in ("a", "bad-1", "b", "bad-2"):
                tasks.start_soon(accept, name)
            await anyio.wait_all_tasks_blocked()
    assert sorted(failed) == ["bad-1", "bad-2"]
    assert all("no such luck" in message for message in failed.values())
    assert {job.job_id for job in await store.jobs(limit=9)} == {"a", "b"}
    await store.flush()  # everybody concerned has been told
    assert store.losses == 2
    store.close()


# ---- dead letters, requests, decisions --------------------------------------------------------


async def test_jobs_that_were_given_up_are_found_and_their_request_is_kept(
    tmp_path: Path,
) -> None:
    store = Store.open(tmp_path / "rbee.db")
    for number in range(4):
        dead = number % 2 == 1
        given_up = replace(info(f"j{number}", JobState.FAILED, at=float(number)), dead=dead)
        store.save_job(given_up, b'{"operation":"infer"}', durable=True)
    await store.flush()

    async def found(**what: Any) -> list[str]:
        return [job.job_id for job in await store.jobs(limit=9, **what)]

    assert await found(dead=True) == ["j3", "j1"]
    assert await found(dead=False, state="failed") == ["j2", "j0"]
    assert await found(dead=True, state="completed") == []
    assert await found() == ["j3", "j2", "j1", "j0"]
    request = await store.request("j3")
    assert request is not None
    assert (request[0], request[1].dead) == (b'{"operation":"infer"}', True)
    assert await store.request("nope") is None
    with sqlite3.connect(store.path) as db:
        plan = db.execute(
            "EXPLAIN QUERY PLAN SELECT info FROM jobs WHERE dead ORDER BY created_at DESC LIMIT 9"
        ).fetchall()
    db.close()
    assert "jobs_dead" in str(plan)
    store.close()


async def test_what_is_true_for_a_moment_only_is_not_stored(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "rbee.db")
    store.save_job(replace(info("a"), queue_position=3, eta_ms=9000), b"{}", durable=True)
    await store.flush()
    kept = await store.job("a")
    assert kept is not None
    assert (kept.queue_position, kept.eta_ms) == (None, None)
    store.close()


async def test_the_last_decisions_of_the_last_jobs_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "DECIDED_JOBS", 5)
    monkeypatch.setattr(store_module, "PRUNE_EVERY", 50)
    store = Store.open(tmp_path / "rbee.db")
    for number in range(51):
        store.save_decision(f"j{number // 10}", float(number), b"%d" % number)
    for number in range(100, 149):
        store.save_decision(f"j{number}", float(number), b"%d" % number)
    await store.flush()
    assert await store.decisions("j3") == [b"%d" % n for n in range(32, 40)]
    store.save_decision("last", 1.0, b"last")  # the 101st: prunes what was there before it
    await store.flush()
    assert await store.decisions("j3") == []
    assert await store.decisions("j148") == [b"148"]
    assert await store.decisions("last") == [b"last"]
    with sqlite3.connect(store.path) as db:
        assert db.execute("SELECT count(*) FROM decisions").fetchone() == (6,)
    db.close()
    store.close()


async def test_a_purge_of_everything_takes_the_decisions_too(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "rbee.db")
    for name, state in (("ended", JobState.COMPLETED), ("waits", JobState.QUEUED)):
        store.save_job(info(name, state), b"{}", durable=True)
        store.save_decision(name, 1.0, b"because")
    store.purge(before=2.0, keep=0)
    await store.flush()
    assert await store.decisions("ended") == []
    assert await store.decisions("waits") == [b"because"]
    store.close()


async def test_a_database_of_the_first_schema_is_brought_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "rbee.db"
    with sqlite3.connect(path) as db:
        db.executescript(MIGRATIONS[0])
        row = ("old", 1.0, None, "queued", 1, b"{}", encode(info("old")), None)
        db.execute("INSERT INTO jobs VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
        db.execute("PRAGMA user_version = 1")
    db.close()
    store = Store.open(path)
    assert [left.info.job_id for left in await store.unfinished()] == ["old"]
    assert await store.jobs(dead=True, limit=9) == []
    store.save_decision("old", 1.0, b"because")
    await store.flush()
    assert await store.decisions("old") == [b"because"]
    store.close()


async def test_of_rows_that_are_written_together_only_the_faulty_one_is_lost(
    tmp_path: Path,
) -> None:
    store = Store.open(tmp_path / "rbee.db")
    names = [f"j{number}" for number in range(11)]
    for name in names:
        broken: Any = None if name == "j3" else name.encode()
        store.save_decision(name, 1.0, broken)
        events = [("token", b'{"t":"%b","i":0}' % name.encode())]
        store.save_ended(info(name, JobState.COMPLETED), b"{}", events, durable=False)
    with pytest.raises(InternalError):
        await store.flush()
    for name in names:
        assert await store.stream(name) == [("token", b'{"t":"%b","i":0}' % name.encode())]
        assert await store.decisions(name) == ([] if name == "j3" else [name.encode()])
    store.close()


async def test_a_job_that_ends_at_once_is_written_as_it_ended(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "rbee.db")
    asked: list[str] = []

    def now(name: str) -> tuple[JobInfo, bytes]:
        asked.append(name)
        return info(name, JobState.RUNNING), b"{}"

    store.save_changed("quick", lambda: now("quick"))
    store.save_changed("slow", lambda: now("slow"))
    store.save_ended(info("quick", JobState.COMPLETED), b"{}", [], durable=False)
    await store.flush()
    states = {job.job_id: str(job.state) for job in await store.jobs(limit=9)}
    assert states == {"quick": "completed", "slow": "running"}
    assert asked == ["slow"]
    store.close()
