"""The tokens of one step, as the context computes them: one token of each answer, parts of prompts.

Owns the lists only; never computes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rbee.errors import InternalError


class Token(NamedTuple):
    """One token of an answer; `row`: where its logits go."""

    token: int
    position: int
    sequence: int
    row: int


class Part(NamedTuple):
    """A part of a prompt; `row`: -1 where no logits are wanted."""

    tokens: NDArray[np.int32]
    position: int
    sequence: int
    row: int


class Batch:
    """See shared.context.Batch."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.tokens: list[Token] = []
        self.parts: list[Part] = []
        self.rows = 0
        """How many rows of logits are asked for."""

    @property
    def limit(self) -> int:
        """See Batch."""
        return self._limit

    def clear(self) -> None:
        """See Batch."""
        self.tokens, self.parts, self.rows = [], [], 0

    def add_token(self, token: int, position: int, sequence: int) -> int:
        """See Batch."""
        self.tokens.append(Token(token, position, sequence, self.rows))
        self.rows += 1
        return self.rows - 1

    def add_prompt(
        self, tokens: NDArray[np.int32], position: int, sequence: int, *, ends: bool
    ) -> int:
        """See Batch. Raises InternalError for no tokens and for too many."""
        if not 0 < len(tokens) <= self._limit:
            raise InternalError(f"{len(tokens)} tokens in a batch of {self._limit}")
        row = self.rows if ends else -1
        self.rows += ends
        self.parts.append(Part(tokens, position, sequence, row))
        return row
