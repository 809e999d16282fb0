"""QueenClient: the only door of the TUI and the command line to the queen.

Owns HTTP towards one queen: requests, error bodies turned back into exceptions, and the two event
streams. It never starts a queen and never retries what is not safe to repeat.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeVar

import httpx
import msgspec

from rbee.errors import (
    BadGateway,
    NotFound,
    QueenUnreachable,
    RbeeError,
    ValidationFailed,
)
from rbee.protocol.access import KeyInfo, MadeKey, NewKey, UsageReport
from rbee.protocol.base import Wire, convert, decode, encode
from rbee.protocol.colony import EVENTS, Health, Info
from rbee.protocol.decisions import Decision, PolicyInfo, Why
from rbee.protocol.hives import HiveInfo
from rbee.protocol.jobs import JobAccepted, JobInfo
from rbee.protocol.machines import Around, HiveChange, LogLine
from rbee.protocol.models import (
    CatalogueEntry,
    DownloadInfo,
    ForeignModel,
    FoundModel,
    GarbageReport,
    HeldModel,
    ImportBody,
    Search,
    Spot,
)
from rbee.protocol.operations import Operation
from rbee.protocol.queue import QueueInfo
from rbee.protocol.workers import WorkerInfo
from rbee.sse import ServerEvent
from rbee.transport import Transport, events_of, part

T = TypeVar("T")
_HUB = httpx.Timeout(90.0, connect=2.0)
"""What the queen may first have to ask the hub about; she limits that herself, by less."""
_FAR = httpx.Timeout(120.0, connect=2.0)
"""What the queen first has to reach other machines for: three tries of 10 s, through jumps."""
_DISK = httpx.Timeout(3600.0, connect=2.0)
"""A model may be read or copied from disk to disk meanwhile."""


@dataclass(frozen=True)
class QueenStatus:
    """What a QueenKeeper reports whenever it changes."""

    up: bool
    url: str | None
    message: str
    """One sentence for the screen: `attached to …`, `restarted after signal 9 (2nd time)`, …"""
    restarts: int = 0
    error: RbeeError | None = None
    """Why she is not up, where an error says so."""
    retry_s: float | None = None
    """Seconds until she is looked for or started again."""


class QueenKeeper(Protocol):
    """Keeps a queen for a screen: found running (not owned) or started and supervised (owned)."""

    owned: bool

    async def keep(self, report: Callable[[QueenStatus], None]) -> None:
        """Until cancelled: find or start the queen, watch her, bring her back; report changes."""
        ...

    def hurry(self) -> None:
        """Do not wait any longer with the next try."""
        ...

    def reload(self) -> bool:
        """Have the queen read her settings again; False where she cannot be told."""
        ...

    async def stop(self) -> None:
        """Take the queen down with everything it runs; returns when it is gone."""
        ...

    async def leave(self) -> None:
        """Let the queen go on without us."""
        ...


class QueenClient:
    """REST and event streams of one queen. Use as an async context manager.

    Every method raises QueenUnreachable when nobody listens, ConnectionTimeout when nobody
    answers, and otherwise the error the queen named.
    """

    def __init__(self, url: str, *, name: str | None = None) -> None:
        """`name`: whose jobs these are when clients take turns; None: the queen's usual."""
        self.url = url
        self._wire = Transport(url, name=name)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._wire.aclose()

    async def health(self) -> Health:
        """GET /health"""
        return await self._get("/health", Health)

    async def info(self) -> Info:
        """GET /v1/info. Raises BadGateway when what answers is no queen."""
        try:
            return await self._get("/v1/info", Info)
        except (ValidationFailed, NotFound) as exc:
            raise self._stranger() from exc
        except BadGateway as exc:
            raise self._stranger(exc.message) from exc

    async def submit(self, operation: Operation) -> JobAccepted:
        """Submit an operation; when this returns the job is on the queen's disk."""
        body = msgspec.to_builtins(operation)
        reply = await self._call("POST", "/v1/jobs", content=encode(body), timeout=_HUB)
        return decode(reply, JobAccepted)

    async def jobs(
        self, *, state: str | None = None, dead: bool = False, limit: int = 100
    ) -> list[JobInfo]:
        """Jobs, newest first. `dead`: only those that were given up after every try."""
        params: dict[str, str | int] = {"limit": limit}
        if state is not None:
            params["state"] = state
        if dead:
            params["dead"] = "true"
        return await self._list("/v1/jobs", "jobs", JobInfo, params=params)

    async def job(self, job_id: str) -> JobInfo:
        """One job."""
        return await self._get(f"/v1/jobs/{part(job_id)}", JobInfo)

    async def cancel(self, job_id: str) -> None:
        """Cancel a job; JobFinished when it has already ended."""
        await self._call("DELETE", f"/v1/jobs/{part(job_id)}")

    async def retry(self, job_id: str) -> JobAccepted:
        """Ask again what failed or was cancelled: a new job. Conflict when it is neither."""
        return decode(await self._call("POST", f"/v1/jobs/{part(job_id)}/retry"), JobAccepted)

    async def why(self, job_id: str) -> Why:
        """What was decided about a job, the oldest first."""
        return await self._get(f"/v1/jobs/{part(job_id)}/decision", Why)

    async def policy(self) -> PolicyInfo:
        """What decides where work goes."""
        return await self._get("/v1/policy", PolicyInfo)

    async def decisions(self, *, limit: int = 100) -> list[Decision]:
        """The latest decisions about any job, the newest first."""
        return await self._list("/v1/decisions", "decisions", Decision, params={"limit": limit})

    async def queue(self) -> QueueInfo:
        """Who waits."""
        return await self._get("/v1/queue", QueueInfo)

    async def workers(self) -> list[WorkerInfo]:
        """All workers of the colony."""
        return await self._list("/v1/workers", "workers", WorkerInfo)

    async def worker(self, worker_id: str) -> WorkerInfo:
        """One worker."""
        return await self._get(f"/v1/workers/{part(worker_id)}", WorkerInfo)

    async def hives(self) -> list[HiveInfo]:
        """All hives."""
        return await self._list("/v1/hives", "hives", HiveInfo)

    async def hive(self, name: str) -> HiveInfo:
        """One hive. Raises HiveNotFound."""
        return await self._get(f"/v1/hives/{part(name)}", HiveInfo)

    async def change_hive(self, name: str, change: HiveChange) -> HiveInfo:
        """Change what is remembered of a machine."""
        path, content = f"/v1/hives/{part(name)}", encode(change)
        reply = await self._call("PATCH", path, content=content, timeout=_FAR)
        return decode(reply, HiveInfo)

    async def nearby(self, *, lan: bool) -> Around:
        """Machines that could be added; `lan`: also those that announce themselves."""
        params = {"lan": int(lan)}
        reply = await self._call("GET", "/v1/hives/nearby", params=params, timeout=_FAR)
        return decode(reply, Around)

    def queen_logs(self, *, lines: int, follow: bool) -> AsyncIterator[str]:
        """The last lines of the queen's own log, and with `follow` those that come."""
        return self._lines("/v1/logs", lines=lines, follow=follow)

    def hive_logs(self, name: str, *, lines: int, follow: bool) -> AsyncIterator[str]:
        """The last lines of a hive's log, and with `follow` those that come."""
        return self._lines(f"/v1/hives/{part(name)}/logs", lines=lines, follow=follow)

    def worker_logs(self, worker_id: str, *, lines: int, follow: bool) -> AsyncIterator[str]:
        """The last lines of a worker's log, and with `follow` those that come."""
        return self._lines(f"/v1/workers/{part(worker_id)}/logs", lines=lines, follow=follow)

    async def models(self) -> list[HeldModel]:
        """Models on the colony's disks."""
        return await self._list("/v1/catalog/models", "models", HeldModel)

    async def model(self, name: str) -> HeldModel:
        """One of them, by id, reference or alias. Raises ModelNotFound."""
        return await self._get(f"/v1/catalog/models/{part(name)}", HeldModel)

    async def search(self, text: str, *, limit: int = 10) -> Search:
        """What the hub has, and what of it would fit where."""
        params = {"q": text, "limit": limit}
        reply = await self._call("GET", "/v1/catalog/search", params=params, timeout=_HUB)
        return decode(reply, Search)

    async def look(self, model: str) -> FoundModel:
        """One repository of the hub, and what of it would fit where."""
        params = {"model": model}
        reply = await self._call("GET", "/v1/catalog/look", params=params, timeout=_HUB)
        return decode(reply, FoundModel)

    async def fits(self, model: str) -> list[Spot]:
        """Where a model of the colony would run, and why not elsewhere."""
        return await self._list("/v1/catalog/fits", "spots", Spot, params={"model": model})

    async def transfers(self) -> list[DownloadInfo]:
        """Models that are on their way to a hive."""
        return await self._list("/v1/catalog/transfers", "transfers", DownloadInfo)

    async def foreign(self, hive: str) -> list[ForeignModel]:
        """Models that other programs keep on a hive's machine."""
        params, path = {"hive": hive}, "/v1/catalog/foreign"
        return await self._list(path, "models", ForeignModel, params=params, timeout=_DISK)

    async def import_model(self, hive: str, body: ImportBody) -> CatalogueEntry:
        """Take a file of a hive's machine into its catalogue."""
        content = encode({"hive": hive, **msgspec.to_builtins(body)})
        path = "/v1/catalog/import"
        return decode(
            await self._call("POST", path, content=content, timeout=_DISK), CatalogueEntry
        )

    async def gc(self, hive: str, *, dry_run: bool) -> GarbageReport:
        """Clear a hive's models folder of what is left over; or tell what would go."""
        content = encode({"hive": hive, "dry_run": dry_run})
        path = "/v1/catalog/gc"
        return decode(await self._call("POST", path, content=content, timeout=_DISK), GarbageReport)

    async def keys(self) -> list[KeyInfo]:
        """All keys, by name."""
        return await self._list("/v1/keys", "keys", KeyInfo)

    async def create_key(self, new: NewKey) -> MadeKey:
        """A new key; this is the only time that it can be read."""
        return decode(await self._call("POST", "/v1/keys", content=encode(new)), MadeKey)

    async def revoke_key(self, name: str) -> KeyInfo:
        """A key that opens nothing from now on."""
        return decode(await self._call("DELETE", f"/v1/keys/{part(name)}"), KeyInfo)

    async def rotate_key(self, name: str) -> MadeKey:
        """A new secret under the same name; the old one opens nothing from now on."""
        return decode(await self._call("POST", f"/v1/keys/{part(name)}/rotate"), MadeKey)

    async def usage(self, *, days: int) -> UsageReport:
        """What was used on the last so many days, today included."""
        reply = await self._call("GET", "/v1/usage", params={"days": days})
        return decode(reply, UsageReport)

    async def stay(self) -> None:
        """Have a queen that would leave when unused stay until she is stopped."""
        await self._call("POST", "/v1/stay")

    async def shutdown(self) -> None:
        """Ask the queen to take everything down; returns when it has agreed."""
        await self._call("POST", "/v1/shutdown")

    async def job_stream(
        self, job_id: str, *, after: int = 0, follow: bool = True
    ) -> AsyncIterator[ServerEvent]:
        """Events of a job from `after` on, to its terminal event; reconnects are the caller's.

        Without `follow`: those that are there.
        """
        path = f"/v1/jobs/{part(job_id)}/stream"
        params: dict[str, str | int] = {"after": after} | ({} if follow else {"follow": "false"})
        async with self._stream(path, params=params) as events:
            async for event in events:
                if event.data == "[DONE]":
                    return
                yield event
        if follow:
            raise BadGateway(
                f"the stream of job {job_id} broke off", action=f"rbee job show {job_id}"
            )

    async def events(self) -> AsyncIterator[tuple[str, Wire]]:
        """Colony events: ("snapshot", Snapshot) first, then deltas; ends only by an exception."""
        async with self._stream("/v1/events/stream") as events:
            async for event in events:
                kind = EVENTS.get(event.event)
                if kind is not None and event.data:
                    yield event.event, decode(event.data, kind)
        raise QueenUnreachable("the queen closed its event stream")

    async def _lines(self, path: str, *, lines: int, follow: bool) -> AsyncIterator[str]:
        """Of a log: a stream of `{line}`, or `{lines}` at once."""
        params = {"lines": lines, "follow": int(follow)}
        async with self._wire.reply(path, params=params) as reply:
            if reply.headers.get("content-type", "").startswith("application/json"):
                for line in decode(await reply.aread(), dict[str, list[str]])["lines"]:
                    yield line
                return
            async for event in events_of(reply):
                if event.data == "[DONE]":
                    return
                if event.event == "error":
                    raise RbeeError.from_body({"error": decode(event.data, dict[str, Any])})
                if event.data:
                    yield decode(event.data, LogLine).line
        raise BadGateway("the stream of a log broke off", action="Ask for it again.")

    def _stranger(self, told: str = "") -> BadGateway:
        return BadGateway(
            f"what answers at {self.url} is no queen{f': {told}' if told else ''}",
            action="Stop that program, or give the queen another port: RBEE_QUEEN_PORT=8600 rbee.",
        )

    async def _get(self, path: str, kind: type[T]) -> T:
        return decode(await self._call("GET", path), kind)

    async def _list(self, path: str, key: str, kind: type[T], **kwargs: Any) -> list[T]:
        body = decode(await self._call("GET", path, **kwargs), dict[str, Any])
        return [convert(item, kind) for item in body[key]]

    async def _call(self, method: str, path: str, **kwargs: Any) -> bytes:
        return await self._wire.call(method, path, **kwargs)

    @asynccontextmanager
    async def _stream(self, path: str, **kwargs: Any) -> AsyncGenerator[AsyncIterator[ServerEvent]]:
        async with self._wire.reply(path, **kwargs) as reply:
            yield events_of(reply)
