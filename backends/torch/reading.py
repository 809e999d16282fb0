"""A model's configuration, weights and tokenizer in memory: loading with progress, cancel, reasons.

Owns the way from a folder or a GGUF file to a network on its device. Nothing is fetched, no code of
the folder is run, no pickled weights are read. transformers fills tensors that it does not find
with random numbers and says so in its log; here that is damage, and an error.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a folder is all there is: nothing may be fetched

import transformers
from safetensors import SafetensorError
from transformers.utils import logging as told

import torch
from rbee.backend_api import ModelFile, Progress, purpose
from rbee.errors import (
    Cancelled,
    DeviceFailed,
    InsufficientRam,
    ModelCorrupted,
    ModelIncompatible,
    ModelLoadFailed,
    RbeeError,
)

from ..shared.folder import CONFIG, Folder, check
from .devices import NAMES, TorchDevice, broken, check_room, choose_dtype, full
from .pooling import MODULES

log = logging.getLogger("rbee.torch")
_TIED, _PACKED = 2, 34
"""How many weights may be of one stored number: a table used twice, bits with their scales."""
_SLACK = 1 << 20
_SHARE = 0.9


@dataclass
class Loaded:
    """A model on its device."""

    network: Any
    tokenizer: Any
    config: Any
    bytes: int
    """Of the weights."""
    folder: Path | None
    """None for a GGUF file."""
    embeds: bool
    """Whether it is made to turn texts into vectors."""


def load(
    model: ModelFile, device: TorchDevice, progress: Progress, cancelled: threading.Event
) -> Loaded:
    """Load all of a model onto one device; never a part of it onto another.

    A load ends at the next tensor after `cancelled` was set; of a GGUF file, which transformers
    unpacks as a whole, only after that. Raises Cancelled, DeviceFailed, InsufficientRam,
    InsufficientVram, ModelCorrupted, ModelIncompatible, ModelLoadFailed.
    """
    gguf = model.format == "gguf"
    where = model.path.parent if gguf else model.path
    extra: dict[str, Any] = {"gguf_file": model.path.name} if gguf else {}
    with reasons(model):
        folder = None if gguf else check(model.path)
        parameters = _gguf_parameters(model.path) if folder is None else folder.parameters
        config = transformers.AutoConfig.from_pretrained(
            where, local_files_only=True, trust_remote_code=False, **extra
        )
        embeds = not gguf and _embeds(model.path, config)
        kind: Any = transformers.AutoModel if embeds else transformers.AutoModelForCausalLM
        if folder is not None:
            parameters = max(parameters, _check_promised(kind, config, folder))
        dtype = choose_dtype(device, parameters, _stored(config, gguf=gguf))
        check_room(device, parameters * dtype.itemsize, f"{model.id} in {NAMES[dtype]}")
        log.info("%s: %d weights in %s on %s", model.id, parameters, NAMES[dtype], device.name)
        progress(f"reading weights in {NAMES[dtype]}", 0.0)
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            where, local_files_only=True, trust_remote_code=False, **extra
        )
        with _watched(f"reading weights in {NAMES[dtype]}", progress, cancelled):
            network, how = kind.from_pretrained(
                where,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=None if gguf else True,
                dtype=dtype,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are told, and refused below
                **extra,
            )
        _check_whole(model, how, embeds=embeds)
        if cancelled.is_set():
            raise Cancelled("loading was cancelled")
        network = network.eval().requires_grad_(False).to(device.device)
    size = sum(part.numel() * part.element_size() for part in network.parameters())
    size += sum(part.numel() * part.element_size() for part in network.buffers())
    return Loaded(network, tokenizer, config, size, None if gguf else model.path, embeds)


def _check_promised(kind: Any, config: Any, folder: Folder) -> int:
    """How many weights the configuration asks for: libraries make them, then look for them.

    Raises ModelCorrupted where the files have nothing like that many.
    """
    with torch.device("meta"):
        network = kind.from_config(config, trust_remote_code=False)
    promised = sum(part.numel() for part in network.parameters())
    most = folder.parameters * (_PACKED if folder.packed else _TIED) + _SLACK
    if promised > most:
        raise ModelCorrupted(
            f"{CONFIG} describes a model of {promised} numbers, and the files have"
            f" {folder.parameters}",
            action="Fetch the model again; a part of it may be missing.",
        )
    return promised


def _gguf_parameters(path: Path) -> int:
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ModelCorrupted(f"{path.name} does not begin as a GGUF file does")
    try:
        from gguf import GGUFReader  # 0.1 s
    except ImportError as exc:
        raise ModelIncompatible(
            "the package gguf, with which torch reads GGUF files, is not installed",
            action="Install it: pip install 'rbee[torch]'.",
        ) from exc
    return sum(int(tensor.n_elements) for tensor in GGUFReader(path).tensors)


def _stored(config: Any, *, gguf: bool) -> torch.dtype:
    """What numbers the files hold; of a GGUF file's blocks none says more than 16 bits do."""
    told: Any = getattr(config.get_text_config(), "dtype", None) or getattr(config, "dtype", None)
    if isinstance(told, torch.dtype) and told.is_floating_point:
        return told
    return torch.bfloat16 if gguf else torch.float32


