"""The tokens of what was asked, as a chat or as a text."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rbee.backend_api import Generation
from rbee.errors import ValidationFailed

from .fitting import check_length
from .template import ChatTemplate


class Words(Protocol):
    """What of a vocabulary is needed to make a prompt and tokens of it."""

    bos: int
    """The token that begins a text; negative where there is none."""
    eos: int
    """The token that ends one; negative where there is none."""

    def name(self, token: int) -> str:
        """How it is written in templates; empty for none."""
        ...

    def tokenize(self, text: str, *, special: bool, markers: bool = True) -> NDArray[np.int32]:
        """See Vocabulary."""
        ...


def prompt_tokens(
    request: Generation, vocab: Words, template: ChatTemplate, ctx: int
) -> NDArray[np.int32]:
    """The prompt of a request for a slot of `ctx` tokens, begun by one `bos` and never by two.

    Raises ContextLengthExceeded, ValidationFailed.
    """
    if request.messages:
        text = template.render(request.messages, request.tools)
        bos = vocab.name(vocab.bos)
        tokens = vocab.tokenize(text, special=not (bos and text.startswith(bos)))
    else:
        tokens = vocab.tokenize(request.prompt or "", special=True)
    if not len(tokens) and vocab.bos >= 0:
        tokens = np.array([vocab.bos], np.int32)
    if not len(tokens):
        raise ValidationFailed("prompt: is empty", field="prompt", constraint="not empty")
    check_length(len(tokens) + 1, ctx, "the prompt with one token for the answer")
    return tokens
