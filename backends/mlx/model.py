"""A loaded model: from requests to the engine's tasks.

Owns what is done once per request, in the caller's thread: the refusal of what this backend does
not do, the template, the tokens, and the check that they fit.
"""

from __future__ import annotations

from collections.abc import Mapping

import mlx.core as mx

from rbee.backend_api import Deliver, Generation, LoadOptions, Request
from rbee.errors import ModelIncompatible

from ..shared import emitted
from ..shared.families import MARKERS
from ..shared.fitting import check_length
from ..shared.hf_vocab import Vocab
from ..shared.prompt import prompt_tokens
from ..shared.sampling import Sampler
from ..shared.shapes import refuse_shapes
from ..shared.task import Task
from ..shared.template import ChatTemplate
from .engine import Engine
from .loading import Weights, give_back


class MlxModel:
    """See rbee.backend_api.LoadedModel."""

    capabilities: tuple[str, ...] = ("text-gen",)

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
        self.ctx = size
        self.memory_bytes = weights.size + weights.kv_per_token * size * load.slots
        """With all contexts full; MLX takes memory for them as they grow."""
        self._name = name
        self._vocab = vocab
        self._template = template
        if template.supports_tools:
            for marker in MARKERS:
                vocab.show(marker)
        self._engine = Engine(
            weights.model,
            device=device,
            slots=load.slots,
            max_gap_ms=load.max_gap_ms,
            cache_bytes=load.prompt_cache_bytes,
        )

    def start(self, deliver: Deliver) -> None:
        """See LoadedModel."""
        self._engine.start(deliver)

    def submit(self, request_id: str, request: Request) -> None:
        """See LoadedModel. Raises ContextLengthExceeded, ModelIncompatible, ValidationFailed."""
        if not isinstance(request, Generation):
            raise ModelIncompatible(
                f"{self._name} writes text: mlx makes no vectors here",
                action="Use an embedding model with torch or llamacpp.",
            )
        refuse_shapes(request, "mlx")
        prompt = prompt_tokens(request, self._vocab, self._template, self.ctx)
        said = emitted.tokens_of(request, self._vocab)
        check_length(len(prompt) + len(said), self.ctx, "the prompt with the answer so far")
        sampler = Sampler(request, self._vocab, prompt)
        task = Task(
            request_id,
            request,
            prompt=prompt,
            emitted=said,
            sampler=sampler,
            stops=request.stop + (self._template.stops if request.messages else ()),
            size=self.ctx,
            vocab=self._vocab,
        )
        self._engine.submit(task)

    def cancel(self, request_id: str) -> None:
        """See LoadedModel."""
        self._engine.cancel(request_id)

    def stats(self) -> Mapping[str, float]:
        """See LoadedModel."""
        return self._engine.stats.as_dict()

    def close(self) -> None:
        """Free contexts and weights."""
        self._engine.close()
        give_back()
