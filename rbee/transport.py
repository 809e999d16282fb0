"""HTTP towards one queen as her client needs it: what is shown to her, and errors as ours.

Owns the connection, TLS, limits of time, and what is said when she cannot be reached or does not
take our key. Knows no route.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import httpx
import msgspec

from rbee import __version__
from rbee.access.presented import Presented, authority, for_url
from rbee.errors import (
    BadGateway,
    ConnectionTimeout,
    InvalidRequest,
    MissingApiKey,
    QueenUnreachable,
    RbeeError,
    SettingsError,
)
from rbee.sse import Decoder, ServerEvent

EVENT_LIMIT = 512 << 20
"""Bytes: the vectors of an embed job are one event."""
CONTROL = httpx.Timeout(10.0, connect=2.0)
STREAM = httpx.Timeout(20.0, connect=2.0)
"""Streams: the queen says something at least every 5 s, so 20 s of silence is a dead link."""


class Transport:
    """Requests to one queen. Every method raises what she answered, as an RbeeError."""

    def __init__(self, url: str, *, name: str | None) -> None:
        """`name`: whose jobs these are when clients take turns; None: the queen's usual."""
        self._url = url
        self._shown = shown = for_url(url)
        headers = {"User-Agent": f"rbee/{__version__}"}
        if name is not None:
            headers["X-Rbee-Client"] = name
        self._http = httpx.AsyncClient(
            base_url=url,
            timeout=CONTROL,
            trust_env=False,
            headers=headers,
            auth=_Shown(shown),
            verify=_tls(url, shown.ca),
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def call(self, method: str, path: str, **kwargs: Any) -> bytes:
        """A reply's body."""
        with _Translate(self._url):
            reply = await self._http.request(method, path, **kwargs)
        if reply.status_code >= 400:
            raise _error(reply.status_code, reply.content, self._shown)
        return reply.content

    @asynccontextmanager
    async def reply(self, path: str, **kwargs: Any) -> AsyncGenerator[httpx.Response]:
        """A reply to GET that is read as it comes."""
        with _Translate(self._url):
            async with self._http.stream("GET", path, timeout=STREAM, **kwargs) as reply:
                if reply.status_code >= 400:
                    raise _error(reply.status_code, await reply.aread(), self._shown)
                yield reply


def _tls(url: str, ca: str) -> ssl.SSLContext:
    """Reading the machine's certificates takes 50 ms, which nobody needs without TLS."""
    if not url.startswith("https:"):
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context = ssl.create_default_context()
    if (file := authority(ca)) is not None:
        try:
            context.load_verify_locations(file)
        except (OSError, ssl.SSLError) as exc:
            raise SettingsError(
                f"{file} is no certificate of an authority",
                action="Set `queen.tls_ca` to the ca.pem that `rbee cert create` has made there.",
            ) from exc
    return context


class _Shown(httpx.Auth):
    """Our key or token, looked up for each request: who answers there may be another by then."""

    def __init__(self, shown: Presented) -> None:
        self._shown = shown

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response]:
        """See httpx."""
        key = self._shown.now()
        if key:
            request.headers["Authorization"] = f"Bearer {key}"
        yield request


class _Translate:
    """httpx's exceptions as ours, with the address in the message."""

    def __init__(self, url: str) -> None:
        self._url = url

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, exc: BaseException | None, tb: object) -> None:
        if isinstance(exc, httpx.ConnectError) and "CERTIFICATE_VERIFY_FAILED" in str(exc):
            raise QueenUnreachable(
                f"the certificate of {self._url} is not vouched for by anybody known here",
                action="Copy the ca.pem of `rbee cert create` from there, and name the copy in"
                " `queen.tls_ca`.",
            ) from exc
        if isinstance(
            exc, httpx.ConnectError | httpx.RemoteProtocolError | httpx.ReadError | httpx.WriteError
        ):
            raise QueenUnreachable(f"no queen answers at {self._url}") from exc
        if isinstance(exc, httpx.TimeoutException):
            raise ConnectionTimeout(f"the queen at {self._url} does not answer") from exc
        if isinstance(exc, httpx.InvalidURL | UnicodeError):
            raise InvalidRequest("that cannot be part of an address") from exc


def part(text: str) -> str:
    """One part of a path. Raises InvalidRequest for what cannot be one."""
    try:
        quoted = quote(text, safe="")
    except UnicodeError:
        quoted = ""
    if quoted in ("", ".", ".."):  # which even quoted would lead to another path
        raise InvalidRequest(f"{text[:80]!r} is no id")
    return quoted


async def events_of(reply: httpx.Response) -> AsyncIterator[ServerEvent]:
    """The events of a stream."""
    decoder = Decoder(EVENT_LIMIT)
    async for chunk in reply.aiter_raw():
        for event in decoder.feed(chunk):
            yield event


def _error(status: int, content: bytes, shown: Presented) -> RbeeError:
    """What the queen said; of a key that is not right, where this side has it from."""
    try:
        error = RbeeError.from_body(msgspec.json.decode(content), status)
    except msgspec.DecodeError:
        return BadGateway(f"reply with status {status} is not rbee's")
    if isinstance(error, MissingApiKey) and "scope" not in error.details:
        if shown.now():
            action = f"It comes from {shown.origin}: set the right one there."
        else:
            action = "Set `queen.api_key`, or RBEE_API_KEY, to a key of that queen."
        error.details["suggested_action"] = action
    return error
