"""A loaded model that writes text in llama.cpp's context, in any shape that a grammar can say."""

from __future__ import annotations

from rbee.backend_api import Generation, LoadOptions

from ..shared import text_model
from ..shared.engine import Engine
from ..shared.memory import give_back
from ..shared.template import ChatTemplate
from . import grammar
from .context import Context
from .model import Model
from .sampling import Sampler


class TextModel(text_model.TextModel):
    """See shared.text_model."""

    def __init__(
        self, name: str, model: Model, context: Context, template: ChatTemplate, load: LoadOptions
    ) -> None:
        engine = Engine(
            context,
            name="llama.cpp",
            max_gap_ms=load.max_gap_ms,
            cache_bytes=load.prompt_cache_bytes,
            on_device=model.on_gpu,
        )
        super().__init__(name, vocab=model.vocab, template=template, engine=engine)
        self.ctx = context.size
        self.memory_bytes = model.taken + context.bytes
        self._model = model
        self._context = context

    def close(self) -> None:
        """Free context and weights."""
        self._engine.close()
        self._context.close()
        self._model.close()
        give_back()

    def _sampling(self, request: Generation) -> text_model.Sampling:
        source = grammar.source_of(request, self._template.family)
        return lambda prompt: Sampler(request, self._model.vocab, prompt, source)
