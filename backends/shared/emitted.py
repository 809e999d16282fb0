"""What an answer has said before: the tokens of its beginning, which another run made.

Owns the way from a request's `emitted` to tokens that stand for it exactly. Knows nothing of how
the answer goes on.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rbee.backend_api import Generation
from rbee.errors import ValidationFailed

from .vocabulary import Vocabulary

_BEFORE = ("", "\n", "a")
"""Put before the text, and taken away from its tokens: some vocabularies (SentencePiece's) begin
every text with a space, and some would make one token of the text's beginning and a new line."""


def tokens_of(request: Generation, vocab: Vocabulary) -> NDArray[np.int32]:
    """The tokens of what was said, none where nothing was.

    Raises ValidationFailed naming `emitted_ids` for what is none of the model's tokens, and for one
    that would have ended the answer.
    """
    if not request.emitted_ids:
        return _tokenized(request.emitted, vocab)
    for token in request.emitted_ids:
        if not 0 <= token < vocab.size:
            raise _bad(f"{token} is none of the model's {vocab.size} tokens")
        if vocab.is_end(token):
            raise _bad(f"the token {token} ends an answer")
    return np.array(request.emitted_ids, np.int32)


def _tokenized(text: str, vocab: Vocabulary) -> NDArray[np.int32]:
    """Tokens whose bytes are the text's and nothing more, wherever the vocabulary has such."""
    if not text:
        return np.empty(0, np.int32)
    wanted = text.encode("utf-8", "replace")
    for before in _BEFORE:
        tokens = vocab.tokenize(before + text, special=False, markers=False)
        start = _start(tokens, wanted, vocab)
        if start >= 0:
            return tokens[start:]
    single = vocab.pieces.single[np.frombuffer(wanted, np.uint8)]
    if (single >= 0).all():
        return single.astype(np.int32)
    return vocab.tokenize(text, special=False, markers=False)


def _start(tokens: NDArray[np.int32], wanted: bytes, vocab: Vocabulary) -> int:
    """From which of the tokens on they are just the wanted bytes; -1 when none begins there."""
    left, at = len(wanted), len(tokens)
    while left > 0 and at > 0:
        at -= 1
        piece = vocab.token_bytes(int(tokens[at]))
        if piece != wanted[max(0, left - len(piece)) : left]:
            return -1
        left -= len(piece)
    return at if left == 0 else -1


def _bad(what: str) -> ValidationFailed:
    return ValidationFailed(
        f"emitted_ids: {what}", field="emitted_ids", constraint="tokens of an answer of this model"
    )
