"""A loaded model that writes text: from requests to the engine's tasks.

Owns what is done once per request before it gets a slot: the template, the tokens, the check that
they fit, the refusal of shapes. All of that happens in the caller's thread.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rbee.backend_api import Deliver, Generation, LoadOptions, Request
from rbee.errors import ModelIncompatible, ModelLoadFailed

from ..shared import emitted
from ..shared.engine import Engine
from ..shared.families import MARKERS
from ..shared.fitting import check_length
from ..shared.hf_vocab import Vocab
from ..shared.prompt import prompt_tokens
from ..shared.sampling import Sampler
from ..shared.shapes import refuse_shapes
from ..shared.task import Task
from ..shared.template import ChatTemplate
from . import trial
from .context import Context
from .devices import TorchDevice
from .masks import Masks
from .reading import Loaded


class TextModel:
    """See rbee.backend_api.LoadedModel."""

    capabilities: tuple[str, ...] = ("text-gen",)

    def __init__(self, name: str, loaded: Loaded, load: LoadOptions, device: TorchDevice) -> None:
        """Raises ModelIncompatible, ModelLoadFailed."""
        size, config = _vocabulary_size(loaded), loaded.config.get_text_config()
        _check_ctx(load.ctx, config)
        self.ctx = load.ctx
        self._name = name
        self._device = device
        self._loaded: Loaded | None = loaded
        self._vocab = Vocab(loaded.tokenizer, size=size, ends=_ends(loaded))
        self._template = template_of(loaded.tokenizer, self._vocab, name)
        if self._template.supports_tools:
            for marker in MARKERS:
                self._vocab.show(marker)
        self._context = Context(
            loaded.network,
            slots=load.slots,
            size=load.ctx,
            vocab_size=size,
            masks=Masks.of(config),
        )
        trial.check(loaded.network, self._context, vocab_size=size)
        self.memory_bytes = loaded.bytes + self._context.bytes
        self._engine = Engine(
            self._context,
            name="torch",
            max_gap_ms=load.max_gap_ms,
            cache_bytes=load.prompt_cache_bytes,
            on_device=True,
        )

    def start(self, deliver: Deliver) -> None:
        """See LoadedModel."""
        self._engine.start(deliver)

    def submit(self, request_id: str, request: Request) -> None:
        """See LoadedModel. Raises ContextLengthExceeded, ModelIncompatible, ValidationFailed."""
        if not isinstance(request, Generation):
            raise ModelIncompatible(
                f"{self._name} writes text and makes no vectors", action="Use an embedding model."
            )
        refuse_shapes(request, "torch")
        prompt = prompt_tokens(request, self._vocab, self._template, self.ctx)
        said = emitted.tokens_of(request, self._vocab)
        check_length(len(prompt) + len(said), self.ctx, "the prompt with the answer so far")
        task = Task(
            request_id,
            request,
            prompt=prompt,
            emitted=said,
            sampler=Sampler(request, self._vocab, prompt),
            stops=request.stop + (self._template.stops if request.messages else ()),
            size=self.ctx,
            vocab=self._vocab,
            apart=request.seed is not None,
        )
        self._engine.submit(task)

    def cancel(self, request_id: str) -> None:
        """See LoadedModel."""
        self._engine.cancel(request_id)

    def stats(self) -> Mapping[str, float]:
        """See LoadedModel."""
        return self._engine.stats.as_dict()

    def close(self) -> None:
        """Free context and weights."""
        from .backend import free  # it imports this module

        self._engine.close()
        self._context.close()
        self._loaded = None
        free(self._device)


def template_of(tokenizer: Any, vocab: Vocab, name: str) -> ChatTemplate:
    """The model's chat template, which came with its tokenizer. Raises ModelIncompatible."""
    told: Any = tokenizer.chat_template
    several: dict[str, str] = dict(told) if isinstance(told, Mapping) else {"default": told}

    def has_token(text: str) -> bool:
        return len(vocab.tokenize(text, special=False)) == 1

    return ChatTemplate(
        several.get("default"),
        bos=vocab.name(vocab.bos),
        eos=vocab.name(vocab.eos),
        tool_source=several.get("tool_use"),
        has_token=has_token,
        name=name,
    )


def _vocabulary_size(loaded: Loaded) -> int:
    """Of a row of logits: models pad their tables beyond the tokenizer's."""
    output = loaded.network.get_output_embeddings()
    if output is None:
        raise ModelIncompatible(f"{type(loaded.network).__name__} has no output over tokens")
    return int(output.weight.shape[0])


def _ends(loaded: Loaded) -> frozenset[int]:
    found: set[int] = set()
    for told in (loaded.config, getattr(loaded.network, "generation_config", None)):
        ends: Any = getattr(told, "eos_token_id", None)
        found |= {ends} if isinstance(ends, int) else set(ends or ())
    return frozenset(found)


def _check_ctx(ctx: int, config: Any) -> None:
    """Raises ModelLoadFailed: positions beyond the trained ones give nonsense, or no numbers."""
    trained = getattr(config, "max_position_embeddings", None)
    if isinstance(trained, int) and ctx > trained > 0:
        raise ModelLoadFailed(
            f"a context of {ctx} tokens was asked for; the model has positions for {trained}",
            action=f"Set worker.ctx to {trained} or less.",
        )
    if ctx < 2:
        raise ModelLoadFailed(f"a context of {ctx} tokens has no room for an answer")
