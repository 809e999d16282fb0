"""What was used, by day, key, app and model: counted in memory, kept in `usage.db`.

Owns the file and its bounds: so many days, so many rows a day; beyond those a day's new apps and
models are counted as `other`. It holds no prompt, no answer and no address.
"""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Mapping
from pathlib import Path

import anyio
import anyio.to_thread

from rbee.database import open_checked, unusable
from rbee.protocol.access import UsageReport, UsageRow

ROWS_A_DAY = 2000
OTHER = "other"
DAY = 86400.0
_APP = re.compile(r"[A-Za-z][A-Za-z0-9._ -]{0,39}")
Cell = tuple[str, str, str, str]
"""Day, key, app, model."""
Counts = tuple[int, int, int]
"""Requests, tokens in, tokens out."""

MIGRATIONS = (
    """
    CREATE TABLE used (
        day TEXT NOT NULL,
        key TEXT NOT NULL,
        app TEXT NOT NULL,
        model TEXT NOT NULL,
        requests INTEGER NOT NULL,
        tokens_in INTEGER NOT NULL,
        tokens_out INTEGER NOT NULL,
        PRIMARY KEY (day, key, app, model)
    ) WITHOUT ROWID;
    """,
)
_ADD = """
    INSERT INTO used VALUES (?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET requests = requests + excluded.requests,
        tokens_in = tokens_in + excluded.tokens_in, tokens_out = tokens_out + excluded.tokens_out
"""
_KNOWN = "SELECT day, key, app, model FROM used WHERE day = ?"
_SUM = """
    SELECT key, app, model, sum(requests), sum(tokens_in), sum(tokens_out), min(day), max(day)
    FROM used WHERE day >= ? GROUP BY key, app, model ORDER BY 5 + 6 DESC, 1, 2, 3 LIMIT 10000
"""


class Usage:
    """Counts. Adding is a look-up and three additions; the disk is touched by `flush` only."""

    def __init__(self, path: Path, days: int) -> None:
        """`days`: how far back is kept; 0: nothing is kept or counted."""
        self._path = path
        self.days = days
        self._fresh: dict[Cell, Counts] = {}
        self._day = ""
        self._seen: set[Cell] = set()
        """Of that day."""
        self._db: sqlite3.Connection | None = None
        self._lock = anyio.Lock()
        self.set_aside: Path | None = None

    def add(
        self, *, key: str, app: str, model: str, tokens_in: int, tokens_out: int, utc: float
    ) -> None:
        """One request that has ended."""
        if self.days <= 0:
            return
        day = day_of(utc)
        if day != self._day:
            self._day, self._seen = day, set()
        cell = (day, key, app, model[:200])
        if cell not in self._seen:
            if len(self._seen) >= ROWS_A_DAY:
                cell = (day, key, OTHER, OTHER)
            self._seen.add(cell)
        requests, before_in, before_out = self._fresh.get(cell, (0, 0, 0))
        self._fresh[cell] = (requests + 1, before_in + tokens_in, before_out + tokens_out)

    async def flush(self) -> None:
        """Put on disk what was counted. Raises InternalError; what was not kept is tried again."""
        async with self._lock:
            fresh = self._take()
            try:
                await anyio.to_thread.run_sync(self._write, fresh)
            except BaseException:  # cancelled before it began, too
                self._put_back(fresh)
                raise

    async def report(self, since: float) -> UsageReport:
        """From the day of that UTC time on, with what was counted until now."""
        await self.flush()
        async with self._lock:
            return await anyio.to_thread.run_sync(self.read, since)

    def _take(self) -> dict[Cell, Counts]:
        """What was counted since; on the loop's thread, where `add` counts on."""
        fresh, self._fresh = self._fresh, {}
        return fresh

    def _put_back(self, fresh: Mapping[Cell, Counts]) -> None:
        for cell, (requests, tokens_in, tokens_out) in fresh.items():
            r, i, o = self._fresh.get(cell, (0, 0, 0))
            self._fresh[cell] = (r + requests, i + tokens_in, o + tokens_out)

    def _write(self, fresh: Mapping[Cell, Counts]) -> None:
        if not fresh and self._db is not None:
            return
        try:
            db = self._open()
            db.execute("BEGIN IMMEDIATE")
            try:
                db.executemany(_ADD, [(*cell, *counts) for cell, counts in fresh.items()])
                oldest = day_of(time.time() - self.days * DAY)
                db.execute("DELETE FROM used WHERE day < ?", (oldest,))
                db.execute("COMMIT")
            except BaseException:
                db.execute("ROLLBACK")
                raise
        except sqlite3.Error as exc:
            raise unusable(self._path, exc) from exc

    def read(self, since: float) -> UsageReport:
        """What is on disk. Raises InternalError."""
        day = day_of(since)
        try:
            found = self._open().execute(_SUM, (day,)).fetchall()
        except sqlite3.Error as exc:
            raise unusable(self._path, exc) from exc
        rows = [
            UsageRow(
                key=key, app=app, model=model, requests=requests, tokens_in=into, tokens_out=out,
                first_day=first, last_day=last,
            )
            for key, app, model, requests, into, out, first, last in found
        ]  # fmt: skip
        return UsageReport(since=day, rows=rows)

    def close(self) -> None:
        """Write what is left."""
        try:
            if self._fresh:
                self._write(self._take())
        finally:
            if self._db is not None:
                self._db.close()
                self._db = None

    def _open(self) -> sqlite3.Connection:
        if self._db is None:
            self._db, self.set_aside = open_checked(self._path, MIGRATIONS)
            day, seen = self._day, self._seen
            seen.update(self._db.execute(_KNOWN, (day,)).fetchall())  # by a queen before this one
        return self._db


def day_of(utc: float) -> str:
    """`2026-01-31`, in UTC."""
    return time.strftime("%Y-%m-%d", time.gmtime(utc))


def app_of(agent: str) -> str:
    """An app's name out of `User-Agent`: `OpenAI/Python 1.2` → `OpenAI`; no version, so that an
    update is no other app. What is no name is `unknown`."""
    found = _APP.match(agent.strip().partition("/")[0])
    return found[0].strip() if found is not None else "unknown"
