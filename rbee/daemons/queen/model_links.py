"""What the queen asks of a hive about its models: one interface, two ways of asking.

Owns the hive's model routes as calls: transfers, deletion, checks, imports, and the chunks of a
copy. Decides nothing and keeps nothing; who shares a transfer is the business of `transfers`.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from urllib.parse import quote

import anyio
import anyio.to_thread
import httpx
import msgspec

from rbee.daemons.hive.receiving import read_piece
from rbee.daemons.queen.bounded import STREAM
from rbee.errors import BadGateway, Cancelled, DownloadFailed, HiveOffline, RbeeError
from rbee.protocol.base import decode, encode
from rbee.protocol.hives import ModelInfo
from rbee.protocol.models import (
    CatalogueEntry,
    DownloadInfo,
    DownloadOrder,
    ForeignModel,
    GarbageReport,
    ImportBody,
    TransferState,
    Verified,
)
from rbee.sse import Decoder

if TYPE_CHECKING:
    from rbee.daemons.hive.hive import Hive

log = logging.getLogger("rbee.links")
T = TypeVar("T")
Told = Callable[[DownloadInfo], None]
Checked = Callable[[int, int, str], None]
"""Bytes read, bytes in all, the file's name."""
CHUNK = 4 << 20
"""Bytes of one piece of a copy."""
QUICK = httpx.Timeout(10.0, connect=2.0)
LONG = httpx.Timeout(3600.0, connect=2.0)
"""A hive may read, copy or clear away a large model meanwhile."""
PIECE = httpx.Timeout(60.0, connect=2.0)
SILENCE = httpx.Timeout(15.0, connect=2.0)
"""A progress stream says something at least every 5 s."""
PAUSES = (0.1, 0.2, 0.4, 0.8, 1.6)
"""Seconds between tries to follow a transfer again."""
TAKEN_UP = 3
"""How often a transfer that was cancelled for somebody else is begun again."""
GIVE_UP = 5.0
"""Seconds to tell a hive that a transfer is not wanted any more."""
ENDED = frozenset({TransferState.DONE, TransferState.FAILED, TransferState.CANCELLED})


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """What a hive has of a model that is being copied to it, in bytes from each file's start."""

    download_id: str
    offsets: dict[str, int] = {}


class Deleted(msgspec.Struct, frozen=True, kw_only=True):
    """What a hive says of a model it has deleted."""

    model: str = ""
    freed: int
    message: str = ""


class ModelLink(Protocol):
    """The models of one hive, as the queen handles them. Everything raises HiveOffline."""

    async def download(self, order: DownloadOrder, told: Told) -> ModelInfo:
        """Have the model fetched; returns when it is in the catalogue.

        Cancelling it ends the transfer on the hive, which keeps what it has. Raises what the
        transfer failed with; `details.expired`: the order's addresses are good no more.
        """
        ...

    async def delete(self, model: str) -> Deleted:
        """Take it off the disk. Raises Conflict while workers use it."""
        ...

    async def verify(self, model: str, told: Checked) -> Verified:
        """Read all of its files again."""
        ...

    async def entry(self, model: str) -> CatalogueEntry:
        """Its row in the catalogue. Raises ModelNotFound for one that has none."""
        ...

    async def gc(self, *, dry_run: bool) -> GarbageReport:
        """Clear away what is left over."""
        ...

    async def foreign(self) -> list[ForeignModel]:
        """What other programs keep there."""
        ...

    async def import_(self, body: ImportBody) -> CatalogueEntry:
        """Take one of those into the catalogue."""
        ...

    async def content(self, model: str, file: str, offset: int, length: int) -> bytes:
        """A piece of one of its files; its hash was checked."""
        ...

    async def receive(self, order: DownloadOrder) -> Receipt:
        """Begin or go on with a copy to this hive."""
        ...

    async def put_chunk(self, download_id: str, file: str, offset: int, piece: bytes) -> None:
        """The next piece of a file."""
        ...

    async def finish(self, download_id: str) -> DownloadInfo:
        """All pieces are there: whole files are checked and the model enters the catalogue."""
        ...


