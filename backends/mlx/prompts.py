"""What was computed of prompts, kept for requests that begin alike.

Owns which of it a request may take. The store itself, with its order and its limit in bytes, is
mlx-lm's. A request that must be repeatable takes only what was computed by itself and in the same
portions: computed beside others, or in other portions, the same tokens get slightly other numbers.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import LRUPromptCache, can_trim_prompt_cache, trim_prompt_cache

from ..shared.pace import CHUNK
from ..shared.task import Task

_MOST = 64
"""Prompts that are kept."""
_WORTH = 16
"""Tokens; fewer are computed quicker than they are found."""
_ANY, _EXACT = "any", "exact"


class Prompts:
    """Used by the engine's thread only."""

    def __init__(self, capacity: int) -> None:
        """`capacity` in bytes; 0 keeps nothing."""
        self._capacity = capacity
        self._kept = LRUPromptCache(_MOST, capacity)

    def find(self, task: Task) -> tuple[list[int], list[Any] | None]:
        """The tokens of the prompt that are known, and their keys and values; none: ([], None)."""
        if not (self._capacity and task.request.cache) or task.apart:
            return [], None
        tokens: list[int] = task.reusable.tolist()
        cache, rest = self._kept.fetch_nearest_cache(_name(task), tokens)
        count = len(tokens) - len(rest)
        if cache is None or count < _WORTH:
            return [], None
        if extra := count % CHUNK if task.repeatable else 0:
            if count - extra <= 0 or not can_trim_prompt_cache(cache):
                return [], None
            trim_prompt_cache(cache, extra)
            count -= extra
        return tokens[:count], cache

    def keep(self, task: Task, tokens: list[int], cache: list[Any], *, exact: bool) -> None:
        """`tokens` are in `cache`; `exact`: those of the prompt were computed by themselves."""
        if not self._capacity or task.apart or not cache:
            return
        if task.repeatable:
            end = len(task.reusable) // CHUNK * CHUNK
            if not exact or end < _WORTH or not can_trim_prompt_cache(cache):
                return
            trim_prompt_cache(cache, len(tokens) - end)
            tokens = tokens[:end]
        if len(tokens) < _WORTH or sum(layer.nbytes for layer in cache) > self._capacity:
            return
        mx.eval([layer.state for layer in cache])
        self._kept.insert_cache(_name(task), tokens, cache)

    def close(self) -> None:
        """Forget everything."""
        self._kept = LRUPromptCache(_MOST, 0)


def _name(task: Task) -> str:
    return _EXACT if task.repeatable else _ANY
