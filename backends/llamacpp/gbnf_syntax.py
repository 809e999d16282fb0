"""GBNF's syntax: from the text of a grammar to the rules llama.cpp makes of it.

Owns the language and the place of every error in it: the C parser says neither, takes `{3,1}` for
endless and `[^]` for nothing. Groups and repetitions are written out exactly as in llama.cpp, since
its limits are about what comes of them. It says nothing about what the rules mean together: gbnf.py
does. The language is that of llama.cpp's grammars/README.md without token references (`<…>`): a
text that mixes them with characters makes the library end the process.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NoReturn, TypeAlias

from rbee.errors import ValidationFailed

MAX_BYTES = 64 << 10
"""Of a grammar's text in UTF-8."""
MAX_DEPTH = 40
"""Parentheses in parentheses: the C parser recurses."""
MAX_REPEAT = 2000
"""Of `{n,m}`, times the rules its item needs: llama.cpp's MAX_REPETITION_THRESHOLD."""
MAX_SYMBOLS = 40_000
"""Characters, ranges and references after repetitions are written out; 8 bytes each in C."""

Ranges: TypeAlias = tuple[tuple[int, int], ...]
_LAST = 0x10FFFF
_NEVER: Ranges = ((0, 0), (0xD800, 0xDFFF))
_NAME = re.compile(r"[a-zA-Z0-9-]+")
_NUMBER = re.compile(r"[0-9]+")
_SPACE = re.compile(r"(?:[ \t]|#[^\r\n]*)*")
_SPACE_AND_LINES = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
_NEWLINE = re.compile(r"\r\n|\r|\n")
_HEX = {"x": re.compile("[0-9a-fA-F]{2}"), "u": re.compile("[0-9a-fA-F]{4}")}
_HEX["U"] = re.compile("[0-9a-fA-F]{8}")
_ESCAPES = {"t": "\t", "r": "\r", "n": "\n", **{char: char for char in '\\"[]-'}}


@dataclass(frozen=True)
class Chars:
    """One character out of sorted, separate, inclusive ranges of code points."""

    ranges: Ranges
    size: int = 1
    """How many elements the C library keeps for it."""


Symbol: TypeAlias = Chars | int
"""A character, or the index of a rule."""
Sequence: TypeAlias = tuple[Symbol, ...]


@dataclass
class Rule:
    """A rule as the C library keeps it: groups and repetitions are rules of their own."""

    name: str
    """Of the rule of the text it belongs to."""
    at: int
    """Offset in the text."""
    alternatives: list[Sequence] = field(default_factory=list[Sequence])


@dataclass(frozen=True)
class Grammar:
    """A grammar's rules, every reference defined."""

    text: str
    rules: list[Rule]
    root: int

    def fail(self, rule: Rule, reason: str, constraint: str) -> NoReturn:
        """Refuse the grammar for what one of its rules does."""
        _fail(self.text, rule.at, reason, constraint)


