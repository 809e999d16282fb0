"""How the queen reaches a hive: by function call when it is its own, over HTTP when it is not.

Both look the same to the effects: `spawn`, `stop`, `resolve`, and events that arrive as HiveSaid.
HTTP goes to a port of this machine, or through a socket that is a forward to another one.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Protocol
from urllib.parse import quote

import anyio
import httpx
import msgspec

from rbee import __version__, naming
from rbee.core.events import Event, HiveJoined, HiveLeft, HiveSaid
from rbee.daemons.hive import logfile
from rbee.daemons.hive.hive import Hive
from rbee.daemons.logs import correlation
from rbee.daemons.queen.bounded import STREAM, Bounded
from rbee.daemons.queen.model_links import HttpModels, LocalModels, ModelLink
from rbee.daemons.queen.upstream import Upstream, UpstreamError, UpstreamTimeout
from rbee.errors import (
    BadGateway,
    Conflict,
    HiveOffline,
    RbeeError,
    ShuttingDown,
    VersionMismatch,
)
from rbee.protocol import PROTOCOL
from rbee.protocol.base import decode, encode
from rbee.protocol.hives import (
    QUEEN,
    AnyHiveEvent,
    Capabilities,
    HiveReady,
    HiveWorker,
    HiveWorkers,
    ModelInfo,
)
from rbee.protocol.workers import WorkerSpec
from rbee.sse import DataDecoder

log = logging.getLogger("rbee.links")
Call = Callable[[Event], Awaitable[None]]
RETRIES = (0.1, 0.2, 0.4)
"""Seconds between tries of an idempotent call."""
SILENCE = 6.0
"""Seconds without telemetry after which a hive is offline."""
MOST_EARLY = 20_000
"""Events of a hive that are kept until its workers can be reached."""
LEASE_LIMIT = 5.0
"""Seconds for a hive to hear that its queen is there."""


_SAID: msgspec.json.Decoder[AnyHiveEvent] = msgspec.json.Decoder(AnyHiveEvent)


@cache
def _no_tls() -> ssl.SSLContext:
    """Hives are reached without TLS; a context for each would cost 16 ms and its certificates."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


class HiveLink(Protocol):
    """One hive, as the queen's effects use it."""

    name: str
    token: str
    """The internal token of its workers."""

    @property
    def models(self) -> ModelLink:
        """Its models."""
        ...

    async def spawn(self, spec: WorkerSpec) -> None:
        """See Hive.spawn."""
        ...

    async def stop(self, worker_id: str, *, force: bool) -> None:
        """See Hive.stop."""
        ...

    async def resolve(self, ref: str) -> ModelInfo:
        """See Hive.resolve."""
        ...

    async def log_tail(self, worker_id: str, lines: int) -> list[str]:
        """See Hive.log_tail."""
        ...

    async def ping(self) -> None:
        """Return when it has answered. Raises HiveOffline."""
        ...


class LocalLink:
    """The queen's own hive: calls, not requests."""

    def __init__(self, hive: Hive) -> None:
        self._hive = hive
        self.name = hive.name
        self.token = hive.token
        self.models: ModelLink = LocalModels(hive)

    async def spawn(self, spec: WorkerSpec) -> None:
        """See Hive.spawn."""
        await self._hive.spawn(spec)

    async def stop(self, worker_id: str, *, force: bool) -> None:
        """See Hive.stop."""
        await self._hive.stop(worker_id, force=force)

    async def resolve(self, ref: str) -> ModelInfo:
        """See Hive.resolve."""
        return await self._hive.resolve(ref)

    async def log_tail(self, worker_id: str, lines: int) -> list[str]:
        """See Hive.log_tail."""
        return self._hive.log_tail(worker_id, lines)

    def log_events(self, worker_id: str, lines: int) -> AsyncGenerator[bytes]:
        """Its log from the last lines on until it has ended, as `{"line": …}`. Raises NotFound."""
        workers = self._hive.workers
        path = workers.log_path(worker_id)
        return logfile.events(path, lines=lines, ended=lambda: not workers.has(worker_id))

    async def ping(self) -> None:
        """It is here."""


class WorkerWays(Protocol):
    """How the workers of a hive are reached whose own addresses mean nothing here."""

    async def opened(self, workers: Sequence[HiveWorker]) -> list[HiveWorker]:
        """Those that run there when the hive joins, with addresses of this machine."""
        ...

    def pass_on(self, said: AnyHiveEvent, post: Callable[[AnyHiveEvent], None]) -> None:
        """What the hive says, handed to `post` as soon as what it names can be reached."""
        ...


