"""The journal: the events of durable jobs that have not ended, so that a killed queen's successor
knows everything a reader was sent.

Owns one append-only file. Events gather until the loop comes round and go out in one plain write,
which outlives the process (not the machine: nothing waits for the disk). Whoever shows events to
a reader calls `flush` first. Ended jobs leave it when the database has them. Never reads a job's
meaning and never stands in the way of a stream: when it cannot write, it says so and goes on in
memory, and writes everything anew as soon as it can.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from pathlib import Path

import anyio
import anyio.to_thread

from rbee.daemons.queen.joblog import (
    CLOSED,
    CODES,
    FLAG_AT,
    HEAD,
    IDS_OF,
    OPENED,
    RECORD,
    Cut,
    JobLog,
    Scan,
    cut,
    frame,
    record,
    records_of,
    scan,
)
from rbee.errors import InternalError
from rbee.protocol.jobs import EventType

log = logging.getLogger("rbee.journal")

COMPACT_AT = 8 << 20
"""Bytes from which on a file that is mostly of ended jobs is written anew."""
EMPTY_AT = 1 << 16
"""Bytes from which on a file without any living job is emptied: not for every short answer."""
ERASE_WITHIN = 0.25
"""Seconds until the text of an ended job is gone, when nothing of it may stay."""
MEND_EVERY = 10.0
"""Seconds between attempts to write again after a failure."""


class Journal:
    """One file. `found`: what an earlier queen left in it and was not adopted yet."""

    def __init__(self, path: Path, fd: int, found: Scan, set_aside: Path | None) -> None:
        self.path = path
        self.set_aside = set_aside
        """Where a damaged journal was moved to; None normally."""
        self.found = found.logs
        self.broken: str | None = None
        """Why events are kept in memory only; None normally."""
        self.erases = False
        """Nothing of an ended job may stay in the file (`job.retention` is 0)."""
        self._fd = fd
        self._offset = found.end
        self._anew = set_aside is not None
        self._number = found.highest
        self._live: dict[int, JobLog] = {}
        self._pending: list[bytes] = []
        self._since: list[bytes] | None = None
        """What was written since a compaction began; None when none is under way."""
        self._dead = 0
        self._wanted = anyio.Event()

    @staticmethod
    def open(path: Path) -> Journal:
        """Open or create; a damaged file is set aside, never deleted. Raises InternalError."""
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            content = path.read_bytes() if path.exists() else b""
            found = scan(content)
            aside = None
            if found.damage is not None:
                aside = path.with_name(f"{path.name}.corrupt-{time.time_ns()}")
                log.error("journal %s is damaged (%s), set aside as %s", path, found.damage, aside)
                path.rename(aside)
            fd = _create(path)
        except OSError as exc:
            raise InternalError(
                f"the journal {path} cannot be used: {exc.strerror or exc}",
                action="Check the rights and what is in that place.",
            ) from exc
        journal = Journal(path, fd, found, aside)
        journal._begin_file(fresh=aside is not None or found.end == 0)
        return journal

    def _begin_file(self, *, fresh: bool) -> None:
        try:
            if fresh:
                self._offset = 0
                os.ftruncate(self._fd, 0)
                self._write(HEAD)
            else:
                os.ftruncate(self._fd, self._offset)  # a write that was cut short
        except OSError as exc:
            self._break(exc)

    # ---- what streams call ---------------------------------------------------------------------

    def begin(self, job_id: str) -> JobLog:
        """A new job's log, kept from now on."""
        self._number += 1
        job_log = JobLog(job_id, self._number)
        self._live[job_log.number] = job_log
        self._put(record(job_log.number, OPENED, job_id.encode()))
        return job_log

    def adopt(self, job_id: str) -> JobLog | None:
        """What an earlier queen left of a job, kept from now on. None: nothing."""
        job_log = self.found.pop(job_id, None)
        if job_log is None:
            return None
        self._live[job_log.number] = job_log
        if self._anew:
            self._put(records_of(cut(job_log)))
        return job_log

    def add(self, number: int, kind: EventType, data: bytes, ids: bytes) -> None:
        """One event; on its way to the file when the loop comes round."""
        self._put(RECORD.pack(number, CODES[kind], len(ids), len(data)), ids, data)

    def note_ids_of(self, number: int, backend: str) -> None:
        """Whose token ids the events' are."""
        self._put(record(number, IDS_OF, backend.encode()))

    def release(self, job_log: JobLog) -> None:
        """The job has ended and the database has it, or it never was: it may leave the file."""
        if self._live.pop(job_log.number, None) is None:
            return
        self._dead += job_log.size + RECORD.size * len(job_log.events)
        if self._may_empty():
            self._empty()
            return
        self._put(record(job_log.number, CLOSED, b""))
        if self.erases or (self._offset > COMPACT_AT and self._dead > self._offset / 2):
            self._wanted.set()

    def flush(self) -> None:
        """Write all events there are. To be called before any reader sees them."""
        if not self._pending:
            return
        content = frame(b"".join(self._pending))
        self._pending.clear()
        if self._since is not None:
            self._since.append(content)
        if self.broken is None:
            try:
                self._write(content)
            except OSError as exc:
                self._break(exc)

    # ---- life ----------------------------------------------------------------------------------

    async def settled(self) -> None:
        """What of an earlier queen is not adopted by now is of no use."""
        self.found = {}
        self._anew = False
        if self._offset > len(HEAD) or self._pending:
            await self.compact()

    async def run(self) -> None:
        """Write the file anew whenever that is worth it, and mend it after a failure."""
        while True:
            with anyio.move_on_after(MEND_EVERY):
                await self._wanted.wait()
            if self._wanted.is_set():
                await anyio.sleep(ERASE_WITHIN)
                self._wanted = anyio.Event()
            elif self.broken is None:
                continue
            if not await self.compact():
                await anyio.sleep(MEND_EVERY)

    async def compact(self) -> bool:
        """Write what lives into a new file and put it in place; False when that failed."""
        if self._since is not None:
            return True
        self.flush()
        self._since = []
        cuts = [cut(one) for one in self._live.values()]
        try:
            # This may be many megabytes. A cancelled task still gets the open file from there.
            fd, size = await anyio.to_thread.run_sync(_write_anew, self._new_path(), cuts)
            self.flush()
            self._replace(fd, size, self._since)
        except OSError as exc:
            self._keep_old(exc)
            return False
        finally:
            self._since = None
        if self._may_empty():
            self._empty()
        return True

    def close(self) -> None:
        """Write what is left and close; blocks. Text that may not stay goes."""
        self.flush()
        if not self._live and not self.found:
            self._empty()
        elif self.erases and self._dead and not self.found:
            try:
                fd, size = _write_anew(self._new_path(), [cut(one) for one in self._live.values()])
                self._replace(fd, size, [])
            except OSError as exc:
                self._keep_old(exc)
        os.close(self._fd)
        self._fd, self.broken = -1, "closed"

    # ---- the file ------------------------------------------------------------------------------

    def _put(self, *parts: bytes) -> None:
        if not self._pending:
            with contextlib.suppress(RuntimeError):  # no loop: whoever reads flushes
                asyncio.get_running_loop().call_soon(self.flush)
        self._pending += parts

    def _write(self, content: bytes) -> None:
        _write_at(self._fd, content, self._offset)
        self._offset += len(content)

    def _may_empty(self) -> bool:
        idle = not self._live and not self.found and self._since is None
        return idle and (self.erases or self.broken is not None or self._offset > EMPTY_AT)

    def _empty(self) -> None:
        """Nobody lives: nothing in the file is of use."""
        self._pending.clear()
        try:
            os.ftruncate(self._fd, 0)
            self._offset = self._dead = 0
            self._write(HEAD)
            self._mended()
        except OSError as exc:
            self._break(exc)

    def _break(self, exc: OSError) -> None:
        """From now on events are missing: the file must say so, or a successor would go by it."""
        if self.broken is None:
            log.error("the journal %s cannot be written, going on in memory: %s", self.path, exc)
        self.broken = exc.strerror or str(exc)
        try:
            os.ftruncate(self._fd, self._offset)
            if self._offset >= len(HEAD):
                os.pwrite(self._fd, b"\x01", FLAG_AT)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, 0)

    def _mended(self) -> None:
        if self.broken is not None:
            log.warning("the journal %s is written again", self.path)
        self.broken = None

    def _new_path(self) -> Path:
        return self.path.with_name(self.path.name + ".new")

    def _replace(self, fd: int, size: int, since: list[bytes]) -> None:
        """Let the new file take the old one's place, with what came while it was written."""
        try:
            tail = b"".join(since)
            _write_at(fd, tail, size)
            os.replace(self._new_path(), self.path)
        except OSError:
            os.close(fd)
            raise
        os.close(self._fd)
        self._fd, self._offset, self._dead = fd, size + len(tail), 0
        self._mended()

    def _keep_old(self, exc: OSError) -> None:
        log.warning("the journal %s was not written anew: %s", self.path, exc)
        with contextlib.suppress(OSError):
            self._new_path().unlink(missing_ok=True)


def _create(path: Path) -> int:
    return os.open(path, os.O_CREAT | os.O_RDWR, 0o600)


def _write_at(fd: int, content: bytes, offset: int) -> None:
    """All of it. Raises OSError."""
    done = os.pwrite(fd, content, offset)
    while done < len(content):
        done += os.pwrite(fd, memoryview(content)[done:], offset + done)


def _write_anew(path: Path, cuts: list[Cut]) -> tuple[int, int]:
    """A file with these logs: its descriptor and size. Reads only what of them cannot change."""
    fd = _create(path)
    try:
        os.ftruncate(fd, 0)
        _write_at(fd, HEAD, 0)
        size = len(HEAD)
        for at in cuts:
            content = frame(records_of(at))
            _write_at(fd, content, size)
            size += len(content)
    except BaseException:
        os.close(fd)
        raise
    return fd, size
