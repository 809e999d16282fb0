"""The queen's routes: parse, ask the brain or the store, answer. No decision is made here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from rbee import __version__
from rbee.daemons.base import Door, Exact, check_token, json_response
from rbee.daemons.cors import Cors
from rbee.daemons.events import EventStream
from rbee.daemons.queen import dialects, metrics, openapi
from rbee.daemons.queen.api_access import AccessRoutes
from rbee.daemons.queen.api_catalog import CatalogRoutes
from rbee.daemons.queen.api_hives import HiveRoutes
from rbee.daemons.queen.api_jobs import JobRoutes
from rbee.daemons.queen.api_policy import PolicyRoutes
from rbee.daemons.queen.doors import hosts_of, networks_of
from rbee.daemons.queen.neighbours import Neighbours
from rbee.daemons.queen.params import flag, number
from rbee.errors import NotFound
from rbee.protocol import PROTOCOL
from rbee.protocol.base import decode
from rbee.protocol.colony import Health, Info
from rbee.protocol.hives import HiveReady
from rbee.protocol.workers import Heartbeat, WorkerReady

if TYPE_CHECKING:
    from rbee.daemons.queen.queen import Queen

NO_USE = ("/v1/workers/ready", "/v1/worker-heartbeat", "/metrics")
"""Her own processes, and who looks at her figures every few seconds."""
FEATURES = [
    "jobs",
    "replay",
    "retry",
    "decisions",
    "queue",
    "drain",
    "metrics",
    "events",
    "openai.chat",
    "openai.completions",
    "openai.responses",
    "openai.tools",
    "openai.embeddings",
    "openai.models",
    "anthropic.messages",
    "anthropic.count_tokens",
    "ollama",
    "models.hub",
    "models.copy",
    "keys",
    "usage",
    "local_hive",
    "http_hive",
    "ssh_hive",
]


def build(queen: Queen) -> ASGIApp:
    """The queen's ASGI app."""
    settings = queen.settings.queen
    routes, jobs = Routes(queen), JobRoutes(queen)
    queen.metrics.bind(queen)
    access = AccessRoutes(queen.access.keys, queen.access.usage, queen.clock)
    table: list[tuple[str, str, Callable[[Request], Awaitable[Response]]]] = [
        ("GET", "/health", routes.health),
        ("GET", "/metrics", metrics.handler(queen.metrics)),
        ("GET", "/v1/info", routes.info),
        ("POST", "/v1/jobs", jobs.submit),
        ("GET", "/v1/jobs", jobs.jobs),
        ("GET", "/v1/jobs/{job_id}", jobs.job),
        ("DELETE", "/v1/jobs/{job_id}", jobs.cancel),
        ("GET", "/v1/jobs/{job_id}/stream", jobs.stream),
        ("GET", "/v1/jobs/{job_id}/decision", jobs.decision),
        ("POST", "/v1/jobs/{job_id}/retry", jobs.retry),
        ("GET", "/v1/workers", routes.workers),
        ("GET", "/v1/workers/{worker_id}", routes.worker),
        ("GET", "/v1/workers/{worker_id}/logs", routes.worker_logs),
        ("GET", "/v1/logs", routes.logs),
        *HiveRoutes(queen).table(),
        ("GET", "/v1/queue", jobs.queue),
        *PolicyRoutes(queen).table(),
        *CatalogRoutes(queen.catalog).table(),
        ("GET", "/v1/events/stream", routes.events),
        ("POST", "/v1/hives/ready", routes.hive_ready),
        ("POST", "/v1/workers/ready", routes.worker_ready),
        ("POST", "/v1/worker-heartbeat", routes.heartbeat),
        *access.table(),
        ("POST", "/v1/stay", routes.stay),
        ("POST", "/v1/shutdown", routes.shutdown),
        *dialects.table(queen),
    ]
    public = [("GET", "/openapi.json"), *((way, path) for way, path, _ in table)]
    table.append(("GET", "/openapi.json", openapi.handler(public)))
    table = [
        (way, path, queen.access.gate.guarded(way, path, handler)) for way, path, handler in table
    ]
    entries = [Route(path, handler, methods=[method]) for method, path, handler in table]
    router = Router(entries, redirect_slashes=False)
    plain = {(method, path): handler for method, path, handler in table if "{" not in path}
    door = Door(
        Exact(router, plain),
        hosts=hosts_of(settings, queen.doors),
        addresses=queen.doors.outer is not None,
        origins=settings.allowed_origins,
        on_error=queen.metrics.refused,
        reply=dialects.error_on,
    )
    app: ASGIApp = _Used(door, queen)
    if settings.allowed_origins:
        app = Cors(app, settings.allowed_origins)
    if networks := networks_of(settings):
        app = Neighbours(app, networks)
    return app


class _Used:
    """Notes when the queen was last used, for her linger; see NO_USE for what does not count."""

    def __init__(self, app: ASGIApp, queen: Queen) -> None:
        self._app = app
        self._queen = queen

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("path", "") in NO_USE:
            await self._app(scope, receive, send)
            return
        with self._queen.use:
            await self._app(scope, receive, send)


class Routes:
    """Handlers of the queen's own routes, those of jobs aside."""

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
        """GET /v1/workers/{id}/logs?lines=&follow="""
        lines = number(request, "lines", 200, 1, 2000)
        worker_id = request.path_params["worker_id"]
        if flag(request, "follow"):
            return EventStream(await self._queen.logs.of_worker(worker_id, lines=lines))
        worker = self._queen.colony.fleet.workers.get(worker_id)
        if worker is None or worker.hive not in self._queen.effects.links:
            raise NotFound(f"no worker {worker_id[:80]}", action="rbee worker list shows them.")
        link = self._queen.effects.links[worker.hive]
        return json_response({"lines": await link.log_tail(worker_id, lines)})

    async def logs(self, request: Request) -> Response:
        """GET /v1/logs?lines=&follow="""
        lines = number(request, "lines", 100, 1, 2000)
        follow = flag(request, "follow") is True
        return EventStream(self._queen.logs.of_queen(lines=lines, follow=follow))

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
