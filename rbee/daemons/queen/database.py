"""The file the queen's memory is in: opened, checked, brought up to date.

Owns the schema, its migrations and what becomes of a damaged file. Never reads or writes a row.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from pathlib import Path

from rbee.errors import InternalError, VersionMismatch

log = logging.getLogger("rbee.store")
PATIENCE = 10.0
"""Seconds that one try waits for another process's lock."""

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
    """
    ALTER TABLE jobs ADD COLUMN dead INTEGER NOT NULL DEFAULT 0;
    CREATE INDEX jobs_dead ON jobs (created_at) WHERE dead;
    CREATE TABLE decisions (
        number INTEGER PRIMARY KEY,
        job_id TEXT NOT NULL,
        at REAL NOT NULL,
        body BLOB NOT NULL
    );
    CREATE INDEX decisions_of ON decisions (job_id, number);
    """,
)
"""Step n brings a database from version n to n + 1 (`PRAGMA user_version`)."""


class _Corrupt(sqlite3.DatabaseError):
    """The file's own check found damage."""


def open_database(
    path: Path, patience: float = PATIENCE
) -> tuple[sqlite3.Connection, sqlite3.Connection, Path | None]:
    """Two connections, to read and to write, and where a damaged file was set aside to.

    Raises VersionMismatch for a database of a newer rbee, InternalError for one that cannot be used
    now (locked, disk full, no rights, a folder): that stays where it is.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        aside = None
        try:
            reader = _checked(path, patience)
        except sqlite3.DatabaseError as exc:
            if not _is_damage(exc):
                raise
            aside = _set_aside(path, exc)
            reader = _checked(path, patience)
        try:
            writer = _connect(path, patience)
        except BaseException:
            reader.close()
            raise
    except (OSError, sqlite3.Error) as exc:
        raise unusable(path, exc) from exc
    return reader, writer, aside


def is_busy(exc: sqlite3.Error) -> bool:
    """Whether another process holds the lock."""
    return _code(exc) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def unusable(path: Path, exc: Exception) -> InternalError:
    """The error that says so, and what to do."""
    if isinstance(exc, sqlite3.Error) and is_busy(exc):
        action = "Another program holds the file; end that and try again."
    else:
        action = "Check the disk's free space and the rights, or move it away."
    why = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
    return InternalError(f"the database {path} cannot be used: {why}", action=action)


def _is_damage(exc: sqlite3.Error) -> bool:
    if isinstance(exc, _Corrupt):
        return True
    return _code(exc) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _code(exc: sqlite3.Error) -> int:
    """The primary code: the extended ones carry details in the higher bits."""
    return getattr(exc, "sqlite_errorcode", 0) & 0xFF


def _set_aside(path: Path, why: Exception) -> Path:
    aside = path.with_name(f"{path.name}.corrupt-{time.time_ns()}")
    log.error("database %s is damaged (%s), set aside as %s", path, why, aside)
    for suffix in ("", "-wal", "-shm"):
        source = path.with_name(path.name + suffix)
        if source.exists():
            source.rename(aside.with_name(aside.name + suffix))
    return aside


def _connect(path: Path, patience: float) -> sqlite3.Connection:
    """A connection with our settings, to a database that has been checked."""
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=patience)
    try:
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("PRAGMA secure_delete = ON")
    except BaseException:
        db.close()
        raise
    return db


def _checked(path: Path, patience: float) -> sqlite3.Connection:
    """A connection to a sound database of this version; creates and migrates."""
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    db = _connect(path, patience)
    try:
        if db.execute("PRAGMA quick_check").fetchone()[0] != "ok":
            raise _Corrupt("its own check found damage")
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version > len(MIGRATIONS):
            raise VersionMismatch(
                f"{path} was written by a newer rbee (schema {version}, known {len(MIGRATIONS)})",
                action="Use the newer rbee again, or move the file away.",
            )
        db.execute("PRAGMA journal_mode = WAL")
        for number, script in enumerate(MIGRATIONS[version:], version + 1):
            db.executescript(f"BEGIN; {script}; PRAGMA user_version = {number}; COMMIT;")
    except BaseException:
        db.close()
        raise
    return db
