"""A model's folder before a library believes it: are its files sound, do they hold what it says?

Owns bounds only: how large a document may be, that weights have a sound header, that the
configuration promises no more layers than there are tensors. Libraries build what `config.json`
asks for first and look for the weights after; a figure in it would cost all memory, or hours.
Reads headers, never weights. Links are followed: caches of models are made of them.
"""

from __future__ import annotations

import json
import math
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

from rbee.errors import ModelCorrupted, ModelIncompatible

CONFIG = "config.json"
_LARGEST_CONFIG = 16 << 20
_LARGEST_JSON = 256 << 20
"""Bytes; the largest tokenizers take some 35 MB."""
_LAYERS = frozenset(
    {"num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers",
     "num_encoder_layers", "num_decoder_layers"}
)  # fmt: skip
_EXPERTS = frozenset(
    {"num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "n_shared_experts"}
)
_MOST_EXPERTS = 1 << 13
_DEPTH = 8


class Folder(NamedTuple):
    """What its files say."""

    config: Mapping[str, Any]
    parameters: int
    """Numbers in all weights; packed ones count as stored."""
    packed: bool
    """The model is quantised: a stored number may be several."""


def check(folder: Path) -> Folder:
    """Raises ModelCorrupted, ModelIncompatible, OSError."""
    if not (folder / CONFIG).exists():
        raise ModelIncompatible(
            f"{folder.name} is no model's folder: it has no {CONFIG}",
            action="Name a folder with config.json and *.safetensors, or a .gguf file.",
        )
    config = document(folder / CONFIG)
    if not isinstance(config, Mapping):
        raise ModelCorrupted(f"{CONFIG} is no JSON object")
    told = cast("Mapping[str, Any]", config)
    for path in sorted(folder.glob("*.json")):
        _sized(path, _LARGEST_JSON)
    for path in sorted(folder.glob("*.jinja")):
        _sized(path, _LARGEST_CONFIG)
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelIncompatible(
            f"{folder.name} has no *.safetensors; weights of other kinds may hold code, so they"
            " are not read",
            action="Choose a copy of this model in safetensors.",
        )
    sizes = [size for path in files for size in _sizes(path)]
    _check_figures(told, len(sizes))
    packed = any(told.get(name) for name in ("quantization_config", "quantization"))
    return Folder(told, sum(sizes), packed)


def document(path: Path) -> Any:
    """A JSON file of a model's folder. Raises ModelCorrupted, OSError."""
    _sized(path, _LARGEST_CONFIG)
    try:
        return json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as exc:
        raise ModelCorrupted(f"{path.name} is no JSON document: {str(exc)[:200]}") from exc


def _sized(path: Path, most: int) -> None:
    """Raises ModelCorrupted; reading a pipe would never end."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise ModelCorrupted(f"{path.name} is no file")
    if found.st_size > most:
        raise ModelCorrupted(
            f"{path.name} has {found.st_size >> 20} MiB, at most {most >> 20} are read"
        )


def _sizes(path: Path) -> Iterator[int]:
    """How many numbers each tensor has, as the header says, which is checked against the file."""
    from safetensors import SafetensorError, safe_open  # 20 ms

    _sized(path, 1 << 62)
    try:
        with safe_open(str(path), framework="np") as opened:
            names: list[str] = list(opened.keys())
            for name in names:
                yield math.prod(opened.get_slice(name).get_shape())
    except SafetensorError as exc:
        raise ModelCorrupted(f"{path.name}: its weights are damaged: {str(exc)[:200]}") from exc


def _check_figures(config: Mapping[str, Any], tensors: int, depth: int = 0) -> None:
    for name, value in config.items():
        if isinstance(value, dict) and depth < _DEPTH:
            _check_figures(cast("dict[str, Any]", value), tensors, depth + 1)
        if not isinstance(value, int):
            continue
        most = tensors if name in _LAYERS else _MOST_EXPERTS if name in _EXPERTS else value
        if value > most:
            raise ModelCorrupted(
                f"{CONFIG} says {name} {value}, and the files have {tensors} tensors",
                action="Fetch the model again; a part of it may be missing.",
            )
