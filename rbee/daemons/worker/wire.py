"""What a backend made, as it travels: log-probabilities and vectors in the wire's words.

Owns the conversion only; sends nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from rbee.backend_api import Embedded, Likely, Logprob, Piece
from rbee.protocol.workers import (
    EmbeddingUsage,
    LikelyToken,
    TextEvent,
    TokenLogprob,
    Vectors,
)


def text_event(piece: Piece, index: int, ids: Sequence[int] = ()) -> TextEvent:
    """One piece of an answer; `index` is that of its first token, `ids` what it is to tell."""
    logprob = None if piece.logprob is None else logprob_of(piece.logprob)
    return TextEvent(token=piece.text, index=index, logprob=logprob, ids=list(ids))


def logprob_of(logprob: Logprob) -> TokenLogprob:
    """The chosen token with the likeliest at its place."""
    return TokenLogprob(
        token=logprob.text,
        bytes=list(logprob.data),
        logprob=_finite(logprob.logprob),
        top=[_likely(other) for other in logprob.top],
    )


def vectors_of(embedded: Embedded) -> Vectors:
    """The reply to a request for vectors."""
    return Vectors(
        vectors=[[float(x) for x in vector] for vector in embedded.vectors],
        usage=EmbeddingUsage(prompt_tokens=embedded.prompt_tokens),
    )


def _likely(other: Likely) -> LikelyToken:
    return LikelyToken(token=other.text, bytes=list(other.data), logprob=_finite(other.logprob))


def _finite(logprob: float) -> float:
    """JSON has no infinity: what cannot happen is told as -9999, as OpenAI's API does."""
    return max(float(logprob), -9999.0)
