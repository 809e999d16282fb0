"""A model's thoughts apart from its answer: `<think>…</think>` before what it says.

Pure; how much of the text has come is the caller's knowledge. Only a block at the beginning counts,
so that an answer may speak of such tags.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

OPEN = "<think>"
CLOSE = "</think>"
_LONE_CLOSE = re.compile(r"^[ \t]*</think>[ \t]*$", re.MULTILINE)
_STEERING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u2028\u2029")
"""Marks that reorder a line or break it, whoever shows it."""


@dataclass(frozen=True)
class Parts:
    """`open`: the thoughts have no end yet."""

    thought: str
    said: str
    open: bool = False


def apart(text: str, *, ended: bool = True) -> Parts:
    """What was thought and what was said. `ended`: nothing more comes, so that a tag that is begun
    is text."""
    thoughts: list[str] = []
    rest = text.lstrip()
    while True:
        if not ended and rest and OPEN.startswith(rest):
            return Parts(_joined(thoughts), "", open=True)
        if not rest.startswith(OPEN):
            break
        thought, closed, rest = rest[len(OPEN) :].partition(CLOSE)
        if not closed:
            return Parts(_joined([*thoughts, _begun(thought, ended)]), "", open=True)
        thoughts.append(thought)
        rest = rest.lstrip()
    if not thoughts:
        # Some templates write the opening tag themselves: the model's text begins after it.
        lone = _LONE_CLOSE.search(text)
        if lone is None or "```" in text[: lone.start()]:
            return Parts("", text)
        thoughts, rest = [text[: lone.start()]], text[lone.end() :].lstrip()
    return Parts(_joined(thoughts), rest)


def clean(text: str) -> str:
    """Without what could steer a terminal: control characters but tab and newline, marks of
    direction, halves of characters."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        c
        for c in text
        if c in "\n\t" or (unicodedata.category(c) not in ("Cc", "Cs") and c not in _STEERING)
    )


def _begun(thought: str, ended: bool) -> str:
    """Without the beginning of a closing tag."""
    if ended:
        return thought
    at = thought.rfind("<")
    return thought[:at] if at >= 0 and CLOSE.startswith(thought[at:]) else thought


def _joined(thoughts: list[str]) -> str:
    return "\n\n".join(stripped for thought in thoughts if (stripped := thought.strip()))
