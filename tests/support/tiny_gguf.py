"""Tiny models with random weights that llama.cpp really loads: a llama to talk, a BERT to embed.

`write_llama` and `write_bert` write one to a file. What they would write can be changed first:
`llama()` and `bert()` give a `Gguf` with its metadata and tensors, `save` writes it as it then is,
right or wrong. The same arguments give the same bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

KINDS = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q",
    12: "<d",
}  # fmt: skip
"""Kind of a number in the file → struct format."""
U32, I32, F32, BOOL, STRING, ARRAY, U64 = 4, 5, 6, 7, 8, 9, 10
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_NORMAL, _UNKNOWN, _CONTROL = 1, 2, 3
_MERGED = [
    "Ġt", "Ġa", "he", "in", "re", "on", "Ġthe", "er", "Ġs", "at", "Ġw", "Ġo", "nd", "Ġc", "Ġb",
    "en", "Ġf", "is", "it", "es", "or", "ou", "Ġm", "Ġin", "Ġp", "ing", "Ġto", "an", "ed", "Ġh",
    "Ġand", "ar", "al", "Ġd", "Ġof", "Ġbe", "as", "Ġwe", "le", "ic", "st",
]  # fmt: skip


class Value(NamedTuple):
    """A metadata value with its kind; of an array, `kind` is that of the elements."""

    kind: int
    value: Any
    array: bool = False


@dataclass
class Gguf:
    """A file before it is written. Tensors are numpy arrays, rows last: shape (out, in)."""

    metadata: dict[str, Value] = field(default_factory=dict[str, Value])
    tensors: dict[str, np.ndarray] = field(default_factory=dict[str, np.ndarray])

    def set(self, changes: Mapping[str, Any]) -> Gguf:
        """Put metadata in: plain values, `Value`s, None to take one away."""
        for key, value in changes.items():
            if value is None:
                self.metadata.pop(key, None)
            else:
                self.metadata[key] = value if isinstance(value, Value) else value_of(value)
        return self

    def header(self) -> bytes:
        """Everything before the weights, padding included."""
        out = b"GGUF" + struct.pack("<IQQ", 3, len(self.tensors), len(self.metadata))
        out += b"".join(_pair(key, value) for key, value in self.metadata.items())
        at = 0
        for name, weights in self.tensors.items():
            shape = weights.shape[::-1]
            out += _text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
            out += struct.pack("<IQ", {"float32": 0, "float16": 1}[weights.dtype.name], at)
            at += _padded(weights.nbytes)
        return out + b"\0" * (-len(out) % 32)

    def data(self) -> bytes:
        """The whole file."""
        parts = [self.header()]
        for weights in self.tensors.values():
            parts.append(weights.tobytes())
            parts.append(b"\0" * (_padded(weights.nbytes) - weights.nbytes))
        return b"".join(parts)

    def save(self, path: Path) -> Path:
        """Write it."""
        path.write_bytes(self.data())
        return path


def write_llama(path: Path, **options: Any) -> Path:
    """A model of text; see `llama`."""
    return llama(**options).save(path)


def write_bert(path: Path, **options: Any) -> Path:
    """A model of embeddings; see `bert`."""
    return bert(**options).save(path)


def llama(
    *, layers: int = 2, width: int = 32, heads: int = 4, kv_heads: int = 2, inner: int = 64,
    ctx: int = 2048, seed: int = 0, template: str | None = CHATML,
    metadata: Mapping[str, Any] | None = None,
) -> Gguf:  # fmt: skip
    """300 tokens: 3 markers (end of text, <|im_start|>, <|im_end|>), 256 bytes, 41 merges."""
    tokens, merges = _byte_pairs()
    markers = 3
    draw = _Draw(seed)
    file = Gguf()
    file.set({
        "general.architecture": "llama",
        "general.name": "tiny llama",
        "general.file_type": 0,
        "llama.block_count": layers,
        "llama.context_length": ctx,
        "llama.embedding_length": width,
        "llama.feed_forward_length": inner,
        "llama.attention.head_count": heads,
        "llama.attention.head_count_kv": kv_heads,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.dimension_count": width // heads,
        "llama.rope.freq_base": 10000.0,
        "llama.vocab_size": len(tokens),
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [_CONTROL] * markers + [_NORMAL] * (len(tokens) - markers),
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.padding_token_id": 2,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": template,
        **(metadata or {}),
    })  # fmt: skip
    file.tensors["token_embd.weight"] = draw(len(tokens), width)
    head = width // heads
    for layer in range(layers):
        for name, weights in {
            "attn_norm": draw.ones(width),
            "attn_q": draw(width, width),
            "attn_k": draw(kv_heads * head, width),
            "attn_v": draw(kv_heads * head, width),
            "attn_output": draw(width, width),
            "ffn_norm": draw.ones(width),
            "ffn_gate": draw(inner, width),
            "ffn_down": draw(width, inner),
            "ffn_up": draw(inner, width),
        }.items():
            file.tensors[f"blk.{layer}.{name}.weight"] = weights
    file.tensors["output_norm.weight"] = draw.ones(width)
    file.tensors["output.weight"] = draw(len(tokens), width)
    return file


def bert(
    *, layers: int = 2, width: int = 32, heads: int = 4, inner: int = 64, ctx: int = 128,
    pooling: int = 1, seed: int = 0, metadata: Mapping[str, Any] | None = None,
) -> Gguf:  # fmt: skip
    """Mean pooling (1), word pieces: 5 markers, ASCII characters, some words and endings."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    types = [_CONTROL, _UNKNOWN, _CONTROL, _CONTROL, _CONTROL]
    characters = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    words = ["the", "of", "to", "and", "in", "is", "it", "bee", "honey", "dance", "why", "queen"]
    pieces = [f"▁{word}" for word in (*characters, *words)] + [*characters, "ing", "ed"]
    tokens += pieces
    types += [_NORMAL] * len(pieces)
    draw = _Draw(seed)
    file = Gguf()
    file.set({
        "general.architecture": "bert",
        "general.name": "tiny bert",
        "general.file_type": 0,
        "bert.block_count": layers,
        "bert.context_length": ctx,
        "bert.embedding_length": width,
        "bert.feed_forward_length": inner,
        "bert.attention.head_count": heads,
        "bert.attention.layer_norm_epsilon": 1e-12,
        "bert.attention.causal": False,
        "bert.pooling_type": pooling,
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.token_type_count": 2,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [-1000.0] * len(tokens),
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.eos_token_id": 3,
        "tokenizer.ggml.cls_token_id": 2,
        "tokenizer.ggml.seperator_token_id": 3,
        "tokenizer.ggml.unknown_token_id": 1,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.mask_token_id": 4,
        **(metadata or {}),
    })  # fmt: skip
    put = file.tensors
    put["token_embd.weight"] = draw(len(tokens), width)
    put["position_embd.weight"] = draw(ctx, width)
    put["token_types.weight"] = draw(2, width)
    put["token_embd_norm.weight"], put["token_embd_norm.bias"] = draw.ones(width), draw(width)
    for layer in range(layers):
        for name, shape in {
            "attn_q": (width, width),
            "attn_k": (width, width),
            "attn_v": (width, width),
            "attn_output": (width, width),
            "attn_output_norm": (width,),
            "ffn_up": (inner, width),
            "ffn_down": (width, inner),
            "layer_output_norm": (width,),
        }.items():
            weights = draw(*shape) if len(shape) == 2 else draw.ones(*shape)
            put[f"blk.{layer}.{name}.weight"] = weights
            put[f"blk.{layer}.{name}.bias"] = draw(shape[0])
    return file


