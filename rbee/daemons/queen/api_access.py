"""The routes of keys and of use: admins make, list, withdraw and renew keys, and see what was used.

Parses, asks `rbee.access`, answers. A key is in the reply that makes it and in nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
from starlette.requests import Request
from starlette.responses import Response

from rbee.access.keys import check_name
from rbee.access.usage import DAY
from rbee.daemons.base import json_response
from rbee.daemons.queen.params import number
from rbee.protocol.access import NewKey
from rbee.protocol.base import decode

if TYPE_CHECKING:
    from rbee.access.keys import Keys
    from rbee.access.usage import Usage
    from rbee.clock import Clock

log = logging.getLogger("rbee.queen")
SECRET = {"Cache-Control": "no-store"}


class AccessRoutes:
    """Handlers. Changes are made one at a time."""

    def __init__(self, keys: Keys, usage: Usage, clock: Clock) -> None:
        self._keys = keys
        self._usage = usage
        self._clock = clock
        self._lock = anyio.Lock()

    def table(self) -> list[tuple[str, str, Callable[[Request], Awaitable[Response]]]]:
        """Method, path, handler."""
        return [
            ("GET", "/v1/keys", self.keys),
            ("POST", "/v1/keys", self.create),
            ("DELETE", "/v1/keys/{name}", self.revoke),
            ("POST", "/v1/keys/{name}/rotate", self.rotate),
            ("GET", "/v1/usage", self.usage),
        ]

    async def keys(self, _request: Request) -> Response:
        """GET /v1/keys"""
        return json_response({"keys": self._keys.infos(self._clock.utc())})

    async def create(self, request: Request) -> Response:
        """POST /v1/keys"""
        new = decode(await request.body(), NewKey)
        async with self._lock:
            made = await anyio.to_thread.run_sync(self._keys.create, new, self._clock.utc())
        log.info("key made", extra={"key": new.name, "fingerprint": made.info.fingerprint})
        return json_response(made, 201, SECRET)

    async def revoke(self, request: Request) -> Response:
        """DELETE /v1/keys/{name}"""
        name = request.path_params["name"]
        check_name(name)
        async with self._lock:
            gone = await anyio.to_thread.run_sync(self._keys.revoke, name)
        log.info("key withdrawn", extra={"key": name, "fingerprint": gone.fingerprint})
        return json_response(gone.info(self._clock.utc()))

    async def rotate(self, request: Request) -> Response:
        """POST /v1/keys/{name}/rotate"""
        name = request.path_params["name"]
        check_name(name)
        async with self._lock:
            made = await anyio.to_thread.run_sync(self._keys.rotate, name, self._clock.utc())
        log.info("key renewed", extra={"key": name, "fingerprint": made.info.fingerprint})
        return json_response(made, 200, SECRET)

    async def usage(self, request: Request) -> Response:
        """GET /v1/usage?days="""
        days = number(request, "days", 30, 1, 3650)
        since = self._clock.utc() - (days - 1) * DAY
        return json_response(await self._usage.report(since))
