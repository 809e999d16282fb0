"""How much memory a model will take, from its header alone.

Pure arithmetic over the tensor table and the architecture's figures; nothing is loaded or opened.
What it finds goes into a ModelInfo, whose methods turn it into bytes for a context, slots and KV
type. Everything is of a worker as backends/llamacpp makes it: a KV stream of its own for each slot,
512 tokens computed at a time, one row of logits a slot.

Exact (against llama.cpp's own buffer sizes): weights, and keys and values of attention layers,
sliding windows included. An approximation: the working buffers. Where a header does not say enough
the figure is the larger one: sliding windows of architectures that are not in the table are counted
as whole contexts, values of latent attention (MLA, as DeepSeek has) are counted though some
versions keep none, and layers that keep a recurrent state are taken for attention layers unless the
header tells them apart. The states of Mamba and its kind are told by the header's `ssm.` figures;
those of RWKV are not, and are small.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from rbee.models.gguf import Header, Tensor
from rbee.protocol.memory import COMPUTE_CTX, MASK_BYTES, UBATCH

_F16, _F32 = 2, 4
_EMBEDDING, _OUTPUT = "token_embd.weight", "output.weight"
_REPACKED = frozenset({"Q4_0", "Q4_K", "Q2_K", "IQ4_NL"})
"""Types that llama.cpp may keep in another order for the CPU's matrix instructions."""
_PERIODS = {
    "gemma2": 2, "gemma3": 6, "gemma3n": 5, "gpt-oss": 2, "cohere2": 4, "olmo2": 4, "llama4": 4,
}  # fmt: skip
"""Architecture → every how many layers one looks at everything; the others have the window.
llama.cpp, src/models: the `set_swa_pattern` of each. A file may say it layer by layer."""
_LLAMA4_WINDOW = 8192
_MOST = 1 << 60
"""No figure is told that a message could not carry, whatever a file says."""


class Window(NamedTuple):
    """Layers that look back so many tokens only, and what a token takes in all of them, 16 bit."""

    tokens: int
    bytes_per_token: int


class Estimate(NamedTuple):
    """Bytes; 0 where a model has none of it."""

    weights: int
    """In main memory, for the CPU. Tied embeddings lie there once: the output reads the same
    tensor. Only those of a type that is repacked lie there twice, once in either order."""
    gpu_weights: int
    """On a GPU with all layers. The embedding table stays in main memory; a tied one is copied to
    the GPU as the output. So the GPU has each tensor once when they are tied, and all but the table
    when they are not."""
    kv_per_token: int
    """Of one sequence, with 16-bit keys and values, all layers as if they looked at everything."""
    windows: tuple[Window, ...]
    state: int
    """Recurrent state of one sequence."""
    compute: int
    """Working buffers at 512 tokens at a time, masks of 4096 tokens of context included."""
    heads: int
    """Most attention heads of a layer."""
    row: int
    """One row of logits; none of an encoder."""


def estimate(header: Header) -> Estimate:
    """The estimate."""
    tensors = {tensor.name: tensor for tensor in header.tensors}
    weights, gpu = _weights(tensors)
    total, windows = _kv(header)
    heads = max(_per_layer(header.get("attention.head_count"), 1))
    encoder = _is_encoder(header)
    compute = UBATCH * _activations(header, tensors, encoder=encoder)
    compute += COMPUTE_CTX * MASK_BYTES
    vocabulary = tensors.get(_OUTPUT) or tensors.get(_EMBEDDING)
    row = vocabulary.shape[-1] * _F32 if vocabulary is not None and not encoder else 0
    figures = (weights, gpu, total, _state(header), compute, heads, row)
    weights, gpu, total, state, compute, heads, row = (min(n, _MOST) for n in figures)
    return Estimate(weights, gpu, total, windows, state, compute, heads, row)


def _weights(tensors: dict[str, Tensor]) -> tuple[int, int]:
    total = sum(tensor.size for tensor in tensors.values())
    table = tensors.get(_EMBEDDING)
    if table is None:
        return total, total
    if _OUTPUT in tensors:
        return total, total - table.size
    return total + (table.size if table.type in _REPACKED else 0), total


