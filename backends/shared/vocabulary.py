"""What the shared parts ask of a model's vocabulary; each backend has its own."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .pieces import Pieces


class Vocabulary(Protocol):
    """Tokens are numbers from 0 to below `size`."""

    @property
    def size(self) -> int:
        """How many tokens there are: the length of a row of logits."""
        ...

    @property
    def ends(self) -> NDArray[np.intp]:
        """The tokens that end an answer, ascending."""
        ...

    @property
    def end_tokens(self) -> frozenset[int]:
        """The same, to look in."""
        ...

    @property
    def pieces(self) -> Pieces:
        """The bytes of all tokens; the first call may take a second."""
        ...

    def is_end(self, token: int) -> bool:
        """Whether the token ends the answer."""
        ...

    def token_bytes(self, token: int) -> bytes:
        """The bytes a token stands for, perhaps half a character; empty for control tokens."""
        ...

    def tokenize(self, text: str, *, special: bool, markers: bool = True) -> NDArray[np.int32]:
        """Tokens of the text, names of control tokens among them unless not `markers`; `special`
        adds what the model wants around every text. Raises ValidationFailed."""
        ...
