"""The shell every HTTP daemon wears: bind, serve, end in good order, and the guards at its door.

Owns listening sockets, uvicorn's run, error bodies, correlation ids and the checks that keep
browsers and oversized bodies out. Never knows what a route means.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hmac
import logging
import socket
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping, Sequence
from pathlib import Path

import anyio
import uvicorn
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rbee import naming
from rbee.daemons.addresses import is_address, is_loopback, name_of
from rbee.daemons.direct import patient
from rbee.daemons.guests import Guests
from rbee.daemons.logs import correlation as current
from rbee.errors import (
    BindRefused,
    Forbidden,
    InternalError,
    InvalidApiKey,
    InvalidRequest,
    MethodNotAllowed,
    MissingApiKey,
    NotFound,
    PayloadTooLarge,
    PortTaken,
    QueueFull,
    RateLimited,
    RbeeError,
    Unavailable,
)
from rbee.protocol.base import encode

log = logging.getLogger("rbee")
BODY_LIMIT = 1 << 20
TOLD = "rbee.told"
"""Headers in a request's state that its reply is to have, whatever it is."""
RETRY_AFTER = 1
Handler = Callable[[Request], Awaitable[Response]]
ONCE = (b"host", b"origin", b"authorization", b"x-api-key")
"""Headers whose second value would be looked at by one and not by another."""


def listen(
    host: str, port: int, *, name_holder: bool = True, public: bool = False
) -> socket.socket:
    """A listening TCP socket. Raises PortTaken naming the holder, BindRefused off loopback.

    `public`: whoever calls has seen to it that callers need a key.
    """
    if not public and not is_loopback(host):
        raise BindRefused(f"{host} is not a loopback address, and nothing asks for a key there")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
        sock.listen(BACKLOG)
    except OSError as exc:
        sock.close()
        holder = _holder(port) if name_holder else ""
        raise PortTaken(f"{host}:{port} is taken{holder}: {exc.strerror}") from exc
    return sock


def next_free(host: str, base: int, *, tries: int = 1000) -> socket.socket:
    """A listening socket on the first free port from `base` on. Raises PortTaken after `tries`."""
    for port in range(base, min(base + tries, 65536)):
        with contextlib.suppress(PortTaken):
            return listen(host, port, name_holder=False)
    raise PortTaken(f"no free port from {base} to {base + tries - 1} on {host}")


def url_of(sock: socket.socket) -> str:
    """`http://address:port` of a listening socket."""
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _holder(port: int) -> str:
    import psutil  # 15 ms, and only when something is wrong

    with contextlib.suppress(psutil.Error, OSError):
        for conn in psutil.net_connections("tcp"):
            if conn.laddr and conn.laddr.port == port and conn.status == psutil.CONN_LISTEN:
                if conn.pid is None:
                    return " by a process of another user"
                return f" by {psutil.Process(conn.pid).name()} (pid {conn.pid})"
    return ""


DATE_EVERY = 1.0
HANDSHAKE, BACKLOG = 10.0, 2048
"""Seconds for a client's part of TLS; connections that the system keeps until they are taken."""


class Server(uvicorn.Server):
    """uvicorn without its own signal handling: signals belong to the daemon."""

    _stopped: anyio.Event | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leave the signals alone."""
        yield

    def stop(self) -> None:
        """Finish the running replies (at most a second) and return from serve."""
        self.should_exit = True
        if self._stopped is not None:
            self._stopped.set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer on the sockets. uvicorn's own waits a minute for a client's part of TLS."""
        config = self.config
        kind, state = config.http_protocol_class, self.server_state
        protocol = functools.partial(kind, config=config, server_state=state, app_state={})
        limit = HANDSHAKE if config.ssl is not None else None
        loop = asyncio.get_running_loop()
        self.servers = [
            await loop.create_server(
                protocol, sock=sock, ssl=config.ssl, ssl_handshake_timeout=limit, backlog=BACKLOG
            )
            for sock in sockets or ()
        ]
        self.started = True

    async def main_loop(self) -> None:
        """Keep the replies' date until this is stopped. uvicorn's own looks ten times a second
        whether it is, which was a third of what an idle hive computes."""
        self._stopped = stopped = anyio.Event()
        while not await self.on_tick(0):
            with anyio.move_on_after(DATE_EVERY):
                await stopped.wait()


