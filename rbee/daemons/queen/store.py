"""The queen's memory on disk: jobs and their streams, in SQLite behind one batching writer.

Owns what is read and written. Writes are queued to one thread that commits whatever has gathered in
one transaction; nothing on the token path waits for it. Never interprets a job.
"""

from __future__ import annotations

import logging
import queue
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import msgspec

from rbee.daemons.queen.database import PATIENCE, is_busy, open_database, unusable
from rbee.errors import InternalError, ValidationFailed
from rbee.protocol.base import decode, encode
from rbee.protocol.jobs import JobInfo

log = logging.getLogger("rbee.store")

TRIES = 3
"""So often is a batch tried while another process holds the lock."""
CLEANING_LIMIT = 1.0
"""Seconds that overwriting the log of changes waits for readers; the next purge tries again."""

Told = Callable[[Exception | None], object]


@dataclass(frozen=True)
class _Write:
    """One statement. `erases`: what it deletes must not stay in the log of changes either."""

    sql: str
    args: tuple[Any, ...]
    erases: bool = False


@dataclass(frozen=True)
class _Flush:
    """A mark in the queue: `told` hears whether all before it is on disk."""

    told: Told


@dataclass(frozen=True)
class Unfinished:
    """A job that had not ended when the last queen went. `request` is the operation's JSON."""

    info: JobInfo
    request: bytes
    durable: bool


