"""The network allow-list: whoever calls from elsewhere is refused before anything is read."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Receive, Scope, Send

from rbee.daemons.addresses import plain
from rbee.daemons.base import error_response
from rbee.errors import Forbidden

if TYPE_CHECKING:
    from rbee.daemons.queen.doors import Network


class Neighbours:
    """ASGI middleware. This machine itself is always let in."""

    def __init__(self, app: ASGIApp, networks: Sequence[Network]) -> None:
        self._app = app
        self._inside = lru_cache(maxsize=1024)(lambda host: _inside(host, networks))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        client = scope.get("client")
        if client is not None and self._inside(client[0]):
            await self._app(scope, receive, send)
            return
        refused = Forbidden(
            "calls from this address are refused here",
            action="Its network is to be named in `queen.allowed_networks`, where the queen runs.",
        )
        await error_response(refused)(scope, receive, send)


def _inside(host: str, networks: Sequence[Network]) -> bool:
    try:
        address = ipaddress.ip_address(plain(host))
    except ValueError:
        return False
    return address.is_loopback or any(address in network for network in networks)
