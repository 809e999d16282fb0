"""The relay: one run, from the worker's reply into the job's stream.

Owns each run's request, its cancellation and its limit of silence. Reports start, end and counts to
the brain; tokens never pass through the inbox. One event of the worker becomes one job event with
the same text; log-probabilities, token ids and vectors pass as the bytes they came in.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import anyio
import anyio.abc
import msgspec

from rbee.core.effects import Dispatch
from rbee.core.events import Event, Loss, RunCancelled, RunCompleted, RunFailed, RunStarted
from rbee.daemons.queen.asking import as_given, execute_of
from rbee.daemons.queen.streams import JobStream, Streams
from rbee.daemons.queen.upstream import (
    Prepared,
    Reply,
    Upstream,
    UpstreamError,
    UpstreamTimeout,
)
from rbee.daemons.queen.worker_events import WorkerEvent, WorkerEvents
from rbee.errors import (
    AllSlotsBusy,
    BadGateway,
    InferenceTimeout,
    InternalError,
    RbeeError,
    WorkerCrashed,
    WorkerNotReady,
)
from rbee.protocol.base import encode
from rbee.protocol.jobs import EventType
from rbee.protocol.operations import Embed
from rbee.protocol.workers import CancelRequest, DoneEvent, EmbeddingUsage, Usage

log = logging.getLogger("rbee.relay")
CLEANUP = 5.0
"""Seconds a worker may take to confirm that it let go of a job."""
EMBED_TIMEOUT = 3600.0
"""Seconds for all vectors of a request; a worker that dies or hangs is seen by its heartbeats."""
LARGEST = 256 << 20
"""Bytes of a reply with vectors: 2048 texts of 4096 numbers each are some 160 MiB."""


class _Embedded(msgspec.Struct):
    """A worker's reply to texts; without vectors it says why in `finish_reason`."""

    vectors: msgspec.Raw = msgspec.Raw()
    usage: EmbeddingUsage | None = None
    finish_reason: str = ""


class _EmbedResult(msgspec.Struct):
    """EmbedData whose vectors are passed on unread."""

    vectors: msgspec.Raw
    usage: EmbeddingUsage
    model: str


@dataclass(eq=False, slots=True)
class _Run:
    dispatch: Dispatch
    stream: JobStream
    began: float
    token: str
    """Of the worker's hive, whose link may be gone before the run is."""
    connecting: anyio.CancelScope | None = None
    reply: asyncio.Future[Reply | BaseException] | None = None
    """While the worker has it."""
    events: WorkerEvents = field(default_factory=WorkerEvents)
    heard: bool = False
    """Whether the worker is known to have the request."""
    said: bool = False
    """Whether a token has come."""
    cancelling: bool = False
    wasted: int = 0
    reported: bool = False
    """Whether the brain knows how it ended."""

    @property
    def ids(self) -> bool:
        """Whether the tokens that the answer has so far mean the same to this worker."""
        return self.stream.ids_of in (None, self.dispatch.backend)

    @property
    def name(self) -> str:
        """The worker's name for it."""
        return f"{self.dispatch.job.job_id}.{self.dispatch.attempt}"