def _is_news(record: logging.LogRecord) -> bool:
    """None: a reply that is open when the daemon ends; a warning, of what anybody may send."""
    ended = record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError)
    return record.levelno >= logging.ERROR and not ended


def make_server(
    app: ASGIApp,
    *,
    patience: float | None = None,
    tls: tuple[Path, Path] | None = None,
    guests: Guests | None = None,
) -> Server:
    """A server for the app; log lines go through the `rbee` logger only.

    `patience`: seconds within which a request must have come whole. `tls`: certificate and key.
    `guests` counts the connections of other machines.
    """
    logging.getLogger("uvicorn.error").addFilter(_is_news)
    config = uvicorn.Config(
        app,
        http=patient(patience, guests),
        ssl_certfile=tls[0] if tls is not None else None,
        ssl_keyfile=tls[1] if tls is not None else None,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=1,
        timeout_keep_alive=75,
        lifespan="off",
        ws="none",
    )
    return Server(config)


class Exact:
    """ASGI: handlers by method and exact path; everything else goes to `app`."""

    def __init__(self, app: ASGIApp, handlers: Mapping[tuple[str, str], Handler]) -> None:
        self._app = app
        self._handlers = handlers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        handler = self._handlers.get((scope["method"], scope["path"]))
        if handler is None:
            await self._app(scope, receive, send)
            return
        reply = await handler(Request(scope, receive, send))
        await reply(scope, receive, send)


