"""The models of one hive: what is on its disk, told to the queen whenever that changes.

Owns who may change the catalogue and when, and keeps it in step with the disk. Decides nothing but
what must not be removed; never fetches. All work on the disk is done in threads.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Coroutine, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.abc
import anyio.to_thread

from rbee import registry
from rbee.daemons.hive.reporting import Report, in_thread
from rbee.errors import Conflict, RbeeError, ShuttingDown
from rbee.models import importing, verifying
from rbee.models.stock import DiskUsage, Stock
from rbee.protocol.base import Wire
from rbee.protocol.hives import HiveWorker, ModelInfo
from rbee.protocol.models import (
    CatalogueEntry,
    CatalogueFile,
    DownloadOrder,
    ForeignModel,
    GarbageReport,
    ImportBody,
    Verified,
)

if TYPE_CHECKING:
    from rbee.models.catalogue import Row
    from rbee.paths import Paths
    from rbee.protocol.workers import WorkerSpec
    from rbee.settings import Settings

log = logging.getLogger("rbee.hive")
LOOK_EVERY = 30.0
"""Seconds between two comparisons of the catalogue with the disk."""
_GB = 1_000_000_000


class Deleted(Wire, frozen=True, kw_only=True):
    """DELETE /v1/models/{model}: what has become of it; `freed` in bytes."""

    model: str
    freed: int
    message: str


class Models:
    """Of the hive called `hive`. `changed` is awaited when the list has, `workers` says what runs.

    `active` gives the ids of the transfers whose partial files are in use.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        paths: Paths,
        hive: str,
        changed: Callable[[], Awaitable[None]],
        workers: Callable[[], list[HiveWorker]],
    ) -> None:
        self.folder = Path(settings.models.dir) if settings.models.dir else paths.models_dir
        self.active: Callable[[], Collection[str]] = tuple
        self.stock = Stock(
            folder=self.folder,
            database=paths.data / "catalogue.db",
            aliases=settings.models.aliases,
            backends=lambda: [info for info, _ in registry.survey()],
        )
        self._settings = settings
        self._hive = hive
        self._changed = changed
        self._workers = workers
        self._starting: dict[str, str] = {}
        """Path by id of workers that are about to run."""
        self._changing = anyio.Lock()
        self._tasks: anyio.abc.TaskGroup | None = None

    @property
    def quota(self) -> int:
        """Bytes the models folder may hold; 0: any."""
        return int(self._settings.models.quota_gb * _GB)

    async def run(self) -> None:
        """Keep in step with the disk until cancelled."""
        try:
            async with anyio.create_task_group() as self._tasks:
                while True:
                    await self.look()
                    await anyio.sleep(LOOK_EVERY)
        finally:
            self._tasks = None

    def start_soon(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Have something done that ends with the hive. Raises ShuttingDown."""
        if self._tasks is None:
            raise ShuttingDown("this hive is on its way out", action="Ask for it again later.")
        self._tasks.start_soon(work)

    async def look(self) -> None:
        """Compare the catalogue with the disk once."""
        try:
            async with self._changing:
                different = await anyio.to_thread.run_sync(self.stock.step)
        except (RbeeError, OSError) as exc:
            log.warning("the models could not be compared with the disk: %s", exc)
            return
        if different:
            await self._changed()

    def close(self) -> None:
        """Let go of the catalogue's file."""
        self.stock.close()

    def list(self) -> list[ModelInfo]:
        """All models, hidden ones included. Blocks on the disk."""
        return self.stock.models()

    def disk(self) -> DiskUsage:
        """The disk that models are kept on. Blocks."""
        return self.stock.disk()

    async def resolve(self, ref: str) -> ModelInfo:
        """A model by reference, id or alias. Raises ModelNotFound (`details.hub`: it may be on the
        hub), ModelAmbiguous, ModelCorrupted, ModelIncompatible, InvalidRequest."""
        try:
            return await anyio.to_thread.run_sync(lambda: self.stock.library.resolve(ref))
        finally:
            await self._tell_noticed()

    async def entry(self, model: str) -> CatalogueEntry:
        """What the catalogue says of a model; of a packaged or named file what would stand there.
        Raises as `resolve` does."""
        try:
            return await anyio.to_thread.run_sync(self.stock.entry, model)
        finally:
            await self._tell_noticed()

    async def publish(
        self,
        order: DownloadOrder,
        path: Path,
        files: list[CatalogueFile],
        *,
        provider: str = "hf",
    ) -> ModelInfo:
        """Put a model that was fetched, and checked, into the catalogue. Raises ModelCorrupted."""
        info = await anyio.to_thread.run_sync(
            lambda: self.stock.publish(order, path, files, provider=provider)
        )
        log.info("model added", extra={"model": info.id, "path": info.path})
        await self._changed()
        return info

    async def find_cached(self, order: DownloadOrder) -> dict[str, Path] | None:
        """Files of the order in this machine's hub cache, by name; None: there is none. They have
        the right name, revision and size; their content is for the caller to check."""
        return await anyio.to_thread.run_sync(self.stock.cached, order)

    async def refer(self, order: DownloadOrder) -> ModelInfo | None:
        """Use the order's model where the hub's cache keeps it, when that is on another disk, from
        which no hard link leads here. None: it is not, not all of it is there, or not right."""
        if not await anyio.to_thread.run_sync(self.stock.is_far, order):
            return None
        info = await in_thread(lambda _tell, stop: self.stock.refer(order, stop))
        if info is not None:
            log.info("model referred to", extra={"model": info.id, "path": info.path})
            await self._changed()
        return info

    async def used(self, path: str) -> None:
        """A worker has started with the model at a path."""
        try:
            await anyio.to_thread.run_sync(self.stock.used, path)
        except RbeeError as exc:
            log.warning("the use of %s was not noted: %s", path, exc.message)

    async def delete(self, model: str) -> Deleted:
        """Take a model off the disk and out of the catalogue. Files that belong to the user or to
        another program are left where they are.

        Raises ModelNotFound, Conflict (workers use it, or it is in no catalogue), Forbidden.
        """
        async with self._changing:
            row = await anyio.to_thread.run_sync(self.stock.row, model)
            entry = row.entry
            if users := self._users(entry.path):
                raise Conflict(
                    f"{entry.id} is in use by {', '.join(users)}",
                    action=f"Stop them first: rbee worker stop {users[0]}",
                    workers=users,
                )
            freed = await anyio.to_thread.run_sync(self.stock.remove, row)
            left = await anyio.to_thread.run_sync(Path(entry.path).exists)
        if entry.linked:
            message = f"{entry.id} is forgotten; {entry.path} is not rbee's and was left alone"
        elif left:
            message = f"{entry.id} is forgotten; {entry.path} is not in {self.folder} and was left"
        elif freed:
            message = f"{entry.id} is deleted"
        else:
            message = f"{entry.id} is deleted; another program still has its files"
        log.info("%s", message, extra={"freed": freed})
        await self._changed()
        return Deleted(model=entry.id, freed=freed, message=message)

    async def verify(self, model: str, report: Report | None = None) -> Verified:
        """Read a model's files again. One with problems stays, and counts as unverified. Raises as
        `resolve` does."""
        entry = await self.entry(model)
        outcome = await in_thread(lambda tell, stop: verifying.verify(entry, tell, stop), report)
        different = await anyio.to_thread.run_sync(self.stock.note, entry, outcome)
        for problem in outcome.problems:
            log.warning("model %s: %s", entry.id, problem)
        if different:
            await self._changed()
        return Verified(
            model=entry.id,
            hive=self._hive,
            files=len(entry.files),
            bytes=outcome.bytes,
            hashed=outcome.hashed,
            problems=outcome.problems,
        )

    async def gc(self, *, dry_run: bool = False) -> GarbageReport:
        """Remove begun transfers nobody works on and, with a quota, models beyond it."""
        async with self._changing:
            paths, active = self._paths(), self.active()
            done = await anyio.to_thread.run_sync(
                lambda: self.stock.garbage(
                    quota=self.quota, kept=self._kept(paths), active=active, dry_run=dry_run
                )
            )
        if done.models and not dry_run:
            await self._changed()
        return done

    async def make_room(self, need: int) -> list[str]:
        """Before `need` bytes come: remove what the quota says must go, the least recently used
        first; ids. Nothing without a quota. What is in use or wanted stays, and the quota may then
        be exceeded."""
        if not self.quota:
            return []
        async with self._changing:
            gone = await anyio.to_thread.run_sync(self._make_room, need, self._paths())
        if gone:
            log.info("removed to stay within the quota: %s", ", ".join(gone))
            await self._changed()
        return gone

    async def foreign(self) -> list[ForeignModel]:
        """Models of other programs on this machine, and files here that nobody has added."""
        return await anyio.to_thread.run_sync(self.stock.foreign)

    async def import_(self, body: ImportBody, report: Report | None = None) -> CatalogueEntry:
        """Take a model over that is on this machine already; one that is here is told as it is.

        Raises ValidationFailed, ModelNotFound, ModelCorrupted, ModelIncompatible, Conflict,
        InsufficientDisk, Forbidden.
        """
        path = await anyio.to_thread.run_sync(importing.checked, body)
        if body.copy:
            await self.make_room(await anyio.to_thread.run_sync(importing.size_of, path))
        async with self._changing:
            entry, fresh = await in_thread(
                lambda tell, stop: self.stock.import_(body, path, tell, stop), report
            )
        if fresh:
            log.info("model imported", extra={"model": entry.id, "path": entry.path})
            await self._changed()
        return entry

    async def _tell_noticed(self) -> None:
        """The queen hears at once of what somebody's question has brought to light."""
        if self.stock.noticed():
            await self._changed()

    @contextmanager
    def starting(self, spec: WorkerSpec) -> Generator[None]:
        """A worker is about to run: its model counts as in use although no process has it yet."""
        self._starting[spec.worker_id] = spec.model_path
        try:
            yield
        finally:
            self._starting.pop(spec.worker_id, None)

    def _make_room(self, need: int, paths: Collection[str]) -> list[str]:
        kept = self._kept(paths)
        going: list[Row] = self.stock.beyond(quota=self.quota, need=need, kept=kept)
        for row in going:
            self.stock.remove(row)
        return [row.entry.id for row in going]

    def _used(self) -> dict[str, str]:
        """By id of a worker that runs or is about to: the path of its model."""
        return {w.spec.worker_id: w.spec.model_path for w in self._workers()} | self._starting

    def _users(self, path: str) -> list[str]:
        """Ids of the workers that have the model at a path."""
        return [worker for worker, its in self._used().items() if its == path]

    def _paths(self) -> set[str]:
        """Of the models in use."""
        return set(self._used().values())

    def _kept(self, paths: Collection[str]) -> set[str]:
        """Ids of models that no quota may remove: in use at one of `paths`, or wanted by the
        settings. Blocks."""
        kept = {info.id for info in self.stock.models() if info.path in paths}
        models = self._settings.models
        wanted = [name for name, count in models.min_workers.items() if count]
        wanted += [name for name, seconds in models.keep_alive.items() if seconds == "forever"]
        return kept | self.stock.ids_of(wanted)