class Relay:
    """All runs."""

    def __init__(
        self,
        *,
        tasks: anyio.abc.TaskGroup,
        post: Callable[[Event], None],
        streams: Streams,
        token_of: Callable[[str], str],
        stall_timeout: float,
    ) -> None:
        self._tasks = tasks
        self._post = post
        self._streams = streams
        self._token_of = token_of
        self._stall = stall_timeout
        self._runs: dict[tuple[str, int], _Run] = {}
        self._upstream = Upstream(largest=LARGEST)
        self._closed = False

    def start(self, dispatch: Dispatch) -> None:
        """Run a job on its worker; what it has answered so far is not asked for again."""
        job = dispatch.job
        stream = self._streams.create(job.job_id, durable=job.durable)
        run = _Run(dispatch, stream, anyio.current_time(), self._token_of(dispatch.hive))
        if run.ids:
            stream.note_ids_of(dispatch.backend)
        self._runs[job.job_id, dispatch.attempt] = run
        try:
            request = self._request(run)
            run.reply = self._upstream.begin_kept(request)
        except Exception as exc:
            self._end(run, self._event_of(run, exc))
            return
        if run.reply is not None:
            run.reply.add_done_callback(partial(self._ended, run))
        else:
            self._tasks.start_soon(self._connect, run, request)

    def abort(self, job_id: str, attempt: int) -> None:
        """Stop a run; its end is reported as RunCancelled. Harmless when it has ended.

        The worker's own word is waited for: it tells when the slot is free, and how many tokens
        were made for nobody. From now on nothing is added to the job's stream.
        """
        run = self._runs.get((job_id, attempt))
        if run is None or run.cancelling:
            return
        run.cancelling = True
        if run.reply is None:
            if run.connecting is not None:
                run.connecting.cancel()
        elif run.heard:
            asyncio.get_running_loop().call_later(CLEANUP, run.reply.cancel)
            self._tasks.start_soon(self._cancel_upstream, run)
        else:
            run.reply.cancel()

    def told(self, job_id: str, attempt: int) -> str:
        """A worker's last comment on a run (`prefill 3/10`); empty when there is none."""
        run = self._runs.get((job_id, attempt))
        return run.events.comment if run is not None else ""

    async def close(self) -> None:
        """Close the upstream connections; runs in progress end without a word."""
        self._closed = True
        await self._upstream.close()

    async def _connect(self, run: _Run, request: Prepared) -> None:
        """Hand it to the worker. What comes of it needs no task: see `_data` and `_ended`."""
        try:
            with anyio.CancelScope() as run.connecting:
                if not run.cancelling:
                    run.reply = await self._upstream.begin(request)
        except Exception as exc:
            self._end(run, self._event_of(run, exc))
            return
        finally:
            run.connecting = None
            if run.reply is None:
                self._forget(run)
        if run.reply is None:
            self._end(run, self._cancelled(run))
            return
        run.reply.add_done_callback(partial(self._ended, run))
        if run.cancelling and not run.heard:
            run.reply.cancel()

    def _request(self, run: _Run) -> Prepared:
        embeds = isinstance(run.dispatch.job.request, Embed)
        return self._upstream.prepared(
            f"{run.dispatch.url}/v1/execute",
            encode(execute_of(run.dispatch, run.stream, run.name, ids=run.ids)),
            _headers(run),
            on_data=None if embeds else partial(self._data, run),
            silence=self._silence(run),
        )

    def _silence(self, run: _Run) -> float:
        return EMBED_TIMEOUT if isinstance(run.dispatch.job.request, Embed) else self._stall

    def _ended(self, run: _Run, reply: asyncio.Future[Reply | BaseException]) -> None:
        """The worker's reply is over, or was let go of."""
        if self._closed:
            self._forget(run)
        elif not reply.cancelled():
            self._end(run, self._event_of(run, reply.result()))
        elif run.heard:
            self._end(run, self._cancelled(run))
        else:
            self._tasks.start_soon(self._let_go, run)

    async def _let_go(self, run: _Run) -> None:
        """Whether the worker has it is not known: it is told before the slot counts as free."""
        try:
            with anyio.move_on_after(CLEANUP):
                await self._cancel_upstream(run)
            self._end(run, self._cancelled(run))
        finally:
            self._forget(run)

    def _end(self, run: _Run, event: Event) -> None:
        """Say how it ended, unless that was said already."""
        self._forget(run)
        self._report(run, self._cancelled(run) if run.cancelling else event)

    def _forget(self, run: _Run) -> None:
        self._runs.pop((run.dispatch.job.job_id, run.dispatch.attempt), None)

    def _event_of(self, run: _Run, outcome: Reply | BaseException) -> Event:
        dispatch = run.dispatch
        try:
            if isinstance(outcome, BaseException):
                raise outcome
            return self._replied(run, outcome)
        except UpstreamTimeout:
            log.info("job %s stalled on %s", dispatch.job.job_id, dispatch.worker_id)
            error = InferenceTimeout(
                f"{dispatch.worker_id} made no progress on {dispatch.job.job_id} for"
                f" {self._silence(run):g} s"
            )
            return self._failed(run, error, Loss.STALLED)
        except UpstreamError as exc:
            error = WorkerCrashed(
                f"the connection to {dispatch.worker_id} broke after {run.stream.tokens} tokens"
                f" ({exc})",
                worker_id=dispatch.worker_id,
            )
            return self._failed(run, error, Loss.BROKEN)
        except RbeeError as exc:
            return self._failed(run, exc)
        except (msgspec.MsgspecError, ValueError) as exc:
            log.warning("job %s: %s sent garbage: %s", run.name, dispatch.worker_id, exc)
            error = BadGateway(f"{dispatch.worker_id} answered in no known form")
            return self._failed(run, error)
        except Exception as exc:  # one run's defect must not take the queen with it
            log.exception("job %s on %s failed", run.name, dispatch.worker_id)
            error = InternalError(f"the relay failed: {type(exc).__name__}")
            return self._failed(run, error)

    def _replied(self, run: _Run, reply: Reply) -> Event:
        if reply.status != 200:
            error = RbeeError.from_body(_json(reply.body), reply.status)
            as_given(error)
            busy = isinstance(error, AllSlotsBusy | WorkerNotReady)
            return self._failed(run, error, Loss.BUSY if busy else None)
        if isinstance(run.dispatch.job.request, Embed):
            return self._embedded(run, reply.body)
        error = WorkerCrashed(f"{run.dispatch.worker_id} ended the stream of {run.name} too early")
        return self._failed(run, error, Loss.BROKEN)

    def _data(self, run: _Run, data: bytes) -> None:
        """Some of the worker's stream, from within the event loop's reading of the socket."""
        run.heard = True
        for event in run.events.feed(data):
            if event.token:
                self._token(run, event)
            elif event.error is not None:
                error = RbeeError.from_body({"error": event.error})
                self._report(run, self._failed(run, error))
            elif event.done:
                self._report(run, self._done(run, event.end()))
        run.stream.wake()

    def _token(self, run: _Run, event: WorkerEvent) -> None:
        """One TokenData; all that is put together is JSON."""
        if run.cancelling or run.reported:
            run.wasted += 1
            return
        stream = run.stream
        more = b',"logprob":%b' % event.logprob if event.logprob else b""
        data = b'{"t":%b,"i":%d%b}' % (event.token, stream.tokens, more)
        stream.append(EventType.TOKEN, data, bytes(event.ids) if run.ids else b"", wake=False)
        if not run.said:
            run.said = True
            took = (anyio.current_time() - run.began) * 1000
            self._post(
                RunStarted(
                    job_id=run.dispatch.job.job_id,
                    attempt=run.dispatch.attempt,
                    tokens_out=stream.tokens,
                    ttft_ms=took,
                )
            )

    def _report(self, run: _Run, event: Event) -> None:
        """At once: the rest of the reply says nothing more."""
        if not run.reported:
            run.reported = True
            self._post(event)

    def _done(self, run: _Run, done: DoneEvent) -> Event:
        usage = done.usage
        if run.cancelling or done.finish_reason == "cancelled":
            run.wasted = max(run.wasted, usage.completion_tokens - run.stream.tokens)
            return self._cancelled(run)
        return self._completed(run, done.finish_reason, usage, stop=done.stop)

    def _completed(self, run: _Run, reason: str, usage: Usage, stop: str = "") -> RunCompleted:
        return RunCompleted(
            job_id=run.dispatch.job.job_id,
            attempt=run.dispatch.attempt,
            tokens_out=usage.completion_tokens,
            finish_reason=reason,
            duration_ms=(anyio.current_time() - run.began) * 1000,
            usage=usage,
            stop=stop,
        )

    def _cancelled(self, run: _Run) -> RunCancelled:
        return RunCancelled(
            job_id=run.dispatch.job.job_id,
            attempt=run.dispatch.attempt,
            tokens_out=run.stream.tokens,
            wasted=run.wasted,
        )

    def _failed(self, run: _Run, error: RbeeError, loss: Loss | None = None) -> RunFailed:
        return RunFailed(
            job_id=run.dispatch.job.job_id,
            attempt=run.dispatch.attempt,
            tokens_out=run.stream.tokens,
            error=error,
            loss=loss,
        )

    def _embedded(self, run: _Run, body: bytes) -> Event:
        dispatch = run.dispatch
        reply = msgspec.json.decode(body, type=_Embedded)
        if reply.finish_reason == "cancelled":
            return self._cancelled(run)
        if not reply.vectors or reply.usage is None:
            return self._failed(run, BadGateway(f"{dispatch.worker_id} answered without vectors"))
        model = dispatch.job.model.id if dispatch.job.model else ""
        if not run.cancelling:
            result = _EmbedResult(reply.vectors, reply.usage, model)
            run.stream.append(EventType.RESULT, encode(result))
        usage = Usage(prompt_tokens=reply.usage.prompt_tokens, completion_tokens=0)
        return self._completed(run, "stop", usage)

    async def _cancel_upstream(self, run: _Run) -> None:
        dispatch = run.dispatch
        body = encode(CancelRequest(request_id=run.name))
        try:
            await self._upstream.post(
                f"{dispatch.url}/v1/cancel",
                body,
                _headers(run),
                silence=CLEANUP,
                total=CLEANUP,
                repeatable=True,
            )
        except (UpstreamError, UpstreamTimeout) as exc:
            log.info("cancelling %s upstream: %s", run.name, exc)


def _headers(run: _Run) -> dict[str, str]:
    job = run.dispatch.job
    return {
        "Authorization": f"Bearer {run.token}",
        "Content-Type": "application/json",
        "X-Correlation-Id": job.correlation_id or job.job_id,
    }


def _json(body: bytes) -> object:
    try:
        return msgspec.json.decode(body)
    except msgspec.DecodeError as exc:
        raise BadGateway("the worker's reply is not JSON") from exc
