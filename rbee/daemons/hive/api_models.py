"""A hive's routes about the models it keeps: list, look, check, clear away, take over.

Owns the form of requests and replies; what happens is `models`' business.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import anyio
import msgspec
from starlette.requests import Request
from starlette.responses import Response

from rbee.daemons.base import Handler, json_response
from rbee.daemons.events import EventStream
from rbee.daemons.hive.reporting import Report
from rbee.errors import InternalError, RbeeError, ValidationFailed
from rbee.protocol.base import Request as Body
from rbee.protocol.base import decode, encode
from rbee.protocol.models import ImportBody
from rbee.protocol.operations import ModelName
from rbee.sse import DONE, encode_event

if TYPE_CHECKING:
    from rbee.daemons.hive.hive import Hive

log = logging.getLogger("rbee.hive")
ALIVE = 5.0
"""Seconds after which the reader of a check is told that it goes on."""
_UNREAD = 16
_KEEPALIVE = b": keepalive\n\n"
_LONGEST_NAME = 512


class ResolveBody(Body, frozen=True, kw_only=True):
    """POST /v1/models/resolve"""

    ref: Annotated[str, msgspec.Meta(max_length=4096)]


class VerifyBody(Body, frozen=True, kw_only=True):
    """POST /v1/models/verify"""

    model: ModelName


class GarbageBody(Body, frozen=True, kw_only=True):
    """POST /v1/models/gc"""

    dry_run: bool = False


class ModelRoutes:
    """Handlers."""

    def __init__(self, hive: Hive) -> None:
        self._hive = hive

    def table(self) -> list[tuple[str, str, Handler]]:
        """Method, path and handler of each; the one with a free path must come last."""
        return [
            ("GET", "/v1/models", self.models),
            ("POST", "/v1/models/resolve", self.resolve),
            ("GET", "/v1/models/entry", self.entry),
            ("POST", "/v1/models/verify", self.verify),
            ("POST", "/v1/models/gc", self.gc),
            ("GET", "/v1/models/foreign", self.foreign),
            ("POST", "/v1/models/import", self.import_),
            ("DELETE", "/v1/models/{model:path}", self.delete),
        ]

    async def models(self, _request: Request) -> Response:
        """GET /v1/models"""
        return json_response({"models": (await self._hive.capabilities()).models})

    async def resolve(self, request: Request) -> Response:
        """POST /v1/models/resolve"""
        body = decode(await request.body(), ResolveBody)
        return json_response(await self._hive.resolve(body.ref))

    async def entry(self, request: Request) -> Response:
        """GET /v1/models/entry?model="""
        return json_response(
            await self._hive.models.entry(_name(request.query_params.get("model")))
        )

    async def delete(self, request: Request) -> Response:
        """DELETE /v1/models/{model}"""
        model = _name(request.path_params["model"])
        log.info("deletion asked", extra={"model": model})
        return json_response(await self._hive.models.delete(model))

    async def verify(self, request: Request) -> Response:
        """POST /v1/models/verify: progress as `{done, total, file}`, then the Verified or an error;
        the end of the reader is the end of the check."""
        model = _name(decode(await request.body(), VerifyBody).model)
        await self._hive.models.entry(model)
        return EventStream(self._verifying(model))

    async def _verifying(self, model: str) -> AsyncGenerator[bytes]:
        send, receive = anyio.create_memory_object_stream[bytes](_UNREAD)
        scope = anyio.CancelScope()

        def report(done: int, total: int, file: str) -> None:
            if send.statistics().current_buffer_used < _UNREAD - 1:
                send.send_nowait(encode({"done": done, "total": total, "file": file}))

        async def work() -> None:
            with scope, suppress(anyio.BrokenResourceError):
                async with send:
                    await send.send(await self._verified(model, report))

        self._hive.models.start_soon(work)
        try:
            async with receive:
                while True:
                    block = _KEEPALIVE
                    with anyio.move_on_after(ALIVE):
                        try:
                            block = encode_event(await receive.receive())
                        except anyio.EndOfStream:
                            break
                    yield block
            yield DONE
        finally:
            scope.cancel()

    async def _verified(self, model: str, report: Report) -> bytes:
        try:
            return encode(await self._hive.models.verify(model, report))
        except RbeeError as exc:
            return encode(exc.body())
        except Exception:
            log.exception("the check of %s failed", model)
            return encode(InternalError("a defect; the log of the hive tells more").body())

    async def gc(self, request: Request) -> Response:
        """POST /v1/models/gc"""
        body = decode(await request.body() or b"{}", GarbageBody)
        return json_response(await self._hive.models.gc(dry_run=body.dry_run))

    async def foreign(self, _request: Request) -> Response:
        """GET /v1/models/foreign"""
        return json_response({"models": await self._hive.models.foreign()})

    async def import_(self, request: Request) -> Response:
        """POST /v1/models/import"""
        body = decode(await request.body(), ImportBody)
        log.info("import asked", extra={"path": body.path, "copy": body.copy})
        return json_response(await self._hive.models.import_(body))


def _name(text: str | None) -> str:
    if not text or len(text) > _LONGEST_NAME or not text.isprintable():
        raise ValidationFailed(
            f"model: 1 to {_LONGEST_NAME} characters", field="model", constraint="a model's name"
        )
    return text