class LocalModels:
    """The queen's own hive: calls."""

    def __init__(self, hive: Hive) -> None:
        self._hive = hive

    async def download(self, order: DownloadOrder, told: Told) -> ModelInfo:
        """See ModelLink."""
        downloads = self._hive.downloads
        info = await downloads.start(order)
        try:
            for _ in range(TAKEN_UP):
                told(info)
                if info.state not in ENDED:
                    async with aclosing(downloads.watch(info.download_id)) as infos:
                        async for info in infos:
                            told(info)
                if info.state is not TransferState.CANCELLED:
                    break  # else the last who wanted it left just before this one came
                info = await downloads.start(order)
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True), anyio.move_on_after(GIVE_UP):
                await downloads.cancel(info.download_id)
            raise
        return await ended(info, order, self._hive.name, self._hive.resolve)

    async def delete(self, model: str) -> Deleted:
        """See ModelLink."""
        return msgspec.convert(await self._hive.models.delete(model), Deleted, from_attributes=True)

    async def verify(self, model: str, told: Checked) -> Verified:
        """See ModelLink."""
        return await self._hive.models.verify(model, told)

    async def entry(self, model: str) -> CatalogueEntry:
        """See ModelLink."""
        return await self._hive.models.entry(model)

    async def gc(self, *, dry_run: bool) -> GarbageReport:
        """See ModelLink."""
        return await self._hive.models.gc(dry_run=dry_run)

    async def foreign(self) -> list[ForeignModel]:
        """See ModelLink."""
        return await self._hive.models.foreign()

    async def import_(self, body: ImportBody) -> CatalogueEntry:
        """See ModelLink."""
        return await self._hive.models.import_(body)

    async def content(self, model: str, file: str, offset: int, length: int) -> bytes:
        """See ModelLink."""
        data, _ = await read_piece(
            self._hive.models, model, file=file, offset=offset, length=length
        )
        return data

    async def receive(self, order: DownloadOrder) -> Receipt:
        """See ModelLink."""
        copy_id, offsets = await self._hive.receiving.begin(order)
        return Receipt(download_id=copy_id, offsets=offsets)

    async def put_chunk(self, download_id: str, file: str, offset: int, piece: bytes) -> None:
        """See ModelLink."""
        sha256 = await anyio.to_thread.run_sync(digest_of, piece)
        await self._hive.receiving.take(
            download_id, file=file, offset=offset, data=piece, sha256=sha256
        )

    async def finish(self, download_id: str) -> DownloadInfo:
        """See ModelLink."""
        return await self._hive.receiving.finish(download_id)


