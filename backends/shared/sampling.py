"""Chooses the next token of one answer from a row of logits.

Owns what lasts from token to token: the penalties' counts, the grammar's state, the random numbers.
The steps are bias and bans, penalties, then top-k, top-p, min-p, temperature and the draw; at
temperature 0 the most likely token. The same seed draws the same tokens from the same logits, each
by numbers of its own (`dice`), so the rest of an answer can be drawn without its beginning. (A seed
is used as it is; llama.cpp takes 0xFFFFFFFF for "a random one".)

With a grammar a token is first chosen freely and kept when the grammar allows it; if not, it is
chosen again from the allowed ones. That is llama.cpp's own way (common/sampling.cpp), and quick:
the model mostly knows what comes next, and asking for one token takes microseconds.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rbee.backend_api import Generation
from rbee.errors import InternalError

from .candidates import Filters, Ids, Row, draw, highest, survivors
from .dice import Dice
from .penalties import Adjustments
from .vocabulary import Vocabulary


class Grammar(Protocol):
    """What an answer may look like, as far as it is made."""

    def allows(self, token: int) -> bool:
        """Whether the token may come next."""
        ...

    def among(self, row: Row) -> Ids:
        """The tokens that may come next and are not banned (-inf in the row); perhaps none."""
        ...

    def end(self) -> int | None:
        """A token that ends the answer, if it may end here."""
        ...

    def accept(self, token: int) -> None:
        """Go on by a token. Raises InternalError for one that is not allowed."""
        ...

    def close(self) -> None:
        """Free what is held; nothing may be asked after."""
        ...


class Sampler:
    """One request's choice of tokens; `close` it when the answer has ended.

    For every token: `sample`, or any other way to choose one when `greedy`, then `accept`.
    """

    greedy: bool
    """The answer to `sample` is the highest logit's token, unless that is one of `refused`."""
    refused: frozenset[int]

    def __init__(self, request: Generation, vocab: Vocabulary, prompt: NDArray[np.int32]) -> None:
        """`prompt`: its tokens, which the repetition penalty counts.

        Raises ValidationFailed naming `logit_bias`.
        """
        self._adjust = Adjustments(request, size=vocab.size, ends=vocab.ends, prompt=prompt)
        self._filters = Filters(request.top_k, request.top_p, request.min_p)
        self._temperature = request.temperature
        seed = int.from_bytes(os.urandom(8)) if request.seed is None else request.seed
        self._dice = Dice(seed)
        self._count = 0
        self._grammar: Grammar | None = None
        self.greedy = self._temperature <= 0 and not self._adjust.moves
        self.refused = vocab.end_tokens if request.ignore_eos else frozenset()

    def constrain(self, grammar: Grammar) -> None:
        """Choose only what a grammar allows, from the first token on; it is closed with this."""
        self._grammar, self.greedy = grammar, False

    def sample(self, row: NDArray[np.float32]) -> int:
        """The next token. `row` has the vocabulary's size; it is written to, and restored when
        the request wants log-probabilities.

        A token that ends the answer ends it, even with `ignore_eos`: it is only chosen then where
        a grammar allows nothing else. Raises InternalError when the row is no numbers, and when no
        token may be chosen.
        """
        self._adjust.apply(row)
        self._dice.turn_to(self._count)
        try:
            return self._choose(row)
        finally:
            self._adjust.restore(row)

    def accept(self, token: int) -> None:
        """The token was taken. Raises InternalError for one that the grammar does not allow."""
        if self._grammar is not None:
            self._grammar.accept(token)
        self._adjust.accept(token)
        self._count += 1

    def resume(self, tokens: Iterable[int], count: int) -> None:
        """The answer has these tokens already; the next one is number `count`, from 0.

        Raises InternalError for one that the grammar does not allow.
        """
        for token in tokens:
            self.accept(token)
        self._count = count

    def close(self) -> None:
        """Free what the library holds; may be called again."""
        if self._grammar is not None:
            self._grammar.close()

    def _choose(self, row: NDArray[np.float32]) -> int:
        token = self._draw(row)
        if token is not None and (self._grammar is None or self._grammar.allows(token)):
            return token
        if self._grammar is None:
            raise InternalError("every token is banned")
        ids = self._grammar.among(row)
        place = self._draw(row[ids])
        if place is not None:
            return int(ids[place])
        end = self._grammar.end()
        if end is None:
            raise InternalError("the grammar allows no token that the model has")
        return end

    def _draw(self, values: NDArray[np.float32]) -> int | None:
        """The place of the chosen one; None when all are banned."""
        if self._temperature <= 0:
            place = int(values.argmax()) if len(values) else 0  # a NaN's, where there is one
            return place if highest(values[place : place + 1]) > -np.inf else None
        ids, below = survivors(values, self._filters)
        if not len(ids):
            return None
        return int(ids[draw(below, self._temperature, self._dice)])
