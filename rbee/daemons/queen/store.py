"""The queen's memory on disk: jobs and their streams, in SQLite behind one batching writer.

Owns the schema, its migrations and the file. Writes are queued to one thread that commits whatever
has gathered in one transaction; nothing on the token path waits for it. Never interprets a job.
"""

from __future__ import annotations

import logging
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import msgspec

from rbee.errors import InternalError, VersionMismatch
from rbee.protocol.base import encode
from rbee.protocol.jobs import JobInfo

log = logging.getLogger("rbee.store")

MIGRATIONS = (
    """
    CREATE TABLE jobs (
        job_id TEXT PRIMARY KEY,
        created_at REAL NOT NULL,
        finished_at REAL,
        state TEXT NOT NULL,
        durable INTEGER NOT NULL,
        request BLOB NOT NULL,
        info BLOB NOT NULL,
        stream BLOB
    ) WITHOUT ROWID;
    CREATE INDEX jobs_by_time ON jobs (created_at);
    CREATE INDEX jobs_unfinished ON jobs (created_at) WHERE finished_at IS NULL;
    """,
)
"""Step n brings a database from version n to n + 1 (`PRAGMA user_version`)."""

Write = Callable[[sqlite3.Connection], object]


@dataclass(frozen=True)
class Unfinished:
    """A job that had not ended when the last queen went. `request` is the operation's JSON."""

    info: JobInfo
    request: bytes
    durable: bool


