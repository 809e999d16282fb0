"""GBNF, llama.cpp's grammar language: whether a grammar may be handed to the C library.

Owns that decision, and says why not and where. The library recurses without end on left recursion
behind a rule that is only indirectly empty, walks the same rules exponentially often, and keeps
every way a text can be read; what passes `check` is accepted there and stays within the limits
below and in gbnf_syntax.py. It never calls the library.
"""

from __future__ import annotations

from .gbnf_cost import measure
from .gbnf_syntax import Chars, Grammar, Rule, parse_rules

MAX_WAYS = 1_000_000
"""Steps of the library's own search for left recursion, which walks every path again."""
MAX_CHAIN = 2_500
"""Rules that begin with each other: the library recurses once for each."""
MAX_READINGS = 500
"""Ways in which one beginning of an answer may be read at once: each costs the time of a token."""
MAX_TURNS = 100_000
"""Ways to read the characters of one long token: each costs about a microsecond."""


def check(text: str) -> None:
    """Raises ValidationFailed, naming line and column, for all that may not reach the C library."""
    grammar = parse(text)
    _check_paths(grammar)
    rule = grammar.rules[grammar.root]
    found = measure(grammar, at_once=MAX_READINGS, in_token=MAX_TURNS)
    if found.at_once > MAX_READINGS:
        reason = f"there are texts that can be read in more than {MAX_READINGS} ways at once"
        grammar.fail(rule, f"the grammar is too ambiguous: {reason}", "ambiguity")
    if found.in_token > MAX_TURNS:
        reason = f"a few characters of some text can be read in more than {MAX_TURNS} ways"
        grammar.fail(rule, f"the grammar is too ambiguous: {reason}", "ambiguity")


def parse(text: str) -> Grammar:
    """A grammar's rules; none is left-recursive, each can end. Raises ValidationFailed."""
    grammar = parse_rules(text)
    _check_recursion(grammar)
    ends = closure(grammar.rules, through_chars=True)
    for index, rule in enumerate(grammar.rules):
        if index not in ends:
            grammar.fail(rule, f"the rule {rule.name!r} can never end", "a rule that ends")
    return grammar


def closure(rules: list[Rule], *, through_chars: bool) -> set[int]:
    """The rules that can be finished: by any text (`through_chars`), or by the empty text."""
    waiting: dict[int, list[tuple[int, int]]] = {}
    missing: list[int] = []
    found: set[int] = set()
    todo: list[int] = []
    for index, rule in enumerate(rules):
        for sequence in rule.alternatives:
            references = [symbol for symbol in sequence if isinstance(symbol, int)]
            if len(references) < len(sequence) and not through_chars:
                continue
            missing.append(len(references))
            for reference in references:
                waiting.setdefault(reference, []).append((index, len(missing) - 1))
            if not references:
                todo.append(index)
    while todo:
        if (done := todo.pop()) in found:
            continue
        found.add(done)
        for index, sequence_number in waiting.get(done, ()):
            missing[sequence_number] -= 1
            if missing[sequence_number] == 0:
                todo.append(index)
    return found


def leftmost(rule: Rule, empty: set[int]) -> list[int]:
    """The rules a rule may begin with, one entry per place, `empty` being those that may be so."""
    found: list[int] = []
    for sequence in rule.alternatives:
        for symbol in sequence:
            if isinstance(symbol, Chars):
                break
            found.append(symbol)
            if symbol not in empty:
                break
    return found


def _check_recursion(grammar: Grammar) -> None:
    rules = grammar.rules
    empty = closure(rules, through_chars=False)
    edges = [leftmost(rule, empty) for rule in rules]
    done: set[int] = set()
    for start in range(len(rules)):
        path: list[int] = []
        on_path: set[int] = set()
        todo: list[tuple[int, bool]] = [(start, False)]
        while todo:
            rule, leaving = todo.pop()
            if leaving:
                on_path.discard(path.pop())
                done.add(rule)
            elif rule in on_path:
                names = [rules[step].name for step in [*path[path.index(rule) :], rule]]
                steps = [n for i, n in enumerate(names) if i == 0 or n != names[i - 1]]
                way = f" ({' → '.join(steps[:8])})" if len(steps) > 1 else ""
                reason = f"the rule {rules[rule].name!r} may begin with itself{way}"
                grammar.fail(rules[rule], f"left recursion: {reason}", "no left recursion")
            elif rule not in done:
                path.append(rule)
                on_path.add(rule)
                todo.append((rule, True))
                todo.extend((after, False) for after in reversed(edges[rule]))


def _check_paths(grammar: Grammar) -> None:
    """Bound the time and the recursion of the library's search for left recursion."""
    rules = grammar.rules
    empty = closure(rules, through_chars=False)
    edges = [leftmost(rule, empty) for rule in rules]
    ways: dict[int, int] = {}
    chain: dict[int, int] = {}
    for start in range(len(rules)):
        todo = [start]
        while todo:
            rule = todo[-1]
            missing = [after for after in edges[rule] if after not in ways]
            todo.extend(missing)
            if missing:
                continue
            todo.pop()
            ways[rule] = min(MAX_WAYS + 1, 1 + sum(ways[after] for after in edges[rule]))
            chain[rule] = 1 + max((chain[after] for after in edges[rule]), default=0)
            if chain[rule] > MAX_CHAIN:
                reason = f"more than {MAX_CHAIN} rules begin with each other"
                grammar.fail(rules[rule], reason, "size")
    if sum(ways.values()) > MAX_WAYS:
        worst = rules[max(ways, key=lambda rule: ways[rule])]
        reason = f"the rule {worst.name!r} can begin in too many ways (in all {MAX_WAYS} allowed)"
        grammar.fail(worst, reason, "size")
