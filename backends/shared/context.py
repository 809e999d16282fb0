"""What the engine asks of a model's working memory: the KV cache and the call that computes.

A context has `slots` sequences of up to `size` tokens. It is used by one thread only, and knows
sequences by number and nothing of requests. How keys and values lie in memory is the backend's.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class KvFull(Exception):
    """The KV cache has no place for the batch; nothing of it was kept."""


class Batch(Protocol):
    """The tokens of one step; rows of logits come in the order they were asked for."""

    @property
    def limit(self) -> int:
        """Tokens of one step, at most."""
        ...

    def clear(self) -> None:
        """Empty it for the next step."""
        ...

    def add_token(self, token: int, position: int, sequence: int) -> int:
        """One token whose logits are wanted; returns its row."""
        ...

    def add_prompt(
        self, tokens: NDArray[np.int32], position: int, sequence: int, *, ends: bool
    ) -> int:
        """A part of a prompt; returns the row of its last token when the prompt `ends`, else -1."""
        ...


class Context(Protocol):
    """Sequences 0 … slots-1 of up to `size` tokens each.

    Every call may raise DeviceFailed: nothing can be computed any more.
    """

    @property
    def slots(self) -> int:
        """How many sequences there are."""
        ...

    @property
    def size(self) -> int:
        """Tokens of each."""
        ...

    @property
    def adjacent(self) -> bool:
        """Only sequences with neighbouring numbers are computed together at full speed."""
        ...

    @property
    def batch(self) -> Batch:
        """What the next `decode` computes."""
        ...

    def decode(self) -> None:
        """Compute what is in the batch.

        Raises KvFull: the batch may be tried again after something was forgotten. Raises
        InternalError: nothing in the KV cache can be relied upon after that.
        """
        ...

    def logits(self) -> NDArray[np.float32]:
        """Rows of the last decode, (rows, vocabulary), writable, valid until the next one."""
        ...

    def forget(self, sequence: int, keep: int = 0) -> int:
        """Drop a sequence's positions from `keep` on; returns how many are left, perhaps fewer."""
        ...

    def copy(self, source: int, target: int) -> None:
        """Make a sequence hold what another holds."""
        ...

    def state_bytes(self, sequence: int) -> int:
        """How long `save` makes it; 0 when it cannot be saved now."""
        ...

    def save(self, sequence: int, into: NDArray[np.uint8]) -> bool:
        """Write a sequence's state; whether it was written whole."""
        ...

    def restore(self, sequence: int, state: NDArray[np.uint8]) -> bool:
        """Make a sequence hold a saved state; when that fails it holds nothing."""
        ...
