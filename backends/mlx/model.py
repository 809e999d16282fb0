"""A loaded model that writes text with mlx-lm's batches."""

from __future__ import annotations

import mlx.core as mx

from rbee.backend_api import Generation, LoadOptions

from ..shared import text_model
from ..shared.hf_vocab import Vocab
from ..shared.sampling import Sampler
from ..shared.shapes import refuse_shapes
from ..shared.template import ChatTemplate
from .engine import Engine
from .loading import Weights, give_back


class TextModel(text_model.TextModel):
    """See shared.text_model."""

    def __init__(
        self,
        name: str,
        weights: Weights,
        vocab: Vocab,
        template: ChatTemplate,
        load: LoadOptions,
        *,
        size: int,
        device: mx.Device,
    ) -> None:
        """`size`: tokens of each slot's context."""
        engine = Engine(
            weights.model,
            device=device,
            slots=load.slots,
            max_gap_ms=load.max_gap_ms,
            cache_bytes=load.prompt_cache_bytes,
        )
        super().__init__(name, vocab=vocab, template=template, engine=engine)
        self.ctx = size
        self.memory_bytes = weights.size + weights.kv_per_token * size * load.slots
        """With all contexts full; MLX takes memory for them as they grow."""

    def close(self) -> None:
        """Free contexts and weights."""
        self._engine.close()
        give_back()

    def _sampling(self, request: Generation) -> text_model.Sampling:
        refuse_shapes(request, "mlx")
        return lambda prompt: Sampler(request, self._vocab, prompt)
