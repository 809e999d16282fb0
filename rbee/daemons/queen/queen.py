"""The queen put together: store, brain, effects, relay, hive and HTTP, started and ended in order.

Owns the wiring and the order of shutdown: no new work, runs ended, streams closed, workers gone,
store flushed. Everything else is somebody else's.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Mapping
from itertools import islice
from typing import TYPE_CHECKING

import anyio
import anyio.abc
import anyio.to_thread

from rbee.core.colony import Colony
from rbee.core.events import HiveJoined, HiveSaid, SettingsChanged, ShutdownAsked
from rbee.core.fleet import Fleet
from rbee.core.jobs import Job
from rbee.daemons.base import url_of
from rbee.daemons.hive.hive import Hive
from rbee.daemons.queen.access import Access
from rbee.daemons.queen.admission import Admission
from rbee.daemons.queen.announcing import announce
from rbee.daemons.queen.board import Board
from rbee.daemons.queen.brain import Brain
from rbee.daemons.queen.catalog import Catalog
from rbee.daemons.queen.deciding import decide_by
from rbee.daemons.queen.doors import Doors
from rbee.daemons.queen.effects import Effects
from rbee.daemons.queen.first_words import first_words
from rbee.daemons.queen.front import Front
from rbee.daemons.queen.journal import Journal
from rbee.daemons.queen.links import HttpLink, LocalLink
from rbee.daemons.queen.logs_of import Logs
from rbee.daemons.queen.machine_tasks import MachineTasks
from rbee.daemons.queen.machines import Machines
from rbee.daemons.queen.metrics import Metrics
from rbee.daemons.queen.numbers import Numbers
from rbee.daemons.queen.outposts import Outposts
from rbee.daemons.queen.recovery import Recovery
from rbee.daemons.queen.relay import Relay
from rbee.daemons.queen.responses_store import ResponseStore
from rbee.daemons.queen.retention import retain
from rbee.daemons.queen.store import Store
from rbee.daemons.queen.streams import Streams
from rbee.daemons.queen.use import Use
from rbee.errors import HiveExists, HiveOffline
from rbee.protocol.colony import Snapshot
from rbee.protocol.hives import AnyHiveEvent, Capabilities, HiveReady
from rbee.protocol.jobs import JobInfo
from rbee.protocol.operations import ModelWork
from rbee.protocol.workers import WorkerInfo

if TYPE_CHECKING:
    from rbee.clock import Clock
    from rbee.paths import Paths
    from rbee.settings import Settings

log = logging.getLogger("rbee.queen")
CASCADE_LIMIT = 30.0
LAST_REPLIES = 2.0
"""Seconds that replies under way get at the end, while the workers already stop."""


class Queen:
    """One queen on her listening sockets. `lifetime` is persistent, linger or owned."""

    def __init__(
        self,
        *,
        settings: Settings,
        paths: Paths,
        clock: Clock,
        doors: Doors,
        lifetime: str,
        token: str | None = None,
    ) -> None:
        self.settings = settings
        self.paths = paths
        self.clock = clock
        self.lifetime = lifetime
        self.url = url_of(doors.inner)
        self.pid = os.getpid()
        self.started_at = clock.utc()
        self.token = token or secrets.token_urlsafe(32)
        self.use = Use(clock)
        self.doors = doors
        self._started_mono = clock.monotonic()
        self._stop = anyio.Event()
        self._stop_reason = ""
        self._tasks: anyio.abc.TaskGroup | None = None
        self._hive: Hive | None = None
        self._hive_scope = anyio.CancelScope()
        self.store = Store.open(paths.database)
        self.journal = Journal.open(paths.database.with_suffix(".journal"))
        self.journal.erases = settings.job.retention <= 0
        self.streams = Streams(self.store, self.journal)
        self.responses = ResponseStore(
            paths.database.with_name("responses.db"),
            utc=clock.utc,
            retention=lambda: self.settings.job.retention,
        )
        self.metrics = Metrics()
        self.board = Board(self.snapshot, lambda watched: self.colony.watch(watched))
        policy, limits = decide_by(settings)
        self._numbers = Numbers(paths.database.with_suffix(".workers"))
        self.colony = Colony(
            fleet=Fleet(self._numbers.first),
            policy=policy,
            limits=limits,
            now=self._started_mono,
            utc=self.started_at,
            started_mono=self._started_mono,
            watched=False,
        )
        self.effects = Effects(
            streams=self.streams,
            board=self.board,
            store=self.store,
            metrics=self.metrics,
            numbers=self._numbers,
            post=lambda event: self.brain.post(event),
            retention=settings.job.retention,
        )
        self.brain = Brain(self.colony, clock, self.effects.execute)
        self.access = Access(self)
        self.effects.closed = self.access.ledger.closed
        self.catalog = Catalog(
            settings=lambda: self.settings,
            clock=clock,
            colony=self.colony,
            links=self.effects.links,
            board=self.board,
            metrics=self.metrics,
            post=self.brain.post,
            call=self.brain.call,
        )
        self.effects.provision = self.catalog.provision
        self.effects.performing = self.catalog.performing
        self.admission = Admission(
            settings=settings,
            clock=clock,
            brain=self.brain,
            catalog=self.catalog,
            streams=self.streams,
            store=self.store,
        )
        self.admission.ledger = self.access.ledger
        self.recovery = Recovery(
            store=self.store,
            streams=self.streams,
            brain=self.brain,
            admission=self.admission,
            clock=clock,
        )
        self.machines = Machines(
            paths=paths,
            clock=clock,
            fleet=self.colony.fleet,
            board=self.board,
            links=self.effects.links,
            call=self.brain.call,
            post=self.brain.post,
            joined=self._hive_joined,
            local_name=lambda: self._hive.name if self._hive is not None else None,
        )
        self.machine_tasks = MachineTasks(
            machines=self.machines,
            paths=paths,
            clock=clock,
            links=self.effects.links,
            post=self.brain.post,
            busy=lambda hive: sum(len(w.jobs) for w in self.colony.fleet.on(hive)),
        )
        self.catalog.performing.machines = self.machine_tasks
        self.admission.arrived = self.machines.arrived
        self.effects.dress = self.machines.dress
        self.logs = Logs(
            paths=paths,
            fleet=self.colony.fleet,
            machines=self.machines,
            links=self.effects.links,
        )
        self._outposts = Outposts(
            links=self.effects.links,
            call=self.brain.call,
            post=self.brain.post,
            joined=self._hive_joined,
        )

    # ---- what the routes ask -------------------------------------------------------------------

    def uptime(self) -> float:
        """Seconds."""
        return self.clock.monotonic() - self._started_mono

    def downloads(self) -> int:
        """Models on their way to a hive."""
        return len(self.catalog.transfers.infos())

    def job_info(self, job: Job, positions: Mapping[str, int] | None = None) -> JobInfo:
        """A live job's wire form, with its position when it waits; for many hand in `positions`."""
        if not isinstance(job.request, ModelWork):
            return job.info()
        if positions is not None:
            return job.info(positions.get(job.job_id))
        position = self.position(job)
        if position is None:
            return job.info()
        now = self.clock.monotonic()
        view = self.colony.view(now=now)
        return job.info(position, self.colony.policy.first_token(job, view, position))

    def position(self, job: Job) -> int | None:
        """A live job's place in the queue, from 1; None when it does not stand there."""
        if job not in self.colony.queue:
            return None
        return self.colony.queue.position(job, self.clock.monotonic())

    def positions(self) -> dict[str, int]:
        """Job id → place in the queue, in order, worked out once for all."""
        order = self.colony.queue.ordered(self.clock.monotonic())
        return {job.job_id: place for place, job in enumerate(order, 1)}

    def worker_infos(self) -> list[WorkerInfo]:
        """All workers."""
        now = self.clock.monotonic()
        return [w.info(now) for w in self.colony.fleet.workers.values()]

    def overhead_ms(self, job: Job) -> int:
        """Milliseconds that the queen herself took for it: admission and hand-over."""
        return round(job.overhead * 1000)

    def snapshot(self) -> Snapshot:
        """The whole colony, for a dashboard that has just come."""
        places = self.positions()
        return Snapshot(
            hives=self.machines.infos(),
            workers=self.worker_infos(),
            jobs=[self.job_info(j, places) for j in islice(self.colony.jobs.values(), 1000)],
            models=self.catalog.models(),
            narration=list(self.board.narration),
            totals=self.colony.totals(),
            downloads=self.catalog.transfers.infos(),
        )

    def local_hive(self) -> Hive:
        """The queen's own hive. Raises HiveOffline when she runs none."""
        if self._hive is None:
            raise HiveOffline("this queen runs no hive of its own (queen.local_hive = false)")
        return self._hive

    def hive_ready(self, ready: HiveReady) -> None:
        """A hive with a process of its own has come; an older link of that name gives way."""
        assert self._tasks is not None
        if self._hive is not None and ready.name == self._hive.name:
            raise HiveExists(
                f"{ready.name} is the name of the hive that this queen runs herself",
                action="Give the other one a name of its own: rbee-hive --name NAME.",
            )

        self._outposts.ready(ready, self._tasks)

    def reload(self, settings: Settings) -> None:
        """Take over what may change while she runs: policy and limits, for what starts from now."""
        self.settings = settings
        self.access.usage.days = settings.queen.usage_days
        self.admission.settings = settings
        self.effects.retention = settings.job.retention
        self.journal.erases = settings.job.retention <= 0
        self.brain.post(SettingsChanged(*decide_by(settings)))

    def ask_to_stop(self, reason: str) -> None:
        """Begin the cascade; harmless when it has begun."""
        if not self._stop.is_set():
            self._stop_reason = reason
            self._stop.set()

    # ---- life ----------------------------------------------------------------------------------

    async def run(
        self, *, task_status: anyio.abc.TaskStatus[str] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Live until asked to stop, then take everything down. Started when HTTP answers."""
        from rbee.daemons.queen.app import build  # the app needs this module's Queen

        front = Front(build(self), self.doors, patience=self.settings.queen.request_timeout)
        try:
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                self.effects.tasks = tasks
                self.catalog.begin(tasks)
                self.effects.relay = Relay(
                    tasks=tasks,
                    post=self.brain.post,
                    streams=self.streams,
                    token_of=lambda hive: self.effects.links[hive].token,
                    stall_timeout=self.settings.worker.stall_timeout,
                )
                tasks.start_soon(self.brain.run)
                if self.settings.queen.local_hive:
                    await self._start_hive(tasks)
                self.machines.begin(tasks)
                await self.recovery.run()
                tasks.start_soon(front.run)
                tasks.start_soon(self.brain.tick, self.streams.counts)
                tasks.start_soon(
                    retain, lambda: self.settings, self.clock, self.store, self.responses
                )
                tasks.start_soon(self.recovery.wait_for_hives)
                tasks.start_soon(self.journal.run)
                tasks.start_soon(self.access.ledger.run)
                if self.lifetime == "linger":
                    tasks.start_soon(self._linger)
                if self.settings.queen.announce:
                    tasks.start_soon(announce, self.settings.hive.name, self.effects.narrate)
                for level, what in first_words(self):
                    self.effects.narrate("queen", what, level)
                task_status.started(self.url)
                await self._stop.wait()
                with anyio.move_on_after(CASCADE_LIMIT):
                    await self.brain.call(ShutdownAsked(self._stop_reason))
                await self.machine_tasks.settle()
                await self._stop_hives()
                self.streams.close()
                self.board.close()
                front.stop()
                with anyio.move_on_after(LAST_REPLIES):
                    await front.ended.wait()
                tasks.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True):
                await self.effects.relay.close()
                await self.streams.settle()
                self.journal.close()
                await anyio.to_thread.run_sync(self.access.ledger.close)
                self._numbers.close(self.colony.fleet.next_worker)
                self.machines.close()
                await anyio.to_thread.run_sync(self.store.close)
            log.info("stopped: %s", self._stop_reason or "cancelled")

    async def _start_hive(self, tasks: anyio.abc.TaskGroup) -> None:
        hive = Hive(
            settings=self.settings,
            paths=self.paths,
            listener=self._local_said,
            callback_url=self.url,
            token=self.token,
        )
        self._hive = hive
        self.effects.links[hive.name] = LocalLink(hive)
        caps = await tasks.start(self._run_hive, hive)
        await self.brain.call(HiveJoined(hive.name, "local", None, caps))

    async def _stop_hives(self) -> None:
        self._hive_scope.cancel()
        self.machines.start_no_more()
        alone = self.machines.stay_alone()
        async with anyio.create_task_group() as tasks:
            for link in self.effects.links.values():
                if isinstance(link, HttpLink) and link.name not in alone:
                    tasks.start_soon(link.shutdown)

    async def _run_hive(
        self, hive: Hive, *, task_status: anyio.abc.TaskStatus[Capabilities]
    ) -> None:
        with self._hive_scope:
            await hive.run(task_status=task_status)

    async def _hive_joined(self) -> None:
        self.catalog.transfers.hive_joined()
        await self.recovery.hive_joined()

    async def _local_said(self, event: AnyHiveEvent) -> None:
        assert self._hive is not None
        self.brain.post(HiveSaid(self._hive.name, event))

    async def _linger(self) -> None:
        """Leave when nobody has used the queen for a while and nothing has run."""
        while self.lifetime == "linger":
            limit = self.settings.queen.linger
            if self.use.open or self.colony.jobs or self.recovery.homeless():
                self.use.last = self.clock.monotonic()
            idle = self.clock.monotonic() - self.use.last
            if idle >= limit:
                self.ask_to_stop(f"not used for {limit:g} s")
                return
            await anyio.sleep(min(1.0, max(0.05, limit - idle)))

    def stay(self) -> None:
        """Somebody started her on purpose: she does not leave by herself any more."""
        if self.lifetime == "linger":
            self.lifetime = "persistent"
            self.effects.narrate("queen", "stays until she is stopped")
