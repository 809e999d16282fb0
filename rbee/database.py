"""SQLite files of rbee's: opened, checked, brought up to date.

Owns how a database is opened (WAL, mode 0600, for several processes at once), how its schema is
brought up to date, and what becomes of a damaged file. Knows no table and no row.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path

from rbee.errors import InternalError, VersionMismatch

log = logging.getLogger("rbee.database")
PATIENCE = 10.0
"""Seconds that one try waits for another process's lock."""
_PAUSE = 0.01


class _Corrupt(sqlite3.DatabaseError):
    """The file's own check found damage."""


def open_checked(
    path: Path, migrations: Sequence[str], patience: float = PATIENCE
) -> tuple[sqlite3.Connection, Path | None]:
    """A connection to a sound database of the newest schema, and where a damaged file was set aside
    to. Step n of `migrations` (statements that end in `;`, none inside a text) brings it from
    version n to n + 1 (`PRAGMA user_version`).

    Raises VersionMismatch for a database of a newer rbee, InternalError for one that cannot be used
    now (locked, disk full, no rights, a folder): that stays where it is.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            return _checked(path, migrations, patience), None
        except sqlite3.DatabaseError as exc:
            if not _is_damage(exc):
                raise
            aside = _set_aside(path, exc)
            return _checked(path, migrations, patience), aside
    except (OSError, sqlite3.Error) as exc:
        raise unusable(path, exc) from exc


def connect(path: Path, patience: float = PATIENCE) -> sqlite3.Connection:
    """One more connection to a database that has been checked. Raises InternalError."""
    try:
        return _connect(path, patience)
    except (OSError, sqlite3.Error) as exc:
        raise unusable(path, exc) from exc


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
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=patience)
    try:
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("PRAGMA secure_delete = ON")
    except BaseException:
        db.close()
        raise
    return db


def _checked(path: Path, migrations: Sequence[str], patience: float) -> sqlite3.Connection:
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    db = _connect(path, patience)
    try:
        if db.execute("PRAGMA quick_check").fetchone()[0] != "ok":
            raise _Corrupt("its own check found damage")
        version = _version(db)
        if version > len(migrations):
            raise VersionMismatch(
                f"{path} was written by a newer rbee (schema {version}, known {len(migrations)})",
                action="Use the newer rbee again, or move the file away.",
            )
        _to_wal(db, patience)
        while (version := _version(db)) < len(migrations):
            _migrate(db, version, migrations[version])
    except BaseException:
        db.close()
        raise
    return db


def _to_wal(db: sqlite3.Connection, patience: float) -> None:
    """SQLite does not wait by itself for two that do this at once to a new file."""
    until = time.monotonic() + patience
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as exc:
            if not is_busy(exc) or time.monotonic() > until:
                raise
        time.sleep(_PAUSE)


def _migrate(db: sqlite3.Connection, version: int, script: str) -> None:
    """One step, unless another process has just done it."""
    db.execute("BEGIN IMMEDIATE")
    try:
        if _version(db) == version:
            for statement in script.split(";"):
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {version + 1}")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])
