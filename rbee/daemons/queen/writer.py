"""The one thread that writes the queen's database: what has gathered, in one transaction.

Owns the order of writes, what becomes of one that fails, and who hears of it. Knows no table.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio

from rbee.daemons.queen.database import is_busy, unusable
from rbee.errors import InternalError

log = logging.getLogger("rbee.store")

TRIES = 3
"""So often is a batch tried while another process holds the lock."""
CLEANING_LIMIT = 1.0
"""Seconds that overwriting the log of changes waits for readers; the next purge tries again."""


class Ticket:
    """A write that somebody waits for, and may take back until it is being written.

    Made in the waiting loop's thread; `lock` is shared with the writer's.
    """

    def __init__(self, lock: threading.Lock) -> None:
        self.done = anyio.Event()
        self.error: Exception | None = None
        self.loop = asyncio.get_running_loop()
        self._lock = lock
        self._claimed = self._withdrawn = False

    def withdraw(self) -> bool:
        """Take it back: it will not be written. False: too late, it is being or was written."""
        with self._lock:
            self._withdrawn = not self._claimed
            return self._withdrawn

    def claim(self) -> bool:
        """The writer holds the database and is about to write it; False: it was taken back."""
        with self._lock:
            self._claimed = not self._withdrawn
            return self._claimed

    def unclaim(self) -> None:
        """The transaction came to nothing."""
        with self._lock:
            self._claimed = False


@dataclass(frozen=True)
class Write:
    """One statement. `erases`: what it deletes must not stay in the log of changes either."""

    sql: str
    args: tuple[Any, ...]
    erases: bool = False
    ticket: Ticket | None = None
    parts: tuple[Write, ...] = ()
    """The ones that this one does the work of; tried one by one when it fails."""


@dataclass(frozen=True)
class _Mark:
    """A place in the queue: `told` is called in its loop when all before it is done with.

    It hears of a write that was lost, and others do not any more, unless it is `deaf`.
    """

    told: Callable[[Exception | None], None]
    loop: asyncio.AbstractEventLoop
    deaf: bool = False


class Writer:
    """The thread and its queue."""

    def __init__(self, path: Path, db: sqlite3.Connection) -> None:
        self._path = path
        self._db = db
        self._queue: queue.SimpleQueue[Write | list[Write] | _Mark | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._lost: Exception | None = None
        """Why a write was lost since the last mark that heard; only the thread uses it."""
        self._uncleaned = False
        self.losses = 0
        """How often writes were lost."""
        self._waits = False
        self._thread = threading.Thread(target=self._run, name="store", daemon=True)
        self._thread.start()

    def put(self, write: Write) -> None:
        """Write it, soon."""
        self._queue.put(write)

    def put_all(self, writes: list[Write]) -> None:
        """Write them, soon; the thread is woken once. The list is the writer's from now on."""
        self._queue.put(writes)

    def after(self, told: Callable[[], None]) -> None:
        """Call in this loop when everything put so far is written, or was lost."""
        self._queue.put(_Mark(lambda _: told(), asyncio.get_running_loop(), deaf=True))

    async def flush(self, limit: float) -> None:
        """Return when everything put so far is on disk.

        Raises InternalError when a write since the last flush was lost, or after `limit` seconds.
        """
        self._check_open()
        done = anyio.Event()
        failed: list[Exception] = []

        def told(error: Exception | None) -> None:
            if error is not None:
                failed.append(error)
            done.set()

        self._queue.put(_Mark(told, asyncio.get_running_loop()))
        with anyio.move_on_after(limit):
            await done.wait()
        if not done.is_set():
            raise self._late(limit)
        if failed:
            raise unusable(self._path, failed[0])

    async def confirmed(
        self,
        sql: str,
        args: tuple[Any, ...],
        *,
        undo: Write,
        limit: float,
        put: Callable[[Write], None],
    ) -> None:
        """Return when this one is on disk; `put` hands it to this writer, at once or soon.

        Raises InternalError when it was lost, or after `limit` seconds. Whenever this raises or is
        cancelled, the statement is not carried out later either; where it is too late to take it
        back, `undo` follows it.
        """
        self._check_open()
        ticket = Ticket(self._lock)
        put(Write(sql, args, ticket=ticket))
        try:
            with anyio.move_on_after(limit):
                await ticket.done.wait()
            if not ticket.done.is_set():
                if ticket.withdraw():
                    raise self._late(limit)
                # It is in the middle of being written: that is the disk's own time.
                with anyio.move_on_after(limit):
                    await ticket.done.wait()
            if not ticket.done.is_set():
                if not ticket.withdraw():
                    put(undo)
                raise self._late(limit)
        except anyio.get_cancelled_exc_class():
            if not ticket.withdraw():
                put(undo)
            raise
        if ticket.error is not None:
            raise unusable(self._path, ticket.error)

    def close(self, limit: float) -> None:
        """Write what is left and end; blocks for at most `limit` seconds."""
        self._queue.put(None)
        self._thread.join(limit)

    def _check_open(self) -> None:
        if not self._thread.is_alive():
            raise InternalError(f"{self._path} is closed")

    def _late(self, limit: float) -> InternalError:
        if self._waits:
            return InternalError(
                f"the database {self._path} could not be written for {limit:g} s:"
                " another program holds it",
                action="End the other program that has the file open, then try again.",
            )
        return InternalError(
            f"the database {self._path} was not written within {limit:g} s",
            action="See what keeps the disk busy, then try again.",
        )

    # ---- the thread ----------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            end = False
            while not end:
                writes, marks, end = self._gather()
                if writes:
                    self._commit(writes)
                    self._clean()
                self._tell(writes, marks)
        finally:
            self._db.close()

    def _gather(self) -> tuple[list[Write], list[_Mark], bool]:
        """All that waits, at least one; True when the end mark was among it."""
        writes: list[Write] = []
        marks: list[_Mark] = []
        while True:
            item = self._queue.get()
            if item is None:
                return writes, marks, True
            if isinstance(item, Write):
                writes.append(item)
            elif isinstance(item, list):
                writes += item
            else:
                marks.append(item)
            if self._queue.empty():
                return writes, marks, False

    def _tell(self, writes: Sequence[Write], marks: Sequence[_Mark]) -> None:
        """Everybody who waits for this batch, with one call into each loop."""
        calls: dict[asyncio.AbstractEventLoop, list[Callable[[], None]]] = {}
        for ticket in (write.ticket for write in writes if write.ticket is not None):
            calls.setdefault(ticket.loop, []).append(ticket.done.set)
        lost = self._lost
        for mark in marks:
            error = None if mark.deaf else lost
            calls.setdefault(mark.loop, []).append(_bound(mark.told, error))
        if not all(mark.deaf for mark in marks):
            self._lost = None
        for loop, waiting in calls.items():
            try:
                loop.call_soon_threadsafe(_call_all, waiting)
            except RuntimeError:  # that loop is gone
                log.debug("%d that waited for a write are gone", len(waiting))

    def _commit(self, writes: list[Write]) -> None:
        """One transaction of all; when one write is at fault, one for each, to lose only that."""
        try:
            self._transaction(writes)
        except sqlite3.Error as exc:
            if (len(writes) == 1 and not writes[0].parts) or is_busy(exc):
                self._lose(writes, exc)
                return
            log.warning("writing to %s failed (%s); one by one now", self._path, exc)
        except Exception as exc:
            self._lose(writes, exc)
            return
        else:
            return
        writes = [part for write in writes for part in write.parts or (write,)]
        for number, write in enumerate(writes):
            try:
                self._transaction([write])
            except Exception as exc:
                if isinstance(exc, sqlite3.Error) and is_busy(exc):
                    self._lose(writes[number:], exc)
                    return
                self._lose([write], exc)

    def _transaction(self, writes: Sequence[Write]) -> None:
        """Raises sqlite3.Error when nothing of it is written; a held lock only after TRIES."""
        db = self._db
        for left in reversed(range(TRIES)):
            erased = False
            try:
                self._waits = True
                db.execute("BEGIN IMMEDIATE")
                self._waits = False
                for write in writes:
                    if write.ticket is None or write.ticket.claim():
                        count = db.execute(write.sql, write.args).rowcount
                        erased |= write.erases and count > 0
                db.execute("COMMIT")
            except BaseException as exc:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                for write in writes:
                    if write.ticket is not None:
                        write.ticket.unclaim()
                if not left or not isinstance(exc, sqlite3.Error) or not is_busy(exc):
                    raise
                log.warning("%s is locked by another process; trying again", self._path)
            else:
                self._uncleaned |= erased
                return

    def _lose(self, writes: Sequence[Write], exc: Exception) -> None:
        log.error("%d writes to %s were lost", len(writes), self._path, exc_info=exc)
        self.losses += 1
        for write in writes:
            if write.ticket is not None:
                write.ticket.error = exc
            else:
                self._lost = exc

    def _clean(self) -> None:
        """Empty the log of changes after an erasure: it holds older copies of what was deleted."""
        if not self._uncleaned:
            return
        db = self._db
        try:
            usual = db.execute("PRAGMA busy_timeout").fetchone()[0]
            db.execute(f"PRAGMA busy_timeout = {round(CLEANING_LIMIT * 1000)}")
            try:
                self._uncleaned = bool(db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0])
            finally:
                db.execute(f"PRAGMA busy_timeout = {usual}")
        except sqlite3.Error as exc:
            log.warning("the log of %s was not emptied: %s", self._path, exc)


def _bound(told: Callable[[Exception | None], None], error: Exception | None) -> Callable[[], None]:
    return lambda: told(error)


def _call_all(calls: Sequence[Callable[[], None]]) -> None:
    for call in calls:
        call()
