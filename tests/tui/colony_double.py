"""A double of the queen's wire: the same routes and events, with data a test decides.

A real Starlette app on a real uvicorn in a thread, so that the screens talk HTTP and server-sent
events. It is no queen: nothing is scheduled here. The queen has tests of her own.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Self

import anyio
import anyio.to_thread
import uvicorn
from keeper_double import opened
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from rbee.errors import ModelNotFound, NotFound, RbeeError
from rbee.protocol.base import Wire, encode
from rbee.protocol.colony import Health, Info, Snapshot
from rbee.protocol.decisions import Decision, Decisions, PolicyInfo, Why
from rbee.protocol.jobs import CancelledData, JobAccepted, JobInfo, JobState
from rbee.protocol.machines import Around
from rbee.protocol.models import FoundModel, HeldModel, Search, Spot
from rbee.sse import DONE, encode_comment, encode_event

Step = tuple[str, Wire] | threading.Event | str
"""An event, a gate to wait at, or `break`: the connection ends without a word; `lose`: it does so
once."""


@dataclass
class ColonyDouble:
    """Use as a context manager; `url` is valid inside."""

    snapshot: Snapshot
    after: list[tuple[str, Wire]] = field(default_factory=list)
    """Deltas sent right behind every snapshot."""
    script: list[Step] = field(default_factory=list)
    """The stream of every job that is submitted."""
    refuse: RbeeError | None = None
    """Answers a submission with this error."""
    submitted: list[dict[str, Any]] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    retried: list[str] = field(default_factory=list)
    older: list[JobInfo] = field(default_factory=list)
    """What the queen's store has beside the snapshot's jobs."""
    stories: dict[str, list[Step]] = field(default_factory=dict)
    """Job → its stream, of jobs that were not submitted here."""
    why: dict[str, Why] = field(default_factory=dict)
    decisions: list[Decision] = field(default_factory=list)
    """The newest first."""
    policy: PolicyInfo = field(default_factory=lambda: PolicyInfo(name="ect", rules=[], figures={}))
    logs: dict[str, list[str]] = field(default_factory=dict)
    """Worker, hive or `queen` → its log, which is followed until the double goes."""
    unreadable: dict[str, RbeeError] = field(default_factory=dict[str, RbeeError])
    """The same → why it cannot be read."""
    around: Around = field(default_factory=lambda: Around(machines=[]))
    version: str = "0"
    """The queen's rbee."""
    held: list[HeldModel] = field(default_factory=list)
    spots: dict[str, list[Spot]] = field(default_factory=dict)
    """Model → where it would run."""
    hub: list[FoundModel] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    """Path and query of every request that is not for the event stream."""
    closed: RbeeError | None = None
    """Answers everyone who comes with this error."""
    stranger: str = ""
    """What a program says that is no queen."""
    url: str = ""

    def __enter__(self) -> Self:
        self._readers: list[asyncio.Queue[tuple[str, Wire] | None]] = []
        self._cancels: dict[str, asyncio.Event] = {}
        self._lost: set[tuple[str, int]] = set()
        config = uvicorn.Config(
            self._app(), host="127.0.0.1", port=0, ws="none", log_config=None, lifespan="off"
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        self._up.wait(10)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        return self

    def __exit__(self, *_: object) -> None:
        self.break_events()
        self._server.should_exit = True
        self._server.force_exit = True
        self._thread.join(10)

    def push(self, name: str, payload: Wire) -> None:
        """Send a colony event to every reader."""
        self._each_reader((name, payload))

    def break_events(self) -> None:
        """Cut every colony event stream in the middle."""
        self._each_reader(None)

    @property
    def _up(self) -> _Started:
        return _Started(self._server, self._thread)

    def _each_reader(self, item: tuple[str, Wire] | None) -> None:
        for reader, loop in [(reader, self._loop) for reader in self._readers]:
            loop.call_soon_threadsafe(reader.put_nowait, item)

    def _app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/v1/info", self._info),
                Route("/health", self._health),
                Route("/v1/events/stream", self._events),
                Route("/v1/jobs", self._jobs, methods=["GET"]),
                Route("/v1/jobs", self._submit, methods=["POST"]),
                Route("/v1/jobs/{job}/stream", self._job_stream),
                Route("/v1/jobs/{job}/decision", self._why),
                Route("/v1/jobs/{job}/retry", self._retry, methods=["POST"]),
                Route("/v1/jobs/{job}", self._job, methods=["GET"]),
                Route("/v1/workers/{name}/logs", self._log),
                Route("/v1/policy", self._policy),
                Route("/v1/decisions", self._decisions),
                Route("/v1/hives/nearby", self._nearby),
                Route("/v1/hives/{name}/logs", self._log),
                Route("/v1/logs", self._log),
                Route("/v1/catalog/models", self._models),
                Route("/v1/catalog/fits", self._fits),
                Route("/v1/catalog/search", self._search),
                Route("/v1/catalog/look", self._look),
                Route("/v1/jobs/{job}", self._cancel, methods=["DELETE"]),
            ],
            exception_handlers={RbeeError: _error},  # pyright: ignore[reportArgumentType]
        )

    async def _health(self, _: Request) -> Response:
        return _json(
            Health(
                status="ok",
                version=self.version,
                uptime_seconds=0.0,
                hives_online=0,
                workers_total=0,
                workers_healthy=0,
                queue_depth=0,
            )
        )

    async def _info(self, _: Request) -> Response:
        if self.closed is not None:
            raise self.closed
        if self.stranger:
            return Response(self.stranger, media_type="text/html")
        return _json(
            Info(
                version=self.version,
                api="1",
                protocol=1,
                features=[],
                backends=[],
                base_url="http://127.0.0.1:8500",
                pid=1,
                started_at=0.0,
                lifetime="owned",
            )
        )

    async def _events(self, _: Request) -> Response:
        if self.closed is not None:
            raise self.closed
        self._loop = asyncio.get_running_loop()
        queue: asyncio.Queue[tuple[str, Wire] | None] = asyncio.Queue()
        self._readers.append(queue)

        async def lines() -> AsyncIterator[bytes]:
            for name, payload in [("snapshot", self.snapshot), *self.after]:
                yield encode_event(encode(payload), event=name)
            while True:
                item = await queue.get()
                if item is None:
                    self._readers.remove(queue)
                    return
                yield encode_event(encode(item[1]), event=item[0])

        return StreamingResponse(lines(), media_type="text/event-stream")

    async def _submit(self, request: Request) -> Response:
        if self.refuse is not None:
            raise self.refuse
        self.submitted.append(await request.json())
        job = f"j-{200 + len(self.submitted)}"
        self._cancels[job] = asyncio.Event()
        return _json(
            JobAccepted(
                job_id=job,
                status=JobState.QUEUED,
                stream_url=f"/v1/jobs/{job}/stream",
                queue_position=1,
            ),
            status=202,
        )

    async def _jobs(self, request: Request) -> Response:
        self._note(request)
        dead = request.query_params.get("dead") == "true"
        known = [*self.snapshot.jobs, *self.older]
        return Response(encode({"jobs": [job for job in known if job.dead or not dead]}))

    async def _job(self, request: Request) -> Response:
        self._note(request)
        found = [
            job
            for job in (*self.snapshot.jobs, *self.older)
            if job.job_id == request.path_params["job"]
        ]
        if not found:
            raise NotFound("no such job")
        return _json(found[0])

    async def _why(self, request: Request) -> Response:
        self._note(request)
        job = request.path_params["job"]
        return _json(self.why.get(job) or Why(job_id=job, state="completed", decisions=[]))

    async def _policy(self, request: Request) -> Response:
        self._note(request)
        return _json(self.policy)

    async def _decisions(self, request: Request) -> Response:
        self._note(request)
        return _json(Decisions(decisions=self.decisions))

    async def _retry(self, request: Request) -> Response:
        self._note(request)
        if self.refuse is not None:
            raise self.refuse
        self.retried.append(request.path_params["job"])
        job = f"j-{300 + len(self.retried)}"
        accepted = JobAccepted(
            job_id=job,
            status=JobState.QUEUED,
            stream_url=f"/v1/jobs/{job}/stream",
            queue_position=None,
        )
        return _json(accepted, status=202)

    async def _log(self, request: Request) -> Response:
        self._note(request)
        worker = request.path_params.get("name", "queen")
        if worker in self.unreadable:
            raise self.unreadable[worker]
        if worker not in self.logs:
            raise NotFound(f"no worker {worker}")

        async def lines() -> AsyncIterator[bytes]:
            sent = 0
            while True:
                known = self.logs[worker]
                for line in known[sent:]:
                    yield encode_event(encode({"line": line}))
                sent = len(known)
                await anyio.sleep(0.01)  # the test adds lines in its own thread and tells nobody

        return StreamingResponse(lines(), media_type="text/event-stream")

    async def _nearby(self, request: Request) -> Response:
        self._note(request)
        return _json(self.around)

    async def _models(self, request: Request) -> Response:
        self._note(request)
        return Response(encode({"models": self.held}), media_type="application/json")

    async def _fits(self, request: Request) -> Response:
        self._note(request)
        spots = self.spots.get(request.query_params["model"], [])
        return Response(encode({"spots": spots}), media_type="application/json")

    async def _search(self, request: Request) -> Response:
        self._note(request)
        text = request.query_params["q"]
        models = [found for found in self.hub if text in found.repo.lower()]
        return _json(Search(query=text, endpoint="http://hub", models=models))

    async def _look(self, request: Request) -> Response:
        self._note(request)
        repo = request.query_params["model"].removeprefix("hf:").partition(":")[0]
        for found in self.hub:
            if found.repo == repo:
                return _json(found)
        raise ModelNotFound(f"the hub has no {repo}", action="Look for it: rbee model search")

    def _note(self, request: Request) -> None:
        query = request.url.query
        self.asked.append(request.url.path + (f"?{query}" if query else ""))

    async def _job_stream(self, request: Request) -> Response:
        self._note(request)
        job = request.path_params["job"]
        if job not in self._cancels and job not in self.stories:
            raise NotFound(f"job {job} is not known")
        after = int(request.query_params.get("after", "0"))
        follow = request.query_params.get("follow") != "false"
        return StreamingResponse(
            self._play(job, after=after, follow=follow), media_type="text/event-stream"
        )

    async def _play(self, job: str, *, after: int, follow: bool) -> AsyncIterator[bytes]:
        cancelled = self._cancels.setdefault(job, asyncio.Event())
        yield encode_comment("keepalive")
        for at, step in enumerate(self.stories.get(job, self.script), 1):
            if not follow and not isinstance(step, tuple):
                return
            if at <= after:
                continue
            if isinstance(step, threading.Event):
                await opened(step, cancelled)
            elif step == "lose" and (job, at) in self._lost:
                continue
            elif isinstance(step, str):
                self._lost.add((job, at))
                return
            if cancelled.is_set():
                data = encode(CancelledData(reason="cancelled by the client"))
                yield encode_event(data, event="cancelled", id=at)
                break
            if isinstance(step, tuple):
                yield encode_event(encode(step[1]), event=step[0], id=at)
        yield DONE

    async def _cancel(self, request: Request) -> Response:
        job = request.path_params["job"]
        self.cancelled.append(job)
        self._cancels.setdefault(job, asyncio.Event()).set()
        return Response(status_code=204)


@dataclass
class _Started:
    """Waits for the server's socket."""

    server: uvicorn.Server
    thread: threading.Thread

    def wait(self, seconds: float) -> None:
        gate = threading.Event()
        for _ in range(int(seconds * 100)):
            if self.server.started:
                return
            gate.wait(0.01)
        raise TimeoutError("the double did not start")


def _json(value: Wire, status: int = 200) -> Response:
    return Response(encode(value), status_code=status, media_type="application/json")


async def _error(_: Request, exc: Exception) -> Response:
    assert isinstance(exc, RbeeError)
    return Response(encode(exc.body()), status_code=exc.status, media_type="application/json")