class Door:
    """ASGI middleware: Host and Origin checks, body limit, correlation id, errors as bodies."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        hosts: Iterable[str] = (),
        addresses: bool = False,
        origins: Iterable[str] = (),
        limit: int = BODY_LIMIT,
        on_error: Callable[[RbeeError], None] | None = None,
        reply: Callable[[str, RbeeError], Response] | None = None,
    ) -> None:
        """`hosts`: names that may be asked for besides loopback's. `addresses`: so may any address,
        which no name server can turn into another. `on_error` hears of every error answered here;
        `reply` writes one, by the path.
        """
        self._addresses = addresses
        self._app = app
        self._on_error = on_error
        self._reply = reply or (lambda _, error: error_response(error))
        self._hosts = frozenset(hosts)
        self._origins = frozenset(origins)
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            return
        headers: dict[bytes, bytes] = dict(scope["headers"])
        correlation = naming.correlation_id(_text(headers.get(b"x-correlation-id")))
        scope.setdefault("state", {})["correlation_id"] = correlation
        current.set(correlation)  # the server has a task of its own for each request
        scope["app"] = self  # makes the router raise its 404 and 405 instead of answering in text
        started = False

        def tagged(message: Message) -> Awaitable[None]:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"x-correlation-id", correlation.encode()),
                    *scope["state"].get(TOLD, ()),
                ]
            return send(message)

        try:
            self._check(headers)
            if len(headers) < len(scope["headers"]):
                _check_once(scope["headers"])
            del headers  # a stream is long
            await self._app(scope, self._bounded(receive), tagged)
        except RbeeError as exc:
            if started:
                raise
            await self._refuse(scope, exc)(scope, receive, tagged)
        except HTTPException as exc:
            await self._refuse(scope, _routing_error(scope, exc))(scope, receive, tagged)
        except ClientDisconnect:  # in the middle of its upload: nobody is left to answer
            log.debug("caller left", extra={"path": scope["path"]})
        except Exception:
            log.exception("request failed", extra={"path": scope["path"]})
            if started:
                raise
            error = InternalError(
                f"a defect; the log has it under correlation id {correlation}",
                action="See `rbee queen logs` and report it.",
            )
            await self._refuse(scope, error)(scope, receive, tagged)

    def _refuse(self, scope: Scope, error: RbeeError) -> Response:
        if self._on_error is not None:
            self._on_error(error)
        return self._reply(scope["path"], error)

    def _check(self, headers: dict[bytes, bytes]) -> None:
        host = (_text(headers.get(b"host")) or "").strip()
        name = name_of(host)
        if not (
            is_loopback(name)
            or name.lower().rstrip(".") in self._hosts
            or (self._addresses and is_address(name))
        ):
            raise Forbidden(
                f"requests for host {host[:80]!r} are refused here",
                action="Use 127.0.0.1 or localhost, or name it in `queen.allowed_hosts`.",
            )
        origin = _text(headers.get(b"origin"))
        if origin is not None and origin not in self._origins and not _same_host(origin, host):
            raise Forbidden(f"requests from the web page {origin[:80]!r} are refused")
        length = _text(headers.get(b"content-length"))
        if length is not None and not _within(length, self._limit):
            raise self._too_large(length[:20])

    def _too_large(self, size: object) -> PayloadTooLarge:
        return PayloadTooLarge(
            f"the body has {size} bytes, {self._limit} are allowed", limit=self._limit
        )

    def _bounded(self, receive: Receive) -> Receive:
        total = 0

        async def counted() -> Message:
            nonlocal total
            message = await receive()
            if message["type"] == "http.request":
                total += len(message.get("body", b""))
                if total > self._limit:
                    raise self._too_large(f"more than {self._limit}")
            return message

        return counted


def _check_once(headers: Sequence[tuple[bytes, bytes]]) -> None:
    for name in ONCE:
        if sum(1 for header, _ in headers if header == name) > 1:
            raise InvalidRequest(f"the header {name.decode()} came more than once")


def _text(value: bytes | None) -> str | None:
    return value.decode("latin-1") if value is not None else None


def _within(length: str, limit: int) -> bool:
    return length.isascii() and length.isdigit() and len(length) <= 16 and int(length) <= limit


def _same_host(origin: str, host: str) -> bool:
    return origin.partition("://")[2] == host


def json_response(
    value: object, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    """A struct or plain value as JSON."""
    return Response(encode(value), status, headers, "application/json")


def error_headers(error: RbeeError) -> dict[str, str]:
    """Retry-After where trying again makes sense, WWW-Authenticate where a key is missing."""
    if isinstance(error, Unavailable | QueueFull | RateLimited):
        wait = int(error.details.get("retry_after", RETRY_AFTER))
        return {"Retry-After": str(wait), "X-Backoff-Ms": str(wait * 1000)}
    if isinstance(error, MethodNotAllowed):  # RFC 9110, section 15.5.6
        return {"Allow": str(error.details.get("allow", ""))}
    if isinstance(error, InvalidApiKey):  # RFC 6750, section 3
        return {"WWW-Authenticate": 'Bearer realm="rbee", error="invalid_token"'}
    if isinstance(error, MissingApiKey):
        return {"WWW-Authenticate": 'Bearer realm="rbee"'}
    return {}


def error_response(error: RbeeError) -> Response:
    """The error as its body, with its status."""
    return json_response(error.body(), error.status, error_headers(error))


def check_token(request: Request, token: str) -> None:
    """Raises MissingApiKey or InvalidApiKey unless the internal token is presented."""
    given = request.headers.get("authorization", "")
    if not given:
        raise MissingApiKey(
            "this route is for rbee's own processes", action="Use the queen's public routes."
        )
    if not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
        raise InvalidApiKey(
            "the internal token is not right", action="Use the queen's public routes."
        )


def _routing_error(scope: Scope, exc: HTTPException) -> RbeeError:
    path = scope["path"][:200]
    if exc.status_code == 405:
        allow = (exc.headers or {}).get("Allow", "")
        return MethodNotAllowed(f"{scope['method']} is not possible on {path}", allow=allow)
    return NotFound(f"no route {path}", action="GET /v1/info says what this daemon can do.")


def first_error(group: BaseExceptionGroup) -> BaseException:
    """The error for the user out of a task group's; the group itself when there is none in it."""
    for inner in group.exceptions:
        found = first_error(inner) if isinstance(inner, BaseExceptionGroup) else inner
        if isinstance(found, RbeeError):
            return found
    return group


async def serve(server: Server, sock: socket.socket) -> None:
    """Serve until `server.stop()`; on cancellation stop in good order."""
    try:
        await server.serve([sock])
    except anyio.get_cancelled_exc_class():
        server.stop()
        raise
