r"""Regular expressions of JSON schemas as GBNF.

Owns the part of them that means the same in ECMA-262 and Python and can be enforced: characters,
`.`, sets, `\d \w \s` (ASCII) and their opposites (within ASCII), groups, `|`, repetitions, `^` at
the beginning and `$` at the end of the whole or of its alternatives. Everything else is refused by
name: lookarounds, back-references, `\b`, `\p`, flags, repetitions of what may be empty. Without
`^` or `$` anything may stand before or after, as the schema means it. It describes the text of a
string; how JSON spells each character is added here, quotes around it are not.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NoReturn, TypeAlias

from .gbnf_syntax import Ranges, joined
from .json_gbnf import class_of, literal

MAX_LENGTH = 1000
MAX_DEPTH = 20
Part: TypeAlias = tuple[str, bool]
"""GBNF that can be repeated as one, and whether it may be empty."""

_ASCII: Ranges = ((0x20, 0x7E),)
_DIGIT: Ranges = ((0x30, 0x39),)
_WORD: Ranges = ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A))
_SPACE: Ranges = ((0x09, 0x0D), (0x20, 0x20))
_ALL: Ranges = ((0x09, 0x0A), (0x0D, 0x0D), (0x20, 0x7E), (0x80, 0xD7FF), (0xE000, 0x10FFFF))
_PLAIN: Ranges = ((0x20, 0x21), (0x23, 0x5B), (0x5D, 0x7E), (0x80, 0xD7FF), (0xE000, 0x10FFFF))
_SPELLED = {0x08: "\\b", 0x09: "\\t", 0x0A: "\\n", 0x0C: "\\f", 0x0D: "\\r", 0x22: '\\"'}
_SPELLED[0x5C] = "\\\\"
_CONTROL = {"t": 9, "n": 10, "v": 11, "f": 12, "r": 13, "0": 0}
_BOUNDS = re.compile(r"\{(\d{1,5})(,(\d{0,5}))?\}")
_CODE = re.compile(r"x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})")


def pattern(source: str, rule: Callable[[str], str]) -> str:
    """GBNF for the text between the quotes; `rule` names a body. Raises ValueError with the reason.

    Uses the shared rule `char`.
    """
    if len(source) > MAX_LENGTH:
        raise ValueError(f"is longer than {MAX_LENGTH} characters")
    return _Pattern(source, rule).whole()


class _Pattern:
    def __init__(self, source: str, rule: Callable[[str], str]) -> None:
        self._source = source
        self._rule = rule
        self._pos = 0
        self._depth = 0

    def whole(self) -> str:
        parts = [self._anchored()]
        while self._take("|"):
            parts.append(self._anchored())
        if self._pos < len(self._source):
            self._fail("an unexpected ')'")
        return " | ".join(sorted(parts, key=bool))  # an empty alternative must not come last

    def _anchored(self) -> str:
        before = "" if self._take("^") else "char*"
        body, _ = self._sequence()
        after = "" if self._take("$") else "char*"
        if self._peek() not in ("", "|", ")"):
            self._fail("'$' or '^' inside")
        return " ".join(part for part in (before, body, after) if part)

    def _sequence(self) -> Part:
        parts: list[str] = []
        empty = True
        while (char := self._peek()) and char not in "|)$":
            part, may_be_empty = self._repeated(*self._atom())
            parts.append(part)
            empty = empty and may_be_empty
        return " ".join(part for part in parts if part), empty

    def _repeated(self, part: str, empty: bool) -> Part:
        char = self._peek()
        if not char or char not in "*+?{":
            return part, empty
        if char == "{":
            found = _BOUNDS.match(self._source, self._pos)
            if found is None:
                self._fail("'{' without bounds")
            least = int(found[1])
            most = least if found[2] is None else int(found[3]) if found[3] else None
            self._pos = found.end()
        else:
            least, most = {"*": (0, None), "+": (1, None), "?": (0, 1)}[char]
            self._pos += 1
        self._take("?")  # a lazy repetition matches the same texts
        if self._peek() and self._peek() in "*+?{":
            self._fail("a repetition of a repetition")
        if most is not None and most < least:
            self._fail("reversed bounds")
        if empty and (least, most) != (0, 1):
            self._fail("a repetition of what may be empty")
        if most == 0 or not part:
            return "", True
        bounds = f"{{{least},{'' if most is None else most}}}"
        return f"{part}{char if char != '{' else bounds}", least == 0 or empty

    def _atom(self) -> Part:
        char = self._peek()
        self._pos += 1
        if char == "(":
            return self._group()
        if char == "[":
            return self._spelled(self._set()), False
        if char == ".":
            return self._spelled(
                _without(_ALL, ((0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029)))
            ), False
        if char == "\\":
            return self._spelled(self._escape(inside=False)), False
        if char in "^*+?{}]":
            self._fail(f"{char!r} here")
        return self._spelled(((ord(char), ord(char)),)), False

    def _group(self) -> Part:
        if self._take("?") and not self._take(":"):
            self._fail("'(?' other than '(?:'")
        self._depth += 1
        if self._depth > MAX_DEPTH:
            self._fail(f"groups nested more than {MAX_DEPTH} deep")
        parts = [self._sequence()]
        while self._take("|"):
            parts.append(self._sequence())
        if not self._take(")"):
            self._fail("'$' inside" if self._peek() else "a '(' without ')'")
        self._depth -= 1
        bodies = sorted((body for body, _ in parts), key=bool)
        empty = any(may_be_empty for _, may_be_empty in parts)
        return (self._rule(" | ".join(bodies)) if any(bodies) else ""), empty

    def _set(self) -> Ranges:
        start = self._pos
        inverse = self._take("^")
        found: list[tuple[int, int]] = []
        while not self._take("]"):
            first = self._member()
            if self._peek() == "-" and self._source[self._pos + 1 : self._pos + 2] not in ("]", ""):
                self._pos += 1
                last = self._member()
                if len(first) != 1 or len(last) != 1 or first[0][0] != first[0][1]:
                    self._fail("a range between sets")
                if last[0][0] != last[0][1] or last[0][0] < first[0][0]:
                    self._fail("a reversed range")
                found.append((first[0][0], last[0][0]))
            else:
                found += first
        base = _ASCII if "\\" in self._source[start : self._pos] else _ALL  # see above: opposites
        ranges = _without(base, joined(found)) if inverse else joined(found)
        if not ranges:
            self._fail("an empty set")
        return ranges

    def _member(self) -> Ranges:
        char = self._peek()
        if not char:
            self._fail("a '[' without ']'")
        self._pos += 1
        if char == "\\":
            return self._escape(inside=True)
        if char == "[" or (char in "-&~|" and self._peek() == char):
            self._fail(f"{char!r} inside a set: write \\{char}")
        return ((ord(char), ord(char)),)

    def _escape(self, *, inside: bool) -> Ranges:
        char = self._peek()
        self._pos += 1
        sets = {"d": _DIGIT, "w": _WORD, "s": _SPACE}
        if char and char in "dws":
            return sets[char]
        if char and char in "DWS" and not inside:
            return _without(_ASCII, sets[char.lower()])
        if inside and char == "b":
            return ((8, 8),)
        if char in _CONTROL and not (char == "0" and self._peek().isdigit()):
            return ((_CONTROL[char], _CONTROL[char]),)
        if code := _CODE.match(self._source, self._pos - 1):
            self._pos = code.end()
            number = int(code[1] or code[2], 16)
            if 0xD800 <= number <= 0xDFFF:
                self._fail("half a character (a surrogate)")
            return ((number, number),)
        if not char or char.isalnum() or not char.isascii():
            self._fail(f"\\{char}")
        return ((ord(char), ord(char)),)

    def _spelled(self, ranges: Ranges) -> str:
        """A set of characters as JSON strings spell them."""
        if any(last >= 0xD800 and first <= 0xDFFF for first, last in ranges):
            ranges = _without(ranges, ((0xD800, 0xDFFF),))
        spelled = [
            literal(_SPELLED.get(code, f"\\u{code:04X}"))
            for first, last in ((0, 0x1F), (0x22, 0x22), (0x5C, 0x5C), (0x7F, 0x7F))
            for code in range(first, last + 1)
            if any(a <= code <= b for a, b in ranges)
        ]
        plain = _common(ranges, _PLAIN)
        if not spelled and len(plain) == 1 and plain[0][0] == plain[0][1]:
            return literal(chr(plain[0][0]))
        parts = [class_of(plain), *spelled] if plain else spelled
        if not parts:
            self._fail("a set without characters")
        return parts[0] if len(parts) == 1 else self._rule(" | ".join(parts))

    def _peek(self) -> str:
        return self._source[self._pos : self._pos + 1]

    def _take(self, char: str) -> bool:
        found = self._peek() == char
        self._pos += found
        return found

    def _fail(self, what: str) -> NoReturn:
        raise ValueError(f"{what} (near character {self._pos}) is not supported")


def _common(one: Ranges, other: Ranges) -> Ranges:
    parts = ((max(a, c), min(b, d)) for a, b in one for c, d in other)
    return joined((a, b) for a, b in parts if a <= b)


def _without(ranges: Ranges, removed: Ranges) -> Ranges:
    edges = [-1, *(edge for a, b in removed for edge in (a, b)), 0x110000]
    kept = tuple((edges[i] + 1, edges[i + 1] - 1) for i in range(0, len(edges), 2))
    return _common(ranges, tuple((a, b) for a, b in kept if a <= b))
