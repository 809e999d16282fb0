"""Loads nothing and says the words back, step by step and cancellable like a real model.

Owns the directives; see the package's docstring. Every wait ends at once on cancellation.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field

from rbee.backend_api import (
    Done,
    Embedded,
    Embedding,
    Generation,
    Likely,
    LoadOptions,
    Logprob,
    ModelFile,
    Piece,
    Prefill,
    Progress,
    Request,
    ThreadedModel,
)
from rbee.errors import (
    BackendUnavailable,
    Cancelled,
    ContextLengthExceeded,
    DeviceFailed,
    InternalError,
    ModelLoadFailed,
    ValidationFailed,
)

from ..shared.shapes import refuse_shapes
from . import INFO, models
from .words import vector

_DIRECTIVE = re.compile(
    r"\s*@(delay|repeat|hang_after|exit_after|fail_after|break_after)=(\d{1,7})(?!\S)"
)
_LOAD_STEPS = 20
_EXIT_CODE = 3
_FLUSH_SECONDS = 0.2
"""Before ending the process: the pieces already made must have left it."""
_ALIVE_SECONDS = 1.0
_MAX_WORDS = 1_000_000


class EchoBackend:
    """The models differ in how they load only."""

    def load(
        self, model: ModelFile, options: LoadOptions, progress: Progress, cancelled: threading.Event
    ) -> EchoModel:
        """Takes `load_seconds`; `echo-stuck` waits for the cancel, `echo-broken` fails."""
        if options.device != "cpu":
            raise BackendUnavailable(f"echo runs on the device cpu only, not on {options.device}")
        progress("reading words", 0.0)
        if model.id == "echo-broken":
            raise ModelLoadFailed("echo-broken never loads", action="Use the model echo.")
        if model.id == "echo-stuck":
            progress("reading words", 0.4)
            cancelled.wait()
        step = _load_seconds(model) / _LOAD_STEPS
        for done in range(1, _LOAD_STEPS + 1):
            if cancelled.wait(step) if step else cancelled.is_set():
                raise Cancelled("loading was cancelled")
            progress("reading words", done / _LOAD_STEPS)
        return EchoModel(options)


class EchoModel(ThreadedModel):
    """Any number of requests at a time: they share nothing."""

    memory_bytes = 1 << 20
    capabilities = INFO.capabilities

    def __init__(self, options: LoadOptions) -> None:
        super().__init__(slots=options.slots)
        self.ctx = options.ctx

    def run(
        self, request: Request, cancelled: threading.Event
    ) -> Iterator[Piece | Prefill | Done | Embedded]:
        """The words of the last user message, as the directives say; of texts their vectors."""
        if isinstance(request, Embedding):
            yield (yield from self._embed(request, cancelled))
            return
        assert isinstance(request, Generation)
        refuse_shapes(request, "echo")
        began = time.monotonic()
        prompt_tokens = _prompt_tokens(request)
        script = Script.of(_last_user_text(request))
        pieces, stop = _cut(script.pieces(), request.stop)
        begin, pieces = _rest(pieces, request)
        needed = prompt_tokens + max(begin, 1)
        if needed > self.ctx:
            raise ContextLengthExceeded(
                f"the prompt has {prompt_tokens} words, the context holds {self.ctx}",
                required=needed,
                available=self.ctx,
            )
        limit = min(request.max_tokens or self.ctx, self.ctx - prompt_tokens)
        said, reason = begin, "length" if begin + len(pieces) >= limit else "stop"
        for piece in pieces[: max(0, limit - begin)]:
            if not (yield from script.ready(said, cancelled, begin=begin)):
                reason = "cancelled"
                break
            said += 1
            yield Piece(piece, logprob=_certain(piece, request.logprobs))
        else:
            if not (yield from script.ready(said, cancelled, begin=begin, delay=False)):
                reason = "cancelled"
        spent = (time.monotonic() - began) * 1000
        stop = stop if reason == "stop" else ""
        yield Done(reason, prompt_tokens, said, decode_ms=spent, stop=stop)

    def _embed(
        self, request: Embedding, cancelled: threading.Event
    ) -> Generator[Piece | Prefill, None, Embedded | Done]:
        scripts = [Script.of(text) for text in request.inputs]
        longest = max(len(script.words) for script in scripts)
        if longest > self.ctx:
            raise ContextLengthExceeded(
                f"a text has {longest} words, the context holds {self.ctx}",
                required=longest,
                available=self.ctx,
            )
        total = sum(len(script.words) for script in scripts)
        for script in scripts:
            if not (yield from script.ready(0, cancelled)):
                return Done("cancelled", total, 0)
        vectors = [vector(script.words, normalize=request.normalize) for script in scripts]
        return Embedded(vectors, total)


@dataclass(frozen=True)
class Script:
    """What one prompt asks for."""

    words: tuple[str, ...]
    orders: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, text: str) -> Script:
        """Directives from the start of the text, words from the rest."""
        orders: dict[str, int] = {}
        while match := _DIRECTIVE.match(text):
            orders[match[1]] = int(match[2])
            text = text[match.end() :]
        return cls(tuple(text.split()), orders)

    def pieces(self) -> list[str]:
        """The whole answer, word by word."""
        times = self.orders.get("repeat", 1)
        words = list(self.words) * min(times, _MAX_WORDS // max(1, len(self.words)))
        return [f"{word} " for word in words[:-1]] + words[-1:]

    def ready(
        self, said: int, cancelled: threading.Event, *, begin: int = 0, delay: bool = True
    ) -> Generator[Piece | Prefill, None, bool]:
        """Wait as ordered before the next piece; False when cancelled meanwhile. `begin`: how many
        pieces another run has said."""
        if said > begin or begin == 0:
            if self.orders.get("fail_after") == said:
                raise InternalError(f"echo was told to fail after {said} pieces")
            if self.orders.get("break_after") == said:
                raise DeviceFailed(f"echo was told that its device fails after {said} pieces")
            if self.orders.get("exit_after") == said:
                cancelled.wait(_FLUSH_SECONDS)
                os._exit(_EXIT_CODE)
            if self.orders.get("hang_after") == said:
                cancelled.wait()
        pause = self.orders.get("delay", 0) / 1000 if delay else 0.0
        while pause > _ALIVE_SECONDS and not cancelled.wait(_ALIVE_SECONDS):
            pause -= _ALIVE_SECONDS
            yield Piece("", tokens=0) if said > begin else Prefill(0, 0)
        return not (cancelled.wait(pause) if pause > 0 else cancelled.is_set())


def _rest(pieces: list[str], request: Generation) -> tuple[int, list[str]]:
    """How many pieces were said before, and those that come now; perhaps only the end of one."""
    if request.emitted_tokens:
        return request.emitted_tokens, pieces[request.emitted_tokens :]
    if not "".join(pieces).startswith(request.emitted):
        raise ValidationFailed(
            "emitted: echo would have said something else",
            field="emitted",
            constraint="the beginning of the answer",
        )
    said, left = 0, len(request.emitted)
    while left > 0 and left >= len(pieces[said]):
        left -= len(pieces[said])
        said += 1
    rest = pieces[said:]
    return said, [rest[0][left:], *rest[1:]] if left else rest


def _certain(piece: str, top: int | None) -> Logprob | None:
    """A word of the prompt could not have been another one."""
    if top is None:
        return None
    data = piece.encode()
    here = (Likely(0, piece, data, 0.0),) if top else ()
    return Logprob(0, piece, data, 0.0, here)


def _load_seconds(model: ModelFile) -> float:
    own = {file.id: file.metadata for file in models()}.get(model.id, {})
    return float(model.metadata.get("load_seconds", own.get("load_seconds", 0.0)))


def _last_user_text(request: Generation) -> str:
    if request.prompt is not None:
        return request.prompt
    said = [str(m.get("content") or "") for m in request.messages if m.get("role") == "user"]
    return said[-1] if said else ""


def _prompt_tokens(request: Generation) -> int:
    if request.prompt is not None:
        return len(request.prompt.split())
    return sum(len(str(message.get("content") or "").split()) for message in request.messages)


def _cut(pieces: list[str], stops: tuple[str, ...]) -> tuple[list[str], str]:
    """The pieces up to the first stop string, and which that is."""
    text = "".join(pieces)
    ends = [(at, stop) for stop in stops if (at := text.find(stop)) >= 0]
    if not ends:
        return pieces, ""
    (left, found), out = min(ends), list[str]()
    for piece in pieces:
        if left <= 0:
            break
        out.append(piece[:left])
        left -= len(piece)
    return out, found
