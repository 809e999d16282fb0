"""The routes of a hive with a process of its own; every one but health needs the internal token."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TYPE_CHECKING

import anyio
import anyio.streams.memory
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp

from rbee import __version__
from rbee.daemons.base import Door, check_token, json_response
from rbee.daemons.events import EventStream
from rbee.daemons.hive import api_downloads
from rbee.daemons.hive.api_models import ModelRoutes
from rbee.errors import ValidationFailed
from rbee.protocol import PROTOCOL
from rbee.protocol.base import Request as Body
from rbee.protocol.base import decode, encode
from rbee.protocol.hives import AnyHiveEvent, HiveWorkers
from rbee.protocol.workers import Heartbeat, WorkerReady, WorkerSpec
from rbee.sse import encode_event

if TYPE_CHECKING:
    from rbee.daemons.hive.hive import Hive

log = logging.getLogger("rbee.hive")
MAX_BEHIND = 2000


class StopBody(Body, frozen=True, kw_only=True):
    """POST /v1/workers/{id}/stop"""

    force: bool = False


class Feed:
    """The hive's events for the queen that follows it, and since when nobody does."""

    def __init__(self) -> None:
        self._send: anyio.streams.memory.MemoryObjectSendStream[AnyHiveEvent] | None = None
        self.alone_since: float | None = time.monotonic()

    async def tell(self, event: AnyHiveEvent) -> None:
        """Pass on; what nobody reads is dropped, the next reader starts from the full list."""
        if self._send is not None:
            try:
                self._send.send_nowait(event)
            except (anyio.WouldBlock, anyio.ClosedResourceError, anyio.BrokenResourceError):
                self._send = None

    async def read(self, hive: Hive) -> AsyncGenerator[bytes]:
        """Blocks: what runs, which models there are, then events.

        A newer reader takes the place of an older one.
        """
        send, receive = anyio.create_memory_object_stream[AnyHiveEvent](MAX_BEHIND)
        if self._send is not None:
            await self._send.aclose()
        self._send, self.alone_since = send, None
        try:
            hive.news.afresh()
            yield encode_event(encode(HiveWorkers(workers=hive.listing())))
            yield encode_event(encode(await hive.stock()))
            async with receive:
                async for event in receive:
                    yield encode_event(encode(event))
        finally:
            if self._send in (send, None):
                self._send, self.alone_since = None, time.monotonic()


def build(hive: Hive, feed: Feed, *, shutdown: Callable[[str], None]) -> ASGIApp:
    """The hive's ASGI app."""
    routes = Routes(hive, feed, shutdown)
    table: list[tuple[str, str, Callable[[Request], Awaitable[Response]]]] = [
        ("GET", "/v1/capabilities", routes.capabilities),
        ("POST", "/v1/workers/spawn", routes.spawn),
        ("GET", "/v1/workers", routes.workers),
        ("POST", "/v1/workers/ready", routes.ready),
        ("POST", "/v1/worker-heartbeat", routes.heartbeat),
        ("POST", "/v1/workers/{worker_id}/stop", routes.stop),
        ("GET", "/v1/workers/{worker_id}/logs", routes.logs),
        ("GET", "/v1/telemetry/stream", routes.telemetry),
        ("POST", "/v1/shutdown", routes.shutdown),
        *api_downloads.table(hive),
        *ModelRoutes(hive).table(),
    ]

    def guarded(
        handler: Callable[[Request], Awaitable[Response]],
    ) -> Callable[[Request], Awaitable[Response]]:
        async def checked(request: Request) -> Response:
            check_token(request, hive.token)
            return await handler(request)

        return checked

    router = Router(
        [
            Route("/v1/health", routes.health, methods=["GET"]),
            *(Route(path, guarded(handler), methods=[method]) for method, path, handler in table),
        ],
        redirect_slashes=False,
    )
    return Door(router, limit=api_downloads.BODY_LIMIT)


class Routes:
    """Handlers."""

    def __init__(self, hive: Hive, feed: Feed, shutdown: Callable[[str], None]) -> None:
        self._hive = hive
        self._feed = feed
        self._shutdown = shutdown

    async def health(self, _request: Request) -> Response:
        """GET /v1/health"""
        return json_response(
            {
                "status": "healthy",
                "name": self._hive.name,
                "version": __version__,
                "protocol": PROTOCOL,
                "workers": len(self._hive.listing()),
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
        """GET /v1/workers/{id}/logs?lines="""
        text = request.query_params.get("lines", "200")
        if not text.isdigit() or not 1 <= int(text[:9]) <= 2000:
            raise ValidationFailed("lines: 1 to 2000", field="lines", constraint="1..2000")
        worker_id = request.path_params["worker_id"]
        self._hive.workers.get(worker_id)
        return json_response({"lines": self._hive.log_tail(worker_id, int(text))})

    async def telemetry(self, _request: Request) -> Response:
        """GET /v1/telemetry/stream"""
        return EventStream(self._feed.read(self._hive))

    async def shutdown(self, _request: Request) -> Response:
        """POST /v1/shutdown"""
        self._shutdown("asked over HTTP")
        return json_response({"status": "stopping"}, 202)
