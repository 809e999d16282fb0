"""Effects carried out: the one place where the brain's wishes meet the world.

Quick ones (streams, dashboards, the store's queue) happen at once and in order; slow ones (worker
processes, runs) get a task of their own and report back as events. Decides nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import anyio
import anyio.abc

from rbee.core.effects import (
    AbortFetch,
    AbortPerform,
    AbortRun,
    Append,
    Count,
    Dispatch,
    Effect,
    FetchModel,
    Narrate,
    Perform,
    Publish,
    Record,
    SaveJob,
    StartWorker,
    StopWorker,
)
from rbee.core.events import Event, SpawnRefused
from rbee.core.fleet import number_of
from rbee.core.states import JOB_TERMINAL
from rbee.errors import HiveOffline, InternalError, NotFound, RbeeError
from rbee.protocol.base import encode
from rbee.protocol.colony import Narration
from rbee.protocol.hives import HiveInfo
from rbee.protocol.operations import Embed

if TYPE_CHECKING:
    from rbee.core.jobs import Job
    from rbee.daemons.queen.board import Board
    from rbee.daemons.queen.links import HiveLink
    from rbee.daemons.queen.metrics import Metrics
    from rbee.daemons.queen.numbers import Numbers
    from rbee.daemons.queen.performing import Performing
    from rbee.daemons.queen.provision import Provision
    from rbee.daemons.queen.relay import Relay
    from rbee.daemons.queen.store import Store
    from rbee.daemons.queen.streams import Streams

log = logging.getLogger("rbee.queen")
_LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class Effects:
    """Executes effects. `relay`, `provision`, `performing`, `dress`, `closed` and `tasks` are set
    before the first event is handled."""

    relay: Relay
    provision: Provision
    performing: Performing
    dress: Callable[[HiveInfo], HiveInfo]
    """What is published of a hive, with what is known of its machine."""
    tasks: anyio.abc.TaskGroup
    closed: Callable[[Job], None]
    """Hears of each job that has ended."""

    def __init__(
        self,
        *,
        streams: Streams,
        board: Board,
        store: Store,
        metrics: Metrics,
        numbers: Numbers,
        post: Callable[[Event], None],
        retention: float,
    ) -> None:
        self._streams = streams
        self._board = board
        self._store = store
        self._metrics = metrics
        self._numbers = numbers
        self._post = post
        self.retention = retention
        self.links: dict[str, HiveLink] = {}
        self._do: dict[type[Effect], Callable[[Any], object]] = {
            Append: self._append,
            Publish: self._publish,
            SaveJob: self._save,
            Narrate: lambda e: self.narrate(e.source, e.message, e.level),
            Dispatch: self._dispatch,
            AbortRun: lambda e: self.relay.abort(e.job_id, e.attempt),
            Record: self._record,
            Count: lambda e: metrics.count(e.name, e.amount, e.labels),
            StartWorker: lambda e: self.tasks.start_soon(self._start, e),
            StopWorker: lambda e: self.tasks.start_soon(self._stop, e),
            FetchModel: lambda e: self.provision.fetch(e),
            AbortFetch: lambda e: self.provision.abort(e),
            Perform: lambda e: self.performing.start(e),
            AbortPerform: lambda e: self.performing.abort(e),
        }

    def execute(self, effect: Effect) -> None:
        """Do it, or see to it that it is done."""
        self._do[type(effect)](effect)

    def narrate(self, source: str, message: str, level: str = "info") -> None:
        """One line for people: on the dashboards and in the log."""
        log.log(_LEVELS[level], "%s: %s", source, message)
        line = Narration(at=time.time(), source=source, message=message, level=level)
        self._board.publish("narration", line)

    def _dispatch(self, effect: Dispatch) -> None:
        job = effect.job
        self.relay.start(effect)
        if effect.attempt == 1 and job.dispatched_mono is not None:
            job.overhead += max(0.0, time.monotonic() - job.dispatched_mono)
            self._metrics.count("overhead_seconds", job.overhead, {})

    def _append(self, effect: Append) -> None:
        stream = self._streams.live(effect.job_id)
        if stream is not None:
            stream.append(effect.type, encode(effect.data))

    def _publish(self, effect: Publish) -> None:
        data = effect.data
        self._board.publish(effect.name, self.dress(data) if isinstance(data, HiveInfo) else data)

    def _record(self, effect: Record) -> None:
        decision = effect.decision
        self._store.save_decision(decision.job_id, decision.at, encode(decision))

    def _save(self, effect: SaveJob) -> None:
        job = effect.job
        if job.state not in JOB_TERMINAL:
            if job.durable:
                self._store.save_job(job.info(), encode(job.request), durable=True)
            else:
                self._store.save_changed(job.job_id, lambda: (job.info(), encode(job.request)))
            return
        self.closed(job)
        # Vectors are large, and a caller who waited for them on its connection has them.
        results = job.durable or not isinstance(job.request, Embed)
        events = self._streams.retire(job.job_id, results=results)
        info, request = job.info(), encode(job.request)
        if self.retention > 0:
            self._store.save_ended(info, request, events, durable=job.durable)
        else:
            self._store.save_job(info, request, durable=job.durable)
            self._store.purge(before=time.time() + 1, keep=0)

    async def _start(self, effect: StartWorker) -> None:
        worker_id = effect.spec.worker_id
        try:
            link = self._link(effect.hive)
            await self._numbers.cover(number_of(worker_id))
            await link.spawn(effect.spec)
        except RbeeError as exc:
            self._post(SpawnRefused(effect.hive, worker_id, exc))
        except Exception as exc:
            log.exception("starting %s failed", worker_id)
            error = InternalError(f"{effect.hive} cannot start a process: {exc}")
            self._post(SpawnRefused(effect.hive, worker_id, error))

    async def _stop(self, effect: StopWorker) -> None:
        try:
            await self._link(effect.hive).stop(effect.worker_id, force=effect.force)
        except NotFound as exc:
            self._post(SpawnRefused(effect.hive, effect.worker_id, exc))
        except RbeeError as exc:
            log.warning("stopping %s: %s", effect.worker_id, exc)
        except Exception:  # one hive's defect must not take the queen with it
            log.exception("stopping %s failed", effect.worker_id)

    def _link(self, hive: str) -> HiveLink:
        link = self.links.get(hive)
        if link is None:
            raise HiveOffline(f"hive {hive} is not connected")
        return link
