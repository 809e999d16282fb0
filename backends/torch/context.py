"""The working memory of all slots and the call that computes, for the engine of `shared`.

Owns the keys and values of every slot and how far each is filled. Used by one thread only. The
tokens of running answers are computed together, as the rows of one call over neighbouring slots;
each part of a prompt is a call of its own, since parts are of different lengths.
"""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
from numpy.typing import NDArray

import torch

from .batch import Batch, Part, Token
from .cache import SlotCache
from .devices import computing
from .masks import Masks

_PORTION_CPU, _PORTION_GPU = 512, 2048
"""Tokens of prompts in one step, at most."""


class Context:
    """See shared.context.Context: sequences 0 … slots-1 of up to `size` tokens each."""

    def __init__(
        self, network: Any, *, slots: int, size: int, vocab_size: int, masks: Masks
    ) -> None:
        """`network`: a causal language model of transformers, on its device."""
        self.slots = slots
        self.size = size
        self.adjacent = slots > 1
        self._network: Any = network
        self._device: torch.device = network.device
        self._dtype: torch.dtype = network.dtype
        on_cpu = self._device.type == "cpu"
        self.batch = Batch(_PORTION_CPU if on_cpu else _PORTION_GPU)
        self._cache = SlotCache(slots=slots, size=size)
        self._masks = masks
        self._filled = [0] * slots
        self._logits = np.zeros((slots, vocab_size), np.float32)
        taken = inspect.signature(network.forward).parameters
        self._last_only = {"logits_to_keep": 1} if "logits_to_keep" in taken else {}

    @property
    def bytes(self) -> int:
        """Memory of keys and values; known after the first `decode`."""
        return self._cache.bytes

    def decode(self) -> None:
        """See Context. Raises DeviceFailed, InternalError."""
        with computing("to compute"):
            if self.batch.tokens:
                self._answers(self.batch.tokens)
            for part in self.batch.parts:
                self._prompt(part)

    def logits(self) -> NDArray[np.float32]:
        """See Context."""
        return self._logits[: self.batch.rows]

    def forget(self, sequence: int, keep: int = 0) -> int:
        """See Context: keys and values are of one token each, so any beginning can stay."""
        self._filled[sequence] = min(keep, self._filled[sequence])
        return self._filled[sequence]

    def copy(self, source: int, target: int) -> None:
        """See Context. Raises DeviceFailed, InternalError."""
        length = self._filled[source]
        with computing("to copy a prompt"):
            for block in self._cache.blocks():
                block[target, :, :length] = block[source, :, :length]
        self._filled[target] = length

    def state_bytes(self, sequence: int) -> int:
        """See Context."""
        return self._filled[sequence] * self._token_bytes()

    def save(self, sequence: int, into: NDArray[np.uint8]) -> bool:
        """See Context. Raises DeviceFailed, InternalError."""
        length, at = self._filled[sequence], 0
        target = torch.from_numpy(into)
        with computing("to save a prompt"):
            for block in self._cache.blocks():
                held = block[sequence, :, :length].contiguous().view(torch.uint8).flatten()
                target[at : at + len(held)] = held.cpu()
                at += len(held)
        return at == len(into)

    def restore(self, sequence: int, state: NDArray[np.uint8]) -> bool:
        """See Context. Raises DeviceFailed, InternalError."""
        each = self._token_bytes()
        length, rest = divmod(len(state), each) if each else (0, 1)
        if rest or length > self.size:
            return False
        at, source = 0, torch.from_numpy(state)
        with computing("to restore a prompt"):
            for block in self._cache.blocks():
                place = block[sequence, :, :length]
                count = place.numel() * place.element_size()
                held = source[at : at + count].clone().view(place.dtype).view(place.shape)
                place.copy_(held)
                at += count
        self._filled[sequence] = length
        return True

    def close(self) -> None:
        """Give the memory back; nothing may be computed after."""
        self._cache.clear()
        self._network = None

    def _answers(self, tokens: list[Token]) -> None:
        """One token each. Slots between them are computed too, for nothing, into the spare cell."""
        first = min(one.sequence for one in tokens)
        count = max(one.sequence for one in tokens) - first + 1
        ids, positions, cells = [0] * count, [0] * count, [self.size] * count
        for one in tokens:
            place = one.sequence - first
            ids[place], positions[place], cells[place] = one.token, one.position, one.position
            self._filled[one.sequence] = one.position + 1
        span = max(one.position for one in tokens) + 1
        at: torch.Tensor | slice = torch.tensor(cells, device=self._device)
        if count == 1:
            at = slice(cells[0], cells[0] + 1)
        self._cache.turn_to(slice(first, first + count), at, span)
        rows = self._computed([[one] for one in ids], [[one] for one in positions], span)
        for one in tokens:
            self._logits[one.row] = rows[one.sequence - first]

    def _prompt(self, part: Part) -> None:
        end = part.position + len(part.tokens)
        at = slice(part.position, end)
        self._cache.turn_to(slice(part.sequence, part.sequence + 1), at, end)
        self._filled[part.sequence] = end
        rows = self._computed([part.tokens.tolist()], [list(range(part.position, end))], end)
        if part.row >= 0:
            self._logits[part.row] = rows[0]

    def _computed(
        self, ids: list[list[int]], positions: list[list[int]], span: int
    ) -> NDArray[np.float32]:
        """Logits after the last token of each row."""
        where = torch.tensor(positions, device=self._device)
        made = self._network(
            input_ids=torch.tensor(ids, device=self._device),
            attention_mask=self._masks.make(where, span, self._dtype),
            position_ids=where,
            past_key_values=self._cache,
            use_cache=True,
            **self._last_only,
        )
        return made.logits[:, -1].float().cpu().numpy()

    def _token_bytes(self) -> int:
        return sum(
            block.shape[1] * block.shape[3] * block.element_size() for block in self._cache.blocks()
        )
