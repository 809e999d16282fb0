"""Anthropic's routes: a conversation in its words is a job, and told in them.

    POST /v1/messages               an answer; whole, or as events
    POST /v1/messages/count_tokens  how many tokens a conversation has
    GET  /v1/models, /v1/models/ID  the models; OpenAI's routes, for clients that name a version
Tokens are counted by the model itself: its worker computes the prompt, which it then knows for the
request that follows, and says one token that nobody hears. Nothing is guessed.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response

from rbee.daemons.base import Handler, json_response
from rbee.daemons.queen import openai_models
from rbee.daemons.queen.answering import Answering
from rbee.daemons.queen.anthropic_params import (
    CountRequest,
    MessagesRequest,
    asked_of,
    counted_from,
    infer_from,
)
from rbee.daemons.queen.anthropic_replies import MessageEvents, anthropic_error, whole
from rbee.daemons.queen.openai_replies import counts_of
from rbee.errors import ValidationFailed

if TYPE_CHECKING:
    from rbee.daemons.queen.queen import Queen

VERSIONS = ("2023-06-01", "2026-10-21")
"""Of the API (https://platform.claude.com/docs/en/api/versioning); the one before them streamed in
another form. The later one took temperature, top_p and top_k away: here they are taken with both.
"""


def table(queen: Queen) -> list[tuple[str, str, Handler]]:
    """Method, path and handler of each route."""
    anthropic = Anthropic(queen)
    return [
        ("POST", "/v1/messages", anthropic.messages),
        ("POST", "/v1/messages/count_tokens", anthropic.count),
    ]


def shared(queen: Queen) -> dict[str, Handler]:
    """Handlers of GET on paths that are OpenAI's, too."""
    anthropic = Anthropic(queen)
    return {"/v1/models": anthropic.models, "/v1/models/{model:path}": anthropic.model}


class Anthropic:
    """Handlers; errors have Anthropic's body with our code, also those the door answers."""

    def __init__(self, queen: Queen) -> None:
        self._queen = queen
        self._answering = Answering(queen, client="anthropic", error=anthropic_error)

    async def messages(self, request: Request) -> Response:
        """POST /v1/messages"""
        _check_version(request)
        answering = self._answering
        asked: MessagesRequest = asked_of(await request.body(), MessagesRequest)
        runs = await answering.submit(request, [infer_from(asked)])
        if asked.stream:
            return await answering.streamed(
                request, runs, lambda late: MessageEvents(runs, asked.model, late=late)
            )

        def body() -> Response:
            return json_response(whole(runs[0], asked.model), headers=answering.headers(runs))

        return await answering.whole(request, runs, body)

    async def count(self, request: Request) -> Response:
        """POST /v1/messages/count_tokens"""
        _check_version(request)
        answering = self._answering
        asked: CountRequest = asked_of(await request.body(), CountRequest)
        runs = await answering.submit(request, [counted_from(asked)])

        def body() -> Response:
            tokens, _, _ = counts_of(runs)
            return json_response({"input_tokens": tokens}, headers=answering.headers(runs))

        return await answering.whole(request, runs, body)

    async def models(self, request: Request) -> Response:
        """GET /v1/models: all of them, on one page"""
        _check_version(request)
        data = [_model(one) for one in openai_models.listed(self._queen)]
        ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {}
        blank: dict[str, Any] = {"first_id": None, "last_id": None}
        return json_response({"data": data, "has_more": False, **blank, **ends})

    async def model(self, request: Request) -> Response:
        """GET /v1/models/{id}"""
        _check_version(request)
        wanted = request.path_params["model"]
        found = openai_models.one(self._queen, wanted)
        if found is None:
            return self._answering.refused(openai_models.missing(wanted))
        return json_response(_model(found))


def _model(known: dict[str, Any]) -> dict[str, Any]:
    """One of OpenAI's list in Anthropic's form."""
    created = datetime.fromtimestamp(known["created"], UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    told = {"type": "model", "id": known["id"], "display_name": known["id"]}
    return {**told, "created_at": created, "lifecycle": "active"}


def _check_version(request: Request) -> None:
    given = request.headers.get("anthropic-version", VERSIONS[0])
    if given not in VERSIONS:
        raise ValidationFailed(
            f"anthropic-version: {given[:40]!r} is not spoken here",
            field="anthropic-version",
            constraint=" or ".join(VERSIONS),
        )
