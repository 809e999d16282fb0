"""Errands: the operations on machines that the colony tells of, each read from its job's stream.

Owns which there are, which stream is read, and which of them somebody has put away. It decides
nothing; the screen that shows them runs `follow`, and stops it when it is not shown.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import TYPE_CHECKING

from rbee.client import QueenClient
from rbee.errors import JobFinished, RbeeError
from rbee.protocol.jobs import JobInfo
from rbee.tui.errand import Errand
from rbee.tui.store import ACTIVE_JOBS

if TYPE_CHECKING:
    from rbee.tui.app import RbeeApp

FRESH_SECONDS = 2.0
"""A job that is no older when it is met was followed from its beginning: a repaint is a second."""
MOST_FOLLOWED = 8
"""Streams that are read at once."""


class Errands:
    """`ended` is called for each that has told its end."""

    def __init__(self, rbee: RbeeApp, ended: Callable[[Errand], None]) -> None:
        self._rbee = rbee
        self._ended = ended
        self._all: dict[str, Errand] = {}
        self._following: set[str] = set()

    def of(self, name: str | None) -> Errand | None:
        """The newest one on a machine, unless it was put away."""
        job = self._rbee.store.hive_job(name) if name is not None else None
        found = self._all.get(job.job_id) if job is not None else None
        return None if found is None or found.dismissed else found

    def of_hives(self) -> dict[str, Errand]:
        """By name of the machines that were added."""
        return {name: e for name in self._rbee.store.hives if (e := self.of(name)) is not None}

    def additions(self, ours: Container[str]) -> list[Errand]:
        """Machines that are being added, and of `ours` those that could not be."""
        store = self._rbee.store
        adds = [job for job in store.jobs.values() if job.operation == "hive_add"]
        names = {job.hive for job in adds if job.hive and job.hive not in store.hives}
        found = [errand for name in sorted(names) if (errand := self.of(name)) is not None]
        return [
            errand
            for errand in found
            if errand.operation == "hive_add"
            and (not errand.ended or (errand.error is not None and errand.hive in ours))
        ]

    def put_away(self, name: str) -> None:
        """Show it no more, once it has ended."""
        errand = self.of(name)
        if errand is not None and errand.ended:
            errand.dismissed = True

    def unread(self) -> list[Errand]:
        """Those whose end is not known and whose stream nobody reads; each is to be followed."""
        store = self._rbee.store
        for gone in self._all.keys() - store.jobs.keys():
            del self._all[gone]
        for job in store.jobs.values():
            if job.operation.startswith("hive_") and job.job_id not in self._all:
                self._all[job.job_id] = self._begun(job)
        if not store.connected:
            return []
        room = MOST_FOLLOWED - len(self._following)
        waiting = [e for e in self._all.values() if not e.ended and e.job_id not in self._following]
        # Marked here, because what runs `follow` may begin it later than the next call of this.
        self._following |= {errand.job_id for errand in waiting[:room]}
        return waiting[:room]

    def leave(self) -> None:
        """Nobody reads any more."""
        self._following.clear()

    async def follow(self, errand: Errand) -> None:
        """Read its stream to the end, from where it was left."""
        store = self._rbee.store
        try:
            async with QueenClient(self._rbee.link.require().url) as client:
                async for event in client.job_stream(errand.job_id, after=errand.last_id):
                    if event.comment is None:
                        errand.apply(event, store.clock())
        except RbeeError:
            pass  # whatever ended the stream, the colony's events tell of the job's own end
        finally:
            self._following.discard(errand.job_id)
        job = store.jobs.get(errand.job_id)
        if not errand.ended and job is not None and job.state not in ACTIVE_JOBS:
            errand.closed(job, store.clock())
        if errand.ended:
            self._ended(errand)

    async def cancel(self, errand: Errand) -> None:
        """Cancel its job; one that has ended meanwhile needs nothing."""
        try:
            await self._rbee.link.require().cancel(errand.job_id)
        except JobFinished:
            return
        except RbeeError as exc:
            self._rbee.toast(exc)

    def _begun(self, job: JobInfo) -> Errand:
        fresh = self._rbee.store.clock() - job.created_at < FRESH_SECONDS
        return Errand(job.job_id, job.operation, job.hive or "", fresh=fresh)
