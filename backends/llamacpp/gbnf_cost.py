"""How many readings of a text a grammar keeps open at once.

Owns a model of llama.cpp's state: a set of stacks, each ending in the character that must come
next, and every way of reading what was written so far has one. The library goes through the whole
vocabulary once for each stack, so that their number is what a token costs; a grammar like
`s ::= "a" s "b" | "a" s "c" | ""` doubles it with every character. What can come of a grammar is
found by trying: walks that take the character that most readings agree on, each with its own
liking where several are equal. That finds ambiguity that grows; it is no proof.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from .gbnf_syntax import Chars, Grammar

Stack: TypeAlias = int
"""A stack's number; 0 is the empty one: the text may end here."""
END: Stack = 0
_WALKS = 12
_STEPS = 100
_TOKEN = 32
_WORK = 60_000


class Stacks:
    """The stacks of a grammar, each made once: (rule, alternative, place in it, stack below)."""

    def __init__(self, grammar: Grammar) -> None:
        self._rules = grammar.rules
        self._cells: list[tuple[int, int, int, Stack]] = [(-1, 0, 0, 0)]
        self._numbers: dict[tuple[int, int, int, Stack], Stack] = {}
        self._opened: dict[Stack, frozenset[Stack]] = {END: frozenset({END})}
        self._after: dict[Stack, frozenset[Stack]] = {}
        self.work = 0
        starts = (self._push(grammar.root, i, 0, END) for i in range(self._width(grammar.root)))
        self.first = frozenset[Stack]().union(*(self._open(start) for start in starts))

    def chars(self, stack: Stack) -> Chars | None:
        """What must come next; None at the end."""
        rule, alternative, place, _ = self._cells[stack]
        if rule < 0:
            return None
        symbol = self._rules[rule].alternatives[alternative][place]
        assert isinstance(symbol, Chars)
        return symbol

    def after(self, stack: Stack) -> frozenset[Stack]:
        """The stacks once the next character was written."""
        if (known := self._after.get(stack)) is None:
            rule, alternative, place, below = self._cells[stack]
            known = self._open(self._push(rule, alternative, place + 1, below))
            self._after[stack] = known
        return known

    def accept(self, stacks: frozenset[Stack], code: int) -> frozenset[Stack]:
        """The stacks after one character; none when it may not come here."""
        found = [self.after(stack) for stack in stacks if matches(self.chars(stack), code)]
        return frozenset[Stack]().union(*found)

    def _width(self, rule: int) -> int:
        return len(self._rules[rule].alternatives)

    def _push(self, rule: int, alternative: int, place: int, below: Stack) -> Stack:
        if place == len(self._rules[rule].alternatives[alternative]):
            return below
        cell = (rule, alternative, place, below)
        number = self._numbers.get(cell)
        if number is None:
            number = self._numbers[cell] = len(self._cells)
            self._cells.append(cell)
        return number

    def _open(self, stack: Stack) -> frozenset[Stack]:
        """Replace references on top until characters are there."""
        if (known := self._opened.get(stack)) is not None:
            return known
        found: set[Stack] = set()
        seen: set[Stack] = set()
        todo = [stack]
        while todo:
            if (top := todo.pop()) in seen:
                continue
            seen.add(top)
            self.work += 1
            rule, alternative, place, below = self._cells[top]
            symbol = self._rules[rule].alternatives[alternative][place] if top else None
            if not isinstance(symbol, int):
                found.add(top)
                continue
            rest = self._push(rule, alternative, place + 1, below)
            todo.extend(self._push(symbol, i, 0, rest) for i in range(self._width(symbol)))
        self._opened[stack] = frozenset(found)
        return self._opened[stack]


def matches(chars: Chars | None, code: int) -> bool:
    """Whether the character may come there."""
    return chars is not None and any(first <= code <= last for first, last in chars.ranges)


@dataclass
class Readings:
    """What some walks through a grammar met at most."""

    at_once: int
    """Stacks between two tokens."""
    in_token: int = 1
    """Ways through one token: inside it the library does not notice that two have met again."""


def measure(grammar: Grammar, *, at_once: int, in_token: int) -> Readings:
    """Walk through the grammar, until one of the limits is passed or nothing more is to be seen."""
    stacks = Stacks(grammar)
    most = Readings(len(stacks.first))
    dice = random.Random(0)  # the same answer for the same grammar
    for walk in range(_WALKS):
        now = dict.fromkeys(stacks.first, 1)
        liking: defaultdict[int, float] = defaultdict(dice.random)  # the same way at every turn
        for step in range(_STEPS):
            codes = _codes(stacks, now)
            if stacks.work > _WORK or not codes:
                break
            if step % _TOKEN == 0:
                now = dict.fromkeys(now, 1)
            if step < walk and dice.random() < 0.5:
                now = _step(stacks, now, dice.choice(codes))
            else:
                steps = {code: _step(stacks, now, code) for code in codes}
                now = steps[max(codes, key=lambda code: (sum(steps[code].values()), liking[code]))]
            most.at_once = max(most.at_once, len(now))
            most.in_token = max(most.in_token, sum(now.values()))
            if most.at_once > at_once or most.in_token > in_token:
                return most
    return most


def _step(stacks: Stacks, now: dict[Stack, int], code: int) -> dict[Stack, int]:
    """The stacks after a character, and the number of ways to each."""
    found: dict[Stack, int] = {}
    stacks.work += len(now)
    for stack, ways in now.items():
        if matches(stacks.chars(stack), code):
            for after in stacks.after(stack):
                found[after] = found.get(after, 0) + ways
    return found


def _codes(stacks: Stacks, now: Iterable[Stack]) -> list[int]:
    """Characters that may come next; where the most sets overlap, one of them begins."""
    found = {first for s in now if (c := stacks.chars(s)) for first, _ in c.ranges[:8]}
    return sorted(found)[:64]