def parse_rules(text: str) -> Grammar:
    """The rules of a text, every reference defined. Raises ValidationFailed with the place."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError as exc:
        _fail(text, exc.start, "a lone surrogate is no character", "UTF-8")
    if size > MAX_BYTES:
        _fail(text, 0, f"{size} bytes are more than the {MAX_BYTES} allowed", "size")
    if (nul := text.find("\0")) >= 0:
        _fail(text, nul, "U+0000 cannot stand in a grammar", "syntax")
    return _Parser(text).grammar()


class _Parser:
    """Recursive descent, writing groups and repetitions out exactly as llama.cpp does."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._pos = 0
        self._depth = 0
        self._size = 0
        self._rules: list[Rule | None] = []
        self._ids: dict[str, int] = {}
        self._used: dict[int, int] = {}

    def grammar(self) -> Grammar:
        self._space(lines=True)
        while self._pos < len(self._text):
            self._rule()
        rules: list[Rule] = []
        names = {index: name for name, index in self._ids.items()}
        for index, rule in enumerate(self._rules):
            if rule is None:
                reason = f"the rule {names[index]!r} is used and not defined"
                self._fail(reason, "defined rules", at=self._used[index])
            rules.append(rule)
        if "root" not in self._ids:
            self._fail("no rule is called 'root': the answer begins there", "a rule root", at=0)
        return Grammar(self._text, rules, self._ids["root"])

    def _rule(self) -> None:
        start = self._pos
        name = self._match(_NAME, "the name of a rule")
        index = self._named(name)
        if (before := self._rules[index]) is not None:
            line = place(self._text, before.at)[0]
            self._fail(f"the rule {name!r} is already defined in line {line}", "syntax", at=start)
        self._space(lines=False)
        if not self._text.startswith("::=", self._pos):
            self._fail(f"expected ::= after {name!r}", "syntax")
        self._pos += 3
        self._space(lines=True)
        self._rules[index] = rule = Rule(name, start)
        self._alternatives(rule, nested=False)
        if self._pos < len(self._text) and self._text[self._pos] not in "\r\n":
            self._fail(f"unexpected {self._text[self._pos]!r}", "syntax")
        self._space(lines=True)

    def _alternatives(self, rule: Rule, *, nested: bool) -> None:
        rule.alternatives.append(self._sequence(rule, nested=nested))
        while self._peek() == "|":
            self._pos += 1
            self._space(lines=True)
            rule.alternatives.append(self._sequence(rule, nested=nested))
            self._count(1)

    def _sequence(self, rule: Rule, *, nested: bool) -> Sequence:
        out: list[Symbol] = []
        last = 0  # where the item begins that a repetition is about
        weight = 1  # rules that item needs
        while char := self._peek():
            start = self._pos
            if char in "*+?{":
                least, most = self._bounds(char, nested=nested)
                if last == len(out):
                    self._fail(f"there is nothing for {char!r} to repeat", "syntax", at=start)
                weight *= max(1, least if most is None else most)
                if weight > MAX_REPEAT:
                    reason = f"{weight} repetitions are more than the {MAX_REPEAT} allowed"
                    self._fail(f"{reason} (repetitions in each other count by product)", "size")
                out[last:] = self._repeat(rule, out[last:], least, most)
                self._space(lines=nested)
                continue
            last, weight = len(out), 1
            if char == '"':
                out += self._literal()
            elif char == "[":
                out.append(self._class())
            elif char == "(":
                known = len(self._rules)
                out.append(self._group(rule))
                weight = len(self._rules) - known
            elif char == ".":
                self._pos += 1
                out.append(Chars(_minus(((0, _LAST),), _NEVER)))
            elif name := _NAME.match(self._text, self._pos):
                index = self._named(name[0])
                self._used.setdefault(index, self._pos)
                self._pos = name.end()
                out.append(index)
            elif char in "<!":
                self._fail("tokens (<…>) are not supported: write their characters", "syntax")
            else:
                break
            self._count(sum(_size(symbol) for symbol in out[last:]))
            self._space(lines=nested)
        return tuple(out)

    def _repeat(self, rule: Rule, item: list[Symbol], least: int, most: int | None) -> list[Symbol]:
        """S{m,n} as S … S (m times) and a rule of its own for each S that may follow."""
        size = sum(_size(symbol) for symbol in item)
        extra = 1 if most is None else most - least
        self._count((size + 3) * extra + size * max(0, least - 1))
        out = item * least
        tail: int | None = None
        for _ in range(extra):
            index = self._new(rule)
            after = index if most is None else tail
            more = () if after is None else (after,)
            self._rules[index] = Rule(rule.name, rule.at, [(*item, *more), ()])
            tail = index
        return out if tail is None else [*out, tail]

    def _bounds(self, char: str, *, nested: bool) -> tuple[int, int | None]:
        self._pos += 1
        if char != "{":
            return {"*": (0, None), "+": (1, None), "?": (0, 1)}[char]
        start = self._pos - 1
        self._space(lines=nested)
        least = self._integer()
        most: int | None = least
        self._space(lines=nested)
        if self._peek() == ",":
            self._pos += 1
            self._space(lines=nested)
            most = self._integer() if self._peek() in set("0123456789") else None
            self._space(lines=nested)
        if self._peek() != "}":
            self._fail("expected '}' after the bounds of a repetition", "syntax")
        self._pos += 1
        if most is not None and most < least:
            self._fail(f"{{{least},{most}}} is less than its beginning", "syntax", at=start)
        return least, most

    def _integer(self) -> int:
        start = self._pos
        digits = self._match(_NUMBER, "a number of repetitions").lstrip("0") or "0"
        if len(digits) > 5 or int(digits) > MAX_REPEAT:
            reason = f"{digits[:20]} repetitions are more than the {MAX_REPEAT} allowed"
            self._fail(reason, "size", at=start)
        return int(digits)

    def _group(self, rule: Rule) -> int:
        start = self._pos
        if self._depth == MAX_DEPTH:
            self._fail(f"parentheses are nested more than {MAX_DEPTH} deep", "size")
        self._depth += 1
        self._pos += 1
        self._space(lines=True)
        index = self._new(rule)
        self._rules[index] = group = Rule(rule.name, start)
        self._alternatives(group, nested=True)
        if self._peek() != ")":
            line, column = place(self._text, start)
            self._fail(f"expected ')' for the '(' in line {line}, column {column}", "syntax")
        self._pos += 1
        self._depth -= 1
        return index

    def _literal(self) -> list[Symbol]:
        start = self._pos
        self._pos += 1
        out: list[Symbol] = []
        while self._peek() != '"':
            at = self._pos
            code = self._char(start, "text")
            if code == 0:
                self._fail("U+0000 is never generated", "a character", at=at)
            out.append(Chars(((code, code),)))
        self._pos += 1
        return out

    def _class(self) -> Chars:
        start = self._pos
        self._pos += 1
        if inverse := self._peek() == "^":
            self._pos += 1
        found: list[tuple[int, int]] = []
        size = 0
        while self._peek() != "]":
            at = self._pos
            first = last = self._char(start, "set of characters")
            size += 1
            if self._peek() == "-" and self._text[self._pos + 1 : self._pos + 2] not in ("]", ""):
                self._pos += 1
                last = self._char(start, "set of characters")
                size += 1
                if last < first:
                    self._fail("a range of characters is reversed", "syntax", at=at)
            found.append((first, last))
        self._pos += 1
        if not found:
            self._fail("the set of characters is empty", "syntax", at=start)
        ranges = joined(found)
        ranges = _minus(_minus(((0, _LAST),), ranges) if inverse else ranges, _NEVER)
        if not ranges:
            self._fail("the set matches no character", "a character", at=start)
        return Chars(ranges, size)

    def _char(self, start: int, what: str) -> int:
        """The next character of a literal or class that began at `start`."""
        char = self._peek()
        if not char:
            self._fail(f"the {what} that begins here does not end", "syntax", at=start)
        self._pos += 1
        if char != "\\":
            return ord(char)
        at = self._pos - 1
        kind = self._peek()
        self._pos += 1
        if kind in _ESCAPES:
            return ord(_ESCAPES[kind])
        digits = _HEX[kind].match(self._text, self._pos) if kind in _HEX else None
        if digits is None:
            known = r"\\ \" \[ \] \- \n \r \t \xHH \uHHHH \UHHHHHHHH"
            self._fail(f"unknown escape; there are {known}", "syntax", at=at)
        self._pos = digits.end()
        code = int(digits[0], 16)
        if code > _LAST or 0xD800 <= code <= 0xDFFF:
            self._fail(f"U+{code:04X} is no character", "a character", at=at)
        return code

    def _named(self, name: str) -> int:
        if name not in self._ids:
            self._ids[name] = len(self._rules)
            self._rules.append(None)
        return self._ids[name]

    def _new(self, rule: Rule) -> int:
        self._rules.append(Rule(rule.name, rule.at))
        return len(self._rules) - 1

    def _count(self, more: int) -> None:
        self._size += more
        if self._size > MAX_SYMBOLS:
            reason = f"with its repetitions written out it has more than {MAX_SYMBOLS} symbols"
            self._fail(reason, "size")

    def _match(self, pattern: re.Pattern[str], what: str) -> str:
        found = pattern.match(self._text, self._pos)
        if found is None:
            self._fail(f"expected {what}", "syntax")
        self._pos = found.end()
        return found[0]

    def _peek(self) -> str:
        return self._text[self._pos : self._pos + 1]

    def _space(self, *, lines: bool) -> None:
        found = (_SPACE_AND_LINES if lines else _SPACE).match(self._text, self._pos)
        assert found is not None
        self._pos = found.end()

    def _fail(self, reason: str, constraint: str, *, at: int | None = None) -> NoReturn:
        _fail(self._text, self._pos if at is None else at, reason, constraint)


