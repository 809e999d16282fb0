"""The file the queen's memory is in: its schema, and how it is opened.

Owns the schema and its migrations. Never reads or writes a row; see `rbee.database` for the rest.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from rbee.database import PATIENCE, connect, is_busy, open_checked, unusable

__all__ = ["MIGRATIONS", "PATIENCE", "is_busy", "open_database", "unusable"]

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


def open_database(
    path: Path, patience: float = PATIENCE
) -> tuple[sqlite3.Connection, sqlite3.Connection, Path | None]:
    """Two connections, to read and to write, and where a damaged file was set aside to.

    Raises VersionMismatch for a database of a newer rbee, InternalError for one that cannot be used
    now (locked, disk full, no rights, a folder): that stays where it is.
    """
    reader, aside = open_checked(path, MIGRATIONS, patience)
    try:
        return reader, connect(path, patience), aside
    except BaseException:
        reader.close()
        raise
