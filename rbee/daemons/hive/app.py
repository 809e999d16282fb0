"""The routes of a hive with a process of its own; every one but health needs the internal token."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.streams.memory
import anyio.to_thread
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp

from rbee import __version__
from rbee.daemons.base import Door, check_token, json_response
from rbee.daemons.events import EventStream
from rbee.daemons.hive import api_downloads
from rbee.daemons.hive.api_models import ModelRoutes
from rbee.daemons.hive.logfile import LogFile, events, line_count
from rbee.errors import Conflict, NotFound
from rbee.protocol import PROTOCOL
from rbee.protocol.base import Request as Body
from rbee.protocol.base import decode, encode
from rbee.protocol.hives import QUEEN, AnyHiveEvent, HiveWorkers, LeaseFrame
from rbee.protocol.workers import Heartbeat, WorkerReady, WorkerSpec
from rbee.sse import encode_event

if TYPE_CHECKING:
    from rbee.daemons.hive.hive import Hive
    from rbee.daemons.hive.lease import Lease

log = logging.getLogger("rbee.hive")
MAX_BEHIND = 2000
NEW_WORK = frozenset(
    {
        ("POST", "/v1/workers/spawn"),
        ("POST", "/v1/models/download"),
        ("POST", "/v1/models/receive"),
    }
)
"""What a hive without a queen may refuse."""


class StopBody(Body, frozen=True, kw_only=True):
    """POST /v1/workers/{id}/stop"""

    force: bool = False


class Feed:
    """The hive's events for the queen that follows it; its lease hears whether one does."""

    def __init__(self, lease: Lease) -> None:
        self._send: anyio.streams.memory.MemoryObjectSendStream[AnyHiveEvent] | None = None
        self._queen = ""
        self.lease = lease

    def check(self, queen: str, name: str) -> None:
        """Raises Conflict while another queen than this one follows: two would take the hive from
        each other, and end each other's workers. `queen`: as QUEEN tells it; empty: any."""
        if self._send is None or self.lease.alone_seconds is not None:
            return
        if queen and self._queen and queen != self._queen:
            other = self._queen.partition(" ")[0]
            raise Conflict(
                f"hive {name} is followed by another queen, {other[:80]}",
                action="Use that one, or add the machine to this one under another name.",
            )

    async def tell(self, event: AnyHiveEvent) -> None:
        """Pass on; what nobody reads is dropped, the next reader starts from the full list."""
        if self._send is not None:
            try:
                self._send.send_nowait(event)
            except (anyio.WouldBlock, anyio.ClosedResourceError, anyio.BrokenResourceError):
                self._send = None

    async def read(self, hive: Hive, queen: str = "") -> AsyncGenerator[bytes]:
        """Blocks: what runs, which models there are, then events.

        A newer reader takes the place of an older one.
        """
        send, receive = anyio.create_memory_object_stream[AnyHiveEvent](MAX_BEHIND)
        if self._send is not None:
            await self._send.aclose()
        self._send, self._queen = send, queen
        self.lease.came()
        try:
            hive.news.afresh()
            yield encode_event(encode(HiveWorkers(workers=hive.listing())))
            yield encode_event(encode(await hive.stock()))
            async with receive:
                async for event in receive:
                    yield encode_event(encode(event))
        finally:
            if self._send in (send, None):
                self._send = None
                self.lease.went()


def build(
    hive: Hive, feed: Feed, *, shutdown: Callable[[str], None], own_log: Path | None = None
) -> ASGIApp:
    """The hive's ASGI app. `own_log`: the file that its log goes to, where it is one."""
    routes = Routes(hive, feed, shutdown, own_log)
    table: list[tuple[str, str, Callable[[Request], Awaitable[Response]]]] = [
        ("GET", "/v1/capabilities", routes.capabilities),
        ("POST", "/v1/workers/spawn", routes.spawn),
        ("GET", "/v1/workers", routes.workers),
        ("POST", "/v1/workers/ready", routes.ready),
        ("POST", "/v1/worker-heartbeat", routes.heartbeat),
        ("POST", "/v1/workers/{worker_id}/stop", routes.stop),
        ("GET", "/v1/workers/{worker_id}/logs", routes.logs),
        ("GET", "/v1/telemetry/stream", routes.telemetry),
        ("GET", "/v1/logs", routes.own_logs),
        ("GET", "/v1/lease", routes.lease),
        ("POST", "/v1/lease", routes.frame),
        ("POST", "/v1/shutdown", routes.shutdown),
        *api_downloads.table(hive),
        *ModelRoutes(hive).table(),
    ]

    def guarded(
        handler: Callable[[Request], Awaitable[Response]], *, work: bool
    ) -> Callable[[Request], Awaitable[Response]]:
        async def checked(request: Request) -> Response:
            check_token(request, hive.token)
            if work:
                feed.lease.check_work(hive.name)
            return await handler(request)

        return checked

    router = Router(
        [
            Route("/v1/health", routes.health, methods=["GET"]),
            *(
                Route(path, guarded(handler, work=(method, path) in NEW_WORK), methods=[method])
                for method, path, handler in table
            ),
        ],
        redirect_slashes=False,
    )
    return Door(router, limit=api_downloads.BODY_LIMIT)


