"""A model of several files, as transformers and MLX keep them: config.json beside safetensors.

Owns what such a folder says of its model: which files belong to it, and the figures of the memory
preflight. Reads headers only. The figures are told from `config.json` by names that most
architectures share; a name that is missing makes a figure 0, not an error.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from rbee.backend_api import purpose
from rbee.errors import ModelCorrupted, ModelIncompatible
from rbee.models import safetensors
from rbee.models.safetensors import BITS, Tensor
from rbee.protocol.hives import ModelInfo

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
MAX_SHARDS = 2048
_MAX_CONFIG = 4 << 20
_MAX_INDEX = 64 << 20
_MAX_FIGURE, _MAX_KV = 1 << 31, 1 << 40
_F16, _F32 = 2, 4
_UBATCH, _CTX = 512, 4096
_SENTENCES = ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json")
_PACKED = frozenset({"U8", "I32", "U32"})
_INDEX = msgspec.json.Decoder(dict[str, Any])


class Weights(NamedTuple):
    """The tensors of all shards, added up."""

    size: int
    """Bytes."""
    elements: dict[str, int]
    """Type of number → how many of them."""


def is_model(folder: Path) -> bool:
    """Whether the folder looks like such a model, told by the names in it."""
    return (folder / CONFIG).is_file() and (
        (folder / INDEX).is_file() or any(folder.glob("*.safetensors"))
    )


def read(folder: Path) -> ModelInfo:
    """What is known of the model in a folder; its id is the folder's name, its path the folder.

    Raises ModelCorrupted for a file that is damaged or missing, ModelIncompatible for a folder that
    is no such model, OSError.
    """
    if not is_model(folder):
        raise ModelIncompatible(
            f"{folder} is a folder without {CONFIG} and safetensors",
            action="Name a .gguf file, or a folder with config.json and *.safetensors.",
        )
    config = parse_config(_content(folder / CONFIG, _MAX_CONFIG))
    shards = shards_of(folder)
    tensors: list[Tensor] = []
    for name, expected in shards.items():
        header = safetensors.read(_regular(folder / name))
        names = {tensor.name for tensor in header.tensors}
        if missing := expected - names:
            raise ModelCorrupted(f"{name} has no tensor {min(missing)[:64]!r}, which {INDEX} names")
        tensors += header.tensors
    sentences = any((folder / name).is_file() for name in _SENTENCES)
    size = sum((folder / name).stat().st_size for name in shards)
    return describe(
        config, add_up(tensors), name=folder.name, path=str(folder), size=size, sentences=sentences
    )


def shards_of(folder: Path) -> dict[str, set[str]]:
    """File name → tensors the index says are in it; none where there is no index."""
    index = folder / INDEX
    if index.is_file():
        return parse_index(_content(index, _MAX_INDEX))
    if (folder / SINGLE).is_file():
        return {SINGLE: set()}
    found = sorted(path.name for path in folder.glob("*.safetensors"))[: MAX_SHARDS + 1]
    if len(found) != 1:
        raise ModelCorrupted(f"{folder.name}: {len(found)} safetensors files and no {INDEX}")
    return {found[0]: set()}


def parse_index(data: bytes) -> dict[str, set[str]]:
    """File name → tensors in it, of an index file. Raises ModelCorrupted."""
    weights: Any = _json(data, INDEX).get("weight_map")
    if not isinstance(weights, dict) or not weights:
        raise ModelCorrupted(f"{INDEX} has no weight_map")
    out: dict[str, set[str]] = {}
    entries: dict[str, Any] = weights
    for tensor, name in entries.items():
        if not isinstance(name, str) or not _plain(name):
            raise ModelCorrupted(f"{INDEX} puts {tensor[:64]!r} into {str(name)[:64]!r}")
        out.setdefault(name, set()).add(tensor)
        if len(out) > MAX_SHARDS:
            raise ModelCorrupted(f"{INDEX} names more than {MAX_SHARDS} files")
    return out


def parse_config(data: bytes) -> dict[str, Any]:
    """`config.json`. Raises ModelCorrupted."""
    return _json(data, CONFIG)


def add_up(tensors: Iterable[Tensor]) -> Weights:
    """Sizes and numbers of all tensors."""
    size, elements = 0, dict[str, int]()
    for tensor in tensors:
        size += tensor.size
        elements[tensor.dtype] = elements.get(tensor.dtype, 0) + tensor.elements
    return Weights(size, elements)


def describe(
    config: Mapping[str, Any],
    weights: Weights,
    *,
    name: str,
    path: str,
    size: int,
    ref: str = "",
    digest: str | None = None,
    sentences: bool = False,
) -> ModelInfo:
    """The ModelInfo of such a model. `size` of its weights' files in bytes; `sentences`: it has the
    files of a sentence embedder."""
    told = config.get("text_config")
    text: Mapping[str, Any] = {**config, **told} if isinstance(told, dict) else config
    kind: Any = config.get("model_type")
    quant, bits = _quantisation(config)
    width = _figure(text, "hidden_size", "n_embd", "d_model")
    inner = _figure(text, "intermediate_size", "n_inner", "d_ff") or 4 * width
    return ModelInfo(
        id=name,
        ref=ref or f"file:{path}",
        path=path,
        format="safetensors",
        size=size,
        architecture=kind[:64] if isinstance(kind, str) and kind else None,
        quant=quant or _main_type(weights),
        parameters=sum(_numbers(dtype, n, bits) for dtype, n in weights.elements.items()),
        context=_figure(text, "max_position_embeddings", "n_positions", "max_seq_len") or None,
        weights_bytes=weights.size,
        kv_bytes_per_token=_kv_per_token(text, width, _main_type(weights)),
        compute_bytes=int(_UBATCH * 4 * (6.75 * width + 2 * inner) + _CTX * _UBATCH * 2),
        capabilities=_capabilities(config, sentences=sentences),
        digest=digest,
    )


def _kv_per_token(text: Mapping[str, Any], width: int, dtype: str | None) -> int:
    """torch and mlx keep keys and values in the numbers they compute in: 32 bits where the model
    was stored so (torch on a GPU takes 16), else 16."""
    layers = _figure(text, "num_hidden_layers", "n_layer", "num_layers")
    heads = _figure(text, "num_attention_heads", "n_head")
    pairs = _figure(text, "num_key_value_heads", "num_kv_heads") or heads
    head = _figure(text, "head_dim") or (width // heads if heads else 0)
    return min(layers * pairs * head * 2 * (_F32 if dtype == "F32" else _F16), _MAX_KV)


def _quantisation(config: Mapping[str, Any]) -> tuple[str | None, int]:
    """`AWQ-4bit` of transformers, `4bit` of MLX, and the bits a packed number takes; 0: none."""
    for key in ("quantization_config", "quantization"):
        told: Any = config.get(key)
        if not isinstance(told, dict):
            continue
        given: dict[str, Any] = told
        bits = _figure(given, "bits", "w_bit")
        if given.get("load_in_4bit") is True:
            bits = 4
        method = given.get("quant_method")
        label = method[:24].upper() if isinstance(method, str) and method.isascii() else ""
        parts = [part for part in (label, f"{bits}bit" if 0 < bits <= 32 else "") if part]
        if parts:
            return "-".join(parts), bits if 0 < bits <= 32 else 0
    return None, 0


def _numbers(dtype: str, count: int, bits: int) -> int:
    """Weights in `count` numbers of a type: those of quantised models are packed."""
    return count * BITS[dtype] // bits if bits and dtype in _PACKED else count


def _main_type(weights: Weights) -> str | None:
    if not weights.elements:
        return None
    return max(weights.elements, key=lambda dtype: weights.elements[dtype] * BITS[dtype])


def _capabilities(config: Mapping[str, Any], *, sentences: bool) -> list[str]:
    able = "embedding" if sentences else purpose(config.get("architectures"))
    return [able] if able is not None else []


def _figure(table: Mapping[str, Any], *names: str) -> int:
    """The first of some whole numbers that is there and credible; else 0."""
    for name in names:
        value = table.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value < _MAX_FIGURE:
            return value
    return 0


def _plain(name: str) -> bool:
    return (
        0 < len(name) <= 255
        and name.isprintable()
        and not name.startswith(".")
        and not {"/", "\\"} & set(name)
    )


def _regular(path: Path) -> Path:
    try:
        if stat.S_ISREG(path.stat().st_mode):
            return path
    except FileNotFoundError:
        raise ModelCorrupted(f"{path.name} is missing in {path.parent.name}") from None
    raise ModelCorrupted(f"{path.name} is not a file")


def _content(path: Path, limit: int) -> bytes:
    with _regular(path).open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ModelCorrupted(f"{path.name} has more than {limit >> 20} MiB")
    return data


def _json(data: bytes, name: str) -> dict[str, Any]:
    try:
        return _INDEX.decode(data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as exc:
        raise ModelCorrupted(f"{name} cannot be read: {str(exc)[:200]}") from exc
