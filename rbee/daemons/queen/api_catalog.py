"""The queen's routes about models: what is held, what can be had, what is on its way.

    GET  /v1/catalog/models               {"models": [HeldModel]}
    GET  /v1/catalog/models/{id}          HeldModel, by id, reference or alias
    GET  /v1/catalog/search?q=&limit=     Search
    GET  /v1/catalog/look?model=          FoundModel, one repository
    GET  /v1/catalog/fits?model=          {"spots": [Spot]}, of a model that is held
    GET  /v1/catalog/transfers            {"transfers": [DownloadInfo]}
    GET  /v1/catalog/foreign?hive=        {"models": [ForeignModel]}
    POST /v1/catalog/import               {hive, path, name, copy} → CatalogueEntry
    POST /v1/catalog/gc                   {hive, dry_run} → GarbageReport
Downloads, deletions, checks and copies are jobs: POST /v1/jobs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from rbee.daemons.base import Handler, json_response
from rbee.daemons.queen.params import number
from rbee.errors import ValidationFailed
from rbee.protocol.base import Request as Body
from rbee.protocol.base import decode
from rbee.protocol.models import ImportBody
from rbee.protocol.operations import Name

if TYPE_CHECKING:
    from rbee.daemons.queen.catalog import Catalog

MAX_FOUND = 50
LONGEST = 512
"""Characters of a model's name or of a search."""
_Path = Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]


class Import(Body, frozen=True, kw_only=True):
    """POST /v1/catalog/import"""

    path: _Path
    hive: Name | None = None
    """None: the only one there is."""
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=128)] | None = None
    copy: bool = False


class Garbage(Body, frozen=True, kw_only=True):
    """POST /v1/catalog/gc"""

    hive: Name | None = None
    dry_run: bool = False


class CatalogRoutes:
    """Handlers."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def table(self) -> list[tuple[str, str, Handler]]:
        """Method, path and handler of each."""
        return [
            ("GET", "/v1/catalog/models", self.models),
            ("GET", "/v1/catalog/models/{model:path}", self.model),
            ("GET", "/v1/catalog/search", self.search),
            ("GET", "/v1/catalog/look", self.look),
            ("GET", "/v1/catalog/fits", self.fits),
            ("GET", "/v1/catalog/transfers", self.transfers),
            ("GET", "/v1/catalog/foreign", self.foreign),
            ("POST", "/v1/catalog/import", self.import_),
            ("POST", "/v1/catalog/gc", self.gc),
        ]

    async def models(self, _request: Request) -> Response:
        """GET /v1/catalog/models"""
        return json_response({"models": await self._catalog.held()})

    async def model(self, request: Request) -> Response:
        """GET /v1/catalog/models/{id}"""
        name = _checked(request.path_params["model"], "model")
        return json_response(await self._catalog.one(name))

    async def search(self, request: Request) -> Response:
        """GET /v1/catalog/search?q=&limit="""
        text = _checked(request.query_params.get("q", ""), "q")
        limit = number(request, "limit", 10, 1, MAX_FOUND)
        return json_response(await self._catalog.search(text, limit))

    async def look(self, request: Request) -> Response:
        """GET /v1/catalog/look?model="""
        name = _checked(request.query_params.get("model", ""), "model")
        return json_response(await self._catalog.look(name))

    async def fits(self, request: Request) -> Response:
        """GET /v1/catalog/fits?model="""
        name = _checked(request.query_params.get("model", ""), "model")
        return json_response({"spots": await self._catalog.spots(name)})

    async def transfers(self, _request: Request) -> Response:
        """GET /v1/catalog/transfers"""
        return json_response({"transfers": self._catalog.transfers.infos()})

    async def foreign(self, request: Request) -> Response:
        """GET /v1/catalog/foreign?hive="""
        found = await self._catalog.link(request.query_params.get("hive")).foreign()
        return json_response({"models": found})

    async def import_(self, request: Request) -> Response:
        """POST /v1/catalog/import"""
        asked = decode(await request.body(), Import)
        body = ImportBody(path=asked.path, name=asked.name, copy=asked.copy)
        return json_response(await self._catalog.link(asked.hive).import_(body))

    async def gc(self, request: Request) -> Response:
        """POST /v1/catalog/gc"""
        asked = decode(await request.body() or b"{}", Garbage)
        return json_response(await self._catalog.link(asked.hive).gc(dry_run=asked.dry_run))


def _checked(text: str, field: str) -> str:
    if not text.strip() or len(text) > LONGEST or not text.isprintable():
        raise ValidationFailed(
            f"{field}: 1 to {LONGEST} printable characters",
            field=field,
            constraint=f"1..{LONGEST} characters",
        )
    return text
