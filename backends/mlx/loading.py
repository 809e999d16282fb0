"""Reads a folder of safetensors into MLX.

Owns the way from files to a loaded model and the errors on it. Takes the device that is asked for
and no other. What the folder says is not believed where it can be tried: one token is computed
before the model counts as loaded, which also shows what a token takes in the cache.
"""

from __future__ import annotations

import gc
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a folder is all there is: nothing may be fetched

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_config, load_model

from rbee.backend_api import LoadedModel, LoadOptions, ModelFile, Progress
from rbee.errors import (
    BackendUnavailable,
    Cancelled,
    DeviceFailed,
    ModelCorrupted,
    ModelIncompatible,
    ModelLoadFailed,
    RbeeError,
)

from ..shared import own_template
from ..shared.folder import check as folder_check
from ..shared.hf_vocab import Vocab
from . import kinds

_KV_TYPES = ("f16", "bf16", "f32")
_TRIAL = 8
"""Tokens of the trial."""
_LEAST_CTX = 16


class Weights(NamedTuple):
    """A model that computes."""

    model: Any
    """mlx-lm's module."""
    rows: int
    """Length of a row of logits."""
    size: int
    """Bytes."""
    kv_per_token: int
    """Bytes; with windows a token takes less."""


class MlxBackend:
    """See rbee.backend_api.Backend."""

    def load(
        self, model: ModelFile, options: LoadOptions, progress: Progress, cancelled: threading.Event
    ) -> LoadedModel:
        """Raises BackendUnavailable, DeviceFailed, ModelCorrupted, ModelIncompatible,
        ModelLoadFailed, Cancelled."""
        device = find_device(options.device)
        mx.set_default_device(device)
        if options.kv_type not in _KV_TYPES:
            raise ModelLoadFailed(
                f"mlx keeps keys and values as the model computes, not as {options.kv_type}",
                action="Set worker.kv_type to f16, or run the model by another backend.",
            )
        progress("reading weights", 0.0)
        _checked(model.path)
        config = _config(model.path)
        weights = _read(model.path, progress, cancelled)
        trained = _figure(config, "max_position_embeddings")
        size = min(options.ctx, trained) if trained else options.ctx
        if size < _LEAST_CTX:
            raise ModelIncompatible(f"{model.id} has a context of {size} tokens")
        progress("reading the vocabulary", 0.95)
        tokenizer = _tokenizer(model.path)
        vocab = Vocab(tokenizer, size=weights.rows, ends=_ends(config))
        template = own_template.of_tokenizer(tokenizer, vocab, model.id)
        if cancelled.is_set():
            raise Cancelled("loading was cancelled")

        from .model import TextModel

        progress("ready", 1.0)
        return TextModel(model.id, weights, vocab, template, options, size=size, device=device)


def find_device(wanted: str) -> mx.Device:
    """MLX's device for `cpu` or `metal:0`, never another.

    Raises BackendUnavailable for a kind that it never computes on, DeviceFailed for one that is not
    here.
    """
    kind, _, number = wanted.partition(":")
    if wanted == "cpu":
        return mx.Device(mx.cpu)
    if kind != "metal" or number not in ("", "0"):
        raise BackendUnavailable(
            f"mlx cannot use {wanted}: it computes on {', '.join(kinds())}",
            action="Run the model by llamacpp or torch there, or choose another device.",
        )
    if not mx.metal.is_available():
        raise DeviceFailed(
            f"mlx finds no {wanted} here", action="Metal exists on Macs with Apple silicon only."
        )
    return mx.Device(mx.gpu)


def _read(folder: Path, progress: Progress, cancelled: threading.Event) -> Weights:
    try:
        model, _ = load_model(folder, lazy=True)
        leaves: Any = tree_flatten(model.parameters())
        arrays: list[mx.array] = [array for _, array in leaves]
        total = sum(array.nbytes for array in arrays) or 1
        done = 0
        for array in arrays:
            if cancelled.is_set():
                raise Cancelled("loading was cancelled")
            mx.eval(array)
            done += array.nbytes
            progress("reading weights", 0.9 * done / total)
        return _tried(model, total)
    except (FileNotFoundError, RuntimeError) as exc:
        give_back()
        raise ModelCorrupted(f"{folder.name}: {_reason(exc)}") from exc
    except RbeeError:
        give_back()
        raise
    except Exception as exc:  # a dozen kinds, by what the files get wrong
        give_back()
        if "parameters" in str(exc):  # missing from the weights, or not in the model
            raise ModelCorrupted(f"{folder.name}: {_reason(exc)}") from exc
        raise ModelIncompatible(
            f"{folder.name}: mlx-lm cannot run it: {_reason(exc)}",
            action="Run it by torch (--backend torch), or choose another model.",
        ) from exc


def _tried(model: Any, size: int) -> Weights:
    """Compute some tokens. Raises what MLX raises, ModelIncompatible, ModelCorrupted."""
    cache: list[Any] = make_prompt_cache(model)
    if not all(hasattr(layer, "merge") for layer in cache):
        raise ModelIncompatible(
            "mlx-lm does not batch models that remember as this one does",
            action="Run it by torch (--backend torch), or choose another model.",
        )
    logits = model(mx.zeros((1, _TRIAL), dtype=mx.uint32), cache=cache)
    mx.eval(logits)
    if not bool(mx.isfinite(logits[0, -1].astype(mx.float32)).any()):
        raise ModelCorrupted("the model computes no numbers; its weights may be damaged")
    per_token = 0
    for layer in cache:
        keys = getattr(layer, "keys", None)
        if keys is not None:  # of the shape (1, heads, tokens, width)
            per_token += (keys.nbytes + layer.values.nbytes) // max(1, keys.shape[2])
    return Weights(model, int(logits.shape[-1]), size, per_token)


def give_back() -> None:
    """Let MLX free what nobody holds any more."""
    gc.collect()
    mx.clear_cache()


def _checked(folder: Path) -> None:
    """Raises ModelCorrupted, ModelIncompatible."""
    try:
        folder_check(folder)
    except OSError as exc:
        raise ModelCorrupted(f"{folder.name} cannot be read: {_reason(exc)}") from exc


def _config(folder: Path) -> dict[str, Any]:
    try:
        return load_config(folder)
    except (OSError, json.JSONDecodeError, UnicodeError, AttributeError) as exc:
        raise ModelCorrupted(f"{folder.name}: config.json cannot be read: {_reason(exc)}") from exc


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as exc:  # a dozen kinds, by what is missing or damaged
        raise ModelIncompatible(
            f"{folder.name}: its tokenizer cannot be read: {_reason(exc)}",
            action="Choose a copy of this model with a tokenizer.json.",
        ) from exc


def _ends(config: dict[str, Any]) -> frozenset[int]:
    told = config.get("eos_token_id")
    return frozenset(_numbers(told if isinstance(told, list) else [told]))


def _numbers(values: list[Any]) -> Iterator[int]:
    for value in values:
        if isinstance(value, int) and not isinstance(value, bool):
            yield value


def _figure(config: dict[str, Any], name: str) -> int:
    text: Any = config.get("text_config")
    for table in (config, text if isinstance(text, dict) else {}):
        value: Any = table.get(name)
        if isinstance(value, int) and value > 0:
            return value
    return 0


def _reason(exc: Exception) -> str:
    return " ".join(str(exc).split())[:300] or type(exc).__name__
