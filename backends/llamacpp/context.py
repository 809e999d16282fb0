"""The working memory of all slots: the KV cache and the call that computes.

Owns the C context and every bound it must not be called beyond: more tokens than the batch, more
positions than a sequence has, a partial copy between sequences end the process in C, so here they
are errors. Used by one thread only. Knows sequences by number and nothing of requests.

Each slot has a KV stream of its own (`kv_unified` off): a shared one computes attention over the
cells of all. Models with a recurrent state keep one, since that state cannot be cut.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rbee.backend_api import LoadOptions
from rbee.errors import InternalError, ModelLoadFailed

from ..shared.context import KvFull
from .batch import Batch
from .model import Model
from .native import LOG, library, quick

N_UBATCH = 512
_N_BATCH_GPU = 2048
_NO_ROOM = 1
_LEAST_TRAINED = 4096
_STRETCH = 8
_PADDING = 256
"""llama.cpp rounds a sequence's length up to this."""
FLASH = {"auto": -1, "off": 0, "on": 1}
KV_TYPES = {
    "f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8, "iq4_nl": 20,
    "bf16": 30,
}  # fmt: skip
"""Names of ggml's types that the KV cache can have, as in llama.cpp's --cache-type-k."""


class Context:
    """Sequences 0 … slots-1 of up to `size` tokens each."""

    def __init__(self, model: Model, options: LoadOptions) -> None:
        _check_size(options.ctx, model.trained_ctx, learned=model.learned_positions)
        lib = library()
        params = _params(lib, model, options)
        LOG.clear()
        pointer = lib.llama_init_from_model(model.pointer, params)
        if not pointer:
            raise ModelLoadFailed(
                f"llama.cpp cannot make {options.slots} contexts of {options.ctx} tokens:"
                f" {LOG.reason()}",
                action="Set worker.ctx or worker.slots to less.",
            )
        self.pointer = pointer
        self.slots = options.slots
        self.adjacent: bool = not params.kv_unified and options.slots > 1
        """Only sequences with neighbouring numbers are computed together, in ascending order."""
        most = model.trained_ctx if model.learned_positions else _padded(options.ctx)
        self.size: int = min(lib.llama_n_ctx_seq(pointer), _padded(options.ctx), most)
        self.bytes = LOG.buffer_bytes(model.gpu)
        self.batch = Batch(lib.llama_n_batch(pointer))
        self._decode = lib.llama_decode
        self._logits = quick("llama_get_logits")
        self._vocab_size = model.vocab.size
        self._window: int = lib.llama_model_n_swa(model.pointer)
        self._memory: Any = lib.llama_get_memory(pointer)
        self._copied: set[int] = set()
        self._views: dict[int, NDArray[np.float32]] = {}

    def decode(self) -> None:
        """Compute what is in the batch.

        Raises KvFull when there is no cell left: the batch may then be tried again after something
        was forgotten. Raises InternalError when the computation failed: nothing in the KV cache
        can be relied upon after that.
        """
        code = self._decode(self.pointer, self.batch.ready())
        self._copied.clear()
        if code == _NO_ROOM:
            raise KvFull
        if code:
            raise InternalError(f"llama.cpp failed to decode (code {code}): {LOG.reason()}")

    def logits(self) -> NDArray[np.float32]:
        """Rows of the last decode, (rows, vocabulary), writable, valid until the next one."""
        address = ctypes.cast(self._logits(self.pointer), ctypes.c_void_p).value
        if not address:
            raise InternalError("llama.cpp has no logits")
        view = self._views.get(address)
        if view is None:
            numbers: Any = (ctypes.c_float * (self.slots * self._vocab_size)).from_address(address)
            view = np.frombuffer(numbers, np.float32).reshape(self.slots, self._vocab_size)
            self._views = {address: view}
        return view[: self.batch.rows]

    def forget(self, sequence: int, keep: int = 0) -> int:
        """Drop a sequence's positions from `keep` on; returns how many are left.

        Less than asked are left where a part cannot be dropped: recurrent states, and sliding
        windows that have lost what comes before.
        """
        if self._memory is None:
            return 0
        drop = quick("llama_memory_seq_rm")
        cuts = keep > 0 and self._reaches_back(sequence, keep)
        if cuts and drop(self._memory, sequence, keep, -1):
            return keep
        drop(self._memory, sequence, -1, -1)
        return 0

    def copy(self, source: int, target: int) -> None:
        """Make a sequence hold what another holds; done by the library at the next decode."""
        self.forget(target)
        quick("llama_memory_seq_cp")(self._memory, source, target, -1, -1)
        self._copied |= {source, target}

    def state_bytes(self, sequence: int) -> int:
        """How long `save` makes it; 0 when it cannot be saved now."""
        if self._memory is None or sequence in self._copied:
            return 0
        return int(library().llama_state_seq_get_size(self.pointer, sequence))

    def save(self, sequence: int, into: NDArray[np.uint8]) -> bool:
        """Write a sequence's state; whether it was written whole."""
        pointer = ctypes.cast(into.ctypes.data, ctypes.POINTER(ctypes.c_uint8))
        size = len(into)
        done = library().llama_state_seq_get_data(self.pointer, pointer, size, sequence)
        return done == size

    def restore(self, sequence: int, state: NDArray[np.uint8]) -> bool:
        """Make a sequence hold a saved state; when that fails it holds nothing."""
        if sequence in self._copied:
            return False
        self.forget(sequence)
        pointer = ctypes.cast(state.ctypes.data, ctypes.POINTER(ctypes.c_uint8))
        lib = library()
        if lib.llama_state_seq_set_data(self.pointer, pointer, len(state), sequence):
            return True
        self.forget(sequence)
        return False

    def close(self) -> None:
        """Free the KV cache and the buffers."""
        if self.pointer:
            self._views.clear()
            library().llama_free(self.pointer)
            self.pointer = None

    def _reaches_back(self, sequence: int, keep: int) -> bool:
        """Whether what attention at position `keep` looks at is still there."""
        if self._window <= 0:
            return True
        oldest: int = quick("llama_memory_seq_pos_min")(self._memory, sequence)
        return 0 <= oldest <= max(0, keep - self._window)


