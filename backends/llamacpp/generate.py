"""Answers one request at a time with a loaded model.

Owns the conversation with the context: which tokens its KV cache holds, how much of them the next
request can keep, and the loop of sampling and decoding. The cancel flag is looked at between prompt
chunks and between tokens.

Repeatable requests (a seed, or temperature 0) keep only whole prompt chunks that were decoded as
such: the same tokens decoded in other portions give slightly different logits, and so another text.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from rbee.backend_api import Done, Generation, Piece, Request, ThreadedModel
from rbee.errors import ContextLengthExceeded, InternalError, ValidationFailed

from .context import Context, ContextFull
from .model import Model
from .native import library
from .template import ChatTemplate
from .text import TextStream


class LlamaModel(ThreadedModel):
    """A model ready to run; `run` may be called again when the generator before has ended."""

    def __init__(self, model: Model, context: Context) -> None:
        super().__init__(slots=1)
        self._model = model
        self._context = context
        self._bos = model.vocab.name(model.vocab.bos)
        self._template = ChatTemplate(
            model.chat_template, bos=self._bos, eos=model.vocab.name(model.vocab.eos)
        )
        self._busy = threading.Lock()
        self._cached: list[int] = []
        self._whole = 0
        """How many of the cached tokens were decoded in whole prompt chunks from the start on."""
        self.ctx = context.size
        self.memory_bytes = model.size + context.bytes

    def run(self, request: Request, cancelled: threading.Event) -> Iterator[Piece | Done]:
        """See LoadedModel.run. Raises InternalError when another request is still running."""
        if not self._busy.acquire(blocking=False):
            raise InternalError("llamacpp runs one request at a time")
        try:
            assert isinstance(request, Generation)
            yield from self._run(request, cancelled)
        finally:
            self._busy.release()

    def close(self) -> None:
        """Free context and weights."""
        super().close()
        self._context.close()
        self._model.close()

    def _run(self, request: Generation, cancelled: threading.Event) -> Iterator[Piece | Done]:
        prompt = self._tokens(request)
        began = time.monotonic()
        kept = self._reuse(prompt, request)
        if not self._prefill(prompt, kept, cancelled):
            spent = _ms(began)
            yield Done("cancelled", len(prompt), 0, cached_tokens=kept, prefill_ms=spent)
            return
        prefill_ms, began = _ms(began), time.monotonic()
        stops = request.stop + (self._template.stops if request.messages else ())
        answer = _Answer(TextStream(stops), self._room(request, len(prompt)))
        sampler = _ChainSampler(request, vocab_size=self._model.vocab.size, prompt=prompt)
        try:
            yield from self._answer(answer, sampler, cancelled)
        finally:
            sampler.close()
        yield Done(
            answer.reason,
            len(prompt),
            answer.count,
            cached_tokens=kept,
            prefill_ms=prefill_ms,
            decode_ms=_ms(began),
        )

    def _tokens(self, request: Generation) -> list[int]:
        vocab = self._model.vocab
        if request.messages:
            text = self._template.render(request.messages)
            doubled = bool(self._bos) and text.startswith(self._bos)
            tokens = vocab.tokenize(text, special=not doubled)
        else:
            tokens = vocab.tokenize(request.prompt or "", special=True)
        if not tokens and vocab.bos >= 0:
            tokens = [vocab.bos]
        if not tokens:
            raise ValidationFailed("prompt: is empty", field="prompt", constraint="not empty")
        if len(tokens) + 1 > self.ctx:
            raise ContextLengthExceeded(
                f"the prompt has {len(tokens)} tokens; with one for the answer that is"
                f" {len(tokens) + 1}, and the context holds {self.ctx}",
                required=len(tokens) + 1,
                available=self.ctx,
            )
        return tokens

    def _room(self, request: Generation, prompt: int) -> int:
        room = self.ctx - prompt
        return room if request.max_tokens is None else min(room, request.max_tokens)

    def _reuse(self, prompt: Sequence[int], request: Generation) -> int:
        """Keep the longest usable beginning of the cache; at least one token is decoded anew."""
        common = 0
        for old, new in zip(self._cached, prompt[:-1], strict=False):
            if old != new:
                break
            common += 1
        if request.seed is not None or request.temperature <= 0:
            chunk = self._context.chunk
            common = min(common, self._whole) // chunk * chunk
        self._forget(common)
        return len(self._cached)

    def _forget(self, keep: int) -> None:
        kept = self._context.keep(keep)
        del self._cached[kept:]
        chunk = self._context.chunk
        self._whole = min(self._whole, kept // chunk * chunk)

    def _prefill(self, prompt: Sequence[int], start: int, cancelled: threading.Event) -> bool:
        """Decode the prompt from `start` on, in chunks that end at multiples of the chunk size."""
        chunk = self._context.chunk
        while start < len(prompt):
            if cancelled.is_set():
                return False
            end = min(len(prompt), (start // chunk + 1) * chunk)
            try:
                self._decode(prompt[start:end])
            except ContextFull as exc:
                self._forget(0)
                raise InternalError("llama.cpp found no room for a prompt that fits") from exc
            if end - start == chunk and self._whole == start:
                self._whole = end
            start = end
        return True

    def _answer(
        self, answer: _Answer, sampler: _ChainSampler, cancelled: threading.Event
    ) -> Iterator[Piece]:
        vocab = self._model.vocab
        while not cancelled.is_set():
            token = sampler.sample(self._context)
            if vocab.is_end(token):
                answer.reason = "stop"
                break
            piece = answer.add(vocab.token_bytes(token))
            yield Piece(piece)
            if answer.reason:
                break
            try:
                self._decode([token])
            except ContextFull:
                answer.reason = "length"
        answer.reason = answer.reason or "cancelled"
        if rest := answer.text.flush():
            yield Piece(rest, tokens=0)

    def _decode(self, tokens: Sequence[int]) -> None:
        """Decode after what is cached. After a failure the cache is unknown, and dropped."""
        try:
            self._context.decode(tokens, len(self._cached))
        except InternalError:
            self._forget(0)
            raise
        self._cached.extend(tokens)


class _Answer:
    """How far an answer is; `reason` is set when it has ended."""

    def __init__(self, text: TextStream, room: int) -> None:
        self.text = text
        self.count = 0
        self.reason = ""
        self._room = room

    def add(self, data: bytes) -> str:
        """One token more; the text that can be sent."""
        piece = self.text.feed(data)
        self.count += 1
        if self.text.stopped:
            self.reason = "stop"
        elif self.count >= self._room:
            self.reason = "length"
        return piece


def _ms(since: float) -> float:
    return (time.monotonic() - since) * 1000


_PENALTY_WINDOW = 64
_RANDOM_SEED = 0xFFFFFFFF
"""llama.cpp takes this seed to mean "a random one", so no request's seed may become it."""


