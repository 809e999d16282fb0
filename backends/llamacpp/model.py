"""A model's weights in memory: loading with progress, cancel and reasons.

Owns the pointer to the weights and its end. The header was read and checked before this is called;
here only what llama.cpp itself reports is judged.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rbee.errors import Cancelled, ModelCorrupted, ModelIncompatible, ModelLoadFailed

from .native import LOG, find_device, library
from .vocab import Vocab

_ALL_LAYERS = 9999
_SPLIT_NONE = 0


class Model:
    """Weights and vocabulary. `close` when no context uses them any more."""

    def __init__(self, pointer: Any, *, on_gpu: bool) -> None:
        lib = library()
        self.pointer = pointer
        self.on_gpu = on_gpu
        self.vocab = Vocab(pointer)
        self.size: int = lib.llama_model_size(pointer)
        self.trained_ctx: int = lib.llama_model_n_ctx_train(pointer)
        raw = lib.llama_model_chat_template(pointer, None)
        self.chat_template: str | None = raw.decode("utf-8", "replace") if raw else None

    def close(self) -> None:
        """Free the weights."""
        if self.pointer:
            library().llama_model_free(self.pointer)
            self.pointer = None


def load(
    path: Path, device: str, progress: Callable[[float], None], cancelled: threading.Event
) -> Model:
    """Load all of a model onto one device; never a part of it onto another.

    Raises Cancelled, BackendUnavailable, ModelCorrupted, ModelIncompatible, ModelLoadFailed.
    """
    _check_magic(path)
    lib = library()
    params = lib.llama_model_default_params()
    on_gpu = device != "cpu"
    chosen = [find_device(device).handle] if on_gpu else []
    handles = (ctypes.c_void_p * (len(chosen) + 1))(*chosen, None)
    params.devices = ctypes.cast(handles, ctypes.c_void_p).value
    params.n_gpu_layers = _ALL_LAYERS if on_gpu else 0
    if on_gpu:
        params.split_mode, params.main_gpu = _SPLIT_NONE, 0

    def on_progress(fraction: float, _: object) -> bool:
        progress(fraction)
        return not cancelled.is_set()

    callback = lib.llama_progress_callback(on_progress)
    params.progress_callback = callback
    LOG.clear()
    pointer = lib.llama_model_load_from_file(str(path).encode(), params)
    if cancelled.is_set():
        if pointer:
            lib.llama_model_free(pointer)
        raise Cancelled("loading was cancelled")
    if not pointer:
        raise ModelLoadFailed(f"llama.cpp cannot load {path.name}: {LOG.reason()}")
    if not lib.llama_model_has_decoder(pointer) or lib.llama_model_has_encoder(pointer):
        lib.llama_model_free(pointer)
        raise ModelIncompatible(f"{path.name} is no text generator; this backend runs only those")
    return Model(pointer, on_gpu=on_gpu)


def _check_magic(path: Path) -> None:
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as exc:
        raise ModelLoadFailed(f"{path} cannot be read: {exc.strerror}") from exc
    if magic != b"GGUF":
        raise ModelCorrupted(f"{path.name} does not begin as a GGUF file does")