class Routes:
    """Handlers."""

    def __init__(
        self, hive: Hive, feed: Feed, shutdown: Callable[[str], None], own_log: Path | None
    ) -> None:
        self._hive = hive
        self._feed = feed
        self._shutdown = shutdown
        self._own_log = own_log

    async def health(self, _request: Request) -> Response:
        """GET /v1/health"""
        return json_response(
            {
                "status": "healthy",
                "name": self._hive.name,
                "version": __version__,
                "protocol": PROTOCOL,
                "workers": len(self._hive.listing()),
                "lease": self._feed.lease.seconds,
                "alone_seconds": self._feed.lease.alone_seconds,
            }
        )

    async def capabilities(self, _request: Request) -> Response:
        """GET /v1/capabilities"""
        return json_response(await self._hive.capabilities())

    async def spawn(self, request: Request) -> Response:
        """POST /v1/workers/spawn"""
        spec = decode(await request.body(), WorkerSpec)
        log.info("spawn asked", extra={"worker": spec.worker_id, "model": spec.model_id})
        await self._hive.spawn(spec)
        return json_response({"worker_id": spec.worker_id}, 202)

    async def workers(self, _request: Request) -> Response:
        """GET /v1/workers"""
        return json_response({"workers": self._hive.listing()})

    async def ready(self, request: Request) -> Response:
        """POST /v1/workers/ready"""
        await self._hive.worker_ready(decode(await request.body(), WorkerReady))
        return json_response({}, 202)

    async def heartbeat(self, request: Request) -> Response:
        """POST /v1/worker-heartbeat"""
        await self._hive.heartbeat(decode(await request.body(), Heartbeat))
        return json_response({}, 202)

    async def stop(self, request: Request) -> Response:
        """POST /v1/workers/{id}/stop"""
        body = decode(await request.body() or b"{}", StopBody)
        worker_id = request.path_params["worker_id"]
        log.info("stop asked", extra={"worker": worker_id, "force": body.force})
        await self._hive.stop(worker_id, force=body.force)
        return json_response({}, 202)

    async def logs(self, request: Request) -> Response:
        """GET /v1/workers/{id}/logs?lines=&follow="""
        lines = line_count(request.query_params.get("lines"))
        worker_id = request.path_params["worker_id"]
        workers = self._hive.workers
        workers.get(worker_id)
        if not _follows(request):
            return json_response({"lines": self._hive.log_tail(worker_id, lines)})
        path = workers.log_path(worker_id)
        return EventStream(events(path, lines=lines, ended=lambda: not workers.has(worker_id)))

    async def own_logs(self, request: Request) -> Response:
        """GET /v1/logs?lines=&follow="""
        lines = line_count(request.query_params.get("lines"))
        if self._own_log is None:
            raise NotFound(
                f"hive {self._hive.name} keeps no log file: it writes to where it was started",
                action="Look there, or start it with `rbee hive start`.",
            )
        if _follows(request):
            return EventStream(events(self._own_log, lines=lines, ended=lambda: False))
        with LogFile(self._own_log) as log:
            return json_response({"lines": await anyio.to_thread.run_sync(log.last, lines)})

    async def lease(self, _request: Request) -> Response:
        """GET /v1/lease"""
        return json_response(self._feed.lease.info())

    async def frame(self, request: Request) -> Response:
        """POST /v1/lease"""
        body = decode(await request.body() or b"{}", LeaseFrame)
        self._feed.check(request.headers.get(QUEEN, ""), self._hive.name)
        return json_response(self._feed.lease.frame(body.alone))

    async def telemetry(self, request: Request) -> Response:
        """GET /v1/telemetry/stream"""
        queen = request.headers.get(QUEEN, "")
        self._feed.check(queen, self._hive.name)
        return EventStream(self._feed.read(self._hive, queen))

    async def shutdown(self, _request: Request) -> Response:
        """POST /v1/shutdown"""
        self._shutdown("asked over HTTP")
        return json_response({"status": "stopping"}, 202)


def _follows(request: Request) -> bool:
    return request.query_params.get("follow", "0") not in ("", "0", "false")
