"""Bits of text that calls are read from: JSON that is not all there yet, marks that begin.

Pure functions for `tool_calls`; they know no form of a call but its object.
"""

from __future__ import annotations

import json
import re
from typing import Any, cast

KEYS = {"name", "arguments", "parameters", "id", "type", "function"}
"""What the object of a call may have."""
STRING = r'"(?:[^"\\]|\\.)*"'
"""A JSON string, as a regular expression."""
_HALVES = re.compile("[\ud800-\udfff]")


def overlap(text: str, mark: str) -> int:
    """How much of the text's end may begin the mark."""
    for length in range(min(len(text), len(mark) - 1), 0, -1):
        if mark.startswith(text[-length:]):
            return length
    return 0


def unquoted(text: str) -> str:
    """A JSON string's value; as it stands where it is none."""
    try:
        value: Any = json.loads(text, strict=False)
    except ValueError:
        return text.strip('"')
    return whole_characters(value) if isinstance(value, str) else text


def whole_characters(text: str) -> str:
    """Halves of surrogate pairs, which a model may write as escapes and no UTF-8 can say, become
    U+FFFD each, as Unicode has it (section 5.22, best practice for U+FFFD substitution)."""
    return _HALVES.sub("\ufffd", text)


def object_of(arguments: str) -> dict[str, Any] | None:
    """What a call's arguments say, as an object that a reply can say; None where they are none."""
    try:
        found: Any = json.loads(arguments or "{}")
        if not isinstance(found, dict):
            return None
        text = json.dumps(found, ensure_ascii=False)
        return cast("dict[str, Any]", json.loads(whole_characters(text)))
    except (ValueError, RecursionError):
        return None


class Scan:
    """Finds where brackets or a string end in a text that grows; each character is read once."""

    def __init__(self, depth: int = 0) -> None:
        self.depth = depth
        self.quoted = self._escaped = False
        self._seen = 0

    def closed(self, text: str) -> int:
        """The place behind the bracket that closes the outermost; -1: it is still to come."""
        for at in range(self._seen, len(text)):
            char = text[at]
            if self._string(char):
                continue
            if char in "{[":
                self.depth += 1
            elif char in "}]":
                self.depth -= 1
                if self.depth <= 0:
                    return at + 1
        self._seen = len(text)
        return -1

    def unquoted(self, text: str) -> int:
        """The place behind the string that the text begins with; -1: its end is still to come."""
        for at in range(self._seen, len(text)):
            self._string(text[at])
            if not self.quoted:
                return at + 1
        self._seen = len(text)
        return -1

    def outside(self, text: str, ends: str) -> int:
        """The place of the first of these characters that is in no string; -1: none yet."""
        for at in range(self._seen, len(text)):
            if not self._string(text[at]) and text[at] in ends:
                return at
        self._seen = len(text)
        return -1

    def moved(self) -> None:
        """What was read is no part of the text any more."""
        self._seen = 0

    def _string(self, char: str) -> bool:
        """Whether the character belongs to a string."""
        if self._escaped:
            self._escaped = False
        elif self.quoted:
            self._escaped = char == "\\"
            self.quoted = char != '"'
        elif char == '"':
            self.quoted = True
        else:
            return False
        return True


def called(value: Any) -> tuple[str, str] | None:
    """Name and arguments of an object that is a call, in any order; OpenAI's own form too."""
    if not isinstance(value, dict):
        return None
    found = cast("dict[str, Any]", value)
    if isinstance(found.get("function"), dict):
        found = cast("dict[str, Any]", found["function"])
    name = found.get("name")
    arguments: Any = found.get("arguments", found.get("parameters"))
    if not isinstance(name, str):
        return None
    name = whole_characters(name)
    if isinstance(arguments, str):
        return name, whole_characters(arguments)
    if arguments is None and set(found) <= KEYS:
        arguments = {}
    if not isinstance(arguments, dict):
        return None
    return name, whole_characters(json.dumps(arguments, ensure_ascii=False))
