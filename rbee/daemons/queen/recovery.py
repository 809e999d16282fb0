"""Recovery: what to do with jobs that an earlier queen left unfinished.

What had sent nothing runs again, in its order; the rest ends as lost. A job whose hive has not come
back yet waits for it. Owns that decision and nothing of a job's later life.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from rbee.core.events import JobSubmitted
from rbee.core.jobs import Job
from rbee.errors import HiveNotFound, HiveOffline, NoWorkers, RbeeError, WorkerLost
from rbee.protocol.base import decode, encode
from rbee.protocol.jobs import ErrorData, EventType, JobState
from rbee.protocol.operations import Embed, Infer, Operation, Status

if TYPE_CHECKING:
    from rbee.clock import Clock
    from rbee.daemons.queen.admission import Admission
    from rbee.daemons.queen.brain import Brain
    from rbee.daemons.queen.store import Store, Unfinished
    from rbee.daemons.queen.streams import Streams

log = logging.getLogger("rbee.queen")


class Recovery:
    """Runs once at start, and again for homeless jobs whenever a hive joins."""

    def __init__(
        self, *, store: Store, streams: Streams, brain: Brain, admission: Admission, clock: Clock
    ) -> None:
        self._store = store
        self._streams = streams
        self._brain = brain
        self._admission = admission
        self._clock = clock
        self._homeless: list[tuple[Unfinished, Infer | Embed]] = []

    async def run(self) -> None:
        """Jobs an earlier queen left: what had sent nothing runs again, the rest ends as lost."""
        for left in await self._store.unfinished():
            try:
                operation: Operation = decode(left.request, Operation)  # pyright: ignore[reportArgumentType]
            except RbeeError as exc:
                log.error("job %s cannot be read: %s", left.info.job_id, exc)
                self._lose(left, Status(), exc)
                continue
            if left.durable and isinstance(operation, Infer | Embed) and not _has_begun(left):
                await self._again(left, operation)
            else:
                self._lose(left, operation)

    async def hive_joined(self) -> None:
        """Try again those that waited for a hive."""
        waiting, self._homeless = self._homeless, []
        for left, operation in waiting:
            await self._again(left, operation)

    async def _again(self, left: Unfinished, operation: Infer | Embed) -> None:
        """Queue it again; a job whose hive has not come back yet waits for that."""
        try:
            await self._resubmit(left, operation)
        except (HiveNotFound, HiveOffline, NoWorkers):
            self._streams.create(left.info.job_id)
            self._homeless.append((left, operation))
        except RbeeError as exc:
            self._lose(left, operation, exc)

    async def _resubmit(self, left: Unfinished, operation: Infer | Embed) -> None:
        model = await self._admission.resolve(operation.model, operation.hive)
        job = Job(
            job_id=left.info.job_id,
            request=operation,
            created_at=left.info.created_at,
            queued_mono=self._clock.monotonic(),
            model=model,
            client=left.info.client,
        )
        self._streams.create(job.job_id)
        await self._brain.call(JobSubmitted(job))

    def _lose(self, left: Unfinished, operation: Operation, why: RbeeError | None = None) -> None:
        error = why or WorkerLost("the queen ended while this job was running")
        job = Job(
            job_id=left.info.job_id,
            request=operation,
            created_at=left.info.created_at,
            queued_mono=self._clock.monotonic(),
            client=left.info.client,
            durable=left.durable,
        )
        job.error_code, job.error_message = error.code, error.message
        job.finished_at = self._clock.utc()
        job.life.to(JobState.FAILED, error.code)
        stream = self._streams.create(job.job_id)
        data = ErrorData(code=error.code, message=error.message, details=error.details)
        stream.append(EventType.ERROR, encode(data))
        self._store.save_job(job.info(), left.request, durable=left.durable)
        self._store.save_stream(job.job_id, self._streams.retire(job.job_id))


def _has_begun(left: Unfinished) -> bool:
    return left.info.state is JobState.RUNNING
