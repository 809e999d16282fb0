"""Loads a GGUF file onto one device and makes it ready to run.

Owns the order of loading and the meaning of its progress; never chooses another device than asked.
"""

from __future__ import annotations

import threading

from rbee.backend_api import LoadedModel, LoadOptions, ModelFile, Progress
from rbee.errors import Cancelled, ModelIncompatible, ModelLoadFailed, RbeeError

from ..shared import own_template
from . import model as weights
from .context import FLASH, KV_TYPES, Context
from .embedding import EmbeddingModel
from .generate import TextModel
from .native import library

_WEIGHTS_SHARE = 0.95
MAX_SLOTS = 64


class LlamaBackend:
    """See rbee.backend_api.Backend."""

    def load(
        self, model: ModelFile, options: LoadOptions, progress: Progress, cancelled: threading.Event
    ) -> LoadedModel:
        """Load weights, then make the context; both fail with llama.cpp's own last log lines.

        Raises what model.load raises, and ModelLoadFailed for options that cannot be.
        """
        if model.format != "gguf":
            raise ModelIncompatible(f"llamacpp runs GGUF files; {model.id} is {model.format}")
        _check(options)
        progress("loading llama.cpp", 0.0)
        library()
        loaded = weights.load(
            model.path,
            options.device,
            lambda fraction: progress("reading weights", fraction * _WEIGHTS_SHARE),
            cancelled,
        )
        try:
            progress("making the context", _WEIGHTS_SHARE)
            if cancelled.is_set():
                raise Cancelled("loading was cancelled")
            ready = _ready(model.id, loaded, options, progress)
        except RbeeError:
            loaded.close()
            raise
        progress("ready", 1.0)
        return ready


def _ready(
    name: str, loaded: weights.Model, options: LoadOptions, progress: Progress
) -> LoadedModel:
    if loaded.embeds:
        return EmbeddingModel(name, loaded, options)
    template = own_template.of_sources(
        loaded.chat_template, loaded.tool_template, loaded.vocab, name
    )
    if template.fallback is not None:
        progress(f"no chat template, using {template.fallback}", _WEIGHTS_SHARE)
    return TextModel(name, loaded, Context(loaded, options), template, options)


def _check(options: LoadOptions) -> None:
    """Raises ModelLoadFailed: a wrong one would end the process in C."""
    if not 1 <= options.slots <= MAX_SLOTS:
        raise ModelLoadFailed(
            f"llamacpp runs 1 to {MAX_SLOTS} requests at a time, not {options.slots}",
            action=f"Start the worker with --slots {MAX_SLOTS} or less.",
        )
    if options.kv_type not in KV_TYPES:
        raise ModelLoadFailed(
            f"llamacpp keeps no context in {options.kv_type!r}; it has {', '.join(KV_TYPES)}",
            action="Set worker.kv_type to one of them.",
        )
    if options.flash_attention not in FLASH:
        raise ModelLoadFailed(f"flash_attention is one of {', '.join(FLASH)}")