def place(text: str, at: int) -> tuple[int, int]:
    """Line and column of an offset, both from 1."""
    breaks = list(_NEWLINE.finditer(text, 0, at))
    return len(breaks) + 1, at - (breaks[-1].end() if breaks else 0) + 1


def joined(found: Iterable[tuple[int, int]]) -> Ranges:
    """The same code points in sorted, separate ranges."""
    out: list[tuple[int, int]] = []
    for first, last in sorted(found):
        if out and first <= out[-1][1] + 1:
            out[-1] = (out[-1][0], max(last, out[-1][1]))
        else:
            out.append((first, last))
    return tuple(out)


def _minus(ranges: Ranges, without: Ranges) -> Ranges:
    for low, high in without:
        parts = (
            (a, b) for f, t in ranges for a, b in ((f, min(t, low - 1)), (max(f, high + 1), t))
        )
        ranges = joined({(a, b) for a, b in parts if a <= b})
    return ranges


def _size(symbol: Symbol) -> int:
    return symbol.size if isinstance(symbol, Chars) else 1


def _fail(text: str, at: int, reason: str, constraint: str) -> NoReturn:
    line, column = place(text, at)
    raise ValidationFailed(
        f"grammar: line {line}, column {column}: {reason}",
        field="grammar",
        constraint=constraint,
        line=line,
        column=column,
    )
