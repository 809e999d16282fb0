"""Anthropic's routes: a conversation in its words is a job, and told in them.

    POST /v1/messages               an answer; whole, or as events
    POST /v1/messages/count_tokens  how many tokens a conversation has
Tokens are counted by the model itself: its worker computes the prompt, which it then knows for the
request that follows, and says one token that nobody hears. Nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response

from rbee.daemons.base import json_response
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
from rbee.errors import ShuttingDown, ValidationFailed

if TYPE_CHECKING:
    from rbee.daemons.queen.queen import Queen

Handler = Callable[[Request], Awaitable[Response]]
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


class Anthropic:
    """Handlers; errors have Anthropic's body with our code, also those the door answers."""

    def __init__(self, queen: Queen) -> None:
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
            if not runs[0].stream.ended:
                raise ShuttingDown("the queen is shutting down")
            return json_response({"input_tokens": tokens}, headers=answering.headers(runs))

        return await answering.whole(request, runs, body)


def _check_version(request: Request) -> None:
    given = request.headers.get("anthropic-version", VERSIONS[0])
    if given not in VERSIONS:
        raise ValidationFailed(
            f"anthropic-version: {given[:40]!r} is not spoken here",
            field="anthropic-version",
            constraint=" or ".join(VERSIONS),
        )
