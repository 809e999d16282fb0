"""One sequence's working memory: the batch, the KV cache, the decode call.

Owns the C context and every bound it must not be called beyond: more tokens than the batch, more
positions than the context, a row without logits end the process in C, so here they are errors.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from typing import Any

from rbee.errors import InternalError, ModelLoadFailed

from .model import Model
from .native import LOG, library

N_BATCH = 512
_CPU_CHUNK = 128
_NO_ROOM = 1
_LEAST_TRAINED = 4096
_STRETCH = 8


class ContextFull(Exception):
    """The KV cache has no cell left."""


class Context:
    """A context for one sequence of `size` tokens."""

    def __init__(self, model: Model, *, ctx: int, threads: int) -> None:
        _check_size(ctx, model.trained_ctx)
        lib = library()
        params = lib.llama_context_default_params()
        params.n_ctx = ctx
        params.n_batch = params.n_ubatch = min(N_BATCH, ctx)
        params.n_seq_max = 1
        params.n_threads = params.n_threads_batch = max(1, threads)
        params.offload_kqv = params.op_offload = model.on_gpu
        params.no_perf = True
        if hasattr(
            params, "n_outputs_max"
        ):  # only the last token has logits: saves 4 · vocab · batch
            params.n_outputs_max = 1
        LOG.clear()
        pointer = lib.llama_init_from_model(model.pointer, params)
        if not pointer:
            raise ModelLoadFailed(
                f"llama.cpp cannot make a context of {ctx} tokens: {LOG.reason()}",
                action="Set worker.ctx to less.",
            )
        self._lib = lib
        self.pointer = pointer
        self.size: int = lib.llama_n_ctx(pointer)
        self.bytes = LOG.buffer_bytes()
        self.chunk = min(lib.llama_n_batch(pointer), N_BATCH if model.on_gpu else _CPU_CHUNK)
        self._memory = lib.llama_get_memory(pointer)
        self._limit: int = lib.llama_n_batch(pointer)
        self._vocab_size = model.vocab.size
        self._batch = _Batch(lib, self._limit)

    def decode(self, tokens: Sequence[int], start: int) -> None:
        """Append tokens at position `start`; the last one's logits are then available.

        Raises ContextFull, InternalError.
        """
        if not 0 < len(tokens) <= self._limit:
            raise InternalError(f"a batch of {len(tokens)} tokens, allowed are 1 to {self._limit}")
        if start < 0 or start + len(tokens) > self.size:
            raise ContextFull
        if not all(0 <= token < self._vocab_size for token in tokens):
            raise InternalError("a token is outside the vocabulary")
        code = self._lib.llama_decode(self.pointer, self._batch.fill(tokens, start))
        if code == _NO_ROOM:
            raise ContextFull
        if code:
            raise InternalError(f"llama.cpp failed to decode (code {code}): {LOG.reason()}")

    def logit(self, token: int) -> float:
        """The last position's logit for a token; finite unless the computation broke down."""
        row = self._lib.llama_get_logits_ith(self.pointer, -1)
        if not row:
            raise InternalError("llama.cpp has no logits for the last token")
        return float(row[token])

    def check_logits(self) -> None:
        """Raises InternalError unless the last position has logits: sampling would abort."""
        if math.isnan(self.logit(0)):
            raise InternalError("the model computed no numbers (NaN); its weights may be damaged")

    def keep(self, count: int) -> int:
        """Forget everything from position `count` on; returns how many positions are left.

        Models with a recurrent state cannot forget a part and then forget all.
        """
        if self._memory is None:
            return 0
        if count > 0 and self._lib.llama_memory_seq_rm(self._memory, 0, count, -1):
            return count
        self._lib.llama_memory_clear(self._memory, False)
        return 0

    def close(self) -> None:
        """Free the KV cache and the buffers."""
        if self.pointer:
            self._lib.llama_free(self.pointer)
            self.pointer = None


def _check_size(ctx: int, trained: int) -> None:
    """The library fills tables of some 50 bytes a token before it asks for the memory itself."""
    most = max(trained, _LEAST_TRAINED) * _STRETCH
    if ctx > most:
        raise ModelLoadFailed(
            f"a context of {ctx} tokens was asked for; the model was trained for {trained},"
            f" and more than {most} make no sense",
            action=f"Set worker.ctx to {trained or most} or less.",
        )


class _Batch:
    """A llama_batch whose arrays are ours; one sequence, logits for the last token only."""

    def __init__(self, lib: Any, limit: int) -> None:
        self._token = (ctypes.c_int32 * limit)()
        self._pos = (ctypes.c_int32 * limit)()
        self._sequences = (ctypes.c_int32 * limit)(*([1] * limit))
        self._zero = ctypes.c_int32(0)
        pointer = ctypes.POINTER(ctypes.c_int32)
        ids = (pointer * limit)(*([ctypes.pointer(self._zero)] * limit))
        self._logits = (ctypes.c_int8 * limit)()
        self._ids = ids
        self._batch = lib.llama_batch()
        self._batch.token = ctypes.cast(self._token, pointer)
        self._batch.pos = ctypes.cast(self._pos, pointer)
        self._batch.n_seq_id = ctypes.cast(self._sequences, pointer)
        self._batch.seq_id = ctypes.cast(ids, ctypes.POINTER(pointer))
        self._batch.logits = ctypes.cast(self._logits, ctypes.POINTER(ctypes.c_int8))

    def fill(self, tokens: Sequence[int], start: int) -> Any:
        """The C struct for these tokens; the length was checked by the caller."""
        count = len(tokens)
        self._token[:count] = tokens
        self._pos[:count] = range(start, start + count)
        self._logits[:count] = [0] * (count - 1) + [1]
        self._batch.n_tokens = count
        return self._batch
