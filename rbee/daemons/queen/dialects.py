"""The APIs of others that the queen speaks, put together: their routes, and whose errors a path's
are. Owns the table only; each dialect has its own modules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response

from rbee.daemons.base import Handler
from rbee.daemons.queen import api_anthropic, api_ollama, api_openai
from rbee.daemons.queen.anthropic_replies import anthropic_error
from rbee.daemons.queen.ollama_replies import ollama_error

if TYPE_CHECKING:
    from rbee.daemons.queen.queen import Queen
    from rbee.errors import RbeeError

VERSION = "anthropic-version"
"""A header that Anthropic's clients send with everything: two paths are theirs and OpenAI's."""


def table(queen: Queen) -> list[tuple[str, str, Handler]]:
    """Method, path and handler of each route."""
    theirs = api_anthropic.shared(queen)
    shared = [
        (method, path, _chosen(handler, theirs[path]) if path in theirs else handler)
        for method, path, handler in api_openai.table(queen)
    ]
    return [*shared, *api_anthropic.table(queen), *api_ollama.table(queen)]


def _chosen(openai: Handler, anthropic: Handler) -> Handler:
    async def answered(request: Request) -> Response:
        return await (anthropic if VERSION in request.headers else openai)(request)

    return answered


def error_on(path: str, error: RbeeError) -> Response:
    """An error outside of a handler, in the form of whoever asks there."""
    if path.startswith("/api/"):
        return ollama_error(error)
    if path == "/v1/messages" or path.startswith("/v1/messages/"):
        return anthropic_error(error)
    return api_openai.error_on(path, error)
