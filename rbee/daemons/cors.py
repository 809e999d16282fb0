"""Web pages of other origins that may call: preflight answers and the headers browsers ask for.

Only for the origins that the settings name; for all others the door refuses the request, and no
header is sent. Cookies are never used, so credentials are not allowed. After the fetch standard,
<https://fetch.spec.whatwg.org/#http-cors-protocol>.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

METHODS = b"GET, POST, PATCH, DELETE, OPTIONS"
HEADERS = (
    b"authorization, content-type, x-api-key, x-rbee-client, x-correlation-id, last-event-id, \
anthropic-version, anthropic-beta"
)
EXPOSED = b"x-correlation-id, x-rbee-job, x-rbee-worker, x-rbee-hive, x-rbee-model, x-rbee-quant, \
x-rbee-device, x-rbee-queue-ms, x-rbee-overhead-ms, x-rbee-resumed, retry-after, \
x-ratelimit-limit-requests, x-ratelimit-remaining-requests, x-ratelimit-reset-requests, \
x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens"
MAX_AGE = b"600"
"""Seconds that a browser may remember a preflight's answer."""


class Cors:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, origins: Iterable[str]) -> None:
        self._app = app
        self._origins = frozenset(origin.encode("latin-1", "replace") for origin in origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        headers = dict(scope.get("headers", ()))
        origin = headers.get(b"origin")
        if origin is None or origin not in self._origins:
            await self._app(scope, receive, send)
            return
        allowed = [(b"access-control-allow-origin", origin), (b"vary", b"origin")]
        if scope["method"] == "OPTIONS" and b"access-control-request-method" in headers:
            more = [
                (b"access-control-allow-methods", METHODS),
                (b"access-control-allow-headers", HEADERS),
                (b"access-control-max-age", MAX_AGE),
                (b"content-length", b"0"),
            ]
            await send({"type": "http.response.start", "status": 204, "headers": allowed + more})
            await send({"type": "http.response.body", "body": b""})
            return

        def told(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                exposed = (b"access-control-expose-headers", EXPOSED)
                message["headers"] = [*message.get("headers", ()), *allowed, exposed]
            return send(message)

        await self._app(scope, receive, told)
