"""The queen's memory on disk: jobs, their streams and decisions, in SQLite behind one writer.

Owns what is read and written. Writes are queued to one thread that commits whatever has gathered in
one transaction; nothing on the token path waits for it. Never interprets a job.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import anyio.to_thread
import msgspec

from rbee.daemons.queen.database import PATIENCE, open_database
from rbee.daemons.queen.writer import Write, Writer
from rbee.errors import ValidationFailed
from rbee.protocol.base import decode, encode
from rbee.protocol.jobs import JobInfo

log = logging.getLogger("rbee.store")

FLUSH_LIMIT = 5.0
"""Seconds that anybody waits for a write."""
DECIDED_JOBS = 10_000
"""Of so many jobs the decisions are kept, the latest."""
DECISIONS_EACH = 8
SOON = 0.05
"""Seconds that what nobody waits for may gather before the writer gets it."""
MOST_ROWS = 6
"""Two to the power of this are written by one statement, at most."""
PRUNE_EVERY = 1000
"""So many more decisions may be there before those in excess are dropped."""

_SAVE_JOB = (
    "INSERT INTO jobs (job_id, created_at, finished_at, state, dead, durable, request, info)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (job_id) DO UPDATE"
    " SET finished_at = excluded.finished_at, state = excluded.state, dead = excluded.dead,"
    " info = excluded.info"
)


class _Rows(NamedTuple):
    """A statement that writes any number of rows: one for many is one turn of the database's, and
    of the interpreter's lock, instead of one for each."""

    head: str
    row: str
    tail: str = ""

    def write(self, *args: Any) -> Write:
        """Of one row."""
        return Write(self.head + self.row + self.tail, args)

    def joined(self, writes: list[Write]) -> list[Write]:
        """The same in as few statements as there are powers of two in their number: those are
        prepared once."""
        found: list[Write] = []
        at = 0
        while at < len(writes):
            count = 1 << min(MOST_ROWS, (len(writes) - at).bit_length() - 1)
            parts = tuple(writes[at : at + count])
            rows = ", ".join([self.row] * count)
            args = tuple(arg for part in parts for arg in part.args)
            found.append(Write(f"{self.head}{rows}{self.tail}", args, parts=parts))
            at += count
        return found


