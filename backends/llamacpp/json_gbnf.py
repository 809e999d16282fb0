"""JSON texts as GBNF: the rules every schema shares, literals, numbers in a range, formats.

Owns how JSON is spelled in an answer: at most one space or one indented line break where JSON
allows any amount, strings without raw control characters or lone surrogates, numbers short enough
that a double holds them. A model can then not run off in spaces or digits. Knows no schemas.
"""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any, TypeAlias

DIGITS = 15
"""Decimal digits that a double keeps apart."""
MAX_DIGITS = 30
"""Of a bound on integers."""
COLON = '":" " "?'

RULES = {
    "ws": '| " " | "\\n" " "{0,24}',
    "plain": '[^"\\\\\\x00-\\x1F\\x7F]',
    "char": 'plain | "\\\\" escape',
    "escape": '["\\\\/bfnrt] | "u" unicode',
    "unicode": '[0-9A-CE-Fa-ce-f] hex hex hex | [Dd] [0-7] hex hex'
    ' | [Dd] [89ABab] hex hex "\\\\u" [Dd] [C-Fc-f] hex hex',
    "hex": "[0-9a-fA-F]",
    "string": '"\\"" char* "\\""',
    "boolean": '"true" | "false"',
    "null": '"null"',
    "integer": '"0" | "-"? [1-9] [0-9]{0,14}',
    "number": '"-"? ("0" | [1-9] [0-9]{0,14}) ("." [0-9]{1,14})? ([eE] [-+]? [0-9]{1,2})?',
    "member": f'string {COLON} value',
    "object": '"{" ws (member ("," ws member)* ws)? "}"',
    "array": '"[" ws (value ("," ws value)* ws)? "]"',
    "value": "object | array | string | number | boolean | null",
    "date": "year-31 | leap",
    "year-31": '[12] [0-9]{3} "-" (("0" [13578] | "1" [02]) "-" ("0" [1-9] | [12] [0-9] | "3" [01])'
    ' | ("0" [469] | "11") "-" ("0" [1-9] | [12] [0-9] | "30")'
    ' | "02-" ("0" [1-9] | "1" [0-9] | "2" [0-8]))',
    "leap": '(("1" [0-9] | "2" [0-9]) ("0" [48] | [2468] [048] | [13579] [26])'
    ' | ("1" [26] | "2" [048]) "00") "-02-29"',
    "time": '([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9] ":" [0-5] [0-9] ("." [0-9]{1,6})?'
    ' ("Z" | [-+] ([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9])',
    "date-time": 'date "T" time',
    "uuid": 'hex{8} "-" hex{4} "-" hex{4} "-" hex{4} "-" hex{12}',
    "email": 'atom ("." atom){0,3} "@" label ("." label){1,3}',
    "atom": "[a-zA-Z0-9_+-]{1,30}",
    "label": '[a-zA-Z0-9]{1,30} ("-" [a-zA-Z0-9]{1,30}){0,2}',
}  # fmt: skip
"""Bodies by name; they name each other."""
FORMATS = ("date", "time", "date-time", "uuid", "email")
"""Those enforced: dates from 1000 to 2999, times with their offset (RFC 3339)."""

Alternatives: TypeAlias = list[str]


def literal(text: str) -> str:
    """A text as it stands, quoted for GBNF."""
    return '"' + "".join(_quoted(char, '"') for char in text) + '"'