def _params(lib: Any, model: Model, options: LoadOptions) -> Any:
    params = lib.llama_context_default_params()
    slots = options.slots
    params.n_ctx = _padded(options.ctx) * slots
    params.n_seq_max = slots
    params.n_ubatch = N_UBATCH
    params.n_batch = _N_BATCH_GPU if model.on_gpu else N_UBATCH
    params.n_outputs_max = slots  # one row of logits a slot: a row for each token costs 100 MB
    params.n_threads = params.n_threads_batch = max(1, options.threads)
    params.offload_kqv = params.op_offload = model.on_gpu
    params.flash_attn_type = FLASH[options.flash_attention]
    params.type_k = params.type_v = KV_TYPES[options.kv_type]
    params.kv_unified = model.recurrent
    params.swa_full = False  # the cost of it is a prompt computed again, see `forget`
    params.no_perf = True
    return params


def _padded(ctx: int) -> int:
    return -(-ctx // _PADDING) * _PADDING


def _check_size(ctx: int, trained: int, *, learned: bool) -> None:
    """The library fills tables of some 50 bytes a token before it asks for the memory itself.

    A model with a learned table of positions has none beyond it: that ends the process in C.
    """
    most = trained if learned else max(trained, _LEAST_TRAINED) * _STRETCH
    if ctx > most:
        raise ModelLoadFailed(
            f"a context of {ctx} tokens was asked for; the model was trained for {trained},"
            f" and more than {most} make no sense",
            action=f"Set worker.ctx to {trained or most} or less.",
        )
