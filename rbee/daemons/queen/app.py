"""The queen's routes: parse, ask the brain or the store, answer. No decision is made here."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from rbee import __version__
from rbee.core.events import JobCancelAsked
from rbee.daemons.base import Door, check_token, json_response
from rbee.daemons.events import EventStream
from rbee.daemons.queen.api_openai import OpenAI
from rbee.errors import JobFinished, NotFound, ValidationFailed
from rbee.protocol import PROTOCOL
from rbee.protocol.base import decode
from rbee.protocol.colony import Health, Info
from rbee.protocol.hives import HiveReady
from rbee.protocol.jobs import JobAccepted, JobInfo, JobState
from rbee.protocol.operations import parse_operation
from rbee.protocol.workers import Heartbeat, WorkerReady
from rbee.sse import DONE, encode_comment, encode_event

if TYPE_CHECKING:
    from rbee.daemons.queen.queen import Queen
    from rbee.daemons.queen.streams import JobStream

FEATURES = [
    "jobs",
    "replay",
    "events",
    "openai.chat",
    "openai.embeddings",
    "openai.models",
    "local_hive",
    "http_hive",
]
MAX_LISTED = 1000


def build(queen: Queen) -> ASGIApp:
    """The queen's ASGI app."""
    routes = Routes(queen)
    openai = OpenAI(queen)
    table: list[tuple[str, str, Callable[[Request], Awaitable[Response]]]] = [
        ("GET", "/health", routes.health),
        ("GET", "/v1/info", routes.info),
        ("POST", "/v1/jobs", routes.submit),
        ("GET", "/v1/jobs", routes.jobs),
        ("GET", "/v1/jobs/{job_id}", routes.job),
        ("DELETE", "/v1/jobs/{job_id}", routes.cancel),
        ("GET", "/v1/jobs/{job_id}/stream", routes.stream),
        ("GET", "/v1/workers", routes.workers),
        ("GET", "/v1/workers/{worker_id}", routes.worker),
        ("GET", "/v1/workers/{worker_id}/logs", routes.worker_logs),
        ("GET", "/v1/hives", routes.hives),
        ("GET", "/v1/hives/{name}", routes.hive),
        ("GET", "/v1/queue", routes.queue),
        ("GET", "/v1/catalog/models", routes.models),
        ("GET", "/v1/events/stream", routes.events),
        ("POST", "/v1/hives/ready", routes.hive_ready),
        ("POST", "/v1/workers/ready", routes.worker_ready),
        ("POST", "/v1/worker-heartbeat", routes.heartbeat),
        ("POST", "/v1/stay", routes.stay),
        ("POST", "/v1/shutdown", routes.shutdown),
    ]
    for prefix in ("/v1", "/openai/v1"):
        table += [
            ("POST", f"{prefix}/chat/completions", openai.chat),
            ("POST", f"{prefix}/embeddings", openai.embeddings),
            ("GET", f"{prefix}/models", openai.models),
            ("GET", f"{prefix}/models/{{model:path}}", openai.model),
        ]
    entries = [Route(path, handler, methods=[method]) for method, path, handler in table]
    router = Router(entries, redirect_slashes=False)
    door = Door(router, origins=queen.settings.queen.allowed_origins)
    return _Used(door, queen)


class _Used:
    """Notes when the queen was last used, for her linger; rbee's own processes do not count."""

    def __init__(self, app: ASGIApp, queen: Queen) -> None:
        self._app = app
        self._queen = queen

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        internal = scope.get("path", "") in ("/v1/workers/ready", "/v1/worker-heartbeat")
        if internal:
            await self._app(scope, receive, send)
            return
        with self._queen.use.one():
            await self._app(scope, receive, send)


