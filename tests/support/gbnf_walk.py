"""Sentences of a grammar, and whether a text is one: on the product's parsed rules."""

from __future__ import annotations

import math
import random

from rbee.backends.llamacpp import gbnf
from rbee.backends.llamacpp.gbnf_cost import END, Stacks
from rbee.backends.llamacpp.gbnf_syntax import Chars, Grammar, Sequence


class Walk:
    """Random sentences of one grammar; the longer one is, the straighter it comes to its end."""

    def __init__(self, text: str) -> None:
        self.grammar: Grammar = gbnf.parse(text)
        rules = self.grammar.rules
        self._shortest = [math.inf] * len(rules)
        changed = True
        while changed:
            changed = False
            for index, rule in enumerate(rules):
                length = 1 + min(self._length(sequence) for sequence in rule.alternatives)
                if length < self._shortest[index]:
                    self._shortest[index], changed = length, True

    def sentence(self, dice: random.Random, symbols: int = 120) -> str:
        """A text of the grammar; after so many symbols only the shortest ways are taken."""
        out: list[str] = []
        todo: list[Chars | int] = [self.grammar.root]
        left = symbols
        while todo:
            symbol = todo.pop()
            left -= 1
            if isinstance(symbol, Chars):
                out.append(_char(symbol, dice))
                continue
            ways = self.grammar.rules[symbol].alternatives
            if left <= 0:
                short = min(self._length(way) for way in ways)
                ways = [way for way in ways if self._length(way) == short]
            todo.extend(reversed(dice.choice(ways)))
        return "".join(out)

    def accepts(self, text: str) -> bool:
        """Whether the whole text is a sentence."""
        stacks = Stacks(self.grammar)
        now = stacks.first
        for char in text:
            now = stacks.accept(now, ord(char))
        return END in now

    def _length(self, sequence: Sequence) -> float:
        return sum(1 if isinstance(part, Chars) else self._shortest[part] for part in sequence)


def _char(chars: Chars, dice: random.Random) -> str:
    first, last = dice.choice(chars.ranges)
    plain = min(last, 0x7E)
    return chr(dice.randint(first, plain if first <= plain and dice.random() < 0.9 else last))
