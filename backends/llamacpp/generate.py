"""A loaded model that writes text: from requests to the engine's tasks.

Owns what is done once per request before it gets a slot: the template, the tokens, the check that
they fit, the grammar. All of that happens in the caller's thread; the engine only computes.
"""

from __future__ import annotations

from collections.abc import Mapping

from rbee.backend_api import Deliver, Generation, LoadOptions, Request
from rbee.errors import ModelIncompatible, ValidationFailed

from ..shared import emitted
from ..shared.engine import Engine
from ..shared.families import MARKERS
from ..shared.fitting import check_length
from ..shared.memory import give_back
from ..shared.prompt import prompt_tokens
from ..shared.task import Task
from ..shared.template import ChatTemplate
from . import grammar
from .context import Context
from .model import Model
from .sampling import Sampler


class TextModel:
    """See rbee.backend_api.LoadedModel."""

    capabilities: tuple[str, ...] = ("text-gen",)

    def __init__(
        self, name: str, model: Model, context: Context, template: ChatTemplate, load: LoadOptions
    ) -> None:
        self.ctx = context.size
        self.memory_bytes = model.taken + context.bytes
        self._name = name
        self._model = model
        self._context = context
        self._template = template
        if template.supports_tools:
            for marker in MARKERS:
                model.vocab.show(marker)
        self._engine = Engine(
            context,
            name="llama.cpp",
            max_gap_ms=load.max_gap_ms,
            cache_bytes=load.prompt_cache_bytes,
            on_device=model.on_gpu,
        )

    def start(self, deliver: Deliver) -> None:
        """See LoadedModel."""
        self._engine.start(deliver)

    def submit(self, request_id: str, request: Request) -> None:
        """See LoadedModel. Raises ContextLengthExceeded, ModelIncompatible, ValidationFailed."""
        if not isinstance(request, Generation):
            raise ModelIncompatible(
                f"{self._name} writes text and makes no vectors",
                action="Use an embedding model.",
            )
        source = grammar.source_of(request, self._template.family)
        prompt = prompt_tokens(request, self._model.vocab, self._template, self.ctx)
        said = emitted.tokens_of(request, self._model.vocab)
        check_length(len(prompt) + len(said), self.ctx, "the prompt with the answer so far")
        sampler = Sampler(request, self._model.vocab, prompt, source)
        try:
            task = Task(
                request_id,
                request,
                prompt=prompt,
                emitted=said,
                sampler=sampler,
                stops=request.stop + (self._template.stops if request.messages else ()),
                size=self.ctx,
                vocab=self._model.vocab,
            )
        except ValidationFailed:
            sampler.close()
            raise
        self._engine.submit(task)

    def cancel(self, request_id: str) -> None:
        """See LoadedModel."""
        self._engine.cancel(request_id)

    def stats(self) -> Mapping[str, float]:
        """See LoadedModel."""
        return self._engine.stats.as_dict()

    def close(self) -> None:
        """Free context and weights."""
        self._engine.close()
        self._context.close()
        self._model.close()
        give_back()


def template_of(model: Model, name: str) -> ChatTemplate:
    """The model's chat template. Raises ModelIncompatible."""
    vocab = model.vocab

    def has_token(text: str) -> bool:
        return len(vocab.tokenize(text, special=False)) == 1

    return ChatTemplate(
        model.chat_template,
        bos=vocab.name(vocab.bos),
        eos=vocab.name(vocab.eos),
        tool_source=model.tool_template,
        has_token=has_token,
        name=name,
    )
