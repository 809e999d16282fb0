"""What workers of this hive really took once they had loaded, for the next estimate.

Owns the table `measured` in the catalogue's SQLite file, over a connection of its own. A
measurement is of one model (its digest, else its path and what the file looked like) and one shape
of worker. Nothing depends on it: where the file cannot be used, estimates stay estimates. Every
method may block on the disk and may be called from any thread.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from rbee.database import connect
from rbee.errors import InternalError
from rbee.protocol.hives import ModelInfo
from rbee.protocol.memory import MOST_MEASURED, Measured

log = logging.getLogger("rbee.models")
_PATIENCE = 2.0
_MOST_ROWS = 4096
_TABLE = """
CREATE TABLE IF NOT EXISTS measured (
    key TEXT NOT NULL,
    stamp TEXT NOT NULL,
    backend TEXT NOT NULL,
    device_kind TEXT NOT NULL,
    ctx INTEGER NOT NULL,
    slots INTEGER NOT NULL,
    kv_type TEXT NOT NULL,
    flash INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    at REAL NOT NULL,
    PRIMARY KEY (key, backend, device_kind, ctx, slots, kv_type, flash)
) WITHOUT ROWID
"""
_SHAPE = "backend, device_kind, ctx, slots, kv_type, flash, bytes"


class Measurements:
    """Opens the file at its first use; `now` gives UTC seconds."""

    def __init__(self, path: Path, now: Callable[[], float] = time.time) -> None:
        self._path = path
        self._now = now
        self._lock = threading.Lock()
        self._db: sqlite3.Connection | None = None

    def record(self, model: ModelInfo, seen: Measured) -> bool:
        """Keep it in place of an older one of that shape; whether that changes anything."""
        key, stamp = _identity(model)
        if not key or seen.bytes <= 0:
            return False
        shape = (seen.backend, seen.device_kind, seen.ctx, seen.slots, seen.kv_type, seen.flash)
        with self._lock:
            try:
                if seen in self._read(key, stamp):
                    return False
                db = self._open()
                db.execute("BEGIN IMMEDIATE")
                db.execute(
                    "INSERT OR REPLACE INTO measured VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (key, stamp, *shape, seen.bytes, self._now()),
                )
                db.execute("DELETE FROM measured WHERE key = ? AND stamp <> ?", (key, stamp))
                db.execute(
                    "DELETE FROM measured WHERE at < (SELECT at FROM measured"
                    " ORDER BY at DESC LIMIT 1 OFFSET ?)",
                    (_MOST_ROWS - 1,),
                )
                db.execute("COMMIT")
            except (sqlite3.Error, InternalError) as exc:
                self._unusable(exc)
                return False
        return True

    def attach(self, models: list[ModelInfo]) -> list[ModelInfo]:
        """The same models with what was measured of each here, the latest first."""
        out: list[ModelInfo] = []
        with self._lock:
            for model in models:
                key, stamp = _identity(model)
                try:
                    seen = self._read(key, stamp) if key else []
                except (sqlite3.Error, InternalError) as exc:
                    self._unusable(exc)
                    return [*out, *models[len(out) :]]
                same = seen == model.measured
                out.append(model if same else msgspec.structs.replace(model, measured=seen))
        return out

    def close(self) -> None:
        """A later use opens the file again."""
        with self._lock:
            self._close()

    def _read(self, key: str, stamp: str) -> list[Measured]:
        rows = self._open().execute(
            f"SELECT {_SHAPE} FROM measured WHERE key = ? AND stamp = ? ORDER BY at DESC LIMIT ?",
            (key, stamp, MOST_MEASURED),
        )
        return [
            Measured(
                backend=backend,
                device_kind=device_kind,
                ctx=ctx,
                slots=slots,
                kv_type=kv_type,
                flash=bool(flash),
                bytes=size,
            )
            for backend, device_kind, ctx, slots, kv_type, flash, size in rows
        ]

    def _open(self) -> sqlite3.Connection:
        if self._db is None:
            try:
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600))
            except OSError as exc:
                raise InternalError(f"{self._path} cannot be opened: {exc.strerror}") from exc
            db = connect(self._path, _PATIENCE)
            try:
                db.execute("PRAGMA journal_mode = WAL")
                db.execute(_TABLE)
            except BaseException:
                db.close()
                raise
            self._db = db
        return self._db

    def _unusable(self, exc: Exception) -> None:
        log.warning("what models took cannot be kept or read: %s", exc)
        self._close()

    def _close(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            with suppress(sqlite3.Error):
                if db.in_transaction:
                    db.execute("ROLLBACK")
            db.close()


def _identity(model: ModelInfo) -> tuple[str, str]:
    """Key, and the file's looks where the key does not say what is in it; ("", "") for neither."""
    if model.digest:
        return model.digest, ""
    try:
        status = os.stat(model.path)
    except (OSError, ValueError):
        return "", ""
    return model.path, f"{status.st_size}:{status.st_mtime_ns}"
