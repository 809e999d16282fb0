"""Loads a model onto one device and makes it ready to run.

Owns the order of loading and the meaning of its progress; never chooses another device than asked.
"""

from __future__ import annotations

import threading
import warnings

import torch
from rbee.backend_api import LoadedModel, LoadOptions, ModelFile, Progress
from rbee.errors import Cancelled, ModelIncompatible, ModelLoadFailed

from ..shared.memory import give_back
from . import reading
from .devices import TorchDevice, find_device
from .embedding import EmbeddingModel
from .generate import TextModel

MAX_SLOTS = 64
_KV_TYPES = ("f16", "bf16", "f32")
_READ = 0.95


class TorchBackend:
    """See rbee.backend_api.Backend."""

    def load(
        self, model: ModelFile, options: LoadOptions, progress: Progress, cancelled: threading.Event
    ) -> LoadedModel:
        """Load weights, then try them out in the slots' memory.

        Raises what reading.load and trial.check raise, and ModelLoadFailed for options that cannot
        be.
        """
        if model.format not in ("safetensors", "gguf"):
            raise ModelIncompatible(
                f"torch runs folders of safetensors and GGUF files; {model.id} is {model.format}"
            )
        _check(options)
        progress("loading torch", 0.0)
        device = find_device(options.device)
        torch.set_num_threads(max(1, options.threads))
        try:
            return self._load(model, options, device, progress, cancelled)
        except BaseException:
            free(device)
            raise

    def _load(
        self,
        model: ModelFile,
        options: LoadOptions,
        device: TorchDevice,
        progress: Progress,
        cancelled: threading.Event,
    ) -> LoadedModel:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of libraries, to developers; errors are raised
            loaded = reading.load(model, device, progress, cancelled)
            progress("making the context", _READ)
            if cancelled.is_set():
                raise Cancelled("loading was cancelled")
            kind = EmbeddingModel if loaded.embeds else TextModel
            with reading.reasons(model):
                ready: LoadedModel = kind(model.id, loaded, options, device)
        progress("ready", 1.0)
        return ready


def free(device: TorchDevice) -> None:
    """Give memory that nothing uses any more back to the system and to the device."""
    import gc

    gc.collect()
    if device.device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.device.type == "xpu":
        torch.xpu.empty_cache()
    elif device.device.type == "mps":
        torch.mps.empty_cache()
    give_back()


def _check(options: LoadOptions) -> None:
    if not 1 <= options.slots <= MAX_SLOTS:
        raise ModelLoadFailed(
            f"torch runs 1 to {MAX_SLOTS} requests at a time, not {options.slots}",
            action=f"Start the worker with --slots {MAX_SLOTS} or less.",
        )
    if options.kv_type not in _KV_TYPES:
        raise ModelLoadFailed(
            f"torch keeps keys and values as the model computes them, not in {options.kv_type!r}",
            action=f"Set worker.kv_type to one of {', '.join(_KV_TYPES)}.",
        )
