"""Responses that may be asked for again: a file beside the queen's database.

Owns how long they are kept: as long as jobs are (`job.retention`; 0 keeps none), at most MOST of
them, of MOST_BYTES in all; the oldest go first. Each belongs to whom it was made for. Every access
is one short connection in a thread, one after the other.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.to_thread
import msgspec

from rbee.database import connect, open_checked, unusable
from rbee.errors import NotFound, RbeeError

log = logging.getLogger("rbee.queen")
T = TypeVar("T")
MOST = 10_000
MOST_BYTES = 512 << 20
"""Each turn is kept with all that was said before it: MOST of them with 50 kB, or 64 of LARGEST."""
LARGEST = 8 << 20
"""Bytes of one conversation: a longer one is not kept."""
MIGRATIONS = (
    """
    CREATE TABLE responses (
        response_id TEXT PRIMARY KEY,
        at REAL NOT NULL,
        owner TEXT NOT NULL,
        body BLOB NOT NULL,
        said BLOB NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX responses_by_time ON responses (at);
    """,
    """
    ALTER TABLE responses ADD COLUMN size INTEGER NOT NULL DEFAULT 0;
    UPDATE responses SET size = length(body) + length(said);
    DROP INDEX responses_by_time;
    CREATE INDEX responses_by_time ON responses (at, size);
    """,
)
_PURGE = """
    DELETE FROM responses WHERE at <= ? OR response_id IN (
        SELECT response_id FROM (
            SELECT response_id, row_number() OVER newest AS place, sum(size) OVER newest AS bytes
            FROM responses WINDOW newest AS (ORDER BY at DESC, response_id ROWS UNBOUNDED PRECEDING)
        ) WHERE place > ? OR bytes > ?
    )
"""


@dataclass(frozen=True)
class Kept:
    """A response as it was told, and the whole conversation, its answer included, as messages."""

    body: dict[str, Any]
    said: list[dict[str, Any]]


class ResponseStore:
    """`utc` in seconds, `retention` in seconds, asked anew each time."""

    def __init__(
        self, path: Path, *, utc: Callable[[], float], retention: Callable[[], float]
    ) -> None:
        self._path = path
        self._utc = utc
        self._retention = retention
        self._ready = False
        self._turn = anyio.Lock()

    @property
    def keeps(self) -> bool:
        """Whether any are kept."""
        return self._retention() > 0

    async def keep(self, response_id: str, kept: Kept, *, owner: str) -> None:
        """Write it; it must not change any more. What cannot be written is told in the log and is
        not there later."""
        if not self.keeps:
            return
        now = self._utc()

        def write(db: sqlite3.Connection) -> None:
            body, said = msgspec.json.encode(kept.body), msgspec.json.encode(kept.said)
            size = len(body) + len(said)
            if size > LARGEST:
                return
            db.execute(
                "INSERT OR REPLACE INTO responses (response_id, at, owner, body, said, size)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (response_id, now, owner, body, said, size),
            )
            self._drop(db)

        try:
            await self._with(write)
        except RbeeError as exc:
            log.error("a response is not kept: %s", exc.message)

    async def purge(self) -> None:
        """Drop those whose time is over; what prevents it is told in the log."""
        try:
            if await anyio.to_thread.run_sync(self._path.exists):
                await self._with(self._drop)
        except (RbeeError, OSError) as exc:
            log.error("responses whose time is over stay: %s", exc)

    async def get(self, response_id: str, *, owner: str, field: str | None = None) -> Kept:
        """Raises NotFound, also for what belongs to another."""
        since = self._utc() - self._retention()

        def read(db: sqlite3.Connection) -> tuple[bytes, bytes] | None:
            return db.execute(
                "SELECT body, said FROM responses WHERE response_id = ? AND owner = ? AND at > ?",
                (response_id, owner, since),
            ).fetchone()

        row = await self._with(read)
        if row is None:
            raise _unknown(response_id, field)
        return Kept(msgspec.json.decode(row[0]), msgspec.json.decode(row[1]))

    async def delete(self, response_id: str, *, owner: str) -> None:
        """Raises NotFound."""

        def remove(db: sqlite3.Connection) -> int:
            return db.execute(
                "DELETE FROM responses WHERE response_id = ? AND owner = ?", (response_id, owner)
            ).rowcount

        if not await self._with(remove):
            raise _unknown(response_id, None)

    def _drop(self, db: sqlite3.Connection) -> None:
        db.execute(_PURGE, (self._utc() - self._retention(), MOST, MOST_BYTES))

    async def _with(self, work: Callable[[sqlite3.Connection], T]) -> T:
        async with self._turn:
            return await anyio.to_thread.run_sync(self._work, work)

    def _work(self, work: Callable[[sqlite3.Connection], T]) -> T:
        if not self._ready:
            open_checked(self._path, MIGRATIONS)[0].close()
            self._ready = True
        try:
            with closing(connect(self._path)) as db:
                return work(db)
        except sqlite3.Error as exc:
            raise unusable(self._path, exc) from exc


def _unknown(response_id: str, field: str | None) -> NotFound:
    more = {} if field is None else {"field": field}
    return NotFound(
        f"no response {response_id[:80]} is kept",
        action="They are kept as long as jobs are (job.retention), unless store is false.",
        **more,
    )
