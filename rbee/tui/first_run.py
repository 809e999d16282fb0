"""The first run: whether it is one, and the one thing that is under way from it.

Owns which operation the welcome has asked for and how far it is, read from its job's stream. What
is asked and how it looks belongs to the screen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import anyio
import msgspec

from rbee.client import QueenClient
from rbee.errors import JobFinished, RbeeError
from rbee.protocol.hives import HiveInfo
from rbee.protocol.jobs import JobInfo
from rbee.protocol.operations import HiveAdd, HiveInstall, ModelDownload, WorkerSpawn
from rbee.tui.errand import Errand
from rbee.tui.store import ACTIVE_JOBS, ColonyStore

if TYPE_CHECKING:
    from rbee.tui.app import RbeeApp

DEMO_MODEL = "smollm2-135m"
AGAIN_SECONDS = 1.0
"""Between tries to read on in a stream that broke off."""
First = HiveAdd | HiveInstall | ModelDownload | WorkerSpawn


def demo_model(store: ColonyStore) -> str | None:
    """The catalogue's id of the small demo model, when the colony has it."""
    found = [model.id for model in store.offered_models() if DEMO_MODEL in model.id.lower()]
    return found[0] if found else None


def nothing_yet(store: ColonyStore) -> bool:
    """No worker, no model but the packaged one, and no machine in use but this one: whoever has
    used rbee before is not welcomed again."""
    if store.workers:
        return False
    if not store.hives:
        return True
    added = any(hive.record is not None and hive.online for hive in store.hives.values())
    own = any(not model.hidden and not model.ref.startswith("pkg:") for model in store.models)
    return not added and not own


def to_install(store: ColonyStore) -> HiveInfo | None:
    """The first machine that was added and has no rbee yet."""
    for hive in store.hive_list():
        record = hive.record
        if record is not None and not hive.online and not (hive.version or record.version):
            return hive
    return None


class FirstRun:
    """`changed` is called whenever there is something new to show."""

    def __init__(self, rbee: RbeeApp, changed: Callable[[], None]) -> None:
        self._rbee = rbee
        self._changed = changed
        self.done = False
        """The person has gone on to the dashboard."""
        self.errand: Errand | None = None
        self.tried: First | None = None

    @property
    def welcomes(self) -> bool:
        """Whether the welcome is what the dashboard shows."""
        store = self._rbee.store
        return (not store.hives and not store.workers) or (not self.done and nothing_yet(store))

    @property
    def busy(self) -> bool:
        """Something is under way."""
        return self.errand is not None and not self.errand.ended

    def tells(self, job: JobInfo) -> bool:
        """Whether the welcome shows how this job has ended."""
        return self.errand is not None and self.errand.job_id == job.job_id and self.welcomes

    def put_away(self) -> bool:
        """Show what has ended no more; False: there is nothing like that."""
        if self.errand is None or not self.errand.ended:
            return False
        self.errand = None
        return True

    async def start(self, operation: First) -> None:
        """Have it done, and follow it to its end."""
        self.tried = operation
        match operation:
            case HiveAdd():
                name = operation.name
            case HiveInstall():
                name = operation.hive
            case ModelDownload() | WorkerSpawn():
                name = operation.model
        kind = str(msgspec.to_builtins(operation)["operation"])
        errand = self.errand = Errand("", kind, name)
        self._changed()
        try:
            accepted = await self._rbee.link.require().submit(operation)
        except RbeeError as exc:
            errand.refused(exc, self._rbee.store.clock())
            self._changed()
            return
        errand.job_id = accepted.job_id
        await self._follow(errand)

    async def cancel(self) -> None:
        """Cancel what is under way; what has ended meanwhile needs nothing."""
        if self.errand is None or not self.errand.job_id:
            return
        try:
            await self._rbee.link.require().cancel(self.errand.job_id)
        except JobFinished:
            return
        except RbeeError as exc:
            self._rbee.toast(exc)

    async def _follow(self, errand: Errand) -> None:
        store = self._rbee.store
        while not errand.ended:
            try:
                async with QueenClient(self._rbee.link.require().url) as client:
                    async for event in client.job_stream(errand.job_id, after=errand.last_id):
                        if event.comment is None:
                            errand.apply(event, store.clock())
                            self._changed()
            except RbeeError:
                job = store.jobs.get(errand.job_id)
                if job is not None and job.state not in ACTIVE_JOBS:
                    errand.closed(job, store.clock())
                elif not errand.ended:
                    # The queen may be on her way back; her jobs are on her disk.
                    await anyio.sleep(AGAIN_SECONDS)
            self._changed()
