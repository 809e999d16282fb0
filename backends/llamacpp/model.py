"""A model's weights in memory: loading with progress, cancel and reasons.

Owns the pointer to the weights and its end. The header was read and checked before this is called;
here only what llama.cpp itself reports is judged.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rbee.errors import Cancelled, ModelCorrupted, ModelIncompatible, ModelLoadFailed, RbeeError

from ..shared.memory import give_back
from .devices import NativeDevice, check_offload, check_room, find_device
from .native import LOG, library
from .vocab import Vocab

_ALL_LAYERS = 9999
_SPLIT_NONE = 0
_ROPE_NONE = -1
_LONGEST_VALUE = 256


class Model:
    """Weights and vocabulary. `close` when no context uses them any more."""

    def __init__(self, pointer: Any, *, gpu: str | None = None) -> None:
        """`gpu`: ggml's name of the device that has it, right after the load; None: the CPU."""
        lib = library()
        self.pointer = pointer
        self.gpu = gpu
        self.on_gpu = gpu is not None
        self.vocab = Vocab(pointer)
        self.size: int = lib.llama_model_size(pointer)
        self.taken: int = (LOG.buffer_bytes(gpu) if gpu else 0) or self.size
        """Bytes of its device. The table of embeddings is not on a GPU; on the CPU the log tells of
        mapped file and reordered copies, of which the system takes the former back."""
        self.trained_ctx: int = lib.llama_model_n_ctx_train(pointer)
        self.recurrent: bool = lib.llama_model_is_recurrent(pointer) or lib.llama_model_is_hybrid(
            pointer
        )
        unrotated = lib.llama_model_rope_type(pointer) == _ROPE_NONE
        self.learned_positions: bool = unrotated and not self.recurrent
        self.chat_template = _template(lib, pointer, None)
        self.tool_template = _template(lib, pointer, b"tool_use")
        """One for conversations with tools, where the model has two."""
        architecture = _metadata(lib, pointer, "general.architecture") or ""
        self.pooling = _metadata(lib, pointer, f"{architecture}.pooling_type")
        """How it makes one vector of a text; None where the file does not say."""
        causal = _metadata(lib, pointer, f"{architecture}.attention.causal")
        self.embeds: bool = causal == "false" or self.pooling not in (None, "0")
        """Whether it was made to turn texts into vectors."""

    def close(self) -> None:
        """Free the weights and give the memory back to the system."""
        if self.pointer:
            library().llama_model_free(self.pointer)
            self.pointer = None
            give_back()


def load(
    path: Path, device: str, progress: Callable[[float], None], cancelled: threading.Event
) -> Model:
    """Load all of a model onto one device; never a part of it onto another.

    `progress` is called with 0..1 as the weights are read; the load ends at the first such call
    after `cancelled` was set.

    Raises Cancelled, BackendUnavailable, InsufficientVram, ModelCorrupted, ModelIncompatible,
    ModelLoadFailed.
    """
    size = _check_magic(path)
    lib = library()
    gpu = find_device(device) if device != "cpu" else None
    if gpu is not None:
        check_room(gpu, path, size)
    pointer = _read(lib, path, gpu, progress, cancelled)
    try:
        if gpu is not None:
            check_offload(gpu)
        if not lib.llama_model_has_decoder(pointer) or lib.llama_model_has_encoder(pointer):
            raise ModelIncompatible(
                f"{path.name} is a model with an encoder of its own (as T5 is); this backend runs"
                " text generators and embedding models"
            )
        return Model(pointer, gpu=gpu.native if gpu is not None else None)
    except RbeeError:
        lib.llama_model_free(pointer)
        raise


def _template(lib: Any, pointer: Any, name: bytes | None) -> str | None:
    raw = lib.llama_model_chat_template(pointer, name)
    return raw.decode("utf-8", "replace") if raw else None


def _metadata(lib: Any, pointer: Any, key: str) -> str | None:
    """A value of the file's header as text; None where there is none or it is long."""
    room = ctypes.create_string_buffer(_LONGEST_VALUE)
    count = lib.llama_model_meta_val_str(pointer, key.encode(), room, _LONGEST_VALUE)
    return room.value.decode("utf-8", "replace") if 0 <= count < _LONGEST_VALUE else None


def _read(
    lib: Any,
    path: Path,
    gpu: NativeDevice | None,
    progress: Callable[[float], None],
    cancelled: threading.Event,
) -> Any:
    """The pointer to the loaded weights."""
    params = lib.llama_model_default_params()
    handles = (ctypes.c_void_p * 2)(gpu.handle if gpu is not None else None, None)
    params.devices = ctypes.cast(handles, ctypes.c_void_p).value
    params.n_gpu_layers = _ALL_LAYERS if gpu is not None else 0
    if gpu is not None:
        params.split_mode, params.main_gpu = _SPLIT_NONE, 0
    broken: list[Exception] = []

    def on_progress(fraction: float, _: object) -> bool:
        try:
            progress(fraction)
        except Exception as exc:  # nothing may pass through C: kept, and raised after it
            broken.append(exc)
        return not broken and not cancelled.is_set()

    callback = lib.llama_progress_callback(on_progress)
    params.progress_callback = callback
    LOG.clear()
    pointer = lib.llama_model_load_from_file(os.fsencode(path), params)
    if pointer and not broken and not cancelled.is_set():
        return pointer
    if pointer:
        lib.llama_model_free(pointer)
    give_back()
    if broken:
        raise broken[0]
    if cancelled.is_set():
        raise Cancelled("loading was cancelled")
    raise ModelLoadFailed(f"llama.cpp cannot load {path.name}: {LOG.reason()}")


def _check_magic(path: Path) -> int:
    """The file's size in bytes."""
    try:
        with path.open("rb") as file:
            magic = file.read(4)
            size = os.fstat(file.fileno()).st_size
    except (OSError, ValueError) as exc:
        raise ModelLoadFailed(f"{path} cannot be read: {exc}") from exc
    if magic != b"GGUF":
        raise ModelCorrupted(f"{path.name} does not begin as a GGUF file does")
    return size
