"""One request inside the engine: what it asks for and how far its answer is.

Owns the answer's text, its counts and its times; nothing of slots or sequences.
"""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from rbee.backend_api import Done, Generation, Piece

from .logprobs import logprob_of
from .sampling import Sampler
from .text import TextStream
from .vocab import Vocab


class Task:
    """Made by any thread; once it was handed to the engine only the engine's thread touches it."""

    def __init__(
        self,
        request_id: str,
        request: Generation,
        *,
        prompt: NDArray[np.int32],
        sampler: Sampler,
        stops: tuple[str, ...],
        room: int,
        vocab: Vocab,
    ) -> None:
        """`room`: how many tokens the answer may have at most."""
        self.id = request_id
        self.request = request
        self.prompt = prompt
        self.sampler = sampler
        self.cached = 0
        """How many tokens of the prompt were not computed anew."""
        self.count = 0
        self.reason = ""
        """Set when the answer has ended: `stop`, `length` or `cancelled`."""
        self._room = room
        self._vocab = vocab
        self._text = TextStream(stops)
        self._began = self._first = 0.0

    @property
    def left(self) -> int:
        """How many tokens more the answer may have."""
        return self._room - self.count

    @property
    def repeatable(self) -> bool:
        """Whether the same request must give the same answer, at least when nothing else runs:
        then its prompt is computed, and reused, in portions that are always the same."""
        return self.request.deterministic or self.request.seed is not None

    def begin(self, cached: int) -> None:
        """It has a slot, with this much of its prompt in it."""
        self.cached = cached
        self._began = time.monotonic()

    def choose(self, row: NDArray[np.float32], best: int | None) -> tuple[int, Piece | None]:
        """The next token after `row`, and what can be said of it; sets `reason` when it is the end.

        `best` is the row's highest logit's token where that is already known. Raises InternalError
        when no token can be chosen.
        """
        sampler = self.sampler
        known = best is not None and sampler.greedy and best not in sampler.refused
        token = best if best is not None and known else sampler.sample(row)
        sampler.accept(token)
        if not self.count:
            self._first = time.monotonic()
        wanted = self.request.logprobs
        logprob = None if wanted is None else logprob_of(row, token, wanted, self._vocab)
        if self._vocab.is_end(token):
            self.reason = "stop"
            return token, None
        text = self._text.feed(self._vocab.token_bytes(token))
        self.count += 1
        if self._text.stopped:
            self.reason = "stop"
        elif self.count >= self._room:
            self.reason = "length"
        return token, Piece(text, 1, logprob)

    def rest(self) -> Piece | None:
        """What was held back, once the answer has ended."""
        text = self._text.flush()
        return Piece(text, tokens=0) if text else None

    def done(self) -> Done:
        """The answer's end, when `reason` is set."""
        now = time.monotonic()
        first = self._first or now
        return Done(
            self.reason,
            len(self.prompt),
            self.count,
            cached_tokens=self.cached,
            prefill_ms=(first - self._began) * 1000 if self._began else 0.0,
            decode_ms=(now - first) * 1000,
        )

    def close(self) -> None:
        """Free what the library holds for it."""
        self.sampler.close()
