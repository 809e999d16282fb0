"""The routes of jobs: submit, list, follow, cancel, retry, the queue, and why one is where it is.

Parses, asks the brain, the policy or the store, and answers. Nothing is decided here; a decision
that is shown of a waiting job is worked out for the reader and not carried out.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING

import anyio.lowlevel
from starlette.requests import Request
from starlette.responses import Response

from rbee.core.events import JobCancelAsked
from rbee.core.states import JOB_ACTIVE
from rbee.daemons.base import json_response
from rbee.daemons.events import EventStream
from rbee.daemons.queen.params import client_of, correlation_of, flag, is_number, number
from rbee.daemons.queen.recovery import CANCELLING
from rbee.daemons.queen.scopes import check_operation
from rbee.errors import Conflict, JobFinished, NotFound, RbeeError, ValidationFailed
from rbee.protocol.base import decode, encode
from rbee.protocol.decisions import Decision, Why
from rbee.protocol.jobs import EventType, JobAccepted, JobInfo, JobState, StatusData
from rbee.protocol.operations import STOPS_ELSEWHERE, ModelWork, parse_operation
from rbee.protocol.queue import QueueInfo
from rbee.sse import DONE, encode_comment, encode_event

if TYPE_CHECKING:
    from rbee.core.jobs import Job
    from rbee.core.policy import View
    from rbee.daemons.queen.queen import Queen
    from rbee.daemons.queen.streams import JobStream

log = logging.getLogger("rbee.queen")
MAX_LISTED = 1000
LEFT_AFTER = 0.5
"""Seconds that a submission takes after which is looked whether anybody waits for it still."""
AT_ONCE = 32
"""Waiting jobs foreseen before the loop comes round: no token waits for a long list."""
ANYBODY = "api"
"""The client of a caller who does not say who it is."""


class JobRoutes:
    """Handlers."""

    def __init__(self, queen: Queen) -> None:
        self._queen = queen

    async def submit(self, request: Request) -> Response:
        """POST /v1/jobs"""
        client = client_of(request, ANYBODY)
        operation = parse_operation(await request.body())
        check_operation(operation)
        began = anyio.current_time()
        job = await self._queen.admission.submit(
            operation, client=client, correlation_id=correlation_of(request)
        )
        if anyio.current_time() - began > LEFT_AFTER and await request.is_disconnected():
            why = "whoever asked had left before it was accepted"
            await self._queen.brain.call(JobCancelAsked(job.job_id, why))
        return self._accepted(job)

    async def retry(self, request: Request) -> Response:
        """POST /v1/jobs/{id}/retry: a new job with the same request, for the same client."""
        job_id = request.path_params["job_id"]
        live = self._queen.colony.jobs.get(job_id)
        await self._queen.store.flush()
        kept = await self._queen.store.request(job_id)
        state = live.state if live is not None else kept[1].state if kept is not None else None
        if kept is None or state is None:
            raise _unknown(job_id)
        body, info = kept
        if state is JobState.COMPLETED:
            raise JobFinished(
                f"job {job_id} has completed: there is nothing to try again",
                action=f"rbee job show {job_id} prints its answer.",
            )
        if state not in (JobState.FAILED, JobState.CANCELLED):
            raise Conflict(
                f"job {job_id} is {state}: only one that failed or was cancelled is tried again",
                action=f"Wait for its end, or cancel it: rbee job cancel {job_id}",
            )
        try:
            operation = parse_operation(body, stops=STOPS_ELSEWHERE)
        except RbeeError as exc:
            log.error("the request of job %s cannot be read: %s", job_id, exc)
            raise Conflict(
                f"the request of job {job_id} is none that this version understands",
                action="Ask anew.",
            ) from exc
        check_operation(operation)
        job = await self._queen.admission.submit(
            operation,
            client=info.client,
            durable=True,
            correlation_id=correlation_of(request),
            retry_of=job_id,
        )
        return self._accepted(job)

    async def jobs(self, request: Request) -> Response:
        """GET /v1/jobs?state=&dead=&limit="""
        state = request.query_params.get("state")
        if state is not None and state not in set(JobState):
            raise ValidationFailed(
                f"state: {state[:40]!r} is not one of {', '.join(JobState)}",
                field="state",
                constraint="a job state",
            )
        dead = flag(request, "dead")
        limit = number(request, "limit", 100, 1, MAX_LISTED)
        await self._queen.store.flush()
        stored = await self._queen.store.jobs(state=state, dead=dead, limit=limit)
        places = self._queen.positions()
        return json_response({"jobs": [self._fresh(info, places) for info in stored]})

    async def job(self, request: Request) -> Response:
        """GET /v1/jobs/{id}"""
        return json_response(await self._job(request.path_params["job_id"]))

    async def cancel(self, request: Request) -> Response:
        """DELETE /v1/jobs/{id}"""
        job_id = request.path_params["job_id"]
        live = self._queen.colony.jobs.get(job_id)
        info = await self._job(job_id)
        if info.finished_at is not None:
            raise JobFinished(f"job {info.job_id} has already ended: {info.state}")
        reason = "cancelled by request"
        ended = self._queen.recovery.cancel(job_id, reason)
        if ended is not None:
            return json_response(ended)
        first = live is not None and live.cancel_reason is None
        await self._queen.brain.call(JobCancelAsked(job_id, reason))
        if live is None:
            return json_response(await self._job(job_id))
        if first and live.durable and live.state in JOB_ACTIVE:
            self._promise(job_id, reason)
        # With a retention of 0 nothing of it can be read back any more.
        return json_response(self._queen.job_info(live))

    async def stream(self, request: Request) -> Response:
        """GET /v1/jobs/{id}/stream?after=&follow="""
        after = number(request, "after", 0, 0, 1 << 53)
        follow = flag(request, "follow") is not False
        last = request.headers.get("last-event-id", "")
        if is_number(last):
            after = int(last)
        job_id = request.path_params["job_id"]
        stream = await self._queen.streams.get(job_id)
        if not follow:
            return EventStream(_present_blocks(stream, after))
        return EventStream(_job_blocks(stream, after, lambda: self._keepalive(job_id)))

    async def decision(self, request: Request) -> Response:
        """GET /v1/jobs/{id}/decision"""
        job_id = request.path_params["job_id"]
        info = await self._job(job_id)
        await self._queen.store.flush()
        found = _decisions(job_id, await self._queen.store.decisions(job_id))
        job = self._queen.colony.jobs.get(job_id)
        state = job.state if job is not None else info.state
        queued = job is not None and state is JobState.QUEUED and job.fetch_on is None
        if job is not None and queued and isinstance(job.request, ModelWork):
            policy, view = self._queen.colony.policy, self._view()
            found.append(policy.explain(job, view, policy.route(job, view)))
        fetching = job.waiting_for if job is not None and job.fetch_on is not None else None
        return json_response(Why(job_id=job_id, state=state, decisions=found, fetching=fetching))

    async def queue(self, _request: Request) -> Response:
        """GET /v1/queue"""
        colony, view = self._queen.colony, self._view()
        waiting = colony.queue.ordered(view.now)[:MAX_LISTED]
        paused = sorted(colony.later.values(), key=lambda job: job.not_before)
        paused += colony.fetching.values()
        depth = {str(priority): count for priority, count in colony.queue.depth().items()}
        for job in paused:
            depth[job.priority] += 1
        since = [job.queued_mono for job in paused]
        homeless = self._queen.recovery.homeless()
        utc = self._queen.clock.utc()
        for info in homeless:
            depth[info.priority] += 1
            since.append(view.now - (utc - info.created_at))
        oldest = colony.queue.oldest()
        if oldest is not None:
            since.append(oldest)
        policy = colony.policy
        jobs: list[JobInfo] = []
        for place, job in enumerate(waiting, 1):
            if place % AT_ONCE == 0:
                await anyio.lowlevel.checkpoint()
            if job in colony.queue:
                jobs.append(job.info(place, policy.first_token(job, view)))
        jobs += [job.info() for job in paused[: MAX_LISTED - len(jobs)]]
        jobs += homeless[: MAX_LISTED - len(jobs)]
        shares = colony.queue.shares.counters
        return json_response(
            QueueInfo(
                depth=depth,
                head_wait_seconds=round(max(0.0, view.now - min(since, default=view.now)), 3),
                clients={name: round(tokens, 1) for name, tokens in shares.items()},
                jobs=jobs,
            )
        )

    def _promise(self, job_id: str, reason: str) -> None:
        """Its worker is still to let go of it; should the queen be killed before, it has ended."""
        stream = self._queen.streams.live(job_id)
        if stream is not None:
            stream.append(EventType.STATUS, encode(StatusData(stage=CANCELLING, message=reason)))
            self._queen.journal.flush()

    def _accepted(self, job: Job) -> Response:
        at = f"/v1/jobs/{job.job_id}"
        accepted = JobAccepted(
            job_id=job.job_id,
            status=job.state,
            stream_url=f"{at}/stream",
            queue_position=self._queen.position(job),
        )
        return json_response(accepted, 202, {"Location": at})

    def _view(self) -> View:
        return self._queen.colony.view(now=self._queen.clock.monotonic())

    async def _job(self, job_id: str) -> JobInfo:
        job = self._queen.colony.jobs.get(job_id)
        if job is not None:
            return self._queen.job_info(job)
        await self._queen.store.flush()
        info = await self._queen.store.job(job_id)
        if info is None:
            raise _unknown(job_id)
        return info

    def _fresh(self, info: JobInfo, places: dict[str, int]) -> JobInfo:
        job = self._queen.colony.jobs.get(info.job_id)
        return self._queen.job_info(job, places) if job is not None else info

    def _keepalive(self, job_id: str) -> str:
        """What there is to say while nothing happens."""
        job = self._queen.colony.jobs.get(job_id)
        words = ["keepalive"]
        if job is not None and job.state is JobState.QUEUED:
            info = self._queen.job_info(job)
            if info.queue_position is not None:
                words.append(f"position={info.queue_position}")
            if info.eta_ms is not None:
                words.append(f"eta_ms={info.eta_ms}")
            words.append(job.waiting_for or "")
        elif job is not None and job.state is JobState.DISPATCHED:
            told = self._queen.effects.relay.told(job_id, job.attempt)
            words += [job.worker_id or "", told or "has the prompt"]
        return " ".join(filter(None, words))


def _unknown(job_id: str) -> NotFound:
    return NotFound(f"no job {job_id[:80]}", action="rbee job list shows the jobs.")


def _decisions(job_id: str, bodies: list[bytes]) -> list[Decision]:
    """Those that can be read; one that cannot must not hide the others."""
    found: list[Decision] = []
    for body in bodies:
        try:
            found.append(decode(body, Decision))
        except ValidationFailed as exc:
            log.error("a decision about job %s is unreadable and left out: %s", job_id, exc)
    return found


async def _job_blocks(
    stream: JobStream, after: int, keepalive: Callable[[], str]
) -> AsyncGenerator[bytes]:
    async for first, batch in stream.read(after):
        yield _encoded(first, batch) if batch else encode_comment(keepalive())
    if stream.ended:
        yield DONE


async def _present_blocks(stream: JobStream, after: int) -> AsyncGenerator[bytes]:
    """What is there now, with [DONE] only when it is all."""
    events = stream.events
    start = after if after <= len(events) else 0
    yield _encoded(start + 1, events[start:])
    if stream.ended:
        yield DONE


def _encoded(first: int, batch: list[tuple[str, bytes]]) -> bytes:
    return b"".join(
        encode_event(data, event=kind, id=number)
        for number, (kind, data) in enumerate(batch, first)
    )
