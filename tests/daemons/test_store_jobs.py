"""What the queen's database keeps of jobs: admissions, ends, requests, decisions."""

from __future__ import annotations

import sqlite3
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
from rbee.errors import InternalError
from rbee.protocol.base import encode
from rbee.protocol.jobs import JobInfo, JobState
from tests.daemons.stores import info, locked

pytestmark = pytest.mark.anyio


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