@dataclass(frozen=True)
class Way:
    """How a hive is reached. `socket`: a unix socket of this machine, instead of its own port."""

    kind: str = "http"
    socket: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    workers: WorkerWays | None = None
    """None: by the addresses they tell."""
    queen: str = ""
    """`naming.queen_name`; empty: the hive is this queen's in any case."""


class HttpLink:
    """A hive with a process of its own. `run` follows its telemetry and reports to the brain.

    `call` is awaited with its coming and its leaving; all it says between goes to `post`, from
    within the event loop: no task wakes for it.
    """

    def __init__(
        self, ready: HiveReady, call: Call, post: Callable[[Event], None], way: Way = Way()
    ) -> None:
        if ready.protocol != PROTOCOL:
            raise VersionMismatch(
                f"hive {ready.name} speaks protocol {ready.protocol} (rbee {ready.version}),"
                f" this queen speaks {PROTOCOL} (rbee {__version__})"
            )
        self.name = ready.name
        self._way = way
        self.token = ready.token
        self.url = ready.url
        self.connecting = True
        """Until the hive has joined or is given up."""
        self._call = call
        self._post_event = post
        self._early: list[AnyHiveEvent] | None = []
        """What it said before the brain knew it; None: she does."""
        self._upstream = Upstream()
        self._headers = {"Authorization": f"Bearer {ready.token}"}
        self._headers |= {QUEEN: way.queen} if way.queen else {}
        self._base = f"http+unix://{quote(way.socket, safe='')}" if way.socket else ready.url
        self._http = httpx.AsyncClient(
            base_url="http://localhost" if way.socket else ready.url,
            transport=Bounded(httpx.AsyncHTTPTransport(uds=way.socket, verify=_no_tls())),
            timeout=httpx.Timeout(10.0, connect=2.0),
            headers=self._headers | {"Accept-Encoding": "identity"},
            trust_env=False,
        )
        self.models: ModelLink = HttpModels(self.name, self._http, self.resolve)

    async def run(self) -> str:
        """Follow the hive until it is gone; reports HiveJoined first and HiveLeft last. Returns why
        it is gone. Raises Conflict when it has another queen."""
        why = "its telemetry stream ended"
        try:
            caps = decode(await self._get("/v1/capabilities"), Capabilities)
            await self._follow(caps)
        except Conflict:
            raise
        except (
            RbeeError, httpx.HTTPError, UpstreamError, UpstreamTimeout, msgspec.MsgspecError,
            ValueError,
        ) as exc:  # fmt: skip
            log.warning("hive %s: %s", self.name, exc)
            why = str(exc) or why
        finally:
            self.connecting = False
            with anyio.CancelScope(shield=True), suppress(ShuttingDown):
                await self._upstream.close()
                await self._http.aclose()
                await self._call(HiveLeft(self.name, why))
        return why

    async def _follow(self, caps: Capabilities) -> None:
        decoder = DataDecoder()
        first: list[HiveWorkers] = []
        came = anyio.Event()
        way = self._way

        def tell(said: AnyHiveEvent) -> None:
            self._post_event(HiveSaid(self.name, said))

        def heard(said: AnyHiveEvent) -> None:
            if way.workers is None:
                tell(said)
            else:
                way.workers.pass_on(said, tell)

        def take(chunk: bytes) -> None:
            for data in decoder.feed(chunk):
                said = _SAID.decode(data)
                if isinstance(said, HiveWorkers):
                    first[:] = first or [said]
                    came.set()
                elif self._early is None:
                    heard(said)
                elif len(self._early) < MOST_EARLY:
                    self._early.append(said)
                else:
                    raise ValueError(f"{MOST_EARLY} events before it could be reached")

        async def join() -> None:
            await came.wait()
            workers = first[0].workers
            if way.workers is not None:
                workers = await way.workers.opened(workers)
            self.connecting = False
            joined = HiveJoined(self.name, way.kind, self.url, caps, workers, way.labels)
            await self._call(joined)
            early, self._early = self._early or [], None
            for said in early:
                heard(said)

        url = f"{self._base}/v1/telemetry/stream"
        broke: Exception | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(join)
            try:
                reply = await self._upstream.get(url, self._headers, on_data=take, silence=SILENCE)
                self._checked(reply.status, reply.body)
                if reply.status != 200:
                    broke = BadGateway(f"telemetry answered {reply.status}")
            except Exception as exc:  # told outside of the group, as itself
                broke = exc
            tasks.cancel_scope.cancel()
        if broke is not None:
            raise broke

    async def spawn(self, spec: WorkerSpec) -> None:
        """See Hive.spawn."""
        await self._asked("spawn", spec.worker_id, "/v1/workers/spawn", encode(spec))

    async def stop(self, worker_id: str, *, force: bool) -> None:
        """See Hive.stop."""
        path, body = f"/v1/workers/{worker_id}/stop", encode({"force": force})
        await self._asked("stop", worker_id, path, body, limit=30.0)

    async def resolve(self, ref: str) -> ModelInfo:
        """See Hive.resolve."""
        return decode(await self._post("/v1/models/resolve", encode({"ref": ref})), ModelInfo)

    async def log_tail(self, worker_id: str, lines: int) -> list[str]:
        """See Hive.log_tail."""
        body = decode(
            await self._get(f"/v1/workers/{worker_id}/logs?lines={lines}"), dict[str, list[str]]
        )
        return body["lines"]

    async def log_lines(self, lines: int) -> list[str]:
        """The last lines of the hive's own log. Raises NotFound where it keeps none."""
        return decode(await self._get(f"/v1/logs?lines={lines}"), dict[str, list[str]])["lines"]

    async def stream(self, path: str) -> AsyncGenerator[bytes]:
        """The pieces of an event stream of the hive's, as they come. Raises what it answers."""
        self._check_open()
        limits = httpx.Timeout(30.0, connect=2.0)
        try:
            async with self._http.stream("GET", path, timeout=limits, extensions=STREAM) as reply:
                if reply.status_code >= 400:
                    self._checked(reply.status_code, await reply.aread())
                async for piece in reply.aiter_raw():
                    yield piece
        except httpx.HTTPError as exc:
            raise HiveOffline(f"hive {self.name} does not answer any more") from exc

    async def ping(self) -> None:
        """See HiveLink."""
        await self._get("/v1/health")

    async def lease(self, alone: float | None = None) -> None:
        """Its queen is there: it stays for as long as it hears that. `alone`: seconds that it
        stays without her from now on, in place of its lease."""
        body = encode({} if alone is None else {"alone": alone})
        url, limit = f"{self._base}/v1/lease", LEASE_LIMIT
        try:  # on a connection that is kept: httpx makes one each time, at ten times the cost
            reply = await self._upstream.post(
                url, body, self._headers, silence=limit, total=limit, repeatable=True
            )
        except (UpstreamError, UpstreamTimeout) as exc:
            raise self._silent(exc) from exc
        self._checked(reply.status, reply.body)

    async def shutdown(self) -> None:
        """Have the hive stop its workers and itself; what does not hear it goes with its lease."""
        try:
            await self._post("/v1/shutdown", b"", limit=2.0)
        except RbeeError as exc:
            log.warning("hive %s was not told to stop: %s", self.name, exc)

    def _check_open(self) -> None:
        """While its leaving is told it can still be asked; httpx has a RuntimeError for that."""
        if self._http.is_closed:
            raise HiveOffline(f"hive {self.name} has just gone offline")

    async def _get(self, path: str) -> bytes:
        self._check_open()
        for pause in RETRIES:
            try:
                reply = await self._http.get(path)
                return self._checked(reply.status_code, reply.content)
            except httpx.ConnectError:
                await anyio.sleep(pause)
            except httpx.HTTPError as exc:
                raise self._silent(exc) from exc
        raise HiveOffline(f"hive {self.name} at {self.url} does not answer ({len(RETRIES)} tries)")

    async def _asked(
        self, what: str, worker_id: str, path: str, body: bytes, *, limit: float = 10.0
    ) -> None:
        """Under an id of its own, which stands in the hive's log as well: no request asked."""
        call = naming.correlation_id(None)
        told = {"hive": self.name, "worker": worker_id, "correlation_id": call}
        log.info("hive asked to %s", what, extra=told)
        await self._post(path, body, limit=limit, call=call)

    async def _post(self, path: str, body: bytes, *, limit: float = 10.0, call: str = "") -> bytes:
        headers = {"X-Correlation-Id": call or naming.correlation_id(correlation.get())}
        self._check_open()
        try:
            reply = await self._http.post(path, content=body, timeout=limit, headers=headers)
        except httpx.HTTPError as exc:
            raise self._silent(exc) from exc
        return self._checked(reply.status_code, reply.content)

    def _silent(self, exc: Exception) -> HiveOffline:
        kind = type(exc).__name__
        return HiveOffline(f"hive {self.name} at {self.url} does not answer ({kind})")

    def _checked(self, status: int, content: bytes) -> bytes:
        if status >= 400:
            try:
                body = msgspec.json.decode(content)
            except (msgspec.DecodeError, UnicodeError, RecursionError) as exc:
                raise BadGateway(f"hive {self.name} answered {status}") from exc
            raise RbeeError.from_body(body, status)
        return content
