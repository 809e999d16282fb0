"""Prompts that were computed once: finding their common beginnings, and keeping them in memory.

Owns the host's copies of sequences whose slot was given away. They lie in one ring of memory: the
oldest make room for the newest, and nothing is allocated while answers run.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.int32]


def common(one: Tokens, other: Tokens) -> int:
    """How many tokens two sequences have in common from their beginning."""
    count = min(len(one), len(other))
    if count == 0 or one[0] != other[0]:
        return 0
    different = one[:count] != other[:count]
    at = int(different.argmax())
    return at if different[at] else count


@dataclass(frozen=True, eq=False)
class Kept:
    """A sequence's state in host memory."""

    tokens: Tokens
    exact: int
    """See Slot.exact."""
    start: int
    state: NDArray[np.uint8]


class HostCache:
    """At most `capacity` bytes of states. The memory is taken as it is first used."""

    def __init__(self, capacity: int) -> None:
        self._capacity = max(0, capacity)
        self._ring = np.empty(self._capacity, np.uint8)
        self._kept: deque[Kept] = deque()
        self._next = 0

    @property
    def bytes(self) -> int:
        """How much of it is in use."""
        return sum(len(kept.state) for kept in self._kept)

    def best(self, prompt: Tokens) -> tuple[Kept | None, int]:
        """The state with the longest beginning of a prompt, and how long that is."""
        found, longest = None, 0
        for kept in self._kept:
            length = common(kept.tokens, prompt)
            if length > longest:
                found, longest = kept, length
        return found, longest

    def holds(self, tokens: Tokens) -> Kept | None:
        """A state that begins with all of these tokens."""
        found, length = self.best(tokens)
        return found if length == len(tokens) else None

    def put(
        self, tokens: Tokens, exact: int, size: int, write: Callable[[NDArray[np.uint8]], bool]
    ) -> Kept | None:
        """Keep a state of `size` bytes that `write` writes; None when it cannot be kept."""
        if not 0 < size <= self._capacity:
            return None
        start = self._next if self._next + size <= self._capacity else 0
        if start < self._next:  # what lies between here and the end is older than what is at 0
            self._drop(self._next, self._capacity)
        self._drop(start, start + size)
        state = self._ring[start : start + size]
        if not write(state):
            return None
        kept = Kept(tokens.copy(), exact, start, state)
        self._kept.append(kept)
        self._next = start + size
        return kept

    def clear(self) -> None:
        """Forget everything and give the memory back."""
        self._kept.clear()
        self._ring = np.empty(0, np.uint8)
        self._capacity = self._next = 0

    def _drop(self, start: int, end: int) -> None:
        """Forget what overlaps a part of the ring."""
        self._kept = deque(
            kept
            for kept in self._kept
            if kept.start + len(kept.state) <= start or kept.start >= end
        )
