"""Effects carried out: the one place where the brain's wishes meet the world.

Quick ones (streams, dashboards, the store's queue) happen at once and in order; slow ones (worker
processes, runs) get a task of their own and report back as events. Decides nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import anyio
import anyio.abc

from rbee.core.events import (
    AbortRun,
    Append,
    Count,
    Dispatch,
    Effect,
    Event,
    Narrate,
    Publish,
    Record,
    SaveJob,
    SpawnRefused,
    StartWorker,
    StopWorker,
)
from rbee.core.states import JOB_TERMINAL
from rbee.errors import HiveOffline, InternalError, NotFound, RbeeError
from rbee.protocol.base import encode
from rbee.protocol.colony import Narration
from rbee.protocol.operations import Embed

if TYPE_CHECKING:
    from rbee.core.jobs import Job
    from rbee.daemons.queen.board import Board
    from rbee.daemons.queen.links import HiveLink
    from rbee.daemons.queen.metrics import Metrics
    from rbee.daemons.queen.relay import Relay
    from rbee.daemons.queen.store import Store
    from rbee.daemons.queen.streams import Streams

log = logging.getLogger("rbee.queen")
_LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class Effects:
    """Executes effects. `relay` and `tasks` are set before the first event is handled."""

    relay: Relay
    tasks: anyio.abc.TaskGroup

    def __init__(
        self,
        *,
        streams: Streams,
        board: Board,
        store: Store,
        metrics: Metrics,
        post: Callable[[Event], None],
        retention: float,
    ) -> None:
        self._streams = streams
        self._board = board
        self._store = store
        self._metrics = metrics
        self._post = post
        self.retention = retention
        self.links: dict[str, HiveLink] = {}

    def execute(self, effect: Effect) -> None:
        """Do it, or see to it that it is done."""
        match effect:
            case Append(job_id, kind, data):
                stream = self._streams.live(job_id)
                if stream is not None:
                    stream.append(kind, encode(data))
            case Publish(name, data):
                self._board.publish(name, data)
            case SaveJob(job):
                self._save(job)
            case Narrate(source, message, level):
                self.narrate(source, message, level)
            case Dispatch():
                self._dispatch(effect)
            case AbortRun(job_id, attempt):
                self.relay.abort(job_id, attempt)
            case Record(decision):
                self._store.save_decision(decision.job_id, decision.at, encode(decision))
            case Count(name, amount, labels):
                self._metrics.count(name, amount, labels)
            case StartWorker():
                self.tasks.start_soon(self._start, effect)
            case StopWorker():
                self.tasks.start_soon(self._stop, effect)

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

    def _save(self, job: Job) -> None:
        self._store.save_job(job.info(), encode(job.request), durable=job.durable)
        if job.state in JOB_TERMINAL:
            # Vectors are large, and a caller who waited for them on its connection has them.
            results = job.durable or not isinstance(job.request, Embed)
            events = self._streams.retire(job.job_id, results=results)
            if self.retention > 0:
                self._store.save_stream(job.job_id, events)
            else:
                self._store.purge(before=time.time() + 1, keep=0)

    async def _start(self, effect: StartWorker) -> None:
        worker_id = effect.spec.worker_id
        try:
            await self._link(effect.hive).spawn(effect.spec)
        except RbeeError as exc:
            self._post(SpawnRefused(worker_id, exc))
        except Exception as exc:
            log.exception("starting %s failed", worker_id)
            error = InternalError(f"{effect.hive} cannot start a process: {exc}")
            self._post(SpawnRefused(worker_id, error))

    async def _stop(self, effect: StopWorker) -> None:
        try:
            await self._link(effect.hive).stop(effect.worker_id, force=effect.force)
        except NotFound as exc:
            self._post(SpawnRefused(effect.worker_id, exc))
        except RbeeError as exc:
            log.warning("stopping %s: %s", effect.worker_id, exc)

    def _link(self, hive: str) -> HiveLink:
        link = self.links.get(hive)
        if link is None:
            raise HiveOffline(f"hive {hive} is not connected")
        return link