def _activations(header: Header, tensors: dict[str, Tensor], *, encoder: bool) -> int:
    """Bytes a token in work takes. Measured at llama.cpp's buffers; encoders keep less alive."""
    width = _int(header.get("embedding_length"))
    inner = max(_per_layer(header.get("feed_forward_length"), 1))
    if not encoder:
        return int(_F32 * (6.75 * width + 2 * inner))
    gated = any(name.endswith("ffn_gate.weight") for name in tensors)
    return int(_F32 * (3.25 * width + (2 if gated else 1) * inner))


def _is_encoder(header: Header) -> bool:
    """Whether it looks at all of a text at once, makes no logits and keeps nothing."""
    name = header.architecture
    return header.get("attention.causal") is False or "bert" in name or name == "gemma-embedding"


def _kv(header: Header) -> tuple[int, tuple[Window, ...]]:
    """What a token takes in all layers, and in those with a window."""
    layers = _int(header.get("block_count"))
    heads = _per_layer(header.get("attention.head_count"), layers)
    kv_heads = _per_layer(header.get("attention.head_count_kv", heads), layers)
    width = _int(header.get("embedding_length"))
    default = width // max(1, *heads) if heads else 0
    key = _int(header.get("attention.key_length"), default)
    value = _int(header.get("attention.value_length"), default)
    narrow_key = _int(header.get("attention.key_length_swa"), key)
    narrow_value = _int(header.get("attention.value_length_swa"), value)
    windowed, tokens = _windowed(header, layers)
    own = layers - min(layers, _int(header.get("attention.shared_kv_layers")))
    attends = _attends(header, layers)
    total = narrow = 0
    for layer in range(own):
        if not attends[layer] or layer >= len(kv_heads):
            continue
        if windowed[layer]:
            size = kv_heads[layer] * (narrow_key + narrow_value) * _F16
            narrow += size
        else:
            size = kv_heads[layer] * (key + value) * _F16
        total += size
    window = Window(min(tokens, _MOST), min(narrow, _MOST))
    return total, (window,) if narrow else ()


def _windowed(header: Header, layers: int) -> tuple[list[bool], int]:
    """Layer → whether it has a window, and how many tokens that is."""
    tokens = _int(header.get("attention.sliding_window"))
    told = header.get("attention.sliding_window_pattern")
    period = _PERIODS.get(header.architecture, 0)
    if period and header.architecture == "llama4":
        tokens = 0 if header.get("attention.sliding_window") == 0 else _LLAMA4_WINDOW
    if not tokens:
        return [False] * layers, 0
    if isinstance(told, list):
        flags = [bool(flag) for flag in told[:layers]]
        return flags + [False] * (layers - len(flags)), tokens
    if period and isinstance(told, int) and told > 0:
        period = told
    if not period:
        return [False] * layers, 0
    return [layer % period < period - 1 for layer in range(layers)], tokens


def _attends(header: Header, layers: int) -> list[bool]:
    """Layer → whether it keeps keys and values; the others of a mixed model keep a state."""
    every = _int(header.get("full_attention_interval"))
    if not every or not _int(header.get("ssm.inner_size")):
        return [True] * layers
    return [(layer + 1) % every == 0 for layer in range(layers)]


def _state(header: Header) -> int:
    """llama.cpp keeps it in 32 bit: the last inputs of the convolution, and the state itself."""
    inner, size = _int(header.get("ssm.inner_size")), _int(header.get("ssm.state_size"))
    kernel, groups = _int(header.get("ssm.conv_kernel")), _int(header.get("ssm.group_count"))
    if not inner or not size:
        return 0
    layers = _int(header.get("block_count"))
    kv_heads = header.get("attention.head_count_kv")
    if isinstance(kv_heads, list):
        keeps = sum(1 for count in _per_layer(kv_heads, layers) if not count)
    else:
        keeps = sum(1 for attends in _attends(header, layers) if not attends) or layers
    return keeps * (max(0, kernel - 1) * (inner + 2 * groups * size) + size * inner) * _F32


def _per_layer(value: Any, layers: int) -> list[int]:
    """A figure given once for all layers or once per layer; 0 where it is not known."""
    if isinstance(value, list):
        return [_int(item) for item in value[:layers]] or [0]
    return [_int(value)] * layers


def _int(value: Any, default: int = 0) -> int:
    known = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return value if known else default
