"""The routes of a hive for models on their way: downloads, and copies from machine to machine.

POST   /v1/models/download                    DownloadOrder → 202 DownloadInfo
GET    /v1/models/download                    {"downloads": [DownloadInfo]}
GET    /v1/models/download/{id}/progress      DownloadInfo as events; `[DONE]` after its end
DELETE /v1/models/download/{id}               → DownloadInfo; what has come is kept
GET    /v1/models/content?model=&file=&offset=&length=    octets, with X-Rbee-Sha256
POST   /v1/models/receive                     DownloadOrder → {"download_id", "offsets"}
PUT    /v1/models/receive/{id}?file=&offset=  octets, with X-Rbee-Sha256 → {"offsets"}
POST   /v1/models/receive/{id}/finish         → DownloadInfo
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response

from rbee.daemons.base import Handler, json_response
from rbee.daemons.events import EventStream
from rbee.daemons.hive.receiving import read_piece
from rbee.errors import ValidationFailed
from rbee.protocol.base import decode, encode
from rbee.protocol.models import DownloadInfo, DownloadOrder
from rbee.sse import DONE, encode_event

if TYPE_CHECKING:
    from rbee.daemons.hive.hive import Hive

HASH = "X-Rbee-Sha256"
BODY_LIMIT = 64 << 20
"""Of an order: small files that only the queen may read come with it."""


def table(hive: Hive) -> list[tuple[str, str, Handler]]:
    """Method, path, handler."""
    routes = Routes(hive)
    return [
        ("POST", "/v1/models/download", routes.start),
        ("GET", "/v1/models/download", routes.running),
        ("GET", "/v1/models/download/{download_id}/progress", routes.progress),
        ("DELETE", "/v1/models/download/{download_id}", routes.cancel),
        ("GET", "/v1/models/content", routes.content),
        ("POST", "/v1/models/receive", routes.receive),
        ("PUT", "/v1/models/receive/{download_id}", routes.take),
        ("POST", "/v1/models/receive/{download_id}/finish", routes.finish),
    ]


class Routes:
    """Handlers."""

    def __init__(self, hive: Hive) -> None:
        self._hive = hive

    async def start(self, request: Request) -> Response:
        """POST /v1/models/download"""
        order = decode(await request.body(), DownloadOrder)
        return json_response(await self._hive.downloads.start(order), 202)

    async def running(self, _request: Request) -> Response:
        """GET /v1/models/download"""
        return json_response({"downloads": self._hive.downloads.infos()})

    async def progress(self, request: Request) -> Response:
        """GET /v1/models/download/{id}/progress"""
        infos = self._hive.downloads.watch(request.path_params["download_id"])
        return EventStream(_events(infos))

    async def cancel(self, request: Request) -> Response:
        """DELETE /v1/models/download/{id}"""
        return json_response(await self._hive.downloads.cancel(request.path_params["download_id"]))

    async def content(self, request: Request) -> Response:
        """GET /v1/models/content"""
        asked = request.query_params
        data, sha256 = await read_piece(
            self._hive.models,
            asked.get("model", ""),
            file=asked.get("file", ""),
            offset=_number(asked.get("offset", "0"), "offset"),
            length=_number(asked.get("length", ""), "length"),
        )
        headers = {HASH: sha256, "cache-control": "no-store"}
        return Response(data, headers=headers, media_type="application/octet-stream")

    async def receive(self, request: Request) -> Response:
        """POST /v1/models/receive"""
        order = decode(await request.body(), DownloadOrder)
        copy_id, offsets = await self._hive.receiving.begin(order)
        return json_response({"download_id": copy_id, "offsets": offsets})

    async def take(self, request: Request) -> Response:
        """PUT /v1/models/receive/{id}"""
        offsets = await self._hive.receiving.take(
            request.path_params["download_id"],
            file=request.query_params.get("file", ""),
            offset=_number(request.query_params.get("offset", ""), "offset"),
            sha256=request.headers.get(HASH, ""),
            data=await request.body(),
        )
        return json_response({"offsets": offsets})

    async def finish(self, request: Request) -> Response:
        """POST /v1/models/receive/{id}/finish"""
        return json_response(await self._hive.receiving.finish(request.path_params["download_id"]))


async def _events(infos: AsyncGenerator[DownloadInfo]) -> AsyncGenerator[bytes]:
    async with aclosing(infos):
        async for info in infos:
            yield encode_event(encode(info))
    yield DONE


def _number(text: str, field: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 15):
        raise ValidationFailed(f"{field}: a number of bytes", field=field, constraint="integer")
    return int(text)
