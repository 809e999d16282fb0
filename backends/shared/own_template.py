"""The chat template that came with a model, wherever its files keep it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from .prompt import Words
from .template import ChatTemplate


def of_tokenizer(tokenizer: Any, vocab: Words, name: str) -> ChatTemplate:
    """Of a folder: transformers' tokenizer has one, or several by name. Raises ModelIncompatible.

    What is no text counts as missing.
    """
    told: Any = tokenizer.chat_template
    several = cast("Mapping[str, Any]", told if isinstance(told, Mapping) else {"default": told})

    def source(kind: str) -> str | None:
        found = several.get(kind)
        return found if isinstance(found, str) else None

    return of_sources(source("default"), source("tool_use"), vocab, name)


def of_sources(
    source: str | None, tool_source: str | None, vocab: Words, name: str
) -> ChatTemplate:
    """Of the texts themselves; see ChatTemplate. Raises ModelIncompatible."""

    def has_token(text: str) -> bool:
        return len(vocab.tokenize(text, special=False)) == 1

    return ChatTemplate(
        source,
        bos=vocab.name(vocab.bos),
        eos=vocab.name(vocab.eos),
        tool_source=tool_source,
        has_token=has_token,
        name=name,
    )
