"""Recovery: what to do with jobs that an earlier queen left unfinished, whatever her death.

What readers were sent is in the journal: a job that had ended there has ended, an answer goes on
where it stopped, what had sent nothing runs again in its order, and the rest ends as lost. A job
whose hive has not come back yet waits for it. Owns that decision, nothing of a job's later life.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, TypeVar

import msgspec

from rbee.core.events import JobSubmitted, Tick
from rbee.core.jobs import Job
from rbee.errors import (
    HiveNotFound,
    HiveOffline,
    NoWorkers,
    RbeeError,
    ValidationFailed,
    WorkerLost,
)
from rbee.protocol.base import decode, encode
from rbee.protocol.jobs import (
    EndData,
    ErrorData,
    EventType,
    JobInfo,
    JobState,
    MetricsData,
    StatusData,
)
from rbee.protocol.operations import Embed, Infer, Operation

if TYPE_CHECKING:
    from rbee.clock import Clock
    from rbee.daemons.queen.admission import Admission
    from rbee.daemons.queen.brain import Brain
    from rbee.daemons.queen.store import Store, Unfinished
    from rbee.daemons.queen.streams import JobStream, Streams
    from rbee.protocol.hives import ModelInfo

log = logging.getLogger("rbee.queen")
T = TypeVar("T")
Waiting = tuple["Unfinished", Infer | Embed]
Found = dict[tuple[str, str | None], "ModelInfo | RbeeError"]
_ENDS = {
    EventType.END: JobState.COMPLETED,
    EventType.ERROR: JobState.FAILED,
    EventType.CANCELLED: JobState.CANCELLED,
}


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
        self._homeless: list[Waiting] = []

    async def run(self) -> None:
        """Take up every job an earlier queen left. Doing this twice does no harm."""
        again: list[Waiting] = []
        for left in await self._store.unfinished():
            operation = self._judge(left)
            if operation is not None:
                again.append((left, operation))
        await self._save_streams()
        if self._admission.settings.job.retention <= 0:
            self._store.purge(before=self._clock.utc() + 1, keep=0)
        await self._submit(again, await self._found(again))
        try:
            await self._store.flush()
        except RbeeError as exc:
            log.warning("what an earlier queen left stays in the journal: %s", exc.message)
        else:
            await self._streams.settled()

    async def hive_joined(self) -> None:
        """Try again those that waited for a hive."""
        found = await self._found(self._homeless)  # the link may go, or another come, meanwhile
        waiting, self._homeless = self._homeless, []
        await self._submit(waiting, found)

    def _judge(self, left: Unfinished) -> Infer | Embed | None:
        """Its stream as it was; the operation when the job goes on, None when it has its end."""
        job_id = left.info.job_id
        restored = self._streams.restore(job_id) if left.durable else None
        stream = restored or self._streams.create(job_id, durable=left.durable)
        if stream.ended:
            self._end(left, stream)
            return None
        try:
            operation: Operation = decode(left.request, Operation)  # pyright: ignore[reportArgumentType]
        except RbeeError as exc:
            log.error("job %s cannot be read: %s", job_id, exc)
            self._lose(left, stream, exc)
            return None
        if not left.durable:
            self._lose(left, stream, WorkerLost("the queen ended while this job was running"))
        elif not isinstance(operation, Infer | Embed):
            why = f"the queen ended before this {left.info.operation} was done"
            self._lose(left, stream, WorkerLost(why, action="See what is there, then ask again."))
        elif stream.log.has(EventType.RESULT):
            self._complete(left, stream, "stop")
        elif not _may_go_on(left, stream, known=restored is not None):
            why = "the queen ended while this job was running, and not all of its answer was kept"
            self._lose(left, stream, WorkerLost(why))
        elif isinstance(operation, Infer) and stream.tokens >= (operation.max_tokens or 1 << 62):
            self._complete(left, stream, "length")
        else:
            return operation
        return None

    async def _found(self, waiting: list[Waiting]) -> Found:
        """What they ask for, each model looked for once."""
        wishes = dict.fromkeys((operation.model, operation.hive) for _, operation in waiting)
        return {wish: await self._resolve(*wish) for wish in wishes}

    async def _submit(self, waiting: list[Waiting], found: Found) -> None:
        """To the brain, in this order; all of it before anything else can happen."""
        ready: list[Job] = []
        for left, operation in waiting:
            match found.get((operation.model, operation.hive)):
                case HiveNotFound() | HiveOffline() | NoWorkers() | None:
                    self._homeless.append((left, operation))
                case RbeeError() as exc:
                    self._lose(left, self._streams.create(left.info.job_id), exc)
                case model:
                    ready.append(self._job(left, operation, model))
        for job in ready:
            self._brain.post(JobSubmitted(job, recovered=True))
        await self._brain.call(Tick())  # all are placed at once, not one after another

    async def _resolve(self, model: str, hive: str | None) -> ModelInfo | RbeeError:
        try:
            return await self._admission.resolve(model, hive)
        except RbeeError as exc:
            return exc

    def _job(self, left: Unfinished, operation: Infer | Embed, model: ModelInfo) -> Job:
        """As it stood; it has waited since it was accepted, whoever was queen."""
        stream = self._streams.create(left.info.job_id)
        info, tokens = left.info, stream.tokens
        what = f"goes on after {tokens} tokens" if tokens else "runs again in its turn"
        status = StatusData(stage="recovered", message=f"the queen was started again; this {what}")
        stream.append(EventType.STATUS, encode(status))
        waited = max(0.0, self._clock.utc() - info.created_at)
        runs = sum(kind == EventType.STARTED for kind, _ in stream.log.events)
        return Job(
            job_id=info.job_id,
            request=operation,
            created_at=info.created_at,
            queued_mono=self._clock.monotonic() - waited,
            model=model,
            client=info.client,
            started_at=info.started_at if tokens else None,
            ttft_ms=info.ttft_ms if tokens else None,
            tokens_out=tokens,
            tokens_charged=tokens,
            attempt=max(info.attempts, runs),
            resumes=info.resumes,
            correlation_id=info.correlation_id,
            retry_of=info.retry_of,
        )

    def _complete(self, left: Unfinished, stream: JobStream, reason: str) -> None:
        """All of its answer was there but for the last word."""
        since = left.info.started_at or left.info.created_at
        took = round(max(0.0, self._clock.utc() - since) * 1000)
        data = EndData(finish_reason=reason, tokens_out=stream.tokens, duration_ms=took)
        stream.append(EventType.END, encode(data))
        self._end(left, stream)

    def _lose(self, left: Unfinished, stream: JobStream, error: RbeeError) -> None:
        more = {"tokens_out": stream.tokens} if stream.tokens else {}
        data = ErrorData(code=error.code, message=error.message, details=error.details | more)
        stream.append(EventType.ERROR, encode(data))
        self._end(left, stream)

    def _end(self, left: Unfinished, stream: JobStream) -> None:
        """Save it as its stream tells."""
        info = _told(left.info, stream, self._clock.utc())
        self._store.save_job(info, left.request, durable=left.durable)
        events = self._streams.retire(info.job_id)
        if self._admission.settings.job.retention > 0:
            self._store.save_stream(info.job_id, events)

    async def _save_streams(self) -> None:
        """Of jobs whose end was written when the queen died, but not yet their stream."""
        if self._admission.settings.job.retention <= 0:
            return
        for old in self._streams.left_over():
            if old.ended and await self._store.stream(old.job_id) is None:
                self._store.save_stream(old.job_id, old.events)


def _may_go_on(left: Unfinished, stream: JobStream, *, known: bool) -> bool:
    """Whether all that its readers have is known, or they have none of its answer."""
    begun = left.info.state is JobState.RUNNING or stream.log.has(EventType.TOKEN)
    return not begun or (known and stream.log.whole)


def _told(info: JobInfo, stream: JobStream, utc: float) -> JobInfo:
    """A job's state as the events of its ended stream tell it."""
    kind = EventType(stream.events[-1][0])
    end = _last(stream, EventType.END, EndData)
    error = _last(stream, EventType.ERROR, ErrorData)
    metrics = _last(stream, EventType.METRICS, MetricsData)
    if metrics is not None:
        info = msgspec.structs.replace(
            info,
            prompt_tokens=metrics.prompt_tokens,
            cached_tokens=metrics.cached_tokens,
            tokens_per_second=metrics.tokens_per_second,
            ttft_ms=metrics.ttft_ms,
            resumes=metrics.resumed,
        )
    return msgspec.structs.replace(
        info,
        state=_ENDS[kind],
        finished_at=utc,
        waiting_for=None,
        tokens_out=end.tokens_out if end is not None else stream.tokens,
        finish_reason=end.finish_reason if end is not None else info.finish_reason,
        error_code=error.code if error is not None else None,
        error_message=error.message if error is not None else None,
    )


def _last(stream: JobStream, kind: EventType, shape: type[T]) -> T | None:
    """The data of the last such event."""
    data = next((data for name, data in reversed(stream.events) if name == kind), None)
    try:
        return decode(data, shape) if data is not None else None
    except ValidationFailed as exc:
        log.warning("a %s event of an earlier queen is unreadable: %s", kind, exc)
        return None