def json_text(value: Any) -> str:
    """One value in its one spelling. Raises ValueError for what JSON has no text for."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        text.encode()
    except UnicodeEncodeError:  # lone surrogates: JSON can only escape them
        text = json.dumps(value)
    return text


def class_of(ranges: tuple[tuple[int, int], ...]) -> str:
    """A set of characters as they stand."""
    parts = (
        _quoted(chr(a), "[]-^") + ("" if a == b else "-" + _quoted(chr(b), "[]-^"))
        for a, b in ranges
    )
    return f"[{''.join(parts)}]"


def _quoted(char: str, special: str) -> str:
    if char == "\n":
        return "\\n"
    if char == "\\" or (char in special and char != "^"):
        return "\\" + char
    code = ord(char)
    return f"\\x{code:02X}" if code < 0x20 or code == 0x7F or char in special else char


def integers(least: int | None, most: int | None) -> Alternatives:
    """Integers from `least` to `most`; an open end is at 15 digits or 3 beyond the other bound."""
    known = max((len(str(abs(bound))) for bound in (least, most) if bound is not None), default=0)
    far = 10 ** max(DIGITS, known + 3) - 1
    low, high = -far if least is None else least, far if most is None else most
    out: Alternatives = []
    if low < 0 and low <= high:
        out += [f'"-" {part}' for part in _naturals(max(1, -high), -low)]
    if high >= 0:
        out += _naturals(max(0, low), high)
    return out


def _naturals(least: int, most: int) -> Alternatives:
    out: Alternatives = []
    whole: list[int] = []  # lengths of which all numbers belong to it
    for length in range(len(str(least)), len(str(most)) + 1):
        low = max(least, 10 ** (length - 1) if length > 1 else 0)
        high = min(most, 10**length - 1)
        if length > 1 and (low, high) == (10 ** (length - 1), 10**length - 1):
            whole.append(length)
        elif low <= high:
            out += _same_length(str(low), str(high))
    if whole:
        out.append(f"[1-9] [0-9]{{{whole[0] - 1},{whole[-1] - 1}}}")
    return out


def _same_length(low: str, high: str) -> Alternatives:
    """Digits of one length from `low` to `high`."""
    if low == high:
        return [literal(low)]
    same = next(i for i in range(len(low)) if low[i] != high[i])
    rest = len(low) - same - 1
    first, last = int(low[same]), int(high[same])
    out: Alternatives = []
    if set(low[same + 1 :]) - {"0"}:
        out += [_seq(low[: same + 1], part) for part in _from(low[same + 1 :])]
        first += 1
    upper: Alternatives = []
    if set(high[same + 1 :]) - {"9"}:
        upper = [_seq(high[: same + 1], part) for part in _to(high[same + 1 :])]
        last -= 1
    if first <= last:
        out.append(_seq(low[:same], _digit(first, last), _any(rest, rest)))
    return out + upper


def _from(digits: str) -> Alternatives:
    """As many digits, not less."""
    steps = [
        _seq(digits[:i], _digit(int(d) + 1, 9), _any(len(digits) - i - 1, len(digits) - i - 1))
        for i, d in enumerate(digits)
        if d != "9"
    ]
    return [*steps, literal(digits)]


def _to(digits: str) -> Alternatives:
    """As many digits, not more."""
    steps = [
        _seq(digits[:i], _digit(0, int(d) - 1), _any(len(digits) - i - 1, len(digits) - i - 1))
        for i, d in enumerate(digits)
        if d != "0"
    ]
    return [*steps, literal(digits)]


def _digit(first: int, last: int) -> str:
    return literal(str(first)) if first == last else f"[{first}-{last}]"


def _any(least: int, most: int) -> str:
    return f"[0-9]{{{least},{most}}}" if most else ""


def _seq(start: str, *parts: str) -> str:
    return " ".join(part for part in (literal(start) if start else "", *parts) if part)


class Decimals:
    """Decimal numbers between two bounds, without exponents, with at most 15 digits in all."""

    def __init__(
        self, least: Decimal | None, most: Decimal | None, *, above: bool, below: bool
    ) -> None:
        """`above`, `below`: without the bound itself. Raises ValueError: a bound is too long."""
        bounds = [abs(bound) for bound in (least, most) if bound is not None]
        far = Decimal(10) ** max(9, max(len(str(int(bound))) for bound in bounds) + 1) - 1
        if least is not None and most is not None:
            far = max(bounds)
        self._digits = DIGITS - len(str(int(far)))
        if self._digits < 1 + max(len(_fraction(bound)) for bound in bounds):
            raise ValueError(f"needs more than {DIGITS} digits")
        self._low, self._high = -far if least is None else least, far if most is None else most
        self._above, self._below = above and least is not None, below and most is not None

    def alternatives(self) -> Alternatives:
        """What the numbers look like; nothing where there are none."""
        low, high, zero = self._low, self._high, Decimal(0)
        out: Alternatives = []
        if low < 0:
            above, below = (True, self._above) if high >= 0 else (self._below, self._above)
            parts = self._positive(max(zero, -high), -low, above=above, below=below)
            out += [f'"-" {part}' for part in parts]
        if high >= 0:
            above = self._above and low >= 0
            out += self._positive(max(zero, low), high, above=above, below=self._below)
        return out

    def _positive(self, low: Decimal, high: Decimal, *, above: bool, below: bool) -> Alternatives:
        if low > high or (low == high and (above or below)):
            return []
        whole, last, room = int(low), int(high), self._digits
        start, end = _fraction(low), _fraction(high)
        if whole == last:
            return _with_point(str(whole), self._between(start, end, above=above, below=below))
        out = _with_point(str(whole), _at_least(start, room, above=above))
        if whole + 1 <= last - 1:
            between = " | ".join(_naturals(whole + 1, last - 1))
            out.append(f'({between}) ("." [0-9]{{1,{room}}})?')
        return out + _with_point(str(last), _at_most(end, room, below=below))

    def _between(self, low: str, high: str, *, above: bool, below: bool) -> Alternatives:
        """Digits behind the same whole number; "" among them for none."""
        room = self._digits
        if low == high:
            return _exactly(low, room)
        length = max(len(low), len(high))
        a, b = low.ljust(length, "0"), high.ljust(length, "0")
        same = next(i for i in range(length) if a[i] != b[i])
        first, last, room = int(a[same]), int(b[same]), room - same - 1
        out: Alternatives = []
        if len(low) <= same and not above:
            out.append(literal(low) if low else "")
        begin, rest = a[: same + 1], low[same + 1 :]
        out += [_seq(begin, part) for part in _at_least(rest, room, above=above)]
        if first + 1 <= last - 1:
            out.append(_seq(a[:same], _digit(first + 1, last - 1), _any(0, room)))
        end, rest = b[: same + 1], high[same + 1 :]
        return out + [_seq(end, part) for part in _at_most(rest, room, below=below)]


def _fraction(number: Decimal) -> str:
    return f"{abs(number):f}".partition(".")[2].rstrip("0")


def _with_point(whole: str, fractions: Alternatives) -> Alternatives:
    digits = " | ".join(part for part in fractions if part)
    out = [f"{literal(whole + '.')} ({digits})"] if digits else []
    return [literal(whole), *out] if "" in fractions else out


def _exactly(digits: str, room: int) -> Alternatives:
    more = room - len(digits)
    zeros = f'"0"{{0,{more}}}' if more else ""
    return [_seq(digits, zeros)] if digits else ["", f'"0"{{1,{room}}}'] if room else [""]


def _at_least(digits: str, room: int, *, above: bool) -> Alternatives:
    """Digits that continue a number and make it as large as `digits` do; "" for none."""
    out = [
        _seq(digits[:i], _digit(int(d) + 1, 9), _any(0, room - i - 1))
        for i, d in enumerate(digits)
        if d != "9"
    ]
    more = room - len(digits)
    if not above:
        if not digits:
            return ["", _any(1, room)] if room else [""]
        return [*out, _seq(digits, _any(0, more))]
    if more > 0:
        zeros = (more - 1) // 2
        skip = f'"0"{{0,{zeros}}}' if zeros else ""
        out.append(_seq(digits, skip, "[1-9]", _any(0, more - 1 - zeros)))
    return out


def _at_most(digits: str, room: int, *, below: bool) -> Alternatives:
    """Digits that continue a number and keep it as small as `digits` do; "" for none."""
    out = [
        _seq(digits[:i], _digit(0, int(d) - 1), _any(0, room - i - 1))
        for i, d in enumerate(digits)
        if d != "0"
    ]
    shorter = [literal(digits[:i]) if i else "" for i in range(len(digits))]
    return [*shorter, *out, *([] if below else _exactly(digits, room))]
