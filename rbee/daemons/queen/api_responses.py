"""The routes of responses: a conversation whose turns are kept here, in OpenAI's words.

    POST   /v1/responses                   an answer; whole, or as events
    GET    /v1/responses/{response_id}     one that was kept
    DELETE /v1/responses/{response_id}     keep it no more
Whoever asks with a key gets back what was made with that key and nothing else.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response

from rbee.daemons.base import json_response
from rbee.daemons.queen.answering import Answering
from rbee.daemons.queen.callers import present
from rbee.daemons.queen.openai_params import parameters_of
from rbee.daemons.queen.openai_replies import openai_error
from rbee.daemons.queen.responses_params import ResponseRequest, messages_of, response_infer
from rbee.daemons.queen.responses_reply import Growing, ResponseEvents, complete
from rbee.daemons.queen.responses_store import Kept
from rbee.errors import RbeeError

if TYPE_CHECKING:
    from rbee.daemons.queen.queen import Queen


class Responses:
    """Handlers; errors have OpenAI's body with our code."""

    def __init__(self, queen: Queen) -> None:
        self._queen = queen
        self._answering = Answering(queen, client="openai")
        self._store = queen.responses

    async def create(self, request: Request) -> Response:
        """POST /v1/responses"""
        answering, owner = self._answering, _owner()
        try:
            asked = parameters_of(await request.body(), ResponseRequest)
            before = await self._before(asked, owner)
            operation = response_infer(asked, before)
            runs = await answering.submit(request, [operation])
        except RbeeError as exc:
            return answering.refused(exc)
        stored = asked.store is not False and self._store.keeps
        growing = Growing(
            asked, runs[0], response_id=f"resp_{secrets.token_hex(16)}", stored=stored
        )

        def kept() -> Kept:
            said = [*before, *messages_of(asked.input), growing.said()]
            return Kept(growing.body(), said)

        if asked.stream:

            def keep() -> None:
                if stored:
                    self._queen.effects.tasks.start_soon(self._keep, growing.id, kept(), owner)

            return await answering.streamed(
                request, runs, lambda late: ResponseEvents(growing, runs, keep, late=late)
            )

        def body() -> Response:
            complete(growing, runs[0])
            return json_response(growing.body(), headers=answering.headers(runs))

        reply = await answering.whole(request, runs, body)
        if stored and reply.status_code == 200:
            await self._keep(growing.id, kept(), owner)
        return reply

    async def get(self, request: Request) -> Response:
        """GET /v1/responses/{response_id}"""
        try:
            kept = await self._store.get(request.path_params["response_id"], owner=_owner())
        except RbeeError as exc:
            return openai_error(exc)
        return json_response(kept.body)

    async def delete(self, request: Request) -> Response:
        """DELETE /v1/responses/{response_id}"""
        response_id = request.path_params["response_id"]
        try:
            await self._store.delete(response_id, owner=_owner())
        except RbeeError as exc:
            return openai_error(exc)
        return json_response({"id": response_id, "object": "response", "deleted": True})

    async def _keep(self, response_id: str, kept: Kept, owner: str) -> None:
        await self._store.keep(response_id, kept, owner=owner)

    async def _before(self, asked: ResponseRequest, owner: str) -> list[dict[str, Any]]:
        if asked.previous_response_id is None:
            return []
        field = "previous_response_id"
        return (await self._store.get(asked.previous_response_id, owner=owner, field=field)).said


def _owner() -> str:
    caller = present.get()
    return "" if caller is None else caller.name
