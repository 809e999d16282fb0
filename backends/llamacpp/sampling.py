"""Chooses the next token: llama.cpp's own sampler chain, built for one request.

Owns the chain's life. The order is llama.cpp's: penalties, top-k, top-p, min-p, temperature, draw;
at temperature 0 the most likely token. The same seed draws the same tokens from the same logits.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from rbee.backend_api import Generation
from rbee.errors import InternalError

from .context import Context
from .native import library

_PENALTY_WINDOW = 64
_RANDOM_SEED = 0xFFFFFFFF
"""llama.cpp takes this seed to mean "a random one", so no request's seed may become it."""


class Sampler:
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