def _embeds(folder: Path, config: Any) -> bool:
    """Whether a folder's model makes vectors: sentence-transformers' file says so, or its name."""
    made_for = purpose(getattr(config, "architectures", None))
    return (folder / MODULES).is_file() or made_for == "embedding"


def _check_whole(model: ModelFile, how: Mapping[str, Any], *, embeds: bool) -> None:
    """Raises ModelCorrupted where weights were not found, or had another shape."""
    missing = sorted(str(name) for name in how.get("missing_keys") or ())
    if embeds:  # a part that only classifiers use
        missing = [name for name in missing if not name.startswith("pooler.")]
    wrong = sorted(str(one) for one in how.get("mismatched_keys") or ())
    if lost := missing or wrong:
        what = "lacks" if missing else "has in another shape"
        raise ModelCorrupted(
            f"{model.id} {what} {len(lost)} of its tensors, such as {lost[0][:80]}",
            action="Fetch the model again; a part of it may be missing.",
        )


@contextlib.contextmanager
def reasons(model: ModelFile) -> Generator[None]:
    """Say of what the libraries raise what it means."""
    try:
        yield
    except RbeeError:
        raise
    except MemoryError as exc:
        raise InsufficientRam(f"{model.id}: there is no memory for its weights") from exc
    except SafetensorError as exc:
        raise ModelCorrupted(f"{model.id}: its weights are damaged: {_first(exc)}") from exc
    except OSError as exc:
        raise ModelLoadFailed(f"{model.id} cannot be read: {_first(exc)}") from exc
    except Exception as exc:  # dozens of kinds, by what a model's files get wrong
        if full(exc):
            raise ModelLoadFailed(f"{model.id}: there is no room for it: {_first(exc)}") from exc
        if broken(exc):
            what = f"the device failed while {model.id} was loaded"
            raise DeviceFailed(f"{what}: {_first(exc)}") from exc
        raise ModelIncompatible(
            f"transformers {transformers.__version__} cannot load {model.id}: {_first(exc)}",
            action="Choose a GGUF file of this model for llamacpp, or another model.",
        ) from exc


def _first(exc: BaseException) -> str:
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    return (lines[0] if lines else type(exc).__name__)[:300]


@contextlib.contextmanager
def _watched(stage: str, progress: Progress, cancelled: threading.Event) -> Generator[None]:
    """Follow transformers' own bars of progress, which it shows to nobody meanwhile."""

    def hook(_: Any, args: tuple[Any, ...], options: Mapping[str, Any]) -> Any:
        return _Bar(
            args[0] if args else options.get("iterable"), options, stage, progress, cancelled
        )

    before = told.set_tqdm_hook(hook)
    verbosity = told.get_verbosity()
    told.set_verbosity_error()
    try:
        yield
    finally:
        told.set_verbosity(verbosity)
        told.set_tqdm_hook(before)


class _Bar:
    """What transformers takes for a bar of progress."""

    def __init__(
        self,
        items: Any,
        options: Mapping[str, Any],
        stage: str,
        progress: Progress,
        cancelled: threading.Event,
    ) -> None:
        self._items = items
        self._total = options.get("total") or (len(items) if hasattr(items, "__len__") else 0)
        self._stage, self._progress, self._cancelled = stage, progress, cancelled
        self._told = 0.0

    def __iter__(self) -> Iterator[Any]:
        for count, item in enumerate(self._items):
            if self._cancelled.is_set():
                raise Cancelled("loading was cancelled")
            if self._total and count / self._total >= self._told:
                self._told = count / self._total + 0.01
                self._progress(self._stage, _SHARE * count / self._total)
            yield item

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        """The rest of a bar: set_postfix, update, close, … show nothing."""
        return lambda *_, **__: None
