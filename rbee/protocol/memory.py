"""What a model takes of a device's memory besides its weights: the figures that travel with it.

Names and tables only; ModelInfo in rbee.protocol.hives does the arithmetic.
"""

from __future__ import annotations

from rbee.protocol.base import Whole, Wire

KV_BITS = {
    "f32": 32.0, "f16": 16.0, "bf16": 16.0, "q8_0": 8.5, "q5_1": 6.0, "q5_0": 5.5, "q4_1": 5.0,
    "q4_0": 4.5, "iq4_nl": 4.5,
}  # fmt: skip
"""How keys and values can be kept → bits each number takes, block scales included."""
UNPACKED = {"torch": 2}
"""Backend that unpacks the weights of a GGUF file → bytes each of them then takes."""
UNKNOWN_BYTES = 64 << 20
"""What a model of unknown weights is taken to need, margin included (echo, models of plug-ins)."""
DEVICE_BYTES = {"cuda": 400 << 20, "hip": 400 << 20}
"""Kind of device → what every process takes there before it has loaded anything (300–500 MiB)."""
LEAST_MARGIN = 512 << 20
"""Left free at least: it also holds the process itself (some 100 MiB) and its prompt cache."""
MOST_MEASURED = 16
"""Measurements that travel with a model at most, the latest first."""
CTX_STEP = 256
"""A context is rounded up to this many tokens."""
UBATCH = 512
"""Tokens a worker computes at a time."""
COMPUTE_CTX = 4096
"""compute_bytes holds the masks of so much context."""
MASK_BYTES = 2 * UBATCH
"""Of a token of context that is looked at."""
TEXTS = 64
"""Texts that a model of vectors computes at once at most."""


class KvWindow(Wire, frozen=True, kw_only=True):
    """Layers that look back `tokens` tokens only, all of them together. 16-bit keys and values."""

    tokens: Whole
    bytes_per_token: Whole


class Measured(Wire, frozen=True, kw_only=True):
    """What a worker of this shape really took once it had loaded, as its backend told it."""

    backend: str
    device_kind: str
    ctx: Whole
    """Of each slot, rounded up to CTX_STEP."""
    slots: Whole
    kv_type: str
    flash: bool
    bytes: Whole
    """On the device: weights, contexts and working buffers; no margin, no driver's own."""


def padded(value: int, step: int = CTX_STEP) -> int:
    """Rounded up to a multiple of `step`."""
    return -(-value // step) * step
