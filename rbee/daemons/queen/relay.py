"""The relay: one run, from the worker's reply into the job's stream.

Owns the upstream connection of each run, its cancellation and its stall limit. Reports start, end
and counts to the brain; tokens never pass through the inbox. One upstream event becomes one job
event with the same text; no model object is kept per token, and log-probabilities and vectors pass
as the bytes they came in.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

import aiohttp
import anyio
import anyio.abc
import msgspec

from rbee.core.events import Dispatch, Event, RunCancelled, RunCompleted, RunFailed, RunStarted
from rbee.daemons.queen.streams import JobStream, Streams
from rbee.errors import (
    AllSlotsBusy,
    BadGateway,
    InferenceTimeout,
    RbeeError,
    WorkerCrashed,
    WorkerNotReady,
)
from rbee.protocol.base import builtins, encode
from rbee.protocol.jobs import EventType
from rbee.protocol.messages import schema_of
from rbee.protocol.operations import Embed, Infer
from rbee.protocol.workers import CancelRequest, DoneEvent, EmbeddingUsage, Execute, Usage
from rbee.sse import Decoder

log = logging.getLogger("rbee.relay")
CONNECT_TIMEOUT = 2.0
CLEANUP = 5.0
"""Seconds a worker may take to confirm that it let go of a job."""
EMBED_TIMEOUT = 3600.0
"""Seconds for all vectors of a request; a worker that dies or hangs is seen by its heartbeats."""


class _Upstream(msgspec.Struct):
    """Any event of a worker's stream; which one follows from what is set. Text and
    log-probability are passed on as they came, unread."""

    token: msgspec.Raw = msgspec.Raw()
    logprob: msgspec.Raw = msgspec.Raw()
    done: bool = False
    error: dict[str, object] | None = None


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


@dataclass
class _Run:
    dispatch: Dispatch
    stream: JobStream
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    began: float = 0.0
    tokens: int = 0
    first_ms: float | None = None


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
        self._runs: dict[str, _Run] = {}
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(sock_connect=CONNECT_TIMEOUT, sock_read=stall_timeout),
            read_bufsize=1 << 16,
        )

    def start(self, dispatch: Dispatch) -> None:
        """Run a job on its worker."""
        run = _Run(dispatch, self._streams.create(dispatch.job.job_id))
        self._runs[dispatch.job.job_id] = run
        self._tasks.start_soon(self._carry, run)

    def abort(self, job_id: str) -> None:
        """Stop a run; its end is reported as RunCancelled. Harmless when it has ended."""
        run = self._runs.get(job_id)
        if run is not None:
            run.scope.cancel()

    async def close(self) -> None:
        """Close the upstream connections."""
        await self._http.close()

    async def _carry(self, run: _Run) -> None:
        job_id = run.dispatch.job.job_id
        run.began = anyio.current_time()
        try:
            with run.scope:
                self._post(await self._run(run))
                return
            with anyio.move_on_after(CLEANUP):
                await self._cancel_upstream(run)
            self._post(RunCancelled(job_id, run.tokens))
        finally:
            self._runs.pop(job_id, None)

    async def _run(self, run: _Run) -> Event:
        dispatch = run.dispatch
        job_id = dispatch.job.job_id
        try:
            async with self._http.post(
                f"{dispatch.url}/v1/execute",
                data=encode(execute_of(dispatch)),
                headers=self._headers(dispatch),
                timeout=self._patience(dispatch),
            ) as reply:
                if reply.status != 200:
                    error = RbeeError.from_body(_json(await reply.read()), reply.status)
                    if error.details.get("field") == "json_schema":
                        error.details["field"] = "response_format"  # where the user gave it
                    busy = isinstance(error, AllSlotsBusy | WorkerNotReady)
                    return RunFailed(job_id, error, busy=busy)
                if isinstance(dispatch.job.request, Embed):
                    return self._embedded(run, await reply.read())
                return await self._follow(run, reply)
        except aiohttp.SocketTimeoutError as exc:
            log.info("job %s stalled: %s", job_id, exc)
            await self._cancel_upstream(run)
            error = InferenceTimeout(
                f"{dispatch.worker_id} made no progress on {job_id} for"
                f" {self._patience(dispatch).sock_read:g} s"
            )
            return RunFailed(job_id, error, run.tokens, lost=True)
        except (aiohttp.ClientError, ConnectionError) as exc:
            error = WorkerCrashed(
                f"the connection to {dispatch.worker_id} broke after {run.tokens} tokens"
                f" ({type(exc).__name__})",
                worker_id=dispatch.worker_id,
            )
            return RunFailed(job_id, error, run.tokens, lost=True)
        except RbeeError as exc:
            return RunFailed(job_id, exc, run.tokens)
        except (msgspec.MsgspecError, ValueError) as exc:
            log.warning("job %s: %s sent garbage: %s", job_id, dispatch.worker_id, exc)
            error = BadGateway(f"{dispatch.worker_id} answered in no known form")
            return RunFailed(job_id, error, run.tokens)

    async def _follow(self, run: _Run, reply: aiohttp.ClientResponse) -> Event:
        job_id = run.dispatch.job.job_id
        decoder = Decoder()
        async for chunk in reply.content.iter_any():
            for event in decoder.feed(chunk):
                if not event.data or event.data == "[DONE]":
                    continue
                up = msgspec.json.decode(event.data, type=_Upstream)
                if up.token:
                    self._token(run, bytes(up.token), bytes(up.logprob))
                elif up.error is not None:
                    return RunFailed(job_id, RbeeError.from_body({"error": up.error}), run.tokens)
                elif up.done:
                    return self._done(run, msgspec.json.decode(event.data, type=DoneEvent))
        error = WorkerCrashed(
            f"{run.dispatch.worker_id} ended the stream of {job_id} without a word"
        )
        return RunFailed(job_id, error, run.tokens, lost=True)

    def _token(self, run: _Run, text: bytes, logprob: bytes) -> None:
        """One TokenData; both are JSON."""
        more = b',"logprob":' + logprob if logprob else b""
        run.stream.append(EventType.TOKEN, b'{"t":%b,"i":%d%b}' % (text, run.tokens, more))
        run.tokens += 1
        if run.first_ms is None:
            run.first_ms = (anyio.current_time() - run.began) * 1000
            self._post(RunStarted(run.dispatch.job.job_id, run.first_ms))

    def _done(self, run: _Run, done: DoneEvent) -> Event:
        job_id = run.dispatch.job.job_id
        if done.finish_reason == "cancelled":
            return RunCancelled(job_id, done.usage.completion_tokens)
        return RunCompleted(
            job_id,
            done.finish_reason,
            done.usage.completion_tokens,
            (anyio.current_time() - run.began) * 1000,
            done.usage,
        )

    def _embedded(self, run: _Run, body: bytes) -> Event:
        dispatch = run.dispatch
        job_id = dispatch.job.job_id
        reply = msgspec.json.decode(body, type=_Embedded)
        if reply.finish_reason == "cancelled":
            return RunCancelled(job_id, 0)
        if not reply.vectors or reply.usage is None:
            return RunFailed(job_id, BadGateway(f"{dispatch.worker_id} answered without vectors"))
        model = dispatch.job.model.id if dispatch.job.model else ""
        result = _EmbedResult(reply.vectors, reply.usage, model)
        run.stream.append(EventType.RESULT, encode(result))
        took = (anyio.current_time() - run.began) * 1000
        usage = Usage(prompt_tokens=reply.usage.prompt_tokens, completion_tokens=0)
        return RunCompleted(job_id, "stop", 0, took, usage)

    async def _cancel_upstream(self, run: _Run) -> None:
        dispatch = run.dispatch
        body = encode(CancelRequest(request_id=dispatch.job.job_id))
        try:
            async with self._http.post(
                f"{dispatch.url}/v1/cancel",
                data=body,
                headers=self._headers(dispatch),
                timeout=aiohttp.ClientTimeout(total=CLEANUP),
            ):
                pass
        except (aiohttp.ClientError, ConnectionError, TimeoutError) as exc:
            log.info("cancelling %s upstream: %s", dispatch.job.job_id, type(exc).__name__)

    def _patience(self, dispatch: Dispatch) -> aiohttp.ClientTimeout:
        """A stream is never silent for long; vectors come all at once, when they are all made."""
        embeds = isinstance(dispatch.job.request, Embed)
        silence = EMBED_TIMEOUT if embeds else self._stall
        return aiohttp.ClientTimeout(sock_connect=CONNECT_TIMEOUT, sock_read=silence)

    def _headers(self, dispatch: Dispatch) -> dict[str, str]:
        hive = dispatch.job.hive or ""
        return {
            "Authorization": f"Bearer {self._token_of(hive)}",
            "Content-Type": "application/json",
        }


def execute_of(dispatch: Dispatch) -> Execute:
    """The worker's request for a job. A plain prompt is one user message unless it is `raw`."""
    request = dispatch.job.request
    if isinstance(request, Embed):
        return Execute(
            request_id=dispatch.job.job_id,
            input=request.texts(),
            normalize=request.normalize,
            stream=False,
        )
    assert isinstance(request, Infer)
    messages = [message.plain() for message in request.messages or ()]
    if request.prompt is not None and not request.raw:
        messages = [{"role": "user", "content": request.prompt}]
    return Execute(
        request_id=dispatch.job.job_id,
        prompt=request.prompt if request.raw else None,
        messages=messages or None,
        tools=builtins(request.tools),
        max_tokens=request.max_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        min_p=request.min_p,
        repetition_penalty=request.repetition_penalty,
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        logit_bias=request.logit_bias,
        seed=request.seed,
        stop=list(request.stop),
        ignore_eos=request.ignore_eos,
        logprobs=request.logprobs,
        grammar=request.grammar,
        json_schema=schema_of(request.response_format),
        cache=request.cache,
        deterministic=request.deterministic,
    )


def _json(body: bytes) -> object:
    try:
        return msgspec.json.decode(body)
    except msgspec.DecodeError as exc:
        raise BadGateway("the worker's reply is not JSON") from exc
