"""Writes small GGUF files, right ones and wrong ones."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

from rbee.models.gguf_types import TENSOR_TYPES

_CODES = {kind.name: code for code, kind in TENSOR_TYPES.items()}


def text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def pair(key: str, value: Any) -> bytes:
    if isinstance(value, str):
        return text(key) + struct.pack("<I", 8) + text(value)
    if isinstance(value, list) and value and isinstance(value[0], str):
        body = b"".join(text(item) for item in value)
        return text(key) + struct.pack("<IIQ", 9, 8, len(value)) + body
    if isinstance(value, list):
        return text(key) + struct.pack(f"<IIQ{len(value)}i", 9, 5, len(value), *value)
    return text(key) + struct.pack("<II", 4, value)


def build(metadata: dict[str, Any], tensors: list[tuple[str, tuple[int, ...], str]]) -> bytes:
    """A file with zeros for weights."""
    out = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    out += b"".join(pair(key, value) for key, value in metadata.items())
    offset = 0
    for name, shape, kind in tensors:
        out += text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        out += struct.pack("<IQ", _CODES[kind], offset)
        elements = 1
        for size in shape:
            elements *= size
        block = TENSOR_TYPES[_CODES[kind]]
        offset += -(-(elements // block.block * block.size) // 32) * 32
    return out + b"\0" * (-len(out) % 32) + b"\0" * offset


METADATA: dict[str, Any] = {
    "general.architecture": "llama",
    "llama.block_count": 2,
    "llama.context_length": 512,
    "llama.embedding_length": 64,
    "llama.feed_forward_length": 128,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.tokens": [f"token-{index}" for index in range(100)],
}
TENSORS: list[tuple[str, tuple[int, ...], str]] = [
    ("token_embd.weight", (64, 100), "Q8_0"),
    ("blk.0.attn_q.weight", (64, 64), "Q4_0"),
    ("blk.1.attn_q.weight", (64, 64), "Q4_0"),
    ("output_norm.weight", (64,), "F32"),
]


def small(path: Path, **changes: Any) -> Path:
    """A valid little file; `changes` replace metadata values (None removes one)."""
    metadata = METADATA | {key.replace("__", "."): value for key, value in changes.items()}
    path.write_bytes(build({k: v for k, v in metadata.items() if v is not None}, TENSORS))
    return path
