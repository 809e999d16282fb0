"""Writes small safetensors files and folders, as the programs that make them do."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from rbee.models.safetensors import BITS

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "max_position_embeddings": 2048,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
}
TENSORS: dict[str, tuple[str, list[int]]] = {
    "model.embed_tokens.weight": ("BF16", [100, 64]),
    "model.layers.0.self_attn.q_proj.weight": ("BF16", [64, 64]),
    "model.layers.1.self_attn.q_proj.weight": ("BF16", [64, 64]),
    "model.norm.weight": ("F32", [64]),
}


def header(tensors: dict[str, tuple[str, list[int]]], **metadata: str) -> bytes:
    """The JSON alone."""
    out: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    at = 0
    for name, (dtype, shape) in tensors.items():
        size = BITS[dtype]
        for length in shape:
            size *= length
        out[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size // 8]}
        at += size // 8
    return json.dumps(out).encode()


def build(tensors: dict[str, tuple[str, list[int]]] = TENSORS, **metadata: str) -> bytes:
    """A file with zeros for weights, its header padded with spaces as the format has it."""
    raw = header(tensors, **metadata)
    told = json.loads(raw)
    size = max((t["data_offsets"][1] for k, t in told.items() if k != "__metadata__"), default=0)
    raw += b" " * (-len(raw) % 8)
    return struct.pack("<Q", len(raw)) + raw + b"\0" * size


def raw_file(head: Any, data: int = 0) -> bytes:
    """A file whose header says anything at all."""
    raw = head if isinstance(head, bytes) else json.dumps(head).encode()
    return struct.pack("<Q", len(raw)) + raw + b"\0" * data


def folder(path: Path, *, shards: int = 1, **config: Any) -> Path:
    """A model as it lies in a repository; `config` replaces values (None removes one)."""
    path.mkdir(parents=True, exist_ok=True)
    told = {k: v for k, v in {**CONFIG, **config}.items() if v is not None}
    (path / "config.json").write_text(json.dumps(told))
    (path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    (path / "README.md").write_text("# a model")
    if shards == 1:
        (path / "model.safetensors").write_bytes(build(format="pt"))
        return path
    names = list(TENSORS)
    weight_map: dict[str, str] = {}
    for number in range(shards):
        name = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        mine = {key: TENSORS[key] for key in names[number::shards]}
        (path / name).write_bytes(build(mine))
        weight_map |= dict.fromkeys(mine, name)
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    return path
