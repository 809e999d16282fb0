"""The machines that were added, over restarts: one row each in `hives.db`.

Owns the file. Knows nothing of links, and decides nothing. Calls take a millisecond.
"""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path

from rbee.database import open_checked, unusable
from rbee.errors import HiveExists, RbeeError
from rbee.protocol.base import decode, encode
from rbee.protocol.machines import HiveRecord

log = logging.getLogger("rbee.links")
PATIENCE_MS = 250
"""So long a call waits for another program's lock: the queen does nothing else meanwhile."""
MIGRATIONS = (
    """
    CREATE TABLE hives (
        name TEXT PRIMARY KEY,
        target TEXT NOT NULL,
        added_at REAL NOT NULL,
        connected_at REAL,
        record BLOB NOT NULL
    ) WITHOUT ROWID;
    """,
)


class Registry:
    """All rows, in the order in which they were added. Everything raises InternalError where the
    disk does not do its part."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._db, self.set_aside = open_checked(path, MIGRATIONS)
        """`set_aside`: where a damaged file was put; None: it was sound."""
        self._db.execute(f"PRAGMA busy_timeout = {PATIENCE_MS}")
        self._records: dict[str, HiveRecord] = {}
        self.unread: list[str] = []
        """Names of rows that cannot be read; they stay in the file until such a name is added."""
        for name, body in self._db.execute(
            "SELECT name, record FROM hives ORDER BY added_at, name"
        ):
            try:
                record = decode(body, HiveRecord)
            except (RbeeError, TypeError) as exc:
                log.error("the row of %r in %s cannot be read: %s", name, path, exc)
                self.unread.append(str(name))
            else:
                self._records[record.name] = record

    def all(self) -> list[HiveRecord]:
        """Every machine."""
        return list(self._records.values())

    def get(self, name: str) -> HiveRecord | None:
        """One of them; None: it was not added."""
        return self._records.get(name)

    def add(self, record: HiveRecord) -> None:
        """A new one. Raises HiveExists."""
        if record.name in self._records:
            raise HiveExists(
                f"a hive named {record.name} was added already:"
                f" {self._records[record.name].target}",
                action=f"Choose another name, or first: rbee hive remove {record.name}",
            )
        self.save(record)

    def save(self, record: HiveRecord) -> None:
        """As it is now."""
        row = (record.name, record.target, record.added_at, record.connected_at, encode(record))
        self._write("INSERT OR REPLACE INTO hives VALUES (?, ?, ?, ?, ?)", row)
        self._records[record.name] = record

    def remove(self, name: str) -> None:
        """Forget it; harmless when it is not there."""
        self._write("DELETE FROM hives WHERE name = ?", (name,))
        self._records.pop(name, None)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def _write(self, statement: str, row: tuple[object, ...]) -> None:
        try:
            self._db.execute(statement, row)
        except sqlite3.Error as exc:
            raise unusable(self.path, exc) from exc