class Routes:
    """Handlers of the queen's own routes."""

    def __init__(self, queen: Queen) -> None:
        self._queen = queen

    async def health(self, _request: Request) -> Response:
        """GET /health"""
        colony = self._queen.colony
        totals = colony.totals()
        workers = list(colony.fleet.workers.values())
        healthy = sum(1 for w in workers if not w.suspect and w.error is None)
        good = totals.hives_online > 0 and not colony.stopping
        return json_response(
            Health(
                status="healthy" if good else "degraded",
                version=__version__,
                uptime_seconds=round(self._queen.uptime(), 1),
                hives_online=totals.hives_online,
                workers_total=len(workers),
                workers_healthy=healthy,
                queue_depth=len(colony.queue),
            )
        )

    async def info(self, _request: Request) -> Response:
        """GET /v1/info"""
        queen = self._queen
        hives = queen.colony.fleet.hives.values()
        backends = sorted({b.name for hive in hives for b in hive.capabilities.backends})
        return json_response(
            Info(
                version=__version__,
                api="v1",
                protocol=PROTOCOL,
                features=FEATURES,
                backends=backends,
                base_url=queen.url,
                pid=queen.pid,
                started_at=queen.started_at,
                lifetime=queen.lifetime,
            )
        )

    async def submit(self, request: Request) -> Response:
        """POST /v1/jobs"""
        operation = parse_operation(await request.body())
        job = await self._queen.admission.submit(operation, client="api")
        info = self._queen.job_info(job)
        url = f"/v1/jobs/{job.job_id}/stream"
        accepted = JobAccepted(
            job_id=job.job_id,
            status=info.state,
            stream_url=url,
            queue_position=info.queue_position,
        )
        return json_response(accepted, 202, {"Location": f"/v1/jobs/{job.job_id}"})

    async def jobs(self, request: Request) -> Response:
        """GET /v1/jobs?state=&limit="""
        state = request.query_params.get("state")
        if state is not None and state not in set(JobState):
            raise ValidationFailed(
                f"state: {state[:40]!r} is not one of {', '.join(JobState)}",
                field="state",
                constraint="a job state",
            )
        limit = _number(request, "limit", 100, 1, MAX_LISTED)
        await self._queen.store.flush()
        stored = await self._queen.store.jobs(state=state, limit=limit)
        places = self._queen.positions()
        return json_response({"jobs": [self._fresh(info, places) for info in stored]})

    async def job(self, request: Request) -> Response:
        """GET /v1/jobs/{id}"""
        return json_response(await self._job(request))

    async def cancel(self, request: Request) -> Response:
        """DELETE /v1/jobs/{id}"""
        live = self._queen.colony.jobs.get(request.path_params["job_id"])
        info = await self._job(request)
        if info.finished_at is not None:
            raise JobFinished(f"job {info.job_id} has already ended: {info.state}")
        await self._queen.brain.call(JobCancelAsked(info.job_id, "cancelled by request"))
        if live is not None:  # with a retention of 0 nothing of it can be read back any more
            return json_response(self._queen.job_info(live))
        return json_response(await self._job(request))

    async def stream(self, request: Request) -> Response:
        """GET /v1/jobs/{id}/stream"""
        after = _number(request, "after", 0, 0, 1 << 53)
        last = request.headers.get("last-event-id", "")
        if _is_number(last):
            after = int(last)
        stream = await self._queen.streams.get(request.path_params["job_id"])
        job_id = request.path_params["job_id"]
        return EventStream(_job_blocks(stream, after, lambda: self._keepalive(job_id)))

    async def workers(self, _request: Request) -> Response:
        """GET /v1/workers"""
        return json_response({"workers": self._queen.worker_infos()})

    async def worker(self, request: Request) -> Response:
        """GET /v1/workers/{id}"""
        wanted = request.path_params["worker_id"]
        for info in self._queen.worker_infos():
            if info.worker_id == wanted:
                return json_response(info)
        raise NotFound(f"no worker {wanted[:80]}", action="rbee worker list shows the workers.")

    async def worker_logs(self, request: Request) -> Response:
        """GET /v1/workers/{id}/logs?lines="""
        lines = _number(request, "lines", 200, 1, 2000)
        worker_id = request.path_params["worker_id"]
        worker = self._queen.colony.fleet.workers.get(worker_id)
        if worker is None or worker.hive not in self._queen.effects.links:
            raise NotFound(f"no worker {worker_id[:80]}", action="rbee worker list shows them.")
        link = self._queen.effects.links[worker.hive]
        return json_response({"lines": await link.log_tail(worker_id, lines)})

    async def hives(self, _request: Request) -> Response:
        """GET /v1/hives"""
        fleet = self._queen.colony.fleet
        return json_response({"hives": [fleet.hive_info(h) for h in fleet.hives.values()]})

    async def hive(self, request: Request) -> Response:
        """GET /v1/hives/{name}"""
        fleet = self._queen.colony.fleet
        hive = fleet.hives.get(request.path_params["name"])
        if hive is None:
            raise NotFound(f"no hive {request.path_params['name'][:80]}", action="rbee hive list")
        return json_response(fleet.hive_info(hive))

    async def queue(self, _request: Request) -> Response:
        """GET /v1/queue"""
        colony = self._queen.colony
        now = self._queen.clock.monotonic()
        waiting = colony.queue.ordered(now)[:MAX_LISTED]
        depth: dict[str, int] = {"interactive": 0, "batch": 0}
        for job in colony.queue:
            depth[job.priority] += 1
        head = max((now - job.queued_mono for job in waiting), default=0.0)
        return json_response(
            {
                "depth": depth,
                "head_wait_seconds": round(head, 3),
                "jobs": [j.info(n) for n, j in enumerate(waiting, 1)],
            }
        )

    async def models(self, _request: Request) -> Response:
        """GET /v1/catalog/models"""
        return json_response({"models": self._queen.models()})

    async def events(self, _request: Request) -> Response:
        """GET /v1/events/stream"""
        return EventStream(self._queen.board.read())

    async def hive_ready(self, request: Request) -> Response:
        """POST /v1/hives/ready"""
        check_token(request, self._queen.token)
        self._queen.hive_ready(decode(await request.body(), HiveReady))
        return json_response({}, 202)

    async def worker_ready(self, request: Request) -> Response:
        """POST /v1/workers/ready, from workers of the queen's own hive."""
        check_token(request, self._queen.token)
        ready = decode(await request.body(), WorkerReady)
        await self._queen.local_hive().worker_ready(ready)
        return json_response({}, 202)

    async def heartbeat(self, request: Request) -> Response:
        """POST /v1/worker-heartbeat, from workers of the queen's own hive."""
        check_token(request, self._queen.token)
        beat = decode(await request.body(), Heartbeat)
        await self._queen.local_hive().heartbeat(beat)
        return json_response({}, 202)

    async def stay(self, _request: Request) -> Response:
        """POST /v1/stay: a lingering queen stays until she is stopped"""
        self._queen.stay()
        return json_response({"lifetime": self._queen.lifetime})

    async def shutdown(self, _request: Request) -> Response:
        """POST /v1/shutdown"""
        self._queen.ask_to_stop("asked over HTTP")
        return json_response({"status": "stopping"}, 202)

    async def _job(self, request: Request) -> JobInfo:
        job_id = request.path_params["job_id"]
        job = self._queen.colony.jobs.get(job_id)
        if job is not None:
            return self._queen.job_info(job)
        await self._queen.store.flush()
        info = await self._queen.store.job(job_id)
        if info is None:
            raise NotFound(f"no job {job_id[:80]}", action="rbee job list shows the jobs.")
        return info

    def _keepalive(self, job_id: str) -> str:
        job = self._queen.colony.jobs.get(job_id)
        if job is None or job.state is not JobState.QUEUED:
            return "keepalive"
        position = self._queen.job_info(job).queue_position
        return f"keepalive position={position} {job.waiting_for or ''}".rstrip()

    def _fresh(self, info: JobInfo, places: dict[str, int]) -> JobInfo:
        job = self._queen.colony.jobs.get(info.job_id)
        return self._queen.job_info(job, places) if job is not None else info


async def _job_blocks(
    stream: JobStream, after: int, keepalive: Callable[[], str]
) -> AsyncGenerator[bytes]:
    async for first, batch in stream.read(after):
        if batch:
            yield b"".join(
                encode_event(data, event=kind, id=number)
                for number, (kind, data) in enumerate(batch, first)
            )
        else:
            yield encode_comment(keepalive())
    if stream.ended:
        yield DONE


def _number(request: Request, name: str, default: int, low: int, high: int) -> int:
    text = request.query_params.get(name)
    if text is None:
        return default
    if not _is_number(text) or not low <= int(text) <= high:
        raise ValidationFailed(
            f"{name}: must be a number from {low} to {high}",
            field=name,
            constraint=f"{low}..{high}",
        )
    return int(text)


def _is_number(text: str) -> bool:
    """ASCII digits that fit everywhere; str.isdigit alone takes `²`, which int refuses."""
    return len(text) <= 16 and text.isascii() and text.isdigit()