def learned(*, ctx: int = 300, width: int = 32, seed: int = 0) -> Gguf:
    """A GPT-2 of two layers: its positions are a table of `ctx` rows, learned and not computed."""
    draw, file = _Draw(seed), llama(layers=0, width=width, seed=seed)
    file.set({key: None for key in list(file.metadata) if key.startswith("llama.")})
    file.set({
        "general.architecture": "gpt2",
        "gpt2.context_length": ctx,
        "gpt2.embedding_length": width,
        "gpt2.block_count": 2,
        "gpt2.feed_forward_length": 2 * width,
        "gpt2.attention.head_count": 4,
        "gpt2.attention.layer_norm_epsilon": 1e-5,
    })  # fmt: skip
    put = file.tensors
    put["position_embd.weight"] = draw(ctx, width)
    put["output_norm.bias"] = draw(width)
    shapes = {
        "attn_norm": (width,), "attn_qkv": (3 * width, width), "attn_output": (width, width),
        "ffn_norm": (width,), "ffn_up": (2 * width, width), "ffn_down": (width, 2 * width),
    }  # fmt: skip
    for name, shape in ((f"blk.{n}.{name}", s) for n in range(2) for name, s in shapes.items()):
        put[f"{name}.weight"] = draw(*shape) if len(shape) == 2 else draw.ones(*shape)
        put[f"{name}.bias"] = draw(shape[0])
    return file


def value_of(value: Any) -> Value:
    """A plain value as the file usually has it."""
    if isinstance(value, list):
        kind = value_of(value[0]).kind if value else I32
        return Value(I32 if kind == U32 else kind, value, array=True)
    if isinstance(value, bool):
        return Value(BOOL, value)
    if isinstance(value, str):
        return Value(STRING, value)
    if isinstance(value, float):
        return Value(F32, value)
    return Value(U32 if value >= 0 else I32, value)


class _Draw:
    """Random weights, normal with a deviation that keeps a few layers' activations near 1."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)

    def __call__(self, *shape: int) -> np.ndarray:
        return self._random.normal(0.0, shape[-1] ** -0.5, shape).astype(np.float32)

    def ones(self, *shape: int) -> np.ndarray:
        return np.ones(shape, np.float32)


def _byte_pairs() -> tuple[list[str], list[str]]:
    """Tokens and merges of a byte-level vocabulary in the way of GPT-2's."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    names = {byte: chr(byte) for byte in plain}
    names |= {byte: chr(256 + index) for index, byte in enumerate(others)}
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *(names[b] for b in range(256))]
    merges: list[str] = []
    for word in _MERGED:
        cut = next(i for i in range(len(word) - 1, 0, -1) if {word[:i], word[i:]} <= set(tokens))
        merges.append(f"{word[:cut]} {word[cut:]}")
        tokens.append(word)
    return tokens, merges


def _pair(key: str, value: Value) -> bytes:
    if not value.array:
        return _text(key) + struct.pack("<I", value.kind) + _scalar(value.kind, value.value)
    head = _text(key) + struct.pack("<IIQ", ARRAY, value.kind, len(value.value))
    return head + b"".join(_scalar(value.kind, item) for item in value.value)


def _scalar(kind: int, value: Any) -> bytes:
    return _text(value) if kind == STRING else struct.pack(KINDS[kind], value)


def _text(value: str) -> bytes:
    raw = value.encode("utf-8", "surrogateescape")
    return struct.pack("<Q", len(raw)) + raw


def _padded(size: int) -> int:
    return -(-size // 32) * 32
