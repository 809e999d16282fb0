"""The OpenAI-compatible routes: what is asked in OpenAI's words is a job, and told in them.

Owns the handlers: submit, wait, answer, and cancel when the caller leaves. What bodies mean is in
`openai_params`, how replies look in `openai_chat` and `openai_embeddings`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response

from rbee.core.events import JobCancelAsked
from rbee.daemons.base import json_response
from rbee.daemons.queen import openai_chat, openai_params
from rbee.daemons.queen.openai_embeddings import embedding_body
from rbee.daemons.queen.openai_replies import (
    Run,
    begun,
    first_failure,
    openai_error,
    over,
    served_by,
    unless_left,
)
from rbee.daemons.queen.openai_stream import ChatStream
from rbee.daemons.queen.params import client_of
from rbee.errors import ModelNotFound, RbeeError
from rbee.protocol.operations import Operation

if TYPE_CHECKING:
    from rbee.daemons.queen.queen import Queen

LEFT = "the caller left"
NO_USE = "another answer to the same request failed"


class OpenAI:
    """Handlers; errors have OpenAI's body with our code."""

    def __init__(self, queen: Queen) -> None:
        self._queen = queen

    async def models(self, _request: Request) -> Response:
        """GET /v1/models"""
        data = [_model(m.id) for m in self._queen.catalog.models() if not m.hidden]
        return json_response({"object": "list", "data": data})

    async def model(self, request: Request) -> Response:
        """GET /v1/models/{id}"""
        wanted = request.path_params["model"]
        if any(m.id == wanted for m in self._queen.catalog.models()):
            return json_response(_model(wanted))
        missing = ModelNotFound(f"no model {wanted[:120]!r} in this colony")
        self._queen.metrics.refused(missing)
        return openai_error(missing)

    async def chat(self, request: Request) -> Response:
        """POST /v1/chat/completions"""
        try:
            asked = openai_params.chat_of(await request.body())
            runs = await self._submit(request, openai_params.infers_of(asked))
        except RbeeError as exc:
            self._queen.metrics.refused(exc)
            return openai_error(exc)
        if not asked.stream:
            return await self._chat_whole(request, runs)
        usage = asked.stream_options is not None and asked.stream_options.include_usage
        return await self._chat_streamed(request, runs, usage=usage)

    async def embeddings(self, request: Request) -> Response:
        """POST /v1/embeddings"""
        try:
            asked = openai_params.embedding_of(await request.body())
            runs = await self._submit(request, [openai_params.embed_of(asked)])
        except RbeeError as exc:
            self._queen.metrics.refused(exc)
            return openai_error(exc)
        try:
            refused = await self._ended(request, runs)
            if refused is not None:
                return refused
            return json_response(
                embedding_body(asked, runs[0]), headers=served_by(self._queen, runs)
            )
        except RbeeError as exc:
            return openai_error(exc)

    async def _submit(self, request: Request, operations: Sequence[Operation]) -> list[Run]:
        """All of them or none."""
        client, correlation_id = client_of(request, "openai"), request.state.correlation_id
        runs: list[Run] = []
        try:
            for operation in operations:
                job = await self._queen.admission.submit(
                    operation, client=client, durable=False, correlation_id=correlation_id
                )
                runs.append(Run(job, await self._queen.streams.get(job.job_id)))
        except RbeeError:
            self._cancel(runs, NO_USE)
            raise
        return runs

    async def _chat_whole(self, request: Request, runs: Sequence[Run]) -> Response:
        refused = await self._ended(request, runs)
        if refused is not None:
            return refused
        try:
            return json_response(openai_chat.whole(runs), headers=served_by(self._queen, runs))
        except RbeeError as exc:
            return openai_error(exc)

    async def _chat_streamed(
        self, request: Request, runs: Sequence[Run], *, usage: bool
    ) -> Response:
        """Headers go out with the first token, so that earlier failures have their status."""
        if not await unless_left(request, runs, begun):
            self._cancel(runs, LEFT)
            return Response(status_code=499)
        failure = first_failure(runs)
        if failure is not None and not any(run.stream.tokens for run in runs):
            self._cancel(runs, NO_USE)
            return openai_error(failure)
        return ChatStream(
            openai_chat.Chunks(runs, usage=usage),
            give_up=lambda: self._cancel(runs, NO_USE),
            headers=served_by(self._queen, runs),
            on_leave=lambda: self._cancel(runs, LEFT),
        )

    async def _ended(self, request: Request, runs: Sequence[Run]) -> Response | None:
        """Wait for the end of all; the reply when it is none of theirs."""
        if not await unless_left(request, runs, over):
            self._cancel(runs, LEFT)
            return Response(status_code=499)
        failure = first_failure(runs)
        if failure is None:
            return None
        self._cancel(runs, NO_USE)
        return openai_error(failure)

    def _cancel(self, runs: Sequence[Run], reason: str) -> None:
        """No effect on those that have ended."""
        for run in runs:
            self._queen.brain.post(JobCancelAsked(run.job.job_id, reason))


def _model(model_id: str) -> dict[str, Any]:
    return {"id": model_id, "object": "model", "created": int(time.time()), "owned_by": "rbee"}
