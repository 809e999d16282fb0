"""Prompts of a wanted length that no server has seen before. Pure but for the salt.

Every word, with the space before it, is one token of SmolLM2's vocabulary (a test asks it), so the
length in tokens is that in words. Each prompt begins with words drawn anew: a cache of an earlier
run never has them.
"""

from __future__ import annotations

import random

_TEXT = (
    "time year people way day man thing woman life child world school state family student group"
    " country problem hand part place case week company system program question work government"
    " number night point home water room mother area money story fact month lot right study book"
    " eye job word business issue side kind head house service friend father power hour game line"
    " end member law car city community name president team minute idea body information back"
    " parent face others level office door health person art war history party result change"
    " morning reason research girl guy moment air teacher force education"
)
WORDS = tuple(_TEXT.split())
SALT = 12
"""Words that make a prompt new: 99 to the power of 12 possibilities."""


def text(words: int, salt: random.Random) -> str:
    """That many words, all drawn from `salt`; the first has a space before it like the others."""
    return "".join(f" {salt.choice(WORDS)}" for _ in range(words))


def short(salt: random.Random) -> str:
    """The prompt of a row that is about generating: 24 tokens."""
    return text(24, salt)


def extended(prefix: str, salt: random.Random, words: int = SALT) -> str:
    """A prefix that others have too, and an end that is one's own."""
    return prefix + text(words, salt)
