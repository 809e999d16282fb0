"""Admission: from a checked request to a job the brain has, with everything refused that can be.

Owns the order of the checks (shutting down, capacity, model, context) and the promise behind 202:
a durable job is on disk before anybody hears of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rbee import naming
from rbee.core.events import JobSubmitted
from rbee.core.jobs import Job
from rbee.core.scheduling import check_context
from rbee.errors import (
    HiveNotFound,
    HiveOffline,
    ModelNotFound,
    NoWorkers,
    QueueFull,
    RbeeError,
    ShuttingDown,
)
from rbee.protocol.base import encode
from rbee.protocol.operations import Infer, ModelWork, Operation, WorkerSpawn

if TYPE_CHECKING:
    from rbee.clock import Clock
    from rbee.daemons.queen.brain import Brain
    from rbee.daemons.queen.effects import Effects
    from rbee.daemons.queen.store import Store
    from rbee.daemons.queen.streams import Streams
    from rbee.protocol.hives import ModelInfo
    from rbee.settings import Settings


class Admission:
    """Turns operations into jobs."""

    def __init__(
        self,
        *,
        settings: Settings,
        clock: Clock,
        brain: Brain,
        effects: Effects,
        streams: Streams,
        store: Store,
    ) -> None:
        self.settings = settings
        self._clock = clock
        self._brain = brain
        self._effects = effects
        self._streams = streams
        self._store = store

    async def submit(
        self,
        operation: Operation,
        *,
        client: str = "",
        durable: bool = True,
        job_id: str | None = None,
    ) -> Job:
        """Admit and hand to the brain. Raises what refuses it, before anything was kept."""
        colony = self._brain.colony
        if colony.stopping:
            raise ShuttingDown("the queen is shutting down")
        capacity = self.settings.queen.queue_capacity
        if isinstance(operation, ModelWork) and len(colony.queue) >= capacity:
            raise QueueFull(f"{capacity} jobs wait already", queued=capacity, retry_after=5)
        model = None
        if isinstance(operation, ModelWork | WorkerSpawn):
            model = await self.resolve(operation.model, operation.hive)
        if isinstance(operation, Infer) and model is not None:
            ctx = min(self.settings.worker.ctx, model.context or self.settings.worker.ctx)
            refused = check_context(operation, ctx)
            if refused is not None:
                raise refused
        job = Job(
            job_id=job_id or naming.job_id(),
            request=operation,
            created_at=self._clock.utc(),
            queued_mono=self._clock.monotonic(),
            model=model,
            client=client,
            durable=durable,
        )
        self._streams.create(job.job_id)
        if durable:
            self._store.save_job(job.info(), encode(operation), durable=True)
            await self._store.flush()
        await self._brain.call(JobSubmitted(job))
        return job

    async def resolve(self, ref: str, hive: str | None = None) -> ModelInfo:
        """Ask the hives for a model; the first that has it answers."""
        links = self._effects.links
        if hive is not None and hive not in links:
            if hive in self._brain.colony.fleet.hives:
                raise HiveOffline(f"hive {hive} is offline")
            known = ", ".join(links) or "none"
            raise HiveNotFound(
                f"no hive named {hive!r} was added (known: {known})",
                action=f"Use one of: {known}, or leave the hive out.",
            )
        failure: RbeeError | None = None
        for name, link in links.items():
            if hive in (None, name):
                try:
                    return await link.resolve(ref)
                except RbeeError as exc:
                    if failure is None or isinstance(failure, ModelNotFound):
                        failure = exc
        raise failure or NoWorkers("no hive is online", action="See `rbee hive list`.")
