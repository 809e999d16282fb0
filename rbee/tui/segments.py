"""A long markdown text in pieces that are drawn apart.

Textual draws the last block of a text anew whenever some more of it comes, and a list is one block:
an item more in a list of 120 took 1.6 s, of 370 items 4.8 s (Textual 8.2.8, one core of two). So a
text is cut where a reader cannot see it. Pure; a cut depends only on the lines before it and its
own, so that a text that grows is cut the same way as the whole one.
"""

from __future__ import annotations

import re

LONG = 3000
"""Characters after which a piece ends at the next empty line."""
ITEMS = 12
"""Items of a list after which a piece ends."""
_ITEM = re.compile(r"(?:[-*+]|\d{1,9}[.)])[ \t]")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")


def segments(text: str) -> list[str]:
    """The pieces; together they are the text. A text without long parts is one."""
    cuts: list[int] = [0]
    at, items, fence, blank = 0, 0, "", False
    for line in text.splitlines(keepends=True):
        if not line.endswith("\n"):
            break
        if fence:
            if line.strip().startswith(fence) and not line.strip().strip(fence[0]):
                fence = ""
        else:
            item = _ITEM.match(line) is not None
            plain = blank and not line[0].isspace() and not item
            if (item and items >= ITEMS) or (plain and at - cuts[-1] >= LONG):
                cuts.append(at)
                items = 0
            items = items + 1 if item else (0 if plain else items)
            if found := _FENCE.match(line):
                fence = found[1]
        blank = not line.strip()
        at += len(line)
    return [text[a:b] for a, b in zip(cuts, [*cuts[1:], len(text)], strict=True)]


def joins(text: str) -> bool:
    """Whether a piece goes on with the list of the one before it."""
    return _ITEM.match(text) is not None
