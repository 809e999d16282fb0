"""Loads a GGUF file onto one device and makes it ready to run.

Owns the order of loading and the meaning of its progress; never chooses another device than asked.
"""

from __future__ import annotations

import threading

from rbee.backend_api import LoadOptions, ModelFile, Progress
from rbee.errors import ModelIncompatible, ModelLoadFailed, RbeeError

from . import model as weights
from .context import Context
from .generate import LlamaModel
from .native import library

_WEIGHTS_SHARE = 0.95


class LlamaBackend:
    """See rbee.backend_api.Backend."""

    def load(
        self, model: ModelFile, options: LoadOptions, progress: Progress, cancelled: threading.Event
    ) -> LlamaModel:
        """Load weights, then make the context; both fail with llama.cpp's own last log lines."""
        if model.format != "gguf":
            raise ModelIncompatible(f"llamacpp runs GGUF files; {model.id} is {model.format}")
        if options.slots != 1:
            raise ModelLoadFailed(
                f"llamacpp runs 1 request at a time, {options.slots} slots were asked for",
                action="Start the worker with --slots 1.",
            )
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
            context = Context(loaded, ctx=options.ctx, threads=options.threads)
            try:
                ready = LlamaModel(loaded, context)
            except RbeeError:
                context.close()
                raise
        except RbeeError:
            loaded.close()
            raise
        progress("making the context", 1.0)
        return ready
