"""The OpenAI-compatible routes: what is asked in OpenAI's words is a job, and told in them.

Owns the handlers. What bodies mean is in `openai_params`, how replies look in `openai_chat`,
`openai_completions` and `openai_embeddings`; how a request becomes jobs and is waited for is in
`answering`. The routes of responses are in `api_responses`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response

from rbee.daemons.base import Handler, error_response, json_response
from rbee.daemons.queen import openai_chat, openai_completions, openai_models
from rbee.daemons.queen.answering import Answering
from rbee.daemons.queen.api_responses import Responses
from rbee.daemons.queen.openai_embeddings import embedding_body
from rbee.daemons.queen.openai_params import (
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    completions_of,
    embed_of,
    infers_of,
    parameters_of,
)
from rbee.daemons.queen.openai_replies import openai_error
from rbee.errors import RbeeError

if TYPE_CHECKING:
    from rbee.daemons.queen.queen import Queen

PREFIXES = ("/v1", "/openai/v1")

PATHS = ("chat", "completions", "embeddings", "models", "responses")
"""What stands after a prefix of the paths that are OpenAI's."""


def error_on(path: str, error: RbeeError) -> Response:
    """An error outside of a handler: in OpenAI's form where its clients ask."""
    _, _, rest = path.removeprefix("/openai").partition("/v1/")
    theirs = path.startswith("/openai/") or rest.partition("/")[0] in PATHS
    return openai_error(error) if theirs else error_response(error)


def table(queen: Queen) -> list[tuple[str, str, Handler]]:
    """Method, path and handler of each route."""
    openai, responses = OpenAI(queen), Responses(queen)
    found: list[tuple[str, str, Handler]] = []
    for prefix in PREFIXES:
        found += [
            ("POST", f"{prefix}/chat/completions", openai.chat),
            ("POST", f"{prefix}/completions", openai.completions),
            ("POST", f"{prefix}/embeddings", openai.embeddings),
            ("GET", f"{prefix}/models", openai.models),
            ("GET", f"{prefix}/models/{{model:path}}", openai.model),
            ("POST", f"{prefix}/responses", responses.create),
            ("GET", f"{prefix}/responses/{{response_id}}", responses.get),
            ("DELETE", f"{prefix}/responses/{{response_id}}", responses.delete),
        ]
    return found


class OpenAI:
    """Handlers; errors have OpenAI's body with our code."""

    def __init__(self, queen: Queen) -> None:
        self._queen = queen
        self._answering = Answering(queen, client="openai")

    async def models(self, _request: Request) -> Response:
        """GET /v1/models"""
        return json_response({"object": "list", "data": openai_models.listed(self._queen)})

    async def model(self, request: Request) -> Response:
        """GET /v1/models/{id}"""
        wanted = request.path_params["model"]
        found = openai_models.one(self._queen, wanted)
        if found is not None:
            return json_response(found)
        return self._answering.refused(openai_models.missing(wanted))

    async def chat(self, request: Request) -> Response:
        """POST /v1/chat/completions"""
        answering = self._answering
        try:
            asked = parameters_of(await request.body(), ChatRequest)
            runs = await answering.submit(request, infers_of(asked))
        except RbeeError as exc:
            return answering.refused(exc)
        if asked.stream:
            return await answering.streamed(
                request,
                runs,
                lambda late: openai_chat.Chunks(runs, usage=asked.with_usage, late=late),
            )
        return await answering.whole(
            request,
            runs,
            lambda: json_response(openai_chat.whole(runs), headers=answering.headers(runs)),
        )

    async def completions(self, request: Request) -> Response:
        """POST /v1/completions"""
        answering = self._answering
        try:
            asked = parameters_of(await request.body(), CompletionRequest)
            runs = await answering.submit(request, completions_of(asked))
        except RbeeError as exc:
            return answering.refused(exc)
        each, echo = asked.n or 1, bool(asked.echo)
        if asked.stream:
            return await answering.streamed(
                request,
                runs,
                lambda late: openai_completions.CompletionChunks(
                    runs, each=each, echo=echo, usage=asked.with_usage, late=late
                ),
            )

        def body() -> Response:
            said = openai_completions.whole(runs, each=each, echo=echo)
            return json_response(said, headers=answering.headers(runs))

        return await answering.whole(request, runs, body)

    async def embeddings(self, request: Request) -> Response:
        """POST /v1/embeddings"""
        answering = self._answering
        try:
            asked = parameters_of(await request.body(), EmbeddingRequest)
            runs = await answering.submit(request, [embed_of(asked)])
        except RbeeError as exc:
            return answering.refused(exc)

        def body() -> Response:
            return json_response(embedding_body(asked, runs[0]), headers=answering.headers(runs))

        return await answering.whole(request, runs, body)
