"""The least a proxy of this stack can cost: `python -m bench.floor --target URL`.

Starlette and aiohttp's client on uvicorn with the queen's own server options: takes a request,
sends it on as it is and passes the reply's bytes back. It decides, checks and keeps nothing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import AsyncIterator
from importlib.util import find_spec

import aiohttp
import anyio
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route, Router

from rbee.daemons.base import listen, make_server, serve


def build(session: aiohttp.ClientSession, target: str) -> Router:
    """One route."""

    async def chat(request: Request) -> Response:
        upstream = await session.post(
            f"{target}/v1/chat/completions",
            data=await request.body(),
            headers={"Content-Type": "application/json"},
        )
        kind = upstream.headers["Content-Type"]
        if not kind.startswith("text/event-stream"):
            return Response(await upstream.read(), upstream.status, media_type=kind)

        async def passed() -> AsyncIterator[bytes]:
            try:
                async for piece in upstream.content.iter_any():
                    yield piece
            finally:
                upstream.close()

        return StreamingResponse(passed(), upstream.status, media_type="text/event-stream")

    async def health(_request: Request) -> Response:
        return Response(b"{}", media_type="application/json")

    return Router([
        Route("/v1/chat/completions", chat, methods=["POST"]),
        Route("/health", health, methods=["GET"]),
    ])  # fmt: skip


async def run(target: str, port: int) -> None:
    """Serve until the process is ended."""
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(sock_connect=2.0, sock_read=60.0),
        read_bufsize=1 << 16,
    ) as session:
        with listen("127.0.0.1", port) as sock:
            await serve(make_server(build(session, target)), sock)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.floor", description=__doc__)
    parser.add_argument("--target", required=True)
    parser.add_argument("--port", type=int, required=True)
    given = parser.parse_args()
    loop = {"use_uvloop": find_spec("uvloop") is not None}
    anyio.run(run, given.target, given.port, backend_options=loop)
    return 0


if __name__ == "__main__":
    sys.exit(main())
