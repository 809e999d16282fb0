"""One request inside the engine: what it asks for and how far its answer is.

Owns the answer's text, its counts and its times; nothing of slots or sequences.
"""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from rbee.backend_api import Done, Generation, Piece
from rbee.errors import InternalError, ValidationFailed

from .logprobs import logprob_of
from .pace import CHUNK
from .sampling import Sampler
from .text import TextStream
from .vocabulary import Vocabulary


class Task:
    """Made by any thread; once it was handed to the engine only the engine's thread touches it."""

    def __init__(
        self,
        request_id: str,
        request: Generation,
        *,
        prompt: NDArray[np.int32],
        emitted: NDArray[np.int32],
        sampler: Sampler,
        stops: tuple[str, ...],
        size: int,
        vocab: Vocabulary,
        apart: bool = False,
    ) -> None:
        """`emitted`: the beginning of the answer; `size`: of the context, in which both have room;
        `apart`: compute it alone even where the request does not ask for that.

        Raises ValidationFailed when what was emitted is no beginning of such an answer.
        """
        self.id = request_id
        self.request = request
        self.prompt = np.concatenate((prompt, emitted)) if len(emitted) else prompt
        """All that is to be computed before the next token can be chosen."""
        self.apart = apart or request.deterministic
        """Whether it is computed without any other in the same step."""
        self.sampler = sampler
        self.cached = 0
        """How many tokens of the prompt were not computed anew."""
        self.count = len(request.emitted_ids) or request.emitted_tokens or len(emitted)
        """Tokens of the answer."""
        self.reason = ""
        """Set when the answer has ended: `stop`, `length` or `cancelled`."""
        self._asked = len(prompt)
        self._room = self.count + size - len(self.prompt)
        if request.max_tokens is not None:
            self._room = min(self._room, request.max_tokens)
        self._vocab = vocab
        self._text = TextStream(stops)
        self._began = self._first = 0.0
        if request.continued:
            self._resume(emitted.tolist())

    @property
    def left(self) -> int:
        """How many tokens more the answer may have."""
        return self._room - self.count

    @property
    def repeatable(self) -> bool:
        """Whether the same request must give the same answer, at least when nothing else runs:
        then its prompt is computed, and reused, in portions that are always the same."""
        return self.apart or self.request.seed is not None

    @property
    def reusable(self) -> NDArray[np.int32]:
        """The beginning of the prompt that may be taken from where it was computed before. The last
        token's logits are wanted, so it is computed anew."""
        return self.prompt[: (self._asked if self._stepwise else len(self.prompt)) - 1]

    @property
    def speaks(self) -> bool:
        """Whether this run has chosen a token."""
        return self._first > 0

    def portion(self, past: int) -> int:
        """How much one step may take of the prompt when so much of it is computed."""
        left = len(self.prompt) - past
        if not self.repeatable:
            return left
        if self._stepwise:
            left = max(self._asked - past, 1)
        return min(left, CHUNK - past % CHUNK)

    def begin(self, cached: int) -> None:
        """It has a slot, with this much of its prompt in it."""
        self.cached = min(cached, self._asked)
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
        if not self._first:
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
        return token, Piece(text, 1, logprob, (token,))

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
            self._asked,
            self.count,
            cached_tokens=self.cached,
            prefill_ms=(first - self._began) * 1000 if self._began else 0.0,
            decode_ms=(now - first) * 1000,
            stop=self._text.stop,
        )

    def close(self) -> None:
        """Free what the library holds for it."""
        self.sampler.close()

    @property
    def _stepwise(self) -> bool:
        """Whether what was emitted is computed as it was then, token by token: computed together
        the same tokens give slightly other numbers."""
        return self.apart and len(self.prompt) > self._asked

    def _resume(self, emitted: list[int]) -> None:
        """Be where the run was that said this."""
        try:
            self.sampler.resume(emitted, self.count)
        except InternalError as exc:
            raise ValidationFailed(
                f"emitted: {exc.message}", field="emitted", constraint="as the grammar says"
            ) from exc
        # Text alone needs no replay: what was sent is known to begin no stop string.
        if self.request.emitted_ids:
            said = "".join([self._text.feed(self._vocab.token_bytes(token)) for token in emitted])
            told = self.request.emitted or said
            more = told[len(said) :]  # where the end was told, so was what had been held back
            if not (told.startswith(said) and self._text.sent(more)):
                raise ValidationFailed(
                    "emitted_ids: they do not make the text in emitted",
                    field="emitted_ids",
                    constraint="the tokens of emitted",
                )
        if self._text.stopped:
            self.reason = "stop"
        elif self.count >= self._room:
            self.reason = "length"
