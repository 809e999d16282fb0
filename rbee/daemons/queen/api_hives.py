"""The queen's routes about hives and their machines.

    GET    /v1/hives                      {"hives": [HiveInfo]}
    POST   /v1/hives                      hive_add without `operation` → 201 HiveInfo
    GET    /v1/hives/nearby?lan=          {"machines": [Nearby], "notes": [text]}
    GET    /v1/hives/{name}               HiveInfo
    PATCH  /v1/hives/{name}               HiveChange → HiveInfo
    DELETE /v1/hives/{name}               hive_remove → its result
    GET    /v1/hives/{name}/logs?lines=&follow=   SSE {"line"} … [DONE]
Everything else that is done with a machine is a job: POST /v1/jobs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from rbee.daemons.base import Handler, json_response
from rbee.daemons.events import EventStream
from rbee.daemons.queen.params import flag, number
from rbee.errors import Cancelled, RbeeError
from rbee.protocol.base import decode
from rbee.protocol.jobs import EventType
from rbee.protocol.machines import HiveChange
from rbee.protocol.operations import HiveRemove, Operation, parse_operation

if TYPE_CHECKING:
    from rbee.daemons.queen.queen import Queen

MAX_LINES = 2000


class HiveRoutes:
    """Handlers."""

    def __init__(self, queen: Queen) -> None:
        self._queen = queen

    def table(self) -> list[tuple[str, str, Handler]]:
        """Method, path and handler of each."""
        return [
            ("GET", "/v1/hives", self.hives),
            ("POST", "/v1/hives", self.add),
            ("GET", "/v1/hives/nearby", self.nearby),
            ("GET", "/v1/hives/{name}", self.hive),
            ("PATCH", "/v1/hives/{name}", self.change),
            ("DELETE", "/v1/hives/{name}", self.remove),
            ("GET", "/v1/hives/{name}/logs", self.logs),
        ]

    async def hives(self, _request: Request) -> Response:
        """GET /v1/hives"""
        return json_response({"hives": self._queen.machines.infos()})

    async def hive(self, request: Request) -> Response:
        """GET /v1/hives/{name}"""
        return json_response(self._queen.machines.info(request.path_params["name"]))

    async def add(self, request: Request) -> Response:
        """POST /v1/hives; answers when it has been added."""
        raw = decode(await request.body(), dict[str, Any])
        operation = parse_operation(msgspec.json.encode({**raw, "operation": "hive_add"}))
        told = await self._done(operation)
        return json_response(told.get("hive"), 201)

    async def change(self, request: Request) -> Response:
        """PATCH /v1/hives/{name}"""
        name = request.path_params["name"]
        await self._queen.machines.edit(name, decode(await request.body(), HiveChange))
        return json_response(self._queen.machines.info(name))

    async def remove(self, request: Request) -> Response:
        """DELETE /v1/hives/{name}; answers when it is gone."""
        name = request.path_params["name"]
        self._queen.machines.record(name)
        return json_response(await self._done(HiveRemove(hive=name)))

    async def nearby(self, request: Request) -> Response:
        """GET /v1/hives/nearby?lan="""
        from rbee.discovery.nearby import nearby

        machines = self._queen.machines
        added = {record.target: record.name for record in machines.registry.all()}
        lan = flag(request, "lan") is True
        found, notes = await nearby(machines.hosts, lan=lan, known=added)
        return json_response({"machines": found, "notes": notes})

    async def logs(self, request: Request) -> Response:
        """GET /v1/hives/{name}/logs?lines=&follow="""
        name = request.path_params["name"]
        lines = number(request, "lines", 100, 1, MAX_LINES)
        follow = flag(request, "follow") is True
        self._queen.machines.info(name)
        return EventStream(await self._queen.logs.of_hive(name, lines=lines, follow=follow))

    async def _done(self, operation: Operation) -> dict[str, Any]:
        """Its result, when the job has ended. Raises its error."""
        queen = self._queen
        job = await queen.admission.submit(operation)
        stream = await queen.streams.get(job.job_id)
        result: dict[str, Any] = {}
        async for _, events in stream.read():
            for kind, data in events:
                if kind == EventType.RESULT:
                    result = msgspec.json.decode(data)
                elif kind == EventType.ERROR:
                    raise RbeeError.from_body({"error": msgspec.json.decode(data)})
                elif kind == EventType.CANCELLED:
                    raise Cancelled("the operation was cancelled")
        return result