class Store:
    """One database file. Open it with `Store.open`, close it with `close`."""

    def __init__(self, path: Path, connection: sqlite3.Connection, set_aside: Path | None) -> None:
        self.path = path
        self.set_aside = set_aside
        """Where an unreadable database was moved to; None normally."""
        self._writes: queue.SimpleQueue[Write | None] = queue.SimpleQueue()
        self._after: list[Callable[[Exception | None], object]] = []
        self._reader = connection
        self._read_lock = threading.Lock()
        self._thread = threading.Thread(target=self._write_all, name="store", daemon=True)
        self._thread.start()

    @staticmethod
    def open(path: Path) -> Store:
        """Open or create; a file that is no sound database is set aside, never deleted.

        Raises VersionMismatch for a database of a newer rbee.
        """
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            return Store(path, _connect(path), None)
        except sqlite3.DatabaseError as exc:
            aside = path.with_name(f"{path.name}.corrupt-{time.time_ns()}")
            log.error("database %s is not usable (%s), set aside as %s", path, exc, aside)
            for suffix in ("", "-wal", "-shm"):
                source = path.with_name(path.name + suffix)
                if source.exists():
                    source.rename(aside.with_name(aside.name + suffix))
            return Store(path, _connect(path), aside)

    def save_job(self, info: JobInfo, request: bytes, *, durable: bool) -> None:
        """Write a job's present state, soon."""
        row = (
            info.job_id, info.created_at, info.finished_at, info.state, durable, request,
            encode(info),
        )  # fmt: skip
        self._writes.put(
            lambda db: db.execute(
                "INSERT INTO jobs VALUES (?, ?, ?, ?, ?, ?, ?, NULL) ON CONFLICT (job_id) DO UPDATE"
                " SET finished_at = excluded.finished_at, state = excluded.state,"
                " info = excluded.info",
                row,
            )
        )

    def save_stream(self, job_id: str, events: list[tuple[str, bytes]]) -> None:
        """Write a finished job's whole stream, soon."""
        blob = encode([(kind, msgspec.Raw(data)) for kind, data in events])
        self._writes.put(
            lambda db: db.execute("UPDATE jobs SET stream = ? WHERE job_id = ?", (blob, job_id))
        )

    def purge(self, *, before: float, keep: int) -> None:
        """Drop finished jobs that ended before a UTC time or are not among the newest `keep`."""
        self._writes.put(
            lambda db: db.execute(
                "DELETE FROM jobs WHERE finished_at IS NOT NULL AND (finished_at < ? OR job_id NOT"
                " IN (SELECT job_id FROM jobs WHERE finished_at IS NOT NULL"
                " ORDER BY created_at DESC LIMIT ?))",
                (before, keep),
            )
        )

    async def flush(self) -> None:
        """Return when everything written so far is on disk. Raises InternalError when it is not."""
        done = anyio.Event()
        token = anyio.lowlevel.current_token()
        failed: list[Exception] = []

        def told(error: Exception | None) -> None:
            if error is not None:
                failed.append(error)
            anyio.from_thread.run_sync(done.set, token=token)

        self._writes.put(lambda _db: self._after.append(told))
        await done.wait()
        if failed:
            raise InternalError(
                f"{self.path} cannot be written: {failed[0]}",
                action="Check the disk's free space and the file's rights.",
            )

    async def job(self, job_id: str) -> JobInfo | None:
        """One job, None when it is not (or no longer) known."""
        rows = await self._read("SELECT info FROM jobs WHERE job_id = ?", (job_id,))
        return msgspec.json.decode(rows[0][0], type=JobInfo) if rows else None

    async def jobs(self, *, state: str | None, limit: int) -> list[JobInfo]:
        """Jobs, newest first."""
        where = "WHERE state = ?" if state else ""
        args: tuple[Any, ...] = (state, limit) if state else (limit,)
        rows = await self._read(
            f"SELECT info FROM jobs {where} ORDER BY created_at DESC LIMIT ?",
            args,
        )
        return [msgspec.json.decode(row[0], type=JobInfo) for row in rows]

    async def stream(self, job_id: str) -> list[tuple[str, bytes]] | None:
        """A finished job's stream as (event type, JSON), None when there is none."""
        rows = await self._read("SELECT stream FROM jobs WHERE job_id = ?", (job_id,))
        if not rows or rows[0][0] is None:
            return None
        events = msgspec.json.decode(rows[0][0], type=list[tuple[str, msgspec.Raw]])
        return [(kind, bytes(raw)) for kind, raw in events]

    async def unfinished(self) -> list[Unfinished]:
        """Jobs that had not ended, oldest first."""
        rows = await self._read(
            "SELECT info, request, durable FROM jobs WHERE finished_at IS NULL ORDER BY created_at",
            (),
        )
        return [
            Unfinished(msgspec.json.decode(info, type=JobInfo), bytes(request), bool(durable))
            for info, request, durable in rows
        ]

    def close(self) -> None:
        """Write what is left and close; blocks for at most 5 s."""
        self._writes.put(None)
        self._thread.join(5.0)
        self._reader.close()

    async def _read(self, sql: str, args: tuple[Any, ...]) -> list[Any]:
        def run() -> list[Any]:
            with self._read_lock:
                return self._reader.execute(sql, args).fetchall()

        return await anyio.to_thread.run_sync(run)

    def _write_all(self) -> None:
        db = _connect(self.path)
        try:
            while (first := self._writes.get()) is not None:
                last = self._commit(db, first)
                if last:
                    return
        finally:
            db.close()

    def _commit(self, db: sqlite3.Connection, first: Write) -> bool:
        """One transaction of all that waits; True when the end mark was among it."""
        end = False
        error: Exception | None = None
        try:
            with db:
                db.execute("BEGIN")
                first(db)
                while not self._writes.empty():
                    write = self._writes.get()
                    if write is None:
                        end = True
                        break
                    write(db)
        except Exception as exc:
            log.exception("writing to %s failed", self.path)
            error = exc
        after, self._after = self._after, []
        for call in after:
            try:
                call(error)
            except RuntimeError:  # the loop that waited is gone
                log.debug("a flush was given up")
        return end


def _connect(path: Path) -> sqlite3.Connection:
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
    try:
        if db.execute("PRAGMA quick_check").fetchone()[0] != "ok":
            raise sqlite3.DatabaseError("quick_check failed")
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version > len(MIGRATIONS):
            raise VersionMismatch(
                f"{path} was written by a newer rbee (schema {version}, known {len(MIGRATIONS)})",
                action="Use the newer rbee again, or move the file away.",
            )
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        for number, script in enumerate(MIGRATIONS[version:], version + 1):
            db.executescript(f"BEGIN; {script}; PRAGMA user_version = {number}; COMMIT;")
    except BaseException:
        db.close()
        raise
    return db
