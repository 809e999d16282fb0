"""A loaded model that turns texts into vectors.

Texts of one request are computed in batches of like length, one request after the other. Vectors
are computed in the numbers the model was loaded in and pooled in 32 bits.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

import torch
from rbee.backend_api import (
    Done,
    Embedded,
    Embedding,
    LoadOptions,
    Piece,
    Prefill,
    Request,
    ThreadedModel,
)
from rbee.errors import InternalError, ModelIncompatible, ValidationFailed

from ..shared.fitting import check_length
from ..shared.hf_vocab import Vocab
from . import pooling
from .devices import TorchDevice, computing
from .reading import Loaded

_TEXTS = 32
_TOKENS = 8192
"""Of one batch, counted with its padding."""


class EmbeddingModel(ThreadedModel):
    """See rbee.backend_api.LoadedModel."""

    capabilities: tuple[str, ...] = ("embedding",)

    def __init__(self, name: str, loaded: Loaded, load: LoadOptions, device: TorchDevice) -> None:
        """Raises ModelCorrupted, ModelIncompatible."""
        super().__init__(slots=1)
        self._name = name
        self._device = device
        self._loaded: Loaded | None = loaded
        names = [str(one) for one in getattr(loaded.config, "architectures", None) or ()]
        self._causal = any(one.endswith("ForCausalLM") for one in names)
        self._pooling = pooling.of(loaded.folder, causal=self._causal)
        trained = getattr(loaded.config, "max_position_embeddings", None) or load.ctx
        offset = getattr(loaded.config, "pad_token_id", None) or 0
        if getattr(loaded.config, "position_embedding_type", None) == "absolute" and offset:
            trained -= offset + 1  # RoBERTa counts positions from behind its padding token's id
        self.ctx = min(load.ctx, trained)
        self._vocab = Vocab(loaded.tokenizer, size=loaded.config.vocab_size)
        self.memory_bytes = loaded.bytes

    def run(
        self, request: Request, cancelled: threading.Event
    ) -> Iterator[Piece | Prefill | Done | Embedded]:
        """See ThreadedModel. Raises ContextLengthExceeded, ModelIncompatible, ValidationFailed."""
        if not isinstance(request, Embedding):
            raise ModelIncompatible(
                f"{self._name} is an embedding model and writes no text",
                action="Use a text model, or ask for vectors.",
            )
        texts = [self._tokens(number, text) for number, text in enumerate(request.inputs)]
        total, done = sum(map(len, texts)), 0
        vectors: list[list[float]] = [[] for _ in texts]
        for batch in _batches(texts):
            if cancelled.is_set():
                yield Done("cancelled", total, 0)
                return
            made = self._compute([texts[place] for place in batch])
            for place, vector in zip(batch, made, strict=True):
                vectors[place] = _told(vector, normalize=request.normalize)
            done += sum(len(texts[place]) for place in batch)
            yield Prefill(done, total)
        yield Embedded(vectors, total)

    def close(self) -> None:
        """Free the weights."""
        from .backend import free  # it imports this module

        super().close()
        self._loaded = None
        free(self._device)

    def _tokens(self, number: int, text: str) -> list[int]:
        tokens = self._vocab.around(text)
        if not tokens:
            raise ValidationFailed(
                f"input: text {number} is empty", field="input", constraint="not empty"
            )
        what = f"input {number}"
        check_length(
            len(tokens), self.ctx, what, action="Shorten the text, or cut it into several."
        )
        return tokens

    def _compute(self, texts: list[list[int]]) -> np.ndarray:
        """(texts, width), 64 bits. Raises DeviceFailed, InternalError."""
        assert self._loaded is not None
        network: Any = self._loaded.network
        longest = max(map(len, texts))
        ids = torch.zeros((len(texts), longest), dtype=torch.long)
        seen = torch.zeros_like(ids)
        for row, text in enumerate(texts):
            ids[row, : len(text)] = torch.tensor(text)
            seen[row, : len(text)] = 1
        with computing("to compute vectors"):
            seen = seen.to(network.device)
            made = network(input_ids=ids.to(network.device), attention_mask=seen)
            states = made.last_hidden_state.float()
            return pooling.pool(states, seen.sum(1), self._pooling).double().cpu().numpy()


def _batches(texts: list[list[int]]) -> Iterator[list[int]]:
    """Places of texts to be computed together, the shortest first."""
    batch: list[int] = []
    for place in sorted(range(len(texts)), key=lambda at: len(texts[at])):
        if batch and (len(batch) == _TEXTS or (len(batch) + 1) * len(texts[place]) > _TOKENS):
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


def _told(vector: np.ndarray, *, normalize: bool) -> list[float]:
    if not np.isfinite(vector).all():
        raise InternalError("the model computed no numbers; its weights may be damaged")
    length = float(np.linalg.norm(vector))
    if normalize and length > 0:
        vector = vector / length
    numbers: list[float] = vector.astype(np.float32).tolist()
    return numbers
