"""The worker's routes. Each is a few lines: what they mean is in `runner`, `answer` and `main`.

Owns addresses, methods and who may call. Only health is open; everything else needs the internal
token that the hive gave when it started the process.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import anyio
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route, Router
from starlette.types import ASGIApp

from rbee import sse
from rbee.daemons.base import BODY_LIMIT, Door, Handler, check_token, json_response
from rbee.daemons.worker.answer import KEEPALIVE_SECONDS, Answer
from rbee.daemons.worker.requests import emitted_tokens
from rbee.daemons.worker.runner import READY, Runner, progress_event
from rbee.protocol.base import decode, encode
from rbee.protocol.workers import CancelRequest, Execute, ShutdownRequest, WorkerState

EXECUTE_LIMIT = 4 * BODY_LIMIT
"""Bytes; the queen's limit is on what her caller sent, and her own request says more."""


def make_app(runner: Runner, stop: Callable[[ShutdownRequest], None], *, token: str) -> ASGIApp:
    """The ASGI app; `stop` is called when a shutdown is asked for and returns at once."""
    routes = Routes(runner, stop)

    def guarded(path: str, handler: Handler, method: str = "GET") -> Route:
        async def checked(request: Request) -> Response:
            check_token(request, token)
            return await handler(request)

        return Route(path, checked, methods=[method])

    table = [
        Route("/v1/health", routes.health, methods=["GET"]),
        guarded("/v1/ready", routes.ready),
        guarded("/v1/stats", routes.stats),
        guarded("/v1/loading/progress", routes.progress),
        guarded("/v1/execute", routes.execute, "POST"),
        guarded("/v1/inference", routes.execute, "POST"),
        guarded("/v1/cancel", routes.cancel, "POST"),
        guarded("/v1/inference/{request_id}", routes.cancel_by_path, "DELETE"),
        guarded("/v1/admin/shutdown", routes.shutdown, "POST"),
    ]
    return Door(Router(table, redirect_slashes=False), limit=EXECUTE_LIMIT)


class Routes:
    """The handlers."""

    def __init__(self, runner: Runner, stop: Callable[[ShutdownRequest], None]) -> None:
        self._runner = runner
        self._stop = stop

    async def health(self, _: Request) -> Response:
        """GET /v1/health"""
        return json_response(self._runner.health())

    async def ready(self, _: Request) -> Response:
        """GET /v1/ready"""
        state = self._runner.state
        if state in READY:
            return json_response({"ready": True, "state": state})
        body = {"ready": False, "state": state, "progress_url": self._runner.progress_url}
        return json_response(body, 503, {"Retry-After": "1"})

    async def progress(self, _: Request) -> Response:
        """GET /v1/loading/progress"""
        return StreamingResponse(
            _loading(self._runner),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store"},
        )

    async def stats(self, _: Request) -> Response:
        """GET /v1/stats"""
        return json_response(self._runner.stats())

    async def execute(self, request: Request) -> Response:
        """POST /v1/execute, alias /v1/inference"""
        order = decode(await request.body(), Execute)
        stream = order.stream and order.input is None
        running = self._runner.start(order)
        return Answer(running, stream=stream, ids=order.ids, index=emitted_tokens(order))

    async def cancel(self, request: Request) -> Response:
        """POST /v1/cancel"""
        self._runner.cancel(decode(await request.body(), CancelRequest).request_id)
        return Response(status_code=204)

    async def cancel_by_path(self, request: Request) -> Response:
        """DELETE /v1/inference/{request_id}"""
        self._runner.cancel(request.path_params["request_id"])
        return Response(status_code=204)

    async def shutdown(self, request: Request) -> Response:
        """POST /v1/admin/shutdown; an empty body means the defaults."""
        body = await request.body()
        self._stop(decode(body, ShutdownRequest) if body else ShutdownRequest())
        return json_response({"stopping": True}, 202)


async def _loading(runner: Runner) -> AsyncIterator[bytes]:
    """Each change of the progress, until the model is ready or never will be."""
    while True:
        state, changed = runner.state, runner.changed
        yield sse.encode_event(encode(progress_event(runner)))
        if state is not WorkerState.LOADING:
            return
        while not changed.is_set():
            with anyio.move_on_after(KEEPALIVE_SECONDS):
                await changed.wait()
            if not changed.is_set():
                yield sse.encode_comment("keepalive")