class Store:
    """One database file. Open it with `Store.open`, close it with `close`."""

    def __init__(
        self,
        path: Path,
        reader: sqlite3.Connection,
        writer: sqlite3.Connection,
        set_aside: Path | None,
    ) -> None:
        self.path = path
        self.set_aside = set_aside
        """Where a damaged database was moved to; None normally."""
        self._queue: queue.SimpleQueue[_Write | _Flush | None] = queue.SimpleQueue()
        self._reader = reader
        self._writer = writer
        self._read_lock = threading.Lock()
        self._lost: Exception | None = None
        """Why a write was lost since the last flush; only the writer's thread uses it."""
        self._uncleaned = False
        self._thread = threading.Thread(target=self._write_all, name="store", daemon=True)
        self._thread.start()

    @staticmethod
    def open(path: Path, *, patience: float = PATIENCE) -> Store:
        """Open or create; a damaged file is set aside, never deleted.

        Raises VersionMismatch for a database of a newer rbee, InternalError for one that is sound
        as far as can be seen but cannot be used now (locked, disk full, no rights, a folder).
        """
        reader, writer, aside = open_database(path, patience)
        return Store(path, reader, writer, aside)

    def save_job(self, info: JobInfo, request: bytes, *, durable: bool) -> None:
        """Write a job's present state, soon."""
        row = (
            info.job_id, info.created_at, info.finished_at, info.state, durable, request,
            encode(info),
        )  # fmt: skip
        self._queue.put(
            _Write(
                "INSERT INTO jobs VALUES (?, ?, ?, ?, ?, ?, ?, NULL) ON CONFLICT (job_id) DO UPDATE"
                " SET finished_at = excluded.finished_at, state = excluded.state,"
                " info = excluded.info",
                row,
            )
        )

    def save_stream(self, job_id: str, events: list[tuple[str, bytes]]) -> None:
        """Write a finished job's whole stream, soon."""
        blob = encode([(kind, msgspec.Raw(data)) for kind, data in events])
        self._queue.put(_Write("UPDATE jobs SET stream = ? WHERE job_id = ?", (blob, job_id)))

    def purge(self, *, before: float, keep: int) -> None:
        """Drop finished jobs that ended before a UTC time or are not among the newest `keep`.

        With a `keep` of 0 nothing of their text stays in any file.
        """
        self._queue.put(
            _Write(
                "DELETE FROM jobs WHERE finished_at IS NOT NULL AND (finished_at < ? OR job_id NOT"
                " IN (SELECT job_id FROM jobs WHERE finished_at IS NOT NULL"
                " ORDER BY created_at DESC LIMIT ?))",
                (before, keep),
                erases=keep == 0,
            )
        )

    async def flush(self) -> None:
        """Return when everything written so far is on disk.

        Raises InternalError when any write since the last flush was lost.
        """
        done = anyio.Event()
        token = anyio.lowlevel.current_token()
        failed: list[Exception] = []

        def told(error: Exception | None) -> None:
            if error is not None:
                failed.append(error)
            anyio.from_thread.run_sync(done.set, token=token)

        if not self._thread.is_alive():
            raise InternalError(f"{self.path} is closed")
        self._queue.put(_Flush(told))
        await done.wait()
        if failed:
            raise unusable(self.path, failed[0])

    async def job(self, job_id: str) -> JobInfo | None:
        """One job, None when it is not (or no longer) known."""
        rows = await self._read("SELECT info FROM jobs WHERE job_id = ?", (job_id,))
        return next(iter(_infos(rows)), None)

    async def jobs(self, *, state: str | None, limit: int) -> list[JobInfo]:
        """Jobs, newest first."""
        where = "WHERE state = ?" if state else ""
        args: tuple[Any, ...] = (state, limit) if state else (limit,)
        rows = await self._read(
            f"SELECT info FROM jobs {where} ORDER BY created_at DESC LIMIT ?",
            args,
        )
        return _infos(rows)

    async def stream(self, job_id: str) -> list[tuple[str, bytes]] | None:
        """A finished job's stream as (event type, JSON), None when there is none to read."""
        rows = await self._read("SELECT stream FROM jobs WHERE job_id = ?", (job_id,))
        if not rows or rows[0][0] is None:
            return None
        try:
            events = decode(rows[0][0], list[tuple[str, msgspec.Raw]])
        except (ValidationFailed, TypeError) as exc:
            log.error("the stream of job %s is unreadable: %s", job_id, exc)
            return None
        return [(kind, bytes(raw)) for kind, raw in events]

    async def unfinished(self) -> list[Unfinished]:
        """Jobs that had not ended, oldest first; `request` is as it was written, unchecked."""
        rows = await self._read(
            "SELECT info, CAST(request AS BLOB), durable FROM jobs WHERE finished_at IS NULL"
            " ORDER BY created_at",
            (),
        )
        return [
            Unfinished(info, request, bool(durable))
            for row, request, durable in rows
            for info in _infos([(row,)])
        ]

    def close(self) -> None:
        """Write what is left and close; blocks for at most 5 s."""
        self._queue.put(None)
        self._thread.join(5.0)
        self._reader.close()

    async def _read(self, sql: str, args: tuple[Any, ...]) -> list[Any]:
        def run() -> list[Any]:
            with self._read_lock:
                return self._reader.execute(sql, args).fetchall()

        return await anyio.to_thread.run_sync(run)

    def _write_all(self) -> None:
        try:
            end = False
            while not end:
                writes, flushes, end = self._gather()
                if writes:
                    self._commit(writes)
                    self._clean()
                if flushes:
                    lost, self._lost = self._lost, None
                    for flush in flushes:
                        try:
                            flush.told(lost)
                        except RuntimeError:  # the loop that waited is gone
                            log.debug("a flush was given up")
        finally:
            self._writer.close()

    def _gather(self) -> tuple[list[_Write], list[_Flush], bool]:
        """All that waits, at least one; True when the end mark was among it."""
        writes: list[_Write] = []
        flushes: list[_Flush] = []
        while True:
            item = self._queue.get()
            if item is None:
                return writes, flushes, True
            if isinstance(item, _Write):
                writes.append(item)
            else:
                flushes.append(item)
            if self._queue.empty():
                return writes, flushes, False

    def _commit(self, writes: list[_Write]) -> None:
        """One transaction of all; when one write is at fault, one for each, to lose only that."""
        try:
            self._transaction(writes)
        except sqlite3.Error as exc:
            if len(writes) == 1 or is_busy(exc):
                self._lose(writes, exc)
                return
            log.warning("writing to %s failed (%s); one by one now", self.path, exc)
        except Exception as exc:
            self._lose(writes, exc)
            return
        else:
            return
        for number, write in enumerate(writes):
            try:
                self._transaction([write])
            except Exception as exc:
                if isinstance(exc, sqlite3.Error) and is_busy(exc):
                    self._lose(writes[number:], exc)
                    return
                self._lose([write], exc)

    def _transaction(self, writes: list[_Write]) -> None:
        """Raises sqlite3.Error when nothing of it is written; a held lock only after TRIES."""
        db = self._writer
        for left in reversed(range(TRIES)):
            erased = False
            try:
                db.execute("BEGIN IMMEDIATE")
                for write in writes:
                    count = db.execute(write.sql, write.args).rowcount
                    erased |= write.erases and count > 0
                db.execute("COMMIT")
            except BaseException as exc:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                if not left or not isinstance(exc, sqlite3.Error) or not is_busy(exc):
                    raise
                log.warning("%s is locked by another process; trying again", self.path)
            else:
                self._uncleaned |= erased
                return

    def _lose(self, writes: list[_Write], exc: Exception) -> None:
        log.error("%d writes to %s were lost", len(writes), self.path, exc_info=exc)
        self._lost = exc

    def _clean(self) -> None:
        """Empty the log of changes after an erasure: it holds older copies of what was deleted."""
        if not self._uncleaned:
            return
        db = self._writer
        try:
            usual = db.execute("PRAGMA busy_timeout").fetchone()[0]
            db.execute(f"PRAGMA busy_timeout = {round(CLEANING_LIMIT * 1000)}")
            try:
                self._uncleaned = bool(db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0])
            finally:
                db.execute(f"PRAGMA busy_timeout = {usual}")
        except sqlite3.Error as exc:
            log.warning("the log of %s was not emptied: %s", self.path, exc)


def _infos(rows: list[Any]) -> list[JobInfo]:
    """The first column of each row; one that cannot be read must not hide the others."""
    infos: list[JobInfo] = []
    for row in rows:
        try:
            infos.append(decode(row[0], JobInfo))
        except (ValidationFailed, TypeError) as exc:
            log.error("a job in the database is unreadable and left out: %s", exc)
    return infos
