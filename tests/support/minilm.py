"""all-MiniLM-L6-v2 as a GGUF file, written from the package that brings its original weights.

The names of tensors are those that llama.cpp gives a BERT's.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np

from tests.support.tiny_gguf import Gguf, bert

_OUTER = {
    "embeddings.word_embeddings.weight": "token_embd.weight",
    "embeddings.position_embeddings.weight": "position_embd.weight",
    "embeddings.token_type_embeddings.weight": "token_types.weight",
    "embeddings.LayerNorm": "token_embd_norm",
}
_INNER = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
_NORMAL, _UNKNOWN, _CONTROL = 1, 2, 3


def safetensors(path: Path) -> dict[str, np.ndarray]:
    """All 32-bit floats of a file."""
    data = path.read_bytes()
    (size,) = struct.unpack_from("<Q", data)
    head = json.loads(data[8 : 8 + size])
    found: dict[str, np.ndarray] = {}
    for name, one in head.items():
        if name != "__metadata__" and one["dtype"] == "F32":
            begin, end = (8 + size + at for at in one["data_offsets"])
            found[name] = np.frombuffer(data[begin:end], np.float32).reshape(one["shape"])
    return found


def write_minilm(folder: Path, target: Path) -> Path:
    """`folder` is the package's model."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    words = (folder / "vocab.txt").read_text("utf-8").splitlines()
    special = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103}
    types = [_CONTROL if word in special else _NORMAL for word in words]
    types[special["[UNK]"]] = _UNKNOWN
    file: Gguf = bert(layers=0, ctx=1)
    file.tensors.clear()
    file.set(
        {
            "general.name": "all-MiniLM-L6-v2",
            "bert.block_count": config["num_hidden_layers"],
            "bert.context_length": config["max_position_embeddings"],
            "bert.embedding_length": config["hidden_size"],
            "bert.feed_forward_length": config["intermediate_size"],
            "bert.attention.head_count": config["num_attention_heads"],
            "bert.attention.layer_norm_epsilon": config["layer_norm_eps"],
            "tokenizer.ggml.tokens": [_piece(word, word in special) for word in words],
            "tokenizer.ggml.scores": [-1000.0] * len(words),
            "tokenizer.ggml.token_type": types,
            "tokenizer.ggml.bos_token_id": special["[CLS]"],
            "tokenizer.ggml.cls_token_id": special["[CLS]"],
            "tokenizer.ggml.eos_token_id": special["[SEP]"],
            "tokenizer.ggml.seperator_token_id": special["[SEP]"],
            "tokenizer.ggml.unknown_token_id": special["[UNK]"],
            "tokenizer.ggml.padding_token_id": special["[PAD]"],
            "tokenizer.ggml.mask_token_id": special["[MASK]"],
        }
    )
    for name, weights in safetensors(folder / "model.safetensors").items():
        if (there := _name(name)) is not None:
            file.tensors[there] = weights
    return file.save(target)


def _piece(word: str, special: bool) -> str:
    """llama.cpp marks the beginnings of words, not their endings."""
    if special:
        return word
    return word[2:] if word.startswith("##") else f"▁{word}"


def _name(name: str) -> str | None:
    for theirs, ours in _OUTER.items():
        if name.startswith(theirs):
            return name.replace(theirs, ours)
    if not name.startswith("encoder.layer."):
        return None
    _, _, number, rest = name.split(".", 3)
    part, _, kind = rest.rpartition(".")
    return f"blk.{number}.{_INNER[part]}.{kind}"
