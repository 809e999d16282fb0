"""How much time and space one rendering of a template may take.

Owns the account and the measuring of values: whatever makes a bigger value from smaller ones is
measured before, or just after, it is made. Lists are measured with all that they lead to: a list of
the same list twice, forty times over, is small in memory and endless as text. Never knows jinja2's
environment; that is `template_guard`.
"""

from __future__ import annotations

import re
import string
import time
from collections.abc import ItemsView, Iterable, Iterator, KeysView, ValuesView
from contextvars import ContextVar
from typing import Any, cast

from jinja2 import TemplateRuntimeError
from jinja2.exceptions import SecurityError

VIEWS = (KeysView, ValuesView, ItemsView)
LARGE_NUMBER = 10_000
"""The largest number a filter or a method is given: widths, counts."""
_VALUE, _VALUE_PER = 2 << 20, 4
"""The largest value: characters, and how many more for each character that is rendered."""
_TOTAL, _TOTAL_PER = 64 << 20, 128
_ITEM = 64
"""What an element of a list counts, in characters, against the total."""
_BITS = 8192
_ATOMS = frozenset({int, float, bool, type(None)})
_LONG_NUMBER, _WIDE_NUMBER = re.compile(r"\d{5}"), re.compile(r"\d{3}")
_COMPUTED_WIDTH = re.compile(r"%[^a-zA-Z%]*\*")


class TooCostly(TemplateRuntimeError):
    """The template takes more time or space than one rendering may."""


class Budget:
    """What one rendering may take; `size` is how many characters it is given to render."""

    def __init__(self, size: int, seconds: float) -> None:
        self._deadline = time.monotonic() + seconds
        self._seconds = seconds
        self._largest = _VALUE + _VALUE_PER * size
        self._left = _TOTAL + _TOTAL_PER * size
        self._weights: dict[int, tuple[Any, int]] = {}

    def tick(self) -> None:
        """Called wherever something can repeat."""
        if time.monotonic() > self._deadline:
            raise TooCostly(f"it takes longer than {self._seconds:.2g} s")

    def fits(self, size: int) -> None:
        """Called before a value of this many characters or elements is made."""
        if size > self._largest:
            raise TooCostly(f"it makes a value of {size} characters")

    def note(self, value: Any) -> Any:
        """Count a value that was just made; returns it."""
        if type(value) not in _ATOMS:
            if isinstance(value, str):
                self._spend(len(value))
            self.fits(self.weigh(value))
        return value

    def weigh(self, value: Any) -> int:
        """About how many characters a value is when written out, shared parts each time."""
        if isinstance(value, str):
            return len(value)
        if not isinstance(value, (list, tuple, dict, *VIEWS)):
            return 1
        held = cast("dict[Any, Any]", value)
        known = self._weights.get(id(held))
        if known is not None:
            return known[1]
        self._spend(_ITEM * len(held))
        weight = 1
        for part in _parts(held):
            weight += 1 + self.weigh(part)
        self.fits(weight)
        self._weights[id(held)] = (held, weight)  # keeps the value, and thereby its id
        return weight

    def _spend(self, amount: int) -> None:
        self._left -= amount
        if self._left < 0:
            raise TooCostly("it makes too many large values")


BUDGET: ContextVar[Budget] = ContextVar("budget")
"""Of the rendering that runs in this thread."""


def joined(parts: list[str], between: str) -> str:
    """`between.join(parts)`, measured before."""
    BUDGET.get().fits(sum(map(len, parts)) + len(between) * len(parts))
    return between.join(parts)


def limited(chunks: Iterable[str]) -> Iterator[str]:
    """The chunks, as long as they fit into one value."""
    budget, size = BUDGET.get(), 0
    for chunk in chunks:
        size += len(chunk)
        budget.tick()
        budget.fits(size)
        yield chunk


def check_number(what: str, values: Iterable[Any]) -> None:
    """Refuse a number with which a width or a power would be enormous."""
    for value in values:
        if isinstance(value, int) and abs(value) > LARGE_NUMBER:
            raise SecurityError(f"{what} with a number of {value.bit_length()} bits")


def check_replace(text: str, old: str = "", new: str = "", *_: Any) -> None:
    """Before `text.replace(old, new)`."""
    BUDGET.get().fits(len(text) + text.count(old) * len(new))


def check_percent(text: str, given: Any) -> None:
    """Before `text % given`."""
    if _COMPUTED_WIDTH.search(text):
        raise SecurityError("a format with a computed width")
    _check_fields(text, text.count("%"), (given,))


def check_format(text: str, given: Iterable[Any]) -> None:
    """Before `text.format(...)`."""
    if any("{" in (spec or "") for _, _, spec, _ in string.Formatter().parse(text)):
        raise SecurityError("a format with a computed width")
    _check_fields(text, text.count("{"), given)


def check_product(left: Any, right: Any) -> None:
    """Before `left * right`."""
    for many, times in ((left, right), (right, left)):
        if isinstance(many, (str, list, tuple)) and isinstance(times, int):
            BUDGET.get().fits(len(cast("str", many)) * times)
    if isinstance(left, int) and isinstance(right, int):
        _check_bits(left.bit_length() + right.bit_length())


def check_power(left: Any, right: Any) -> None:
    """Before `left ** right`."""
    if isinstance(left, int) and isinstance(right, int) and right > 0:
        _check_bits(max(1, left.bit_length()) * right)


def _check_fields(text: str, fields: int, given: Iterable[Any]) -> None:
    """No enormous widths; and each field may be all of `given`."""
    if _LONG_NUMBER.search(text):
        raise SecurityError("a format with a large width")
    wide = LARGE_NUMBER if _WIDE_NUMBER.search(text) else 100
    budget = BUDGET.get()
    budget.fits(len(text) + fields * (wide + sum(budget.weigh(value) for value in given)))


def _check_bits(bits: int) -> None:
    if bits > _BITS:
        raise TooCostly(f"it makes a number of {bits} bits")


def _parts(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from cast("dict[Any, Any]", value)
        yield from cast("dict[Any, Any]", value).values()
    else:
        yield from value
