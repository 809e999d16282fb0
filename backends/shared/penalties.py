"""What a request adds to the logits before the filters: bias, bans, penalties.

Owns the counts of tokens the penalties need. It never copies a row: it writes the few logits it
changes into the row, and puts the old ones back where the row is still wanted.

The order is llama.cpp's: bias, then penalties. A bias of -100 or less bans (the weakest value of
OpenAI's scale; a finite -100 would still let a token through when all others are worse), and
`ignore_eos` bans every token that ends an answer.

The repetition penalty is llama.cpp's (llama-sampler.cpp, penalties): over the last 64 tokens of
prompt and answer, a positive logit is divided by it, any other multiplied. The presence and
frequency penalties are OpenAI's: `presence + frequency x count` is subtracted from each token of
the answer so far. llama.cpp counts those over its 64 tokens too, the prompt's among them; clients
that send them were written for OpenAI's API, and mean the answer.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from rbee.backend_api import Generation
from rbee.errors import ValidationFailed

WINDOW = 64
_BAN = -100.0
_STRONGEST = 1e9


class Adjustments:
    """The bias and the penalties of one request."""

    def __init__(
        self,
        request: Generation,
        *,
        size: int,
        ends: NDArray[np.intp],
        prompt: NDArray[np.int32],
    ) -> None:
        """`size`: of the vocabulary; `ends`: the tokens that end an answer.

        Raises ValidationFailed for a bias on a token the model does not have.
        """
        self._bias_ids, self._bias = _bias(request, size)
        self._banned = ends if request.ignore_eos else ends[:0]
        self._repetition = np.float32(request.repetition_penalty)
        self._recent = np.zeros(WINDOW, np.int32)
        self._seen = 0
        for token in prompt[-WINDOW:]:
            self._remember(int(token))
        self._answer = _Answer(request.presence_penalty, request.frequency_penalty)
        self._changed: list[tuple[NDArray[np.integer], NDArray[np.float32]]] = []
        self._restores = request.logprobs is not None
        self._counts = request.repetition_penalty != 1.0
        self.moves: bool = bool(len(self._bias_ids) or self._counts or self._answer.active)
        """False: the highest logit stays the highest, unless it is banned as an end."""
        self.active: bool = self.moves or bool(len(self._banned))
        """False: `apply` never changes anything."""

    def apply(self, row: NDArray[np.float32]) -> None:
        """Change the row; `restore` it before the next call."""
        if len(self._bias_ids):
            self._put(row, self._bias_ids, row[self._bias_ids] + self._bias)
        if len(self._banned):
            self._put(row, self._banned, np.float32(-math.inf))
        if self._seen and self._repetition != 1:
            recent = self._recent[: min(self._seen, WINDOW)]
            old, factor = row[recent], self._repetition
            self._put(row, recent, np.where(old > 0, old / factor, old * factor))
        if self._answer.active:
            ids, amounts = self._answer.penalties()
            self._put(row, ids, row[ids] - amounts)

    def restore(self, row: NDArray[np.float32]) -> None:
        """Undo `apply`, for requests that ask for log-probabilities: others never look again."""
        while self._changed:
            ids, old = self._changed.pop()
            row[ids] = old

    def accept(self, token: int) -> None:
        """Count a token of the answer."""
        if self._counts:
            self._remember(token)
        if self._answer.active:
            self._answer.add(token)

    def _put(
        self,
        row: NDArray[np.float32],
        ids: NDArray[np.integer],
        new: NDArray[np.float32] | np.float32,
    ) -> None:
        if self._restores:
            self._changed.append((ids, row[ids]))
        row[ids] = new

    def _remember(self, token: int) -> None:
        self._recent[self._seen % WINDOW] = token
        self._seen += 1


class _Answer:
    """The distinct tokens of the answer and what each loses; grows by doubling."""

    def __init__(self, presence: float, frequency: float) -> None:
        self.active = presence != 0 or frequency != 0
        self._presence, self._frequency = presence, frequency
        self._places: dict[int, int] = {}
        self._ids = np.zeros(64, np.int32)
        self._amounts = np.zeros(64, np.float32)

    def add(self, token: int) -> None:
        place = self._places.get(token)
        if place is None:
            place = self._places[token] = len(self._places)
            if place == len(self._ids):
                self._ids = np.concatenate((self._ids, np.zeros_like(self._ids)))
                self._amounts = np.concatenate((self._amounts, np.zeros_like(self._amounts)))
            self._ids[place] = token
            self._amounts[place] = self._presence
        self._amounts[place] += self._frequency

    def penalties(self) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        count = len(self._places)
        return self._ids[:count], self._amounts[:count]


def _bias(request: Generation, size: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    for token, amount in request.logit_bias.items():
        if not 0 <= token < size or math.isnan(amount):
            raise ValidationFailed(
                f"logit_bias: {token} is none of the model's {size} tokens"
                if not 0 <= token < size
                else f"logit_bias: the bias of token {token} is no number",
                field="logit_bias",
                constraint="a token of the model and a number",
            )
    amounts = [
        -math.inf if amount <= _BAN else min(amount, _STRONGEST)
        for amount in request.logit_bias.values()
    ]
    return np.array(list(request.logit_bias), np.intp), np.array(amounts, np.float32)
