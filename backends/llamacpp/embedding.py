"""A loaded model that turns texts into vectors.

One thread computes texts in batches: as many as fit, whichever requests they are of. A text is
computed whole, since encoders look at all of it at once. How a text's tokens become one vector
(mean, first or last token) is told by the model's file.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rbee.backend_api import Deliver, Done, Embedded, Embedding, Item, LoadOptions, Request
from rbee.errors import (
    InternalError,
    ModelIncompatible,
    ModelLoadFailed,
    RbeeError,
    ValidationFailed,
)

from ..shared.fitting import check_length
from ..shared.memory import give_back
from ..shared.stats import Stats
from .batch import Batch
from .context import FLASH
from .model import Model
from .native import LOG, library

log = logging.getLogger("rbee.llamacpp")
_TEXTS = 64
"""Texts computed at once at most."""
_LEAST_BATCH = 512
_POOLING_NONE, _POOLING_MEAN, _POOLING_RANK = 0, 1, 4
_UNSPECIFIED = -1


@dataclass(eq=False)
class _Order:
    """One request."""

    id: str
    texts: list[NDArray[np.int32]]
    normalize: bool
    vectors: list[list[float]] = field(default_factory=list)
    cancelled: bool = False


class EmbeddingModel:
    """See rbee.backend_api.LoadedModel."""

    capabilities: tuple[str, ...] = ("embedding",)

    def __init__(self, name: str, model: Model, load: LoadOptions) -> None:
        """Raises ModelIncompatible, ModelLoadFailed."""
        self._name = name
        self._model = model
        self.ctx = min(load.ctx, model.trained_ctx or load.ctx)
        self._pointer: Any = _context(model, load, max(self.ctx, _LEAST_BATCH))
        lib = library()
        if lib.llama_pooling_type(self._pointer) in (_POOLING_NONE, _POOLING_RANK):
            lib.llama_free(self._pointer)
            raise ModelIncompatible(
                f"{name} makes no vector of a text (its pooling is none or rank)"
            )
        self._batch = Batch(lib.llama_n_batch(self._pointer))
        self._width: int = lib.llama_model_n_embd(model.pointer)
        self._memory: Any = lib.llama_get_memory(self._pointer)
        self.memory_bytes = model.taken + LOG.buffer_bytes(model.gpu)
        self._stats = Stats()
        self._orders: deque[_Order] = deque()
        self._wake = threading.Event()
        self._closing = False
        self._deliver: Deliver | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self, deliver: Deliver) -> None:
        """See LoadedModel."""
        self._deliver = deliver
        self._thread.start()

    def submit(self, request_id: str, request: Request) -> None:
        """See LoadedModel. Raises ContextLengthExceeded, ModelIncompatible, ValidationFailed."""
        if not isinstance(request, Embedding):
            raise ModelIncompatible(
                f"{self._name} is an embedding model and writes no text",
                action="Use a text model, or ask for vectors.",
            )
        texts: list[NDArray[np.int32]] = []
        for number, text in enumerate(request.inputs):
            tokens = self._model.vocab.tokenize(text, special=True)
            if not len(tokens):
                raise ValidationFailed(
                    f"input: text {number} is empty", field="input", constraint="not empty"
                )
            check_length(
                len(tokens),
                self.ctx,
                f"input {number}",
                action="Shorten the text, or cut it into several.",
            )
            texts.append(tokens)
        self._orders.append(_Order(request_id, texts, request.normalize))
        self._wake.set()

    def cancel(self, request_id: str) -> None:
        """See LoadedModel."""
        for order in list(self._orders):
            if order.id == request_id:
                order.cancelled = True
        self._wake.set()

    def stats(self) -> Mapping[str, float]:
        """See LoadedModel."""
        return self._stats.as_dict()

    def close(self) -> None:
        """Free context and weights."""
        self._closing = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._pointer:
            library().llama_free(self._pointer)
            self._pointer = None
        self._model.close()
        give_back()

    def _run(self) -> None:
        while not self._closing:
            self._wake.clear()
            self._sweep()
            taken = self._take()
            if not taken:
                self._stats.pause()
                if not self._closing:  # its wake may have been cleared just before
                    self._wake.wait()
                continue
            try:
                self._compute(taken)
            except Exception as exc:  # whatever it is, no request may be left without an end
                error = exc if isinstance(exc, RbeeError) else _defect()
                for order in {id(order): order for order, _ in taken}.values():
                    self._end(order, error)
        for order in list(self._orders):
            self._end(order, _cancelled(order))

    def _take(self) -> list[tuple[_Order, NDArray[np.int32]]]:
        """The texts that come next, as many as fit into one batch."""
        taken: list[tuple[_Order, NDArray[np.int32]]] = []
        room = self._batch.limit
        for order in list(self._orders):
            for text in order.texts[len(order.vectors) :]:
                if len(taken) == _TEXTS or len(text) > room:
                    return taken
                taken.append((order, text))
                room -= len(text)
        return taken

    def _compute(self, taken: list[tuple[_Order, NDArray[np.int32]]]) -> None:
        lib, batch = library(), self._batch
        batch.clear()
        for sequence, (_, text) in enumerate(taken):
            batch.add_input(text, sequence)
        began = self._stats.begin()
        if self._memory is None:
            code = lib.llama_encode(self._pointer, batch.ready())
        else:
            lib.llama_memory_clear(self._memory, False)
            code = lib.llama_decode(self._pointer, batch.ready())
        self._stats.end(began, answers=0, prompt=batch.count)
        if code:
            raise InternalError(
                f"llama.cpp failed to compute vectors (code {code}): {LOG.reason()}"
            )
        for sequence, (order, _) in enumerate(taken):
            order.vectors.append(self._vector(sequence, normalize=order.normalize))

    def _vector(self, sequence: int, *, normalize: bool) -> list[float]:
        pointer = library().llama_get_embeddings_seq(self._pointer, sequence)
        if not pointer:
            raise InternalError("llama.cpp has no vector for a text")
        vector = np.ctypeslib.as_array(pointer, (self._width,)).astype(np.float64)
        if not np.isfinite(vector).all():
            raise InternalError("the model computed no numbers; its weights may be damaged")
        length = float(np.linalg.norm(vector))
        if normalize and length > 0:
            vector = vector / length
        numbers: list[float] = vector.astype(np.float32).tolist()
        return numbers

    def _sweep(self) -> None:
        for order in list(self._orders):
            if len(order.vectors) == len(order.texts):
                tokens = sum(len(text) for text in order.texts)
                self._end(order, Embedded(order.vectors, tokens))
            elif order.cancelled:
                self._end(order, _cancelled(order))

    def _end(self, order: _Order, last: Item) -> None:
        self._orders.remove(order)
        assert self._deliver is not None
        self._deliver([(order.id, last)])


def _defect() -> InternalError:
    log.exception("the engine failed")
    return InternalError("the llama.cpp engine failed")


def _cancelled(order: _Order) -> Done:
    return Done("cancelled", sum(len(text) for text in order.texts), 0)


def _context(model: Model, load: LoadOptions, size: int) -> Any:
    lib = library()
    params = lib.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = size
    params.n_seq_max = _TEXTS
    params.n_threads = params.n_threads_batch = max(1, load.threads)
    params.offload_kqv = params.op_offload = model.on_gpu
    params.flash_attn_type = FLASH[load.flash_attention]
    params.pooling_type = _UNSPECIFIED if model.pooling is not None else _POOLING_MEAN
    params.embeddings = True
    params.kv_unified = True
    params.no_perf = True
    LOG.clear()
    pointer = lib.llama_init_from_model(model.pointer, params)
    if not pointer:
        raise ModelLoadFailed(
            f"llama.cpp cannot make a context of {size} tokens: {LOG.reason()}",
            action="Set worker.ctx to less.",
        )
    return pointer
