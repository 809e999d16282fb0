"""How a text's tokens become one vector, as a folder of sentence-transformers tells it.

Owns the reading of its files and the arithmetic over the last layer. Known are the mean of all
tokens, the first and the last one; a folder that says nothing means the mean, or for a causal
model, where only the last token has seen all others, that one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rbee.errors import ModelCorrupted, ModelIncompatible

from ..shared.folder import document

MODULES = "modules.json"
"""Of sentence-transformers: its layers in their order."""
_KNOWN = ("Transformer", "Pooling", "Normalize")
MEAN, FIRST, LAST = "mean", "first", "last"
_MODES = {
    "pooling_mode_mean_tokens": MEAN, "pooling_mode_cls_token": FIRST,
    "pooling_mode_lasttoken": LAST,
}  # fmt: skip
_NAMES = {"mean": MEAN, "cls": FIRST, "lasttoken": LAST}


def of(folder: Path | None, *, causal: bool) -> str:
    """MEAN, FIRST or LAST. Raises ModelCorrupted, ModelIncompatible for what is not computed."""
    usual = LAST if causal else MEAN
    if folder is None or not (folder / MODULES).is_file():
        return usual
    modules = document(folder / MODULES)
    if not isinstance(modules, list):
        raise ModelCorrupted(f"{MODULES} is no list")
    for module in modules:
        kind = str(_field(module, "type")).rpartition(".")[2]
        if kind not in _KNOWN:
            raise ModelIncompatible(
                f"the model has a layer of kind {kind[:40]} after its transformer, which torch here"
                " does not compute",
                action="Choose a GGUF file of this model for llamacpp, or another model.",
            )
        if kind == "Pooling":
            path = (folder / str(_field(module, "path")) / "config.json").resolve()
            if not path.is_relative_to(folder.resolve()) or not path.is_file():
                raise ModelCorrupted(f"{MODULES} names a file that is not there")
            return _mode(document(path))
    return usual


def pool(states: torch.Tensor, lengths: torch.Tensor, how: str) -> torch.Tensor:
    """(texts, width) of (texts, tokens, width), each text in the first `lengths` places."""
    if how == FIRST:
        return states[:, 0]
    if how == LAST:
        every = torch.arange(len(lengths), device=states.device)
        return states[every, lengths - 1]
    inside = torch.arange(states.shape[1], device=states.device) < lengths[:, None]
    summed = (states * inside[:, :, None]).sum(1)
    return summed / lengths[:, None]


def _field(module: Any, name: str) -> Any:
    if not isinstance(module, Mapping) or name not in module:
        raise ModelCorrupted(f"{MODULES} has an entry without {name}")
    return module[name]


def _mode(config: Any) -> str:
    if not isinstance(config, Mapping):
        raise ModelCorrupted("the pooling's config.json is no object")
    named = config.get("pooling_mode")
    modes = [how for name, how in _MODES.items() if config.get(name) is True]
    others = [n for n in config if n.startswith("pooling_mode_") and config[n] is True]
    if isinstance(named, str):
        modes, others = [_NAMES[named]] if named in _NAMES else [], [named]
    if len(modes) != 1 or len(others) > 1:
        raise ModelIncompatible(
            f"the model pools by {', '.join(str(o)[:40] for o in others) or 'nothing'}; torch here"
            " takes the mean, the first or the last token",
        )
    (mode,) = modes
    return mode
