"""Which earlier tokens each layer may look at, told to a model as transformers' models take it.

Owns the kinds of layers that are known: those that look at everything before, and those that look
back over a window. A model with both takes a mask of each by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from rbee.errors import ModelIncompatible

_FULL, _SLIDING = "full_attention", "sliding_attention"


@dataclass(frozen=True)
class Masks:
    """How the layers of one model look back."""

    kinds: frozenset[str]
    window: int

    @staticmethod
    def of(config: Any) -> Masks:
        """As a model's configuration says. Raises ModelIncompatible for layers of other kinds."""
        window = getattr(config, "sliding_window", None) or 0
        told = getattr(config, "layer_types", None)
        if told is None:
            slides = window and getattr(config, "use_sliding_window", True)
            told = [_SLIDING if slides else _FULL]
        kinds = frozenset(str(kind) for kind in told)
        if unknown := kinds - {_FULL, _SLIDING}:
            raise ModelIncompatible(
                f"the model has layers of {', '.join(sorted(unknown))}, and torch here runs only"
                " those that attend to tokens",
                action="Choose a GGUF file of this model for llamacpp, or another model.",
            )
        return Masks(kinds if window else frozenset({_FULL}), window)

    def make(self, positions: torch.Tensor, span: int, dtype: torch.dtype) -> Any:
        """For tokens at `positions` (rows, tokens) that look at the first `span` cells: numbers to
        add to the scores, (rows, 1, tokens, span); by kind where the model has both."""
        cells = torch.arange(span, device=positions.device)
        here = positions[:, None, :, None]
        seen = cells <= here
        made: dict[str, torch.Tensor] = {}
        for kind in self.kinds:
            near = seen & (cells > here - self.window) if kind == _SLIDING else seen
            lowest = torch.finfo(dtype).min
            mask = torch.zeros(near.shape, dtype=dtype, device=positions.device)
            made[kind] = mask.masked_fill_(~near, lowest)
        return made if len(made) > 1 else next(iter(made.values()))