class HttpModels:
    """A hive over HTTP. `resolve` finds a model there; `http` is closed when the hive is gone."""

    def __init__(
        self,
        hive: str,
        http: httpx.AsyncClient,
        resolve: Callable[[str], Awaitable[ModelInfo]],
    ) -> None:
        self._hive = hive
        self._http = http
        self._resolve = resolve

    async def download(self, order: DownloadOrder, told: Told) -> ModelInfo:
        """See ModelLink."""
        body = encode(order)
        info = await self._ask("POST", "/v1/models/download", DownloadInfo, content=body)
        path = f"/v1/models/download/{quote(info.download_id, safe='')}"
        try:
            for _ in range(TAKEN_UP):
                told(info)
                if info.state not in ENDED:
                    info = await self._followed(path, told)
                if info.state is not TransferState.CANCELLED:
                    break  # else the last who wanted it left just before this one came
                info = await self._ask("POST", "/v1/models/download", DownloadInfo, content=body)
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True), anyio.move_on_after(GIVE_UP):
                await self._give_up(path)
            raise
        return await ended(info, order, self._hive, self._resolve)

    async def _followed(self, path: str, told: Told) -> DownloadInfo:
        """The transfer's last word, over as many connections as it takes while the hive lives."""
        tries = 0
        while True:
            try:
                async with aclosing(self._events("GET", f"{path}/progress")) as events:
                    async for data in events:
                        tries = 0
                        info = msgspec.json.decode(data, type=DownloadInfo)
                        told(info)
                        if info.state in ENDED:
                            return info
            except HiveOffline:
                if self._http.is_closed or tries >= len(PAUSES):
                    raise
            if tries >= len(PAUSES):
                raise BadGateway(f"hive {self._hive} does not say how the transfer went")
            await anyio.sleep(PAUSES[tries])
            tries += 1

    async def _give_up(self, path: str) -> None:
        try:
            await self._send("DELETE", path)
        except RbeeError as exc:
            log.warning("a transfer on %s was not cancelled: %s", self._hive, exc.message)

    async def delete(self, model: str) -> Deleted:
        """See ModelLink."""
        return await self._ask("DELETE", f"/v1/models/{quote(model, safe='')}", Deleted, limit=LONG)

    async def verify(self, model: str, told: Checked) -> Verified:
        """See ModelLink."""
        async with aclosing(
            self._events("POST", "/v1/models/verify", content=encode({"model": model}), limit=LONG)
        ) as events:
            async for data in events:
                said: dict[str, Any] = msgspec.json.decode(data)
                if "error" in said:
                    raise RbeeError.from_body(said)
                if "problems" in said:
                    return msgspec.convert(said, Verified)
                told(int(said["done"]), int(said["total"]), str(said.get("file", "")))
        raise BadGateway(f"hive {self._hive} does not say what its check of {model} found")

    async def entry(self, model: str) -> CatalogueEntry:
        """See ModelLink."""
        return await self._ask(
            "GET", "/v1/models/entry", CatalogueEntry, params={"model": model}, limit=QUICK
        )

    async def gc(self, *, dry_run: bool) -> GarbageReport:
        """See ModelLink."""
        body = encode({"dry_run": dry_run})
        return await self._ask("POST", "/v1/models/gc", GarbageReport, content=body, limit=LONG)

    async def foreign(self) -> list[ForeignModel]:
        """See ModelLink."""
        kind = dict[str, list[ForeignModel]]
        return (await self._ask("GET", "/v1/models/foreign", kind, limit=LONG))["models"]

    async def import_(self, body: ImportBody) -> CatalogueEntry:
        """See ModelLink."""
        content = encode(body)
        return await self._ask(
            "POST", "/v1/models/import", CatalogueEntry, content=content, limit=LONG
        )

    async def content(self, model: str, file: str, offset: int, length: int) -> bytes:
        """See ModelLink."""
        params = {"model": model, "file": file, "offset": offset, "length": length}
        reply = await self._send("GET", "/v1/models/content", params=params, limit=PIECE)
        digest = await anyio.to_thread.run_sync(digest_of, reply.content)
        if digest != reply.headers.get("x-rbee-sha256"):
            raise DownloadFailed(f"a piece of {file} from {self._hive} came damaged")
        return reply.content

    async def receive(self, order: DownloadOrder) -> Receipt:
        """See ModelLink."""
        body = encode(order)
        return await self._ask("POST", "/v1/models/receive", Receipt, content=body, limit=PIECE)

    async def put_chunk(self, download_id: str, file: str, offset: int, piece: bytes) -> None:
        """See ModelLink."""
        path = f"/v1/models/receive/{quote(download_id, safe='')}"
        digest = await anyio.to_thread.run_sync(digest_of, piece)
        await self._send(
            "PUT",
            path,
            params={"file": file, "offset": offset},
            content=piece,
            headers={"X-Rbee-Sha256": digest},
            limit=PIECE,
        )

    async def finish(self, download_id: str) -> DownloadInfo:
        """See ModelLink."""
        path = f"/v1/models/receive/{quote(download_id, safe='')}/finish"
        return await self._ask("POST", path, DownloadInfo, limit=LONG)

    async def _ask(self, method: str, path: str, kind: type[T], **more: Any) -> T:
        return decode((await self._send(method, path, **more)).content, kind)

    async def _send(
        self, method: str, path: str, *, limit: httpx.Timeout = QUICK, **more: Any
    ) -> httpx.Response:
        self._check_open()
        try:
            reply = await self._http.request(method, path, timeout=limit, **more)
        except (httpx.HTTPError, RuntimeError) as exc:  # RuntimeError: closed meanwhile
            raise self._offline(exc) from exc
        if reply.status_code >= 400:
            raise self._refused(reply.status_code, reply.content)
        return reply

    async def _events(
        self, method: str, path: str, *, limit: httpx.Timeout = SILENCE, **more: Any
    ) -> AsyncGenerator[str]:
        """The data of a stream's events; ends with [DONE] or with the connection."""
        self._check_open()
        decoder = Decoder()
        try:
            stream = self._http.stream(method, path, timeout=limit, extensions=STREAM, **more)
            async with stream as reply:
                if reply.status_code >= 400:
                    raise self._refused(reply.status_code, await reply.aread())
                async for chunk in reply.aiter_raw():
                    for event in decoder.feed(chunk):
                        if event.data == "[DONE]":
                            return
                        if event.data:
                            yield event.data
        except (httpx.HTTPError, RuntimeError) as exc:
            raise self._offline(exc) from exc

    def _check_open(self) -> None:
        if self._http.is_closed:
            raise HiveOffline(f"hive {self._hive} has just gone offline")

    def _offline(self, exc: Exception) -> HiveOffline:
        return HiveOffline(f"hive {self._hive} does not answer ({type(exc).__name__})")

    def _refused(self, status: int, content: bytes) -> RbeeError:
        try:
            return RbeeError.from_body(msgspec.json.decode(content), status)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            return BadGateway(f"hive {self._hive} answered {status}")


async def ended(
    info: DownloadInfo,
    order: DownloadOrder,
    hive: str,
    resolve: Callable[[str], Awaitable[ModelInfo]],
) -> ModelInfo:
    """The model of a transfer that has ended. Raises what it failed with."""
    if info.state is TransferState.FAILED:
        raise RbeeError.from_body({"error": info.error})
    if info.state is not TransferState.DONE:
        raise Cancelled(f"the transfer of {order.model_id} to {hive} was cancelled there")
    return await resolve(order.ref)


def digest_of(piece: bytes) -> str:
    """Hex; of CHUNK bytes it takes some milliseconds."""
    return hashlib.sha256(piece).hexdigest()
