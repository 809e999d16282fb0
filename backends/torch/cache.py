"""The keys and values of all slots, as a cache that transformers' models write to and read from.

Owns the memory: per layer one block (slots, heads, cells, width), so that neighbouring slots are
one view without a copy. Each slot has one cell beyond its last: rows that are only computed because
they lie between two others write there. What is in a cell is known by the context; nothing here
looks at tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from transformers.cache_utils import Cache

import torch


class SlotCache(Cache):
    """Blocks are made when a layer writes for the first time: only it knows its shape."""

    def __init__(self, *, slots: int, size: int) -> None:
        super().__init__(layers=[])
        self.keys: list[torch.Tensor] = []
        self.values: list[torch.Tensor] = []
        self._slots, self._size = slots, size
        self._rows = slice(0, 0)
        self._at: torch.Tensor | slice = slice(0, 0)
        self._span = 0

    @property
    def bytes(self) -> int:
        """Of all blocks."""
        return sum(block.numel() * block.element_size() for block in self.blocks())

    def blocks(self) -> Iterator[torch.Tensor]:
        """All of them, keys and values in turn."""
        for keys, values in zip(self.keys, self.values, strict=True):
            yield keys
            yield values

    def turn_to(self, rows: slice, at: torch.Tensor | slice, span: int) -> None:
        """What comes next is of these slots, for these cells (one a row, or a stretch of a single
        row), and looks back over the first `span` cells."""
        self._rows, self._at, self._span = rows, at, span

    def clear(self) -> None:
        """Give the memory back."""
        self.keys, self.values = [], []

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        layer_idx: int,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See transformers' Cache: keep (rows, heads, tokens, width), return all that is held."""
        if layer_idx == len(self.keys):
            self.keys.append(self._block(key_states))
            self.values.append(self._block(value_states))
        keys, values = self.keys[layer_idx][self._rows], self.values[layer_idx][self._rows]
        if isinstance(self._at, slice):
            keys[:, :, self._at] = key_states
            values[:, :, self._at] = value_states
        else:
            every = torch.arange(len(self._at), device=self._at.device)
            keys[every, :, self._at] = key_states[:, :, 0]
            values[every, :, self._at] = value_states[:, :, 0]
        return keys[:, :, : self._span], values[:, :, : self._span]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """See transformers' Cache; positions are told to the model, so it is not counted with."""
        return self._span

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """See transformers' Cache."""
        return self._span, 0

    def _block(self, states: torch.Tensor) -> torch.Tensor:
        shape = (self._slots, states.shape[1], self._size + 1, states.shape[3])
        return torch.zeros(shape, dtype=states.dtype, device=states.device)
