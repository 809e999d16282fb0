"""Bits of text that calls are read from: JSON that is not all there yet, marks that begin.

Pure functions for `tool_calls`; they know no form of a call but its object.
"""

from __future__ import annotations

import json
from typing import Any, cast

KEYS = {"name", "arguments", "parameters", "id", "type", "function"}
"""What the object of a call may have."""
STRING = r'"(?:[^"\\]|\\.)*"'
"""A JSON string, as a regular expression."""


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
    return value if isinstance(value, str) else text


def closed(text: str) -> bool:
    """Whether all brackets are closed: what cannot be read then never will be."""
    depth, quoted, escaped = 0, False, False
    for char in text:
        if escaped:
            escaped = False
        elif quoted:
            escaped, quoted = char == "\\", char != '"'
        elif char == '"':
            quoted = True
        elif char in "{[":
            depth += 1
        elif char in "}]":
            depth -= 1
            if depth <= 0:
                return True
    return False


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
    if isinstance(arguments, str):
        return name, arguments
    if arguments is None and set(found) <= KEYS:
        arguments = {}
    if not isinstance(arguments, dict):
        return None
    return name, json.dumps(arguments, ensure_ascii=False)
