"""Ollama's routes: what is asked in its words is a job, and told in them.

Owns the handlers. What bodies mean is in `ollama_params`, what names mean in `ollama_names`, how
replies look in `ollama_replies`, `ollama_models` and `ollama_pull`. What is raised here the door
answers in Ollama's form, by the path. Models are not made, copied
under other names or pushed anywhere here: those routes say what to do instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from rbee import __version__
from rbee.daemons.base import Handler, json_response
from rbee.daemons.queen import ollama_models, ollama_params
from rbee.daemons.queen.answering import Answering
from rbee.daemons.queen.callers import present
from rbee.daemons.queen.ollama_names import meant_by
from rbee.daemons.queen.ollama_params import (
    ChatRequest,
    EmbeddingsRequest,
    EmbedRequest,
    GenerateRequest,
    ModelRequest,
    PullRequest,
    bad,
    body_of,
    unloads,
)
from rbee.daemons.queen.ollama_pull import SUCCESS, PullLines
from rbee.daemons.queen.ollama_replies import (
    LINES,
    Answer,
    Lines,
    durations,
    ollama_error,
    stamp_of,
)
from rbee.daemons.queen.openai_replies import Run, find
from rbee.daemons.queen.scopes import Need, may, refusal
from rbee.errors import InvalidRequest, RbeeError
from rbee.protocol.jobs import EmbedData, EventType
from rbee.protocol.operations import (
    Infer,
    ModelDelete,
    ModelDownload,
    ModelPreload,
    ModelUnload,
    Operation,
)

if TYPE_CHECKING:
    from rbee.daemons.queen.queen import Queen

SPOKEN = "0.12.6"
"""The version of Ollama whose API this is: clients ask for at least one that they know."""


def table(queen: Queen) -> list[tuple[str, str, Handler]]:
    """Method, path and handler of each route."""
    ollama = Ollama(queen)
    return [
        ("GET", "/", ollama.root),
        ("HEAD", "/", ollama.root),
        ("GET", "/api/version", ollama.version),
        ("HEAD", "/api/version", ollama.version),
        ("POST", "/api/generate", ollama.generate),
        ("POST", "/api/chat", ollama.chat),
        ("POST", "/api/embed", ollama.embed),
        ("POST", "/api/embeddings", ollama.embeddings),
        ("GET", "/api/tags", ollama.tags),
        ("GET", "/api/ps", ollama.ps),
        ("POST", "/api/show", ollama.show),
        ("POST", "/api/pull", ollama.pull),
        ("DELETE", "/api/delete", ollama.delete),
        ("POST", "/api/copy", ollama.copy),
        ("POST", "/api/create", ollama.create),
        ("POST", "/api/push", ollama.push),
    ]


class Ollama:
    """Handlers; errors have Ollama's body with our code."""

    def __init__(self, queen: Queen) -> None:
        self._queen = queen
        self._answering = Answering(queen, client="ollama", error=ollama_error)

    async def root(self, _request: Request) -> Response:
        """GET and HEAD /: by this its clients know that it is there."""
        return PlainTextResponse("Ollama is running")

    async def version(self, _request: Request) -> Response:
        """GET /api/version"""
        return json_response({"version": SPOKEN, "rbee": __version__})

    async def generate(self, request: Request) -> Response:
        """POST /api/generate"""
        asked = body_of(await request.body(), GenerateRequest)
        model, goes = meant_by(self._queen, asked.asked), self._goes(asked.keep_alive)
        if not asked.prompt:
            return await self._moved(request, asked, model, goes=goes, chat=False)
        operation = ollama_params.generate_of(asked, model)
        return await self._answer(request, asked, operation, goes=goes, chat=False)

    async def chat(self, request: Request) -> Response:
        """POST /api/chat"""
        asked = body_of(await request.body(), ChatRequest)
        model, goes = meant_by(self._queen, asked.asked), self._goes(asked.keep_alive)
        if not asked.messages:
            return await self._moved(request, asked, model, goes=goes, chat=True)
        operation = ollama_params.chat_of(asked, model)
        return await self._answer(request, asked, operation, goes=goes, chat=True)

    async def embed(self, request: Request) -> Response:
        """POST /api/embed"""
        asked = body_of(await request.body(), EmbedRequest)
        model, goes = meant_by(self._queen, asked.asked), self._goes(asked.keep_alive)
        if not asked.input:
            await self._done(request, ModelPreload(model=model))
            return json_response({"model": asked.asked, "embeddings": []})
        operation = ollama_params.embed_of(model, asked.input)
        runs = await self._answering.submit(request, [operation])

        def body() -> Response:
            found = _embedded(runs[0])
            size = len(found.vectors[0])
            if asked.dimensions not in (None, size):
                raise bad("dimensions", f"vectors of {model} have {size} numbers", str(size))
            took = durations(runs[0])
            told = {
                "model": asked.asked,
                "embeddings": found.vectors,
                "total_duration": took["total_duration"],
                "load_duration": took["load_duration"],
                "prompt_eval_count": found.usage.prompt_tokens,
            }
            return json_response(told, headers=self._answering.headers(runs))

        return await self._left(await self._answering.whole(request, runs, body), model, goes=goes)

    async def embeddings(self, request: Request) -> Response:
        """POST /api/embeddings: one vector, as long as the model made it"""
        asked = body_of(await request.body(), EmbeddingsRequest)
        model, goes = meant_by(self._queen, asked.asked), self._goes(asked.keep_alive)
        if not asked.prompt:
            await self._done(request, ModelPreload(model=model))
            return json_response({"embedding": []})
        operation = ollama_params.embed_of(model, asked.prompt, normalize=False)
        runs = await self._answering.submit(request, [operation])

        def body() -> Response:
            told = {"embedding": _embedded(runs[0]).vectors[0]}
            return json_response(told, headers=self._answering.headers(runs))

        return await self._left(await self._answering.whole(request, runs, body), model, goes=goes)

    async def tags(self, _request: Request) -> Response:
        """GET /api/tags"""
        return json_response(await ollama_models.tags(self._queen))

    async def ps(self, _request: Request) -> Response:
        """GET /api/ps"""
        return json_response(ollama_models.loaded(self._queen))

    async def show(self, request: Request) -> Response:
        """POST /api/show"""
        asked = body_of(await request.body(), ModelRequest)
        name = meant_by(self._queen, asked.asked)
        return json_response(await ollama_models.shown(self._queen, name))

    async def pull(self, request: Request) -> Response:
        """POST /api/pull"""
        answering = self._answering
        asked = body_of(await request.body(), PullRequest)
        wanted = ModelDownload(model=meant_by(self._queen, asked.asked))
        runs = await answering.submit(request, [wanted])
        if asked.stream is False:
            return await answering.whole(request, runs, lambda: json_response(SUCCESS))
        return await answering.streamed(
            request, runs, lambda _: PullLines(self._queen, runs[0]), LINES, patience=0.0
        )

    async def delete(self, request: Request) -> Response:
        """DELETE /api/delete"""
        asked = body_of(await request.body(), ModelRequest)
        await self._done(request, ModelDelete(model=meant_by(self._queen, asked.asked)))
        return Response()

    async def copy(self, _request: Request) -> Response:
        """POST /api/copy: a second name is a setting here"""
        raise InvalidRequest(
            "a model gets no second name over this API: names are in the owner's settings",
            action='In config.toml: [models.aliases] and name = "hf:org/repo:QUANT".',
        )

    async def create(self, _request: Request) -> Response:
        """POST /api/create: models come as files"""
        raise InvalidRequest(
            "models are not made here",
            action="Take a GGUF file over with `rbee model import`; a system message goes with the"
            " request.",
        )

    async def push(self, _request: Request) -> Response:
        """POST /api/push: nothing leaves the colony"""
        raise InvalidRequest(
            "models are not sent anywhere from here", action="Use the hub's own tools."
        )

    # ---- what they share ------------------------------------------------------------------------

    async def _answer(
        self,
        request: Request,
        asked: GenerateRequest | ChatRequest,
        operation: Infer,
        *,
        goes: bool,
        chat: bool,
    ) -> Response:
        answering = self._answering
        runs = await answering.submit(request, [operation])
        answer = Answer(runs[0], asked.asked, chat=chat, utc=self._queen.clock.utc)
        if asked.stream is not False:
            ended = (lambda: self._unload(operation.model)) if goes else None
            return await answering.streamed(
                request, runs, lambda _: Lines(answer, ended=ended), LINES
            )

        def body() -> Response:
            return json_response(answer.whole(), headers=answering.headers(runs))

        reply = await answering.whole(request, runs, body)
        return await self._left(reply, operation.model, goes=goes)

    async def _moved(
        self,
        request: Request,
        asked: GenerateRequest | ChatRequest,
        model: str,
        *,
        goes: bool,
        chat: bool,
    ) -> Response:
        """Without anything to answer: the model is loaded, or unloaded."""
        await self._done(request, ModelUnload(model=model) if goes else ModelPreload(model=model))
        said = {"message": {"role": "assistant", "content": ""}} if chat else {"response": ""}
        told = {"model": asked.asked, "created_at": stamp_of(self._queen.clock.utc()), **said}
        body = {**told, "done": True, "done_reason": "unload" if goes else "load"}
        return json_response(body)

    async def _done(self, request: Request, operation: Operation) -> None:
        """Have it done. Raises why it was not."""
        await self._answering.done(request, await self._answering.submit(request, [operation]))

    def _goes(self, keep_alive: float | str | None) -> bool:
        """Whether the model is to be unloaded, by somebody who may: anybody but a key for models
        only, whose requests would load it again and again for the others."""
        goes, caller = unloads(keep_alive), present.get()
        if goes and caller is not None and not may(caller, Need.LOOK):
            raise refusal(caller, "keep_alive 0")
        return goes

    async def _left(self, reply: Response, model: str, *, goes: bool) -> Response:
        if goes and reply.status_code == 200:
            self._unload(model)
        return reply

    def _unload(self, model: str) -> None:
        """When the answer has ended; nobody waits for it."""
        self._queen.effects.tasks.start_soon(self._unloaded, model)

    async def _unloaded(self, model: str) -> None:
        try:
            await self._queen.admission.submit(
                ModelUnload(model=model), client="ollama", durable=False
            )
        except RbeeError as exc:
            self._queen.effects.narrate("queen", f"{model} is not unloaded: {exc.message}", "error")


def _embedded(run: Run) -> EmbedData:
    return find(run.stream, EventType.RESULT, EmbedData)
