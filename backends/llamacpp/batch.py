"""The tokens of one step, laid out as llama.cpp reads them.

Owns the arrays behind a llama_batch: numpy memory filled by slices, since a ctypes object per token
costs more than the token. Never decodes.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rbee.errors import InternalError

from .native import library

_INT_BYTES = 4


class Batch:
    """Up to `limit` tokens of any sequences; rows of logits come in the order they were asked."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.count = 0
        self.rows = 0
        """How many of the tokens have logits asked for."""
        self._token = np.zeros(limit, np.int32)
        self._pos = np.zeros(limit, np.int32)
        self._ids = np.ones(limit, np.int32)
        self._sequence = np.zeros(limit, np.int32)
        self._wanted = np.zeros(limit, np.int8)
        offsets = np.arange(limit, dtype=np.uint64) * _INT_BYTES
        self._sequences = self._sequence.ctypes.data + offsets
        self._count_up = np.arange(limit, dtype=np.int32)
        self.struct: Any = library().llama_batch()
        integers = ctypes.POINTER(ctypes.c_int32)
        self.struct.token = _pointer(self._token, integers)
        self.struct.pos = _pointer(self._pos, integers)
        self.struct.n_seq_id = _pointer(self._ids, integers)
        self.struct.seq_id = _pointer(self._sequences, ctypes.POINTER(integers))
        self.struct.logits = _pointer(self._wanted, ctypes.POINTER(ctypes.c_int8))

    @property
    def room(self) -> int:
        """How many tokens more fit."""
        return self.limit - self.count

    def clear(self) -> None:
        """Empty it for the next step."""
        self.count = self.rows = 0

    def add_token(self, token: int, position: int, sequence: int) -> int:
        """One token whose logits are wanted; returns its row."""
        at = self.count
        if at >= self.limit:
            raise InternalError(f"a batch of more than {self.limit} tokens")
        self._token[at] = token
        self._pos[at] = position
        self._sequence[at] = sequence
        self._wanted[at] = 1
        self.count, self.rows = at + 1, self.rows + 1
        return self.rows - 1

    def add_prompt(
        self, tokens: NDArray[np.int32], position: int, sequence: int, *, ends: bool
    ) -> int:
        """A part of a prompt; returns the row of its last token when the prompt `ends`, else -1."""
        count = len(tokens)
        at, end = self.count, self.count + count
        if not 0 < count <= self.limit - at:
            raise InternalError(f"{count} tokens more in a batch with room for {self.limit - at}")
        self._token[at:end] = tokens
        np.add(self._count_up[:count], position, out=self._pos[at:end])
        self._sequence[at:end] = sequence
        self._wanted[at:end] = 0
        self.count = end
        if not ends:
            return -1
        self._wanted[end - 1] = 1
        self.rows += 1
        return self.rows - 1

    def add_input(self, tokens: NDArray[np.int32], sequence: int) -> None:
        """A whole text to be pooled into one vector: every token is an output."""
        self.add_prompt(tokens, 0, sequence, ends=False)
        self._wanted[self.count - len(tokens) : self.count] = 1

    def ready(self) -> Any:
        """The C struct, to be decoded before anything else is added."""
        self.struct.n_tokens = self.count
        return self.struct


def _pointer(array: NDArray[Any], kind: Any) -> Any:
    return ctypes.cast(array.ctypes.data, kind)
