"""Admission: from a checked request to a job the brain has, with everything refused that can be.

Owns the order of the checks (shutting down, capacity, model, context, deadline) and the promise
behind 202: a durable job is on disk before anybody hears of it.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from rbee import naming
from rbee.core.events import JobSubmitted
from rbee.core.jobs import Job
from rbee.daemons.queen.provision import Located
from rbee.errors import QueueFull, ShuttingDown
from rbee.protocol.base import encode
from rbee.protocol.operations import (
    ModelPreload,
    ModelTask,
    ModelUnload,
    ModelWork,
    Operation,
    WorkerSpawn,
)

if TYPE_CHECKING:
    from rbee.clock import Clock
    from rbee.daemons.queen.brain import Brain
    from rbee.daemons.queen.catalog import Catalog
    from rbee.daemons.queen.ledger import Ledger
    from rbee.daemons.queen.store import Store
    from rbee.daemons.queen.streams import Streams
    from rbee.protocol.hives import ModelInfo
    from rbee.settings import Settings

log = logging.getLogger("rbee.queen")


class Admission:
    """Turns operations into jobs."""

    def __init__(
        self,
        *,
        settings: Settings,
        clock: Clock,
        brain: Brain,
        catalog: Catalog,
        streams: Streams,
        store: Store,
    ) -> None:
        self.settings = settings
        self._clock = clock
        self._brain = brain
        self._catalog = catalog
        self._streams = streams
        self._store = store
        self.homeless: Callable[[], int] = int
        """How many accepted jobs the brain does not know yet."""
        self.ledger: Ledger | None = None
        """Hears of each job, and who asked for it."""
        self.arrived: Callable[[str | None], Awaitable[None]] = _at_once
        """Returns when the hive that is meant has come, see Machines."""

    async def submit(
        self,
        operation: Operation,
        *,
        client: str = "",
        durable: bool = True,
        correlation_id: str = "",
        retry_of: str | None = None,
    ) -> Job:
        """Admit and hand to the brain. Raises what refuses it, before anything was kept."""
        began = self._clock.monotonic()
        colony = self._brain.colony
        if colony.stopping:
            raise ShuttingDown("the queen is shutting down")
        waiting = colony.waiting + self.homeless()
        capacity = self.settings.queen.queue_capacity
        if isinstance(operation, ModelWork) and waiting >= capacity:
            raise QueueFull(
                f"{waiting} jobs wait already, {capacity} may", queued=waiting, retry_after=5
            )
        model, fetch_on = await self.locate(operation)
        now = self._clock.monotonic()
        job = Job(
            job_id=naming.job_id(),
            request=operation,
            created_at=self._clock.utc(),
            queued_mono=now,
            model=model,
            fetch_on=fetch_on,
            hive=fetch_on,
            client=client,
            durable=durable,
            correlation_id=correlation_id,
            retry_of=retry_of,
        )
        if isinstance(operation, ModelWork):
            refused = colony.policy.admit(job, colony.view(now=now))
            if refused is not None:
                raise refused
        log.info(
            "accepted",
            extra={"job": job.job_id, "operation": job.operation, "correlation_id": correlation_id},
        )
        if durable:
            await self._store.accept(job.info(), encode(operation))
        if self.ledger is not None:
            self.ledger.opened(job)
        self._streams.create(job.job_id, durable=durable)
        job.queued_mono = self._clock.monotonic()
        job.overhead = job.queued_mono - began
        try:
            await self._brain.call(JobSubmitted(job))
        except ShuttingDown:
            if self.ledger is not None:
                self.ledger.withdrawn(job)
            self._store.withdraw(job.job_id)
            self._streams.drop(job.job_id)
            raise
        return job

    async def resolve(self, ref: str, hive: str | None = None) -> ModelInfo:
        """The model a reference means on the hives that are there; see Finder."""
        return await self._catalog.provision.finder.find(ref, hive)

    def is_there(self, hive: str) -> bool:
        """Whether the hive is connected."""
        return self._catalog.performing.is_there(hive)

    async def locate(self, operation: Operation) -> Located:
        """The operation's model, on the hives or to be fetched to one; see Provision.

        Raises what refuses it: no such model or hive, not to be had, no room for it.
        """
        match operation:
            case ModelWork() | WorkerSpawn() | ModelPreload():
                await self.arrived(operation.hive)
                return await self._catalog.provision.locate(operation)
            case ModelUnload():
                return Located(await self._catalog.provision.known(operation.model))
            case _:
                if isinstance(operation, ModelTask):
                    await self.arrived(operation.hive)
                await self._catalog.performing.check(operation)
                return Located(None)


async def _at_once(_hive: str | None) -> None:
    """Where no machines are reached."""
