"""Chooses tokens as a request and its grammar want: the shared sampler, llama.cpp's grammar.

Owns only that the grammar is made after the rest of the request was checked.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rbee.backend_api import Generation

from ..shared import sampling
from .grammar_sampler import Grammar
from .vocab import Vocab


class Sampler(sampling.Sampler):
    """See shared.sampling.Sampler."""

    def __init__(
        self, request: Generation, vocab: Vocab, prompt: NDArray[np.int32], source: str | None
    ) -> None:
        """`source`: checked GBNF. Raises ValidationFailed naming `grammar` or `logit_bias`."""
        super().__init__(request, vocab, prompt)
        if source is not None:
            self.constrain(Grammar(source, vocab))
