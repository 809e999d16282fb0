"""Recovery: what to do with jobs that an earlier queen left unfinished, whatever her death.

What readers were sent is in the journal: a job that had ended there has ended, an answer goes on
where it stopped, what had sent nothing runs again in its order, and the rest ends as lost. Hives
come back after the queen, so a job that nobody there can do waits for them, as long as a hive would
for its queen. Owns that decision and those that wait by it, nothing of a job's later life.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import anyio
import msgspec

from rbee.core.events import JobSubmitted, Tick
from rbee.core.jobs import Demand, Job
from rbee.core.policy import Refuse
from rbee.daemons.queen.leftovers import (
    DOWNLOADING,
    Waiting,
    Wish,
    in_vain,
    last,
    may_go_on,
    missing,
    told,
)
from rbee.daemons.queen.provision import Located
from rbee.errors import (
    HiveOffline,
    InternalError,
    ModelNotFound,
    RbeeError,
    ShuttingDown,
    WorkerLost,
)
from rbee.protocol.base import decode, encode
from rbee.protocol.jobs import (
    CancelledData,
    EndData,
    ErrorData,
    EventType,
    JobInfo,
    JobState,
    StatusData,
)
from rbee.protocol.operations import (
    Embed,
    Infer,
    ModelDownload,
    ModelPreload,
    ModelWork,
    Operation,
    WorkerSpawn,
)

if TYPE_CHECKING:
    from rbee.clock import Clock
    from rbee.daemons.queen.admission import Admission
    from rbee.daemons.queen.brain import Brain
    from rbee.daemons.queen.store import Store, Unfinished
    from rbee.daemons.queen.streams import JobStream, Streams

log = logging.getLogger("rbee.queen")
Found = dict[str, Located | RbeeError]
"""By job id."""
AGAIN = 5.0
"""Seconds after which those that wait are tried again, besides whenever a hive joins."""
CANCELLING = "cancelling"
"""The stage of a status after which a job does not go on, whatever becomes of its run."""


class Recovery:
    """Runs once at start, and again for homeless jobs until the hives had time to come back."""

    def __init__(
        self, *, store: Store, streams: Streams, brain: Brain, admission: Admission, clock: Clock
    ) -> None:
        self._store = store
        self._streams = streams
        self._brain = brain
        self._admission = admission
        self._clock = clock
        self._homeless: dict[str, Waiting] = {}
        admission.homeless = lambda: len(self._homeless)

    async def run(self) -> None:
        """Take up every job an earlier queen left. Doing this twice does no harm."""
        again: list[Waiting] = []
        for left in await self._store.unfinished():
            one = self._judge(left)
            if one is not None:
                again.append(one)
        await self._save_streams()
        await self._submit(again, await self._found(again))
        self._forget()
        try:
            await self._store.flush()
        except RbeeError as exc:
            log.warning("what an earlier queen left stays in the journal: %s", exc.message)
        else:
            await self._streams.settled()

    async def hive_joined(self) -> None:
        """Try again those that waited for a hive."""
        await self._try_again()

    async def wait_for_hives(self) -> None:
        """Until a hive's lease is over, from now; what still waits then ends with what it lacks."""
        lease = self._admission.settings.hive.lease
        with anyio.move_on_after(lease):
            while self._homeless:
                await anyio.sleep(AGAIN)
                await self._try_again()
        if self._homeless:
            await self._try_again(lease=lease)

    def homeless(self) -> list[JobInfo]:
        """Those that wait for a hive, in their order; the brain does not know them."""
        return [one.left.info for one in self._homeless.values()]

    def cancel(self, job_id: str, reason: str) -> JobInfo | None:
        """End one that waits for a hive. None: it does not. Raises ShuttingDown."""
        one = self._homeless.get(job_id)
        if one is None:
            return None
        stream = self._streams.create(job_id)
        if stream.closed:
            raise ShuttingDown("the queen is shutting down")
        del self._homeless[job_id]
        stream.append(EventType.CANCELLED, encode(CancelledData(reason=reason)))
        info = self._end(one.left, stream)
        self._forget()
        return info

    async def _try_again(self, *, lease: float | None = None) -> None:
        """With a `lease`, in seconds, that is over now it is the last time."""
        if not self._homeless:
            return
        # The link may go, another come, or a job be cancelled meanwhile.
        found = await self._found(list(self._homeless.values()), lease=lease)
        if self._brain.colony.stopping:
            return  # the next queen goes on with them
        waiting = [one for one in self._homeless.values() if one.job_id in found]
        await self._submit(waiting, found, lease=lease)
        if lease is not None:
            self._forget()

    def _judge(self, left: Unfinished) -> Waiting | None:
        """Its stream as it was; the job when it goes on, None when it has its end."""
        job_id = left.info.job_id
        restored = self._streams.restore(job_id) if left.durable else None
        stream = restored or self._streams.create(job_id, durable=left.durable)
        asked = last(stream, EventType.STATUS, StatusData, stage=CANCELLING)
        if asked is not None:
            stream.append(EventType.CANCELLED, encode(CancelledData(reason=asked.message)))
        if stream.ended:
            self._end(left, stream)
            return None
        try:
            operation: Operation = decode(left.request, Operation)  # pyright: ignore[reportArgumentType]
        except RbeeError as exc:
            log.error("job %s cannot be read: %s", job_id, exc)
            self._lose(left, stream, exc)
            return None
        told = last(stream, EventType.STATUS, StatusData)
        fetching = told is not None and told.stage == DOWNLOADING
        if not left.durable:
            self._lose(left, stream, WorkerLost("the queen ended while this job was running"))
        elif isinstance(operation, ModelDownload) or (
            isinstance(operation, WorkerSpawn | ModelPreload) and fetching
        ):
            return Waiting(left, operation, fetching)
        elif not isinstance(operation, Infer | Embed):
            why = f"the queen ended before this {left.info.operation} was done"
            self._lose(left, stream, WorkerLost(why, action="See what is there, then ask again."))
        elif stream.log.has(EventType.RESULT):
            self._complete(left, stream, "stop")
        elif not may_go_on(left, stream, known=restored is not None):
            why = "the queen ended while this job was running, and not all of its answer was kept"
            self._lose(left, stream, WorkerLost(why))
        elif isinstance(operation, Infer) and stream.tokens >= (operation.max_tokens or 1 << 62):
            self._complete(left, stream, "length")
        else:
            return Waiting(left, operation, fetching)
        return None

    async def _found(self, waiting: Sequence[Waiting], *, lease: float | None = None) -> Found:
        """What they ask for, each model looked for once. One that was being fetched, and any whose
        hives did not come back with it within the `lease`, may be fetched."""
        seen: dict[tuple[Wish, str | None], Located | RbeeError] = {}
        found: Found = {}
        for one in waiting:
            fetch_on = one.left.info.hive if one.fetching else None
            key = (one.wish, fetch_on)
            if key not in seen:
                seen[key] = await self._resolve(one, fetch_on, lease)
            found[one.job_id] = seen[key]
        return found

    async def _submit(
        self, waiting: list[Waiting], found: Found, *, lease: float | None = None
    ) -> None:
        """To the brain, in this order; all of it before anything else can happen.

        Who cannot be served by the hives that are there waits, or ends when the `lease` is over.
        """
        ready: list[Job] = []
        refused: dict[Demand, RbeeError | None] = {}
        for one in waiting:
            match found[one.job_id]:
                case RbeeError() as exc:
                    if lease is None:
                        self._keep(one, exc)
                        continue
                    del self._homeless[one.job_id]
                    stream = self._streams.create(one.job_id)
                    self._lose(one.left, stream, in_vain(one.operation, exc, lease))
                case located:
                    job = self._job(one, located)
                    error = self._refused(job, refused) if lease is None else None
                    if error is not None:
                        self._keep(one, error)
                        continue
                    self._homeless.pop(one.job_id, None)
                    ready.append(job)
        for job in ready:
            self._tell(job)
            self._brain.post(JobSubmitted(job, recovered=True))
        if ready:
            await self._brain.call(Tick())  # all are placed at once, not one after another

    async def _resolve(
        self, one: Waiting, fetch_on: str | None, lease: float | None
    ) -> Located | RbeeError:
        operation = one.operation
        try:
            if isinstance(operation, ModelDownload):
                return await self._admission.locate(operation)
            try:
                return Located(await self._admission.resolve(*one.wish))
            except ModelNotFound as exc:
                if not exc.details.get("hub") or (lease is None and not one.fetching):
                    raise
            if fetch_on is not None and lease is None:  # the rest of what has come is there
                if not self._admission.is_there(fetch_on):
                    return HiveOffline(f"hive {fetch_on} has not come back")
                operation = msgspec.structs.replace(operation, hive=fetch_on)
            return await self._admission.locate(operation)
        except RbeeError as exc:
            return exc
        except Exception as exc:  # one hive's defect must not take the queen with it
            log.exception("looking for %s failed", operation.model)
            return InternalError(f"{operation.model} could not be looked for: {exc}")

    def _refused(self, job: Job, known: dict[Demand, RbeeError | None]) -> RbeeError | None:
        """Why no hive that is there could ever run it; looked at once for all of a kind."""
        if job.fetch_on is not None or not isinstance(job.request, ModelWork):
            return None
        if not job.request.wait:
            return None
        demand = job.demand()
        if demand not in known:
            colony = self._brain.colony
            verdict = colony.policy.route(job, colony.view(now=self._clock.monotonic()))
            known[demand] = verdict.error if isinstance(verdict, Refuse) else None
        return known[demand]

    def _keep(self, one: Waiting, error: RbeeError) -> None:
        """It waits for a hive; whoever asks is told why."""
        why = missing(one.operation, error)
        left = one.left
        if one.job_id in self._homeless and left.info.waiting_for == why:
            return
        stream = self._streams.create(one.job_id)
        stream.append(EventType.STATUS, encode(StatusData(stage="waiting", message=why)))
        hive = left.info.hive if one.fetching else None
        info = msgspec.structs.replace(
            left.info, state=JobState.QUEUED, worker_id=None, hive=hive, waiting_for=why
        )
        self._store.save_job(info, left.request, durable=left.durable)
        self._homeless[one.job_id] = replace(one, left=replace(left, info=info))

    def _job(self, one: Waiting, located: Located) -> Job:
        """As it stood; it has waited since it was accepted, whoever was queen."""
        stream = self._streams.create(one.job_id)
        info, tokens = one.left.info, stream.tokens
        waited = max(0.0, self._clock.utc() - info.created_at)
        runs = sum(kind == EventType.STARTED for kind, _ in stream.log.events)
        return Job(
            job_id=info.job_id,
            request=one.operation,
            created_at=info.created_at,
            queued_mono=self._clock.monotonic() - waited,
            model=located.model,
            fetch_on=located.fetch_on,
            hive=located.fetch_on,
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

    def _tell(self, job: Job) -> None:
        tokens = job.tokens_out
        what = f"goes on after {tokens} tokens" if tokens else "runs again in its turn"
        status = StatusData(stage="recovered", message=f"the queen was started again; this {what}")
        self._streams.create(job.job_id).append(EventType.STATUS, encode(status))

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

    def _end(self, left: Unfinished, stream: JobStream) -> JobInfo:
        """Save it as its stream tells."""
        info = told(left.info, stream, self._clock.utc())
        self._store.save_job(info, left.request, durable=left.durable)
        events = self._streams.retire(info.job_id)
        if self._admission.settings.job.retention > 0:
            self._store.save_stream(info.job_id, events)
        return info

    def _forget(self) -> None:
        """What has ended, where nothing is retained."""
        if self._admission.settings.job.retention <= 0:
            self._store.purge(before=self._clock.utc() + 1, keep=0)

    async def _save_streams(self) -> None:
        """Of jobs whose end was written when the queen died, but not yet their stream."""
        if self._admission.settings.job.retention <= 0:
            return
        for old in self._streams.left_over():
            if old.ended and await self._store.stream(old.job_id) is None:
                self._store.save_stream(old.job_id, old.events)