class _ChainSampler:
    """One request's chain; `close` frees it."""

    def __init__(self, request: Generation, *, vocab_size: int, prompt: Sequence[int]) -> None:
        self._lib = library()
        self._chain: Any = self._lib.llama_sampler_chain_init(
            self._lib.llama_sampler_chain_default_params()
        )
        if request.repetition_penalty != 1.0:
            self._add(_penalties(self._lib, vocab_size, request.repetition_penalty))
        if request.temperature <= 0:
            self._add(self._lib.llama_sampler_init_greedy())
        else:
            self._add_draw(request)
        if request.repetition_penalty != 1.0:
            for token in prompt[-_PENALTY_WINDOW:]:
                self._lib.llama_sampler_accept(self._chain, token)

    def sample(self, context: Context) -> int:
        """The next token after the last decoded one. Raises InternalError without logits."""
        context.check_logits()
        token: int = self._lib.llama_sampler_sample(self._chain, context.pointer, -1)
        return token

    def close(self) -> None:
        """Free the chain and all that is in it."""
        if self._chain:
            self._lib.llama_sampler_free(self._chain)
            self._chain = None

    def _add_draw(self, request: Generation) -> None:
        lib = self._lib
        if request.top_k > 0:
            self._add(lib.llama_sampler_init_top_k(request.top_k))
        if request.top_p < 1:
            self._add(lib.llama_sampler_init_top_p(max(0.0, request.top_p), 1))
        if request.min_p > 0:
            self._add(lib.llama_sampler_init_min_p(min(1.0, request.min_p), 1))
        self._add(lib.llama_sampler_init_temp(request.temperature))
        seed = int.from_bytes(os.urandom(4)) if request.seed is None else request.seed
        self._add(lib.llama_sampler_init_dist(seed % _RANDOM_SEED))

    def _add(self, sampler: Any) -> None:
        if not sampler:
            raise InternalError("llama.cpp cannot make a sampler")
        self._lib.llama_sampler_chain_add(self._chain, sampler)


def _penalties(lib: Any, vocab_size: int, repeat: float) -> Any:
    """Newer libraries want the vocabulary's size first."""
    make = lib.llama_sampler_init_penalties
    sized = len(getattr(make, "argtypes", None) or ()) == 5
    return make(*([vocab_size] if sized else []), _PENALTY_WINDOW, repeat, 0.0, 0.0)
