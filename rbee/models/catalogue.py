"""The catalogue of one hive: which models it keeps, in a SQLite file.

Owns the rows, their ids, and the names that lead to them. Never looks at a model's file: whether
the row still tells the truth is `shelf`'s business. Every method blocks and may be called from any
thread; several processes may have the same file open.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

from rbee import __version__
from rbee.database import PATIENCE, open_checked, unusable
from rbee.errors import ModelNotFound, ValidationFailed
from rbee.protocol.base import convert, decode, encode
from rbee.protocol.hives import ModelInfo
from rbee.protocol.models import CatalogueEntry

log = logging.getLogger("rbee.models")
T = TypeVar("T")

MIGRATIONS = (
    """
    CREATE TABLE models (
        id TEXT PRIMARY KEY,
        provider TEXT NOT NULL,
        ref TEXT NOT NULL UNIQUE,
        revision TEXT,
        path TEXT NOT NULL,
        size INTEGER NOT NULL,
        digest TEXT,
        format TEXT NOT NULL,
        architecture TEXT,
        quant TEXT,
        context INTEGER,
        template INTEGER NOT NULL,
        capabilities TEXT NOT NULL,
        files TEXT NOT NULL,
        linked INTEGER NOT NULL,
        downloaded_at REAL,
        used_at REAL,
        verified_at REAL,
        gone INTEGER NOT NULL DEFAULT 0,
        stamps TEXT NOT NULL,
        info TEXT NOT NULL,
        info_by TEXT NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE asked (
        ref TEXT PRIMARY KEY,
        id TEXT NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX asked_of ON asked (id)
    """,
)
"""Step n brings the file from version n to n + 1; tables of others go behind these."""
_COLUMNS = (
    "id", "provider", "ref", "revision", "path", "size", "digest", "format", "architecture",
    "quant", "context", "template", "capabilities", "files", "linked", "downloaded_at", "used_at",
    "verified_at",
)  # fmt: skip
_SAVE = (
    f"INSERT OR REPLACE INTO models ({', '.join(_COLUMNS)}, gone, stamps, info, info_by)"
    f" VALUES ({', '.join('?' * len(_COLUMNS))}, 0, ?, ?, ?)"
)
_READ = f"SELECT {', '.join(_COLUMNS)}, gone, stamps, info, info_by FROM models"
Stamps = dict[str, tuple[int, int]]
"""File name → size and time of its last change (nanoseconds), as they were when it was read."""


class Row(NamedTuple):
    """One model. `fresh`: its `info` was told by this very version of rbee."""

    entry: CatalogueEntry
    info: ModelInfo
    stamps: Stamps
    gone: bool = False
    """Its files were not there when somebody last looked."""
    fresh: bool = True


class Catalogue:
    """Open it with `Catalogue.open`, close it with `close`."""

    def __init__(self, path: Path, db: sqlite3.Connection, set_aside: Path | None) -> None:
        self.path = path
        self.set_aside = set_aside
        """Where a damaged file was moved to; None normally."""
        self.noticed = 0
        """How often a row was found to be otherwise than the disk, by whoever looked."""
        self._db = db
        self._lock = threading.Lock()

    @staticmethod
    def open(path: Path, *, patience: float = PATIENCE) -> Catalogue:
        """Open or create; a damaged file is set aside, never deleted.

        Raises VersionMismatch, InternalError; see `rbee.database`.
        """
        db, aside = open_checked(path, MIGRATIONS, patience)
        return Catalogue(path, db, aside)

    def close(self) -> None:
        """Nothing can be asked any more."""
        with self._lock:
            self._db.close()

    def use(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run statements in one transaction: all of them or none. Raises InternalError."""
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    result = work(self._db)
                    self._db.execute("COMMIT")
                except BaseException:
                    if self._db.in_transaction:
                        self._db.execute("ROLLBACK")
                    raise
            except sqlite3.Error as exc:
                raise unusable(self.path, exc) from exc
            return result

    def rows(self, *, gone: bool = False) -> list[Row]:
        """All models, by id; `gone`: also those whose files are not there."""
        return self._read("" if gone else "WHERE NOT gone", ())

    def get(self, text: str) -> Row | None:
        """The model of that id, reference or asked reference; None: there is none, or not now."""
        found = self._read(
            "WHERE NOT gone AND (id = ?1 OR ref = ?1 OR id IN"
            " (SELECT id FROM asked WHERE ref = ?1)) ORDER BY id = ?1 DESC, ref = ?1 DESC",
            (text,),
        )
        return found[0] if found else None

    def named(self, model_id: str) -> Row:
        """The model of an id, gone or not. Raises ModelNotFound."""
        found = self._read("WHERE id = ?", (model_id,))
        if not found:
            raise ModelNotFound(f"no model is called {model_id!r} here", model=model_id)
        return found[0]

    def add(
        self,
        entry: CatalogueEntry,
        info: ModelInfo,
        stamps: Stamps,
        *,
        reserved: Collection[str] = (),
    ) -> Row:
        """Put a model in. One of the same ref is replaced and keeps its id; else the id is made
        unique, also against `reserved`. `entry.asked` lead to this model from now on."""

        def work(db: sqlite3.Connection) -> Row:
            model_id = _free_id(db, entry, reserved)
            named = msgspec.structs.replace(entry, id=model_id)
            told = msgspec.structs.replace(info, id=model_id, ref=entry.ref)
            db.execute("DELETE FROM models WHERE ref = ?", (entry.ref,))
            _save(db, named, told, stamps)
            for ref in entry.asked:
                db.execute("INSERT OR REPLACE INTO asked (ref, id) VALUES (?, ?)", (ref, model_id))
            return Row(named, told, stamps)

        return self.use(work)

    def renew(self, row: Row) -> None:
        """Write what has become of a model that is still in: its files were read again."""

        def work(db: sqlite3.Connection) -> None:
            if db.execute("SELECT 1 FROM models WHERE id = ?", (row.entry.id,)).fetchone():
                _save(db, row.entry, row.info, row.stamps)

        self.use(work)

    def remove(self, model_id: str) -> None:
        """Take a model out, with all names that lead to it."""

        def work(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM models WHERE id = ?", (model_id,))
            db.execute("DELETE FROM asked WHERE id = ?", (model_id,))

        self.use(work)

    def lose(self, model_id: str, *, gone: bool = True) -> None:
        """Remember that a model's files are not there, or that they are back."""
        self._set(model_id, "gone = ?", gone)

    def used(self, model_id: str, at: float) -> None:
        """Remember when a model was last used, UTC seconds."""
        self._set(model_id, "used_at = ?", at)

    def verified(self, model_id: str, at: float | None, digest: str | None) -> None:
        """Remember that a model's files were found right, or (None) that they were not."""
        self._set(model_id, "verified_at = ?, digest = ?", at, digest)

    def _set(self, model_id: str, what: str, *values: object) -> None:
        self.use(
            lambda db: db.execute(f"UPDATE models SET {what} WHERE id = ?", (*values, model_id))
        )

    def _read(self, where: str, args: tuple[object, ...]) -> list[Row]:
        with self._lock:
            try:
                order = "" if "ORDER BY" in where else "ORDER BY id"
                found = self._db.execute(f"{_READ} {where} {order}", args).fetchall()
                asked = self._db.execute("SELECT id, ref FROM asked ORDER BY ref").fetchall()
            except sqlite3.Error as exc:
                raise unusable(self.path, exc) from exc
        names: dict[str, list[str]] = {}
        for model_id, ref in asked:
            names.setdefault(model_id, []).append(ref)
        return [row for line in found if (row := _row(line, names)) is not None]


def _free_id(db: sqlite3.Connection, entry: CatalogueEntry, reserved: Collection[str]) -> str:
    """The id of the row that is replaced, or one that is free: rows that are gone make way."""
    same = db.execute("SELECT id FROM models WHERE ref = ?", (entry.ref,)).fetchone()
    if same is not None:
        return str(same[0])
    wanted, number = entry.id, 1
    while True:
        if wanted not in reserved:
            taken = db.execute("SELECT gone FROM models WHERE id = ?", (wanted,)).fetchone()
            if taken is None:
                return wanted
            if taken[0]:
                db.execute("DELETE FROM models WHERE id = ?", (wanted,))
                db.execute("DELETE FROM asked WHERE id = ?", (wanted,))
                return wanted
        number += 1
        if entry.revision is not None and number == 2:
            wanted = f"{entry.id}@{entry.revision[:8]}"
        else:
            wanted = f"{entry.id}-{number}"


def _save(db: sqlite3.Connection, entry: CatalogueEntry, info: ModelInfo, stamps: Stamps) -> None:
    told = [getattr(entry, name) for name in _COLUMNS]
    values = [encode(v).decode() if isinstance(v, list) else v for v in told]
    values += [encode(stamps).decode(), encode(info).decode(), __version__]
    db.execute(_SAVE, values)


def _row(line: tuple[Any, ...], names: dict[str, list[str]]) -> Row | None:
    told = dict(zip(_COLUMNS, line, strict=False))
    gone, stamps, info, info_by = line[len(_COLUMNS) :]
    try:
        told["capabilities"] = decode(told["capabilities"], list[str])
        told["files"] = decode(told["files"], list[Any])
        told["template"], told["linked"] = bool(told["template"]), bool(told["linked"])
        entry = convert({**told, "asked": names.get(told["id"], [])}, CatalogueEntry)
        shown = msgspec.structs.replace(decode(info, ModelInfo), digest=entry.digest)
        return Row(entry, shown, decode(stamps, Stamps), bool(gone), info_by == __version__)
    except (ValidationFailed, TypeError) as exc:
        log.error("model %s in the catalogue is unreadable and left out: %s", line[0], exc)
        return None