_SAVE_ENDED = _Rows(
    "INSERT INTO jobs"
    " (job_id, created_at, finished_at, state, dead, durable, request, info, stream) VALUES ",
    "(?, ?, ?, ?, ?, ?, ?, ?, ?)",
    " ON CONFLICT (job_id) DO UPDATE"
    " SET finished_at = excluded.finished_at, state = excluded.state, dead = excluded.dead,"
    " info = excluded.info, stream = excluded.stream",
)
_SAVE_DECISION = _Rows("INSERT INTO decisions (job_id, at, body) VALUES ", "(?, ?, ?)")
_SAVE_STREAM = "UPDATE jobs SET stream = ? WHERE job_id = ?"
_WITHDRAW = "DELETE FROM jobs WHERE job_id = ?"
_PRUNE_JOBS = (
    "DELETE FROM decisions WHERE job_id NOT IN (SELECT job_id FROM decisions"
    " GROUP BY job_id ORDER BY max(number) DESC LIMIT ?)"
)
_PRUNE_EACH = (
    "DELETE FROM decisions WHERE number IN (SELECT number FROM (SELECT number, row_number() OVER"
    " (PARTITION BY job_id ORDER BY number DESC) AS back FROM decisions) WHERE back > ?)"
)


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
        self._reader = reader
        self._read_lock = threading.Lock()
        self._writer = Writer(path, writer)
        self._decisions = 0
        self._ended: list[Write] = []
        self._decided: list[Write] = []
        self._held: list[Write] = []
        self._changed: dict[str, Callable[[], tuple[JobInfo, bytes]]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._due = False

    @staticmethod
    def open(path: Path, *, patience: float = PATIENCE) -> Store:
        """Open or create; a damaged file is set aside, never deleted.

        Raises VersionMismatch for a database of a newer rbee, InternalError for one that is sound
        as far as can be seen but cannot be used now (locked, disk full, no rights, a folder).
        """
        reader, writer, aside = open_database(path, patience)
        return Store(path, reader, writer, aside)

    @property
    def losses(self) -> int:
        """How often writes were lost; grows before anybody is told of a later write."""
        return self._writer.losses

    async def accept(self, info: JobInfo, request: bytes, *, limit: float = FLUSH_LIMIT) -> None:
        """Write a new durable job and return when it is on disk.

        Raises InternalError when that fails or takes longer than `limit` seconds; then, as when
        this is cancelled, no later queen will find the job.
        """
        undo = Write(_WITHDRAW, (info.job_id,), erases=True)
        row = _row(info, request, durable=True)
        await self._writer.confirmed(_SAVE_JOB, row, undo=undo, limit=limit, put=self._at_once)

    def withdraw(self, job_id: str) -> None:
        """Forget a job that was written and then not accepted after all."""
        self._changed.pop(job_id, None)
        self._put(Write(_WITHDRAW, (job_id,), erases=True))

    def save_job(self, info: JobInfo, request: bytes, *, durable: bool) -> None:
        """Write a job's present state, soon."""
        self._put(Write(_SAVE_JOB, _row(info, request, durable=durable)))

    def save_changed(self, job_id: str, now: Callable[[], tuple[JobInfo, bytes]]) -> None:
        """Write a job's state and request as `now` gives them when they are written, soon.

        For jobs that no later queen goes on with: one that ends at once is written once.
        """
        self._changed[job_id] = now
        self._wait()

    def save_ended(
        self, info: JobInfo, request: bytes, events: list[tuple[str, bytes]], *, durable: bool
    ) -> None:
        """Write a finished job's state and its whole stream, soon."""
        self._changed.pop(info.job_id, None)
        row = _row(info, request, durable=durable)
        self._ended.append(_SAVE_ENDED.write(*row, _stream(events)))
        self._wait()

    def save_stream(self, job_id: str, events: list[tuple[str, bytes]]) -> None:
        """Write a finished job's whole stream, soon."""
        self._hold(Write(_SAVE_STREAM, (_stream(events), job_id)))

    def save_decision(self, job_id: str, at: float, body: bytes) -> None:
        """Keep a decision about a job, soon; `at` is UTC seconds."""
        if self._decisions % PRUNE_EVERY == 0:
            self._hold(Write(_PRUNE_JOBS, (DECIDED_JOBS,)))
            self._hold(Write(_PRUNE_EACH, (DECISIONS_EACH,)))
        self._decisions += 1
        self._decided.append(_SAVE_DECISION.write(job_id, at, body))
        self._wait()

    def purge(self, *, before: float, keep: int) -> None:
        """Drop finished jobs that ended before a UTC time or are not among the newest `keep`.

        With a `keep` of 0 nothing of their text stays in any file, and no decision about them.
        """
        self._put(
            Write(
                "DELETE FROM jobs WHERE finished_at IS NOT NULL AND (finished_at < ? OR job_id NOT"
                " IN (SELECT job_id FROM jobs WHERE finished_at IS NOT NULL"
                " ORDER BY created_at DESC LIMIT ?))",
                (before, keep),
                erases=keep == 0,
            )
        )
        if keep == 0:
            gone = "DELETE FROM decisions WHERE job_id NOT IN (SELECT job_id FROM jobs)"
            self._put(Write(gone, (), erases=True))

    async def flush(self, *, limit: float = FLUSH_LIMIT) -> None:
        """Return when everything written so far is on disk.

        Raises InternalError when any write since the last flush was lost, or after `limit` seconds.
        """
        self._release()
        await self._writer.flush(limit)

    def after(self, told: Callable[[], None]) -> None:
        """Call in this loop when everything written so far is on disk or lost, see `losses`."""
        self._release()
        self._writer.after(told)

    async def job(self, job_id: str) -> JobInfo | None:
        """One job, None when it is not (or no longer) known."""
        rows = await self._read("SELECT info FROM jobs WHERE job_id = ?", (job_id,))
        return next(iter(_infos(rows)), None)

    async def request(self, job_id: str) -> tuple[bytes, JobInfo] | None:
        """What a job was asked, unchecked JSON, and its state; None when it is not known."""
        rows = await self._read(
            "SELECT info, CAST(request AS BLOB) FROM jobs WHERE job_id = ?", (job_id,)
        )
        return next(((row[1], info) for row in rows for info in _infos([row])), None)

    async def jobs(
        self, *, state: str | None = None, dead: bool | None = None, limit: int
    ) -> list[JobInfo]:
        """Jobs, newest first. `dead`: only those that were given up, or none of those."""
        tests: list[str] = []
        args: list[object] = []
        if state is not None:
            tests.append("state = ?")
            args.append(state)
        if dead is not None:
            tests.append("dead" if dead else "NOT dead")
        where = f"WHERE {' AND '.join(tests)}" if tests else ""
        rows = await self._read(
            f"SELECT info FROM jobs {where} ORDER BY created_at DESC LIMIT ?", (*args, limit)
        )
        return _infos(rows)

    async def decisions(self, job_id: str) -> list[bytes]:
        """The last decisions about a job, the oldest first."""
        rows = await self._read(
            "SELECT body FROM decisions WHERE job_id = ? ORDER BY number DESC LIMIT ?",
            (job_id, DECISIONS_EACH),
        )
        return [row[0] for row in reversed(rows)]

    async def latest_decisions(self, limit: int) -> list[bytes]:
        """The last decisions about any job, the newest first."""
        rows = await self._read("SELECT body FROM decisions ORDER BY number DESC LIMIT ?", (limit,))
        return [row[0] for row in rows]

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
            " ORDER BY created_at, job_id",
            (),
        )
        return [
            Unfinished(info, request, bool(durable))
            for row, request, durable in rows
            for info in _infos([(row,)])
        ]

    def close(self) -> None:
        """Write what is left and close, in any thread; blocks for at most 5 s."""
        self._timer = None  # of the loop's; when it comes there is nothing to do
        self._release()
        self._writer.close(5.0)
        self._reader.close()

    def _put(self, write: Write) -> None:
        """After all that is held."""
        self._release()
        self._writer.put(write)

    def _at_once(self, write: Write) -> None:
        """When the loop comes round, with what else is to be written by then: the thread is woken
        once for all of it, which takes longer than a write."""
        self._gather()
        self._held.append(write)
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self._release)

    def _hold(self, write: Write) -> None:
        self._gather()
        self._held.append(write)
        self._wait()

    def _wait(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(SOON, self._release)

    def _gather(self) -> None:
        """What is of one kind, as few writes; nothing else may overtake it."""
        if self._ended:
            self._held += _SAVE_ENDED.joined(self._ended)
            self._ended = []
        if self._decided:
            self._held += _SAVE_DECISION.joined(self._decided)
            self._decided = []

    def _release(self) -> None:
        """Give the writer what has gathered."""
        self._due = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._gather()
        held, self._held = self._held, []
        changed, self._changed = self._changed, {}
        first = [Write(_SAVE_JOB, _row(*now(), durable=False)) for now in changed.values()]
        if first or held:
            self._writer.put_all(first + held)

    async def _read(self, sql: str, args: tuple[Any, ...]) -> list[Any]:
        def run() -> list[Any]:
            with self._read_lock:
                return self._reader.execute(sql, args).fetchall()

        return await anyio.to_thread.run_sync(run)


def _stream(events: list[tuple[str, bytes]]) -> bytes:
    return encode([(kind, msgspec.Raw(data)) for kind, data in events])


def _row(info: JobInfo, request: bytes, *, durable: bool) -> tuple[Any, ...]:
    if info.queue_position is not None or info.eta_ms is not None:  # true for a moment only
        info = msgspec.structs.replace(info, queue_position=None, eta_ms=None)
    return (
        info.job_id, info.created_at, info.finished_at, info.state, info.dead, durable, request,
        encode(info),
    )  # fmt: skip


def _infos(rows: list[Any]) -> list[JobInfo]:
    """The first column of each row; one that cannot be read must not hide the others."""
    infos: list[JobInfo] = []
    for row in rows:
        try:
            infos.append(decode(row[0], JobInfo))
        except (ValidationFailed, TypeError) as exc:
            log.error("a job in the database is unreadable and left out: %s", exc)
    return infos
