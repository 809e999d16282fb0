"""LogReader: follows the logs of the queen, the hives and the workers into one LogBook.

Owns the streams, their ends and returns, and why a source cannot be read. It decides neither what
is shown nor how; while it does not run, nothing is open.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import cast

import anyio
from anyio.abc import TaskGroup

from rbee.client import QueenClient
from rbee.errors import RbeeError
from rbee.tui import log_lines
from rbee.tui.log_seam import Seam
from rbee.tui.logbook import Entry, Level, LogBook
from rbee.tui.store import DEAD_WORKERS, ColonyStore

QUEEN = "queen"
FIRST = 200
"""Lines of each log that are read at first."""
AGAIN = 1000
"""Lines that are asked for, and compared with what is known, when a log is read again."""
LOOK_SECONDS = 0.5
AGAIN_SECONDS = 3.0
LIVE_SECONDS = 2.0
"""What comes so long after a log was opened is being written now."""
STREAMS = 40
"""Logs that are followed at once: a connection each, here and at the queen."""


class LogReader:
    """`run` until cancelled, again and again. `trouble`: source → why it cannot be read."""

    def __init__(self, store: ColonyStore, book: LogBook, url: Callable[[], str]) -> None:
        """`url`: the queen's, or raises QueenUnreachable."""
        self._store = store
        self._book = book
        self._url = url
        self.chosen: str | None = None
        """A source that is read before all others."""
        self.trouble: dict[str, RbeeError] = {}
        self._wanted: list[str] = []
        self._tasks: dict[str, anyio.CancelScope] = {}
        self._open_since: dict[str, float] = {}
        self._ended: set[str] = set()
        """Workers that will not write any more, and whose log was read to its end."""
        self._known: dict[str, deque[int]] = {}
        self._last: dict[str, Entry] = {}
        """Source → its last line, as far as its time and level go."""
        self._heard = -1

    async def run(self) -> None:
        """Follow what there is; on the way back from a pause, what came meanwhile is read."""
        try:
            async with anyio.create_task_group() as tasks:
                while True:
                    self._sync(tasks)
                    await anyio.sleep(LOOK_SECONDS)
        finally:
            self._tasks.clear()
            self._open_since.clear()
            self._ended.clear()

    def narrate(self) -> None:
        """Take over the narration that the store has."""
        if self._heard == self._store.narrated:
            return
        self._heard = self._store.narrated
        for line in self._store.narration:
            level, text = log_lines.level_of_narration(line.level), log_lines.clean(line.message)
            self._book.add(line.at, log_lines.clean(line.source), level, text, told=True)

    def left_out(self) -> set[str]:
        """Sources that are not read because there are too many."""
        return set(self._sources()[STREAMS:])

    def _sources(self) -> list[str]:
        """Those whose log can be asked for, by need. The hive of the queen's own machine writes
        into her log."""
        store = self._store
        hives = [hive.name for hive in store.hive_list() if hive.kind != "local"]
        workers = [
            worker.worker_id
            for worker in store.worker_list()
            if (hive := store.hives.get(worker.hive)) is not None and hive.online
        ]
        names = [QUEEN, *hives, *workers]
        chosen = self.chosen
        first = {
            chosen,
            *(w.worker_id for w in store.worker_list() if w.hive == chosen),
            *((QUEEN,) if chosen in store.hives else ()),
        }
        return sorted(dict.fromkeys(names), key=lambda name: name not in first)

    def _sync(self, tasks: TaskGroup) -> None:
        self._wanted = self._sources() if self._store.connected else []
        followed = self._wanted[:STREAMS]
        for name in self._wanted[STREAMS:]:
            if name in self._tasks:
                self._tasks[name].cancel()
        for name in set(self.trouble) - set(self._wanted):
            del self.trouble[name]
        if self._store.connected:
            self._forget()
        for name, since in self._open_since.items():
            if time.monotonic() - since > LIVE_SECONDS:  # also a log to which nothing is written
                self.trouble.pop(name, None)
        for name in followed:
            free = name not in self._tasks and len(self._tasks) < STREAMS
            if free and name not in self._ended:
                self._tasks[name] = anyio.CancelScope()
                tasks.start_soon(self._follow, name, self._tasks[name])

    def _forget(self) -> None:
        """What was kept of the logs of those that are no more."""
        there = {QUEEN, *self._store.hives, *self._store.workers, *self._tasks}
        for kept in (self._known, self._last):
            for name in kept.keys() - there:
                del kept[name]

    async def _follow(self, name: str, scope: anyio.CancelScope) -> None:
        with scope:
            while True:
                ended = await self._read(name)
                if ended and self._over(name):
                    self._ended.add(name)
                    break
                if name not in self._wanted:
                    break
                await anyio.sleep(AGAIN_SECONDS)
        self._tasks.pop(name, None)

    def _over(self, name: str) -> bool:
        """A worker that will not write any more."""
        if name == QUEEN or name in self._store.hives:
            return False
        worker = self._store.workers.get(name)
        return worker is None or worker.state in DEAD_WORKERS

    async def _read(self, name: str) -> bool:
        """Until the log ends, or breaks off: False."""
        known = self._known.setdefault(name, deque(maxlen=AGAIN))
        seam, opened = Seam(list(known)), time.monotonic()
        self._open_since[name] = opened
        try:
            async with QueenClient(self._url()) as client:
                lines = self._open(client, name, lines=AGAIN if known else FIRST)
                async with aclosing(cast("AsyncGenerator[str]", lines)):
                    async for line in lines:
                        self.trouble.pop(name, None)
                        live = time.monotonic() - opened > LIVE_SECONDS
                        was_done = seam.done
                        for new in seam.feed(line):
                            if seam.gap and not was_done:
                                self._gap(name)
                                was_done = True
                            known.append(hash(new))
                            self._add(name, new, live=live)
            self.trouble.pop(name, None)
        except RbeeError as exc:
            if name in self._wanted:
                self.trouble[name] = exc
            return False
        finally:
            self._open_since.pop(name, None)
        return True

    def _open(self, client: QueenClient, name: str, *, lines: int) -> AsyncIterator[str]:
        if name == QUEEN:
            return client.queen_logs(lines=lines, follow=True)
        if name in self._store.hives:
            return client.hive_logs(name, lines=lines, follow=True)
        return client.worker_logs(name, lines=lines, follow=True)

    def _gap(self, name: str) -> None:
        last = self._last.get(name)
        at = self._store.clock() if last is None else last.at
        words = f"more than {AGAIN} lines came while nobody looked; those between were not read"
        self._book.add(at, name, Level.WARN, words)

    def _add(self, name: str, line: str, *, live: bool) -> None:
        """A line without a time has the time of the one before, or now where it is just written."""
        now = self._store.clock()
        found, last = log_lines.parse(line, now), self._last.get(name)
        at, fine, level = found.at, found.fine, found.level
        if at is None:
            at = now if last is None else max(last.at, now) if live else last.at
            fine = fine if last is None or at != last.at else last.fine
        own = name == QUEEN or name in self._store.hives
        if level is None:
            goes_on = own and last is not None and found.at is None
            level = last.level if goes_on and last else log_lines.level_of_output(found.text)
        self._last[name] = Entry(at, 0, name, level, "", fine=fine)
        names = {QUEEN, *self._store.hives}
        said = log_lines.narrated(found.text, names) if name == QUEEN and found.level else None
        if said is not None:
            self._book.add(at, said[0], level, said[1], told=True, fine=fine)
        else:
            self._book.add(at, name, level, found.text, fine=fine)
