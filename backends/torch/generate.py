"""A loaded model that writes text, computed by a network of transformers in slots."""

from __future__ import annotations

from typing import Any

from rbee.backend_api import Generation, LoadOptions
from rbee.errors import ModelIncompatible, ModelLoadFailed

from ..shared import own_template, text_model
from ..shared.engine import Engine
from ..shared.hf_vocab import Vocab
from ..shared.sampling import Sampler
from ..shared.shapes import refuse_shapes
from . import trial
from .context import Context
from .devices import TorchDevice
from .masks import Masks
from .reading import Loaded


class TextModel(text_model.TextModel):
    """See shared.text_model."""

    def __init__(self, name: str, loaded: Loaded, load: LoadOptions, device: TorchDevice) -> None:
        """Raises DeviceFailed, ModelIncompatible, ModelLoadFailed."""
        size, config = _vocabulary_size(loaded), loaded.config.get_text_config()
        _check_ctx(load.ctx, config)
        vocab = Vocab(loaded.tokenizer, size=size, ends=_ends(loaded))
        template = own_template.of_tokenizer(loaded.tokenizer, vocab, name)
        self._context = Context(
            loaded.network,
            slots=load.slots,
            size=load.ctx,
            vocab_size=size,
            masks=Masks.of(config),
        )
        trial.check(loaded.network, self._context, vocab_size=size)
        engine = Engine(
            self._context,
            name="torch",
            max_gap_ms=load.max_gap_ms,
            cache_bytes=load.prompt_cache_bytes,
            on_device=True,
        )
        super().__init__(name, vocab=vocab, template=template, engine=engine, apart=True)
        self.ctx = load.ctx
        self.memory_bytes = loaded.bytes + self._context.bytes
        self._device = device
        self._loaded: Loaded | None = loaded

    def close(self) -> None:
        """Free context and weights."""
        from .backend import free  # it imports this module

        self._engine.close()
        self._context.close()
        self._loaded = None
        free(self._device)

    def _sampling(self, request: Generation) -> text_model.Sampling:
        refuse_shapes(request, "torch")
        return lambda prompt: Sampler(request, self._vocab, prompt)


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
