"""What all dialects do with a request: submit its operations, wait, answer, cancel when it leaves.

Owns the order of that, and when a streamed reply begins. A dialect says what its bodies mean as
operations, and hands in how a stream and an error are written; nothing of OpenAI's is known here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import anyio
from starlette.requests import Request
from starlette.responses import Response

from rbee.core.events import JobCancelAsked
from rbee.daemons.queen.answer_stream import AnswerStream, Telling
from rbee.daemons.queen.ollama_names import named
from rbee.daemons.queen.openai_replies import (
    Run,
    begun,
    first_failure,
    openai_error,
    over,
    served_by,
    unless_left,
)
from rbee.daemons.queen.params import client_of
from rbee.errors import Cancelled, RbeeError, ShuttingDown
from rbee.protocol.operations import Operation

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rbee.daemons.queen.queen import Queen

LEFT = "the caller left"
NO_USE = "another answer to the same request failed"
PATIENCE = 2.0
"""Seconds that a streamed reply waits for its first token before its headers go out without who
serves it: a model that is being loaded takes longer, and then its progress is told."""


class Answering:
    """`error`: how a dialect answers a failure, given the error and headers."""

    def __init__(
        self,
        queen: Queen,
        *,
        client: str,
        error: Callable[[RbeeError, Mapping[str, str] | None], Response] = openai_error,
    ) -> None:
        """`client`: whose turn it is when the caller does not say."""
        self._queen = queen
        self._client = client
        self._error = error

    def refused(self, error: RbeeError) -> Response:
        """The reply to a request that never became a job."""
        self._queen.metrics.refused(error)
        return self._error(error, None)

    async def submit(self, request: Request, operations: Sequence[Operation]) -> list[Run]:
        """All of them or none. The request's body must have been read."""
        client, correlation_id = client_of(request, self._client), request.state.correlation_id
        runs: list[Run] = []
        try:
            for operation in operations:
                meant = named(self._queen, operation)
                job = await self._queen.admission.submit(
                    meant, client=client, durable=False, correlation_id=correlation_id
                )
                runs.append(Run(job, await self._queen.streams.get(job.job_id)))
        except RbeeError:
            self.cancel(runs, NO_USE)
            raise
        return runs

    async def done(self, request: Request, runs: Sequence[Run]) -> None:
        """Wait for the end of all. Raises what one of them failed with, Cancelled when the caller
        left, ShuttingDown when the queen went first."""
        if not await unless_left(request, runs, over):
            self.cancel(runs, LEFT)
            raise Cancelled(LEFT)
        if failure := first_failure(runs):
            self.cancel(runs, NO_USE)
            raise failure
        if not all(run.stream.ended for run in runs):
            raise ShuttingDown("the queen is shutting down")

    async def whole(
        self, request: Request, runs: Sequence[Run], body: Callable[[], Response]
    ) -> Response:
        """Wait for the end of all, then `body()`, which may raise an RbeeError."""
        try:
            await self.done(request, runs)
            return body()
        except RbeeError as exc:
            return self._error(exc, self.headers(runs))

    async def streamed(
        self,
        request: Request,
        runs: Sequence[Run],
        telling: Callable[[bool], Telling],
        media_type: str = "text/event-stream",
        patience: float = PATIENCE,
    ) -> Response:
        """Headers go out with the first token, so that earlier failures have their status, or after
        `patience`. `telling(late)`: whether it is not known yet who serves it."""
        stayed = True
        with anyio.move_on_after(patience):
            stayed = await unless_left(request, runs, begun)
        if not stayed:
            self.cancel(runs, LEFT)
            return Response(status_code=499)
        failure = first_failure(runs)
        if failure is not None and not any(run.stream.tokens for run in runs):
            self.cancel(runs, NO_USE)
            return self._error(failure, self.headers(runs))
        headers = self.headers(runs)
        return AnswerStream(
            telling("X-Rbee-Worker" not in headers),
            give_up=lambda: self.cancel(runs, NO_USE),
            headers=headers,
            on_leave=lambda: self.cancel(runs, LEFT),
            media_type=media_type,
        )

    def headers(self, runs: Sequence[Run]) -> dict[str, str]:
        """Who serves it, as far as that is known."""
        return served_by(self._queen, runs)

    def cancel(self, runs: Sequence[Run], reason: str) -> None:
        """No effect on those that have ended."""
        for run in runs:
            self._queen.brain.post(JobCancelAsked(run.job.job_id, reason))
