"""The filters chat templates have, each with bounds.

Owns which of jinja2's filters exist here (those that make enormous or endless things are left out),
the ones written anew because they must measure first, and `tojson` with the arguments that
templates written for transformers pass. Never bounds operators or calls; `template_guard` does.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from jinja2 import Environment
from jinja2.exceptions import SecurityError
from jinja2.filters import FILTERS
from jinja2.runtime import Context
from jinja2.utils import pass_context, pass_environment, pass_eval_context

from .template_budget import (
    BUDGET,
    check_number,
    check_percent,
    check_replace,
    joined,
    limited,
)

_INDENT = 16
_OF_JINJA = (
    *("abs", "capitalize", "count", "d", "default", "dictsort", "e", "escape", "first", "float"),
    *("format", "groupby", "int", "items", "last", "length", "list", "lower", "map", "max", "min"),
    *("reject", "rejectattr", "replace", "reverse", "round", "safe", "select", "selectattr"),
    *("sort", "string", "title", "trim", "truncate", "unique", "upper", "wordcount"),
)
TICK, NOTE, CONCAT, SLICE = "__tick", "__note", "__concat", "__slice"
"""Not for authors: what `template_guard` puts into a template."""


def filters() -> dict[str, Callable[..., Any]]:
    """Name → filter; each needs a rendering's budget, so none runs while a template compiles."""
    return {name: _bounded(name, FILTERS[name]) for name in _OF_JINJA} | {
        name: _bounded(name, function) for name, function in _OWN.items()
    }


def to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Plain JSON; jinja2's own filter of this name escapes for HTML."""
    width = len(indent) if isinstance(indent, str) else indent or 0
    if max(width, *(len(part) for part in separators or ("",))) > _INDENT:
        raise SecurityError("tojson with a wide indent or long separators")
    coder = json.JSONEncoder(
        ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
    return coder.encode(value) if indent is None else "".join(limited(coder.iterencode(value)))


def _bounded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    kind = getattr(function, "jinja_pass_arg", None)
    leading = _LEADING[kind] if kind is not None else None

    @pass_context
    def run(context: Context, value: Any, *args: Any, **kwargs: Any) -> Any:
        budget = BUDGET.get()
        budget.tick()
        given = (*args, *kwargs.values())
        for part in (value, *given):
            budget.weigh(part)
        if name not in ("default", "d", SLICE):
            check_number(name, given)
        if name == "replace":
            check_replace(str(value), *map(str, given))
        elif name == "format":
            check_percent(str(value), kwargs or args)
        before = (leading(context),) if leading else ()
        return budget.note(function(*before, value, *args, **kwargs))

    return run


def _kind(decorator: Callable[..., Any]) -> Any:
    """The mark that a decorator of jinja2 leaves on a filter that takes more than the value."""

    def plain() -> None: ...

    return vars(decorator(plain))["jinja_pass_arg"]


_LEADING: dict[Any, Callable[[Context], Any]] = {
    _kind(pass_context): lambda context: context,
    _kind(pass_environment): lambda context: context.environment,
    _kind(pass_eval_context): lambda context: context.eval_ctx,
}


@pass_environment
def _join(
    environment: Environment, value: Any, d: str = "", attribute: str | int | None = None
) -> str:
    parts: list[Any] = list(value)
    if attribute is not None:
        parts = [environment.getitem(part, attribute) for part in parts]
    return joined([str(part) for part in parts], str(d))


def _indent(s: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    """Lines after the first moved in by `width`; empty ones only with `blank`."""
    lead = width if isinstance(width, str) else " " * width
    lines = f"{s}\n".splitlines()
    rest = [lead + line if line or blank else line for line in lines[1:]]
    budget = BUDGET.get()
    budget.fits(len(lead) * len(lines))
    return joined([(lead if first else "") + lines[0], *rest], "\n")


def _sum(value: Any, attribute: str | None = None, start: float = 0) -> float:
    parts = [part[attribute] if attribute is not None else part for part in value]
    if not all(isinstance(part, (int, float)) for part in (start, *parts)):
        raise SecurityError("sum of what are no numbers")
    return sum(parts, start)


def _slice(value: Any, start: Any, stop: Any, step: Any) -> Any:
    return value[start:stop:step]


def _concat(parts: list[Any]) -> str:
    return joined([str(part) for part in parts], "")


def _same(value: Any) -> Any:
    return value


_OWN: dict[str, Callable[..., Any]] = {
    "tojson": to_json,
    "from_json": json.loads,
    "join": _join,
    "indent": _indent,
    "sum": _sum,
    TICK: _same,
    NOTE: _same,
    SLICE: _slice,
    CONCAT: _concat,
}
