"""How much memory a model will take, from its header alone.

Pure arithmetic over the tensor table and the architecture's figures; nothing is loaded or opened.
Weights and KV cache are exact for attention models; the working buffers are an approximation.
Sliding windows are not taken off: the figure is then an upper bound.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from rbee.models.gguf import Header

_F16 = 2
_DEFAULT_CTX = 4096
_UBATCH = 512


class Estimate(NamedTuple):
    """Bytes. KV is per token and sequence, with 16-bit keys and values."""

    weights: int
    kv_per_token: int
    compute: int


def estimate(header: Header, *, ctx: int = _DEFAULT_CTX, ubatch: int = _UBATCH) -> Estimate:
    """The estimate for a context of `ctx` tokens and a physical batch of `ubatch`."""
    width = _int(header.get("embedding_length"))
    inner = max(_per_layer(header.get("feed_forward_length"), 1))
    compute = ubatch * 4 * (6.75 * width + 2 * inner) + ctx * ubatch * 2
    return Estimate(_weights(header), _kv_per_token(header), int(compute))


def _weights(header: Header) -> int:
    """Tied embeddings serve twice and are placed twice."""
    sizes = {tensor.name: tensor.size for tensor in header.tensors}
    tied = sizes.get("token_embd.weight", 0) if "output.weight" not in sizes else 0
    return sum(sizes.values()) + tied


def _kv_per_token(header: Header) -> int:
    layers = _int(header.get("block_count"))
    heads = _per_layer(header.get("attention.head_count"), layers)
    kv_heads = _per_layer(header.get("attention.head_count_kv", heads), layers)
    width = _int(header.get("embedding_length"))
    default = width // max(1, *heads) if heads else 0
    key = _int(header.get("attention.key_length"), default)
    value = _int(header.get("attention.value_length"), default)
    return sum(kv_heads) * (key + value) * _F16


def _per_layer(value: Any, layers: int) -> list[int]:
    """A figure given once for all layers or once per layer; 0 where it is not known."""
    if isinstance(value, list):
        return [_int(item) for item in value[:layers]] or [0]
    return [_int(value)] * layers


def _int(value: Any, default: int = 0) -> int:
    return value if isinstance(value, int) and value >= 0 else default
