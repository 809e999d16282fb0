"""Runs a template that came with a downloaded file, and does not let it run away.

Owns the template language: jinja2's immutable sandbox, which keeps a template from everything
outside it, with what templates written for transformers expect, and with bounds. Never knows what a
chat is.

How the bounds work: every repetition in a template is a loop or a call. Loop bodies, calls,
operators and filters look at the clock, and what they make is measured (`template_budget`), so that
between two looks only work on values of bounded size is done. Where the sandbox has no hook, the
syntax tree is given one before it is compiled. What remains possible for a hostile template: about
a hundred MiB of memory for some seconds, in a worker process that serves only its model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from types import GeneratorType
from typing import Any, NoReturn, cast

from jinja2 import Environment, Template, TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace, pass_context
from jinja2.visitor import NodeTransformer

from .template_budget import (
    BUDGET,
    VIEWS,
    Budget,
    check_format,
    check_number,
    check_percent,
    check_power,
    check_product,
    check_replace,
    joined,
    limited,
)
from .template_filters import CONCAT, NOTE, SLICE, TICK, filters

SECONDS = 5.0
"""For one rendering; a conversation of a megabyte takes a tenth of a second."""
_SOURCE_LIMIT = 64 << 10
"""Characters of a template; the longest of a known model family has 17 thousand."""
_PADDING = frozenset({"center", "ljust", "rjust", "zfill"})
_TEXT_METHODS = _PADDING | {
    *("capitalize", "casefold", "count", "endswith", "find", "format", "format_map", "index"),
    *("isalnum", "isalpha", "isascii", "isdecimal", "isdigit", "isidentifier", "islower"),
    *("isnumeric", "isprintable", "isspace", "istitle", "isupper", "join", "lower", "lstrip"),
    *("partition", "removeprefix", "removesuffix", "replace", "rfind", "rindex", "rpartition"),
    *("rsplit", "rstrip", "split", "splitlines", "startswith", "strip", "swapcase", "title"),
    "upper",
}
_LIST_METHODS = frozenset({"copy", "count", "index"})
_DICT_METHODS = frozenset({"copy", "get", "items", "keys", "values"})


class GuardedEnvironment(ImmutableSandboxedEnvironment):
    """The template language as chat templates use it, with bounds."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=["jinja2.ext.loopcontrols", Generation],
            finalize=_finalize,
        )
        self.concat = _concat
        self.filters = filters()
        self.globals = {
            "range": self.globals["range"],
            "dict": dict,
            "namespace": QuietNamespace,
            "raise_exception": _refuse,
            "strftime_now": _now,
        }

    def compiled(self, source: str) -> Template:
        """A template for `render`. Raises TemplateError, a TemplateSyntaxError with the line."""
        if len(source) > _SOURCE_LIMIT:
            raise TemplateError(f"it has {len(source)} characters; {_SOURCE_LIMIT} are the limit")
        try:
            tree = _Hooks(self).visit(self.parse(source))
            return self.from_string(cast("nodes.Template", tree))
        except (SyntaxError, ArithmeticError, MemoryError, RecursionError, ValueError) as exc:
            raise TemplateError(f"it cannot be compiled: {type(exc).__name__}") from exc

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Methods that read; the rest of what values offer is not for templates."""
        if isinstance(obj, str):
            return attr in _TEXT_METHODS
        if isinstance(obj, dict):
            return attr in _DICT_METHODS
        if isinstance(obj, (list, tuple)):
            return attr in _LIST_METHODS
        if isinstance(obj, (int, float, type, GeneratorType, *VIEWS)):
            return False
        return super().is_safe_attribute(obj, attr, value)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Every call in a template; the double underscores leave all names to `kwargs`."""
        budget = BUDGET.get()
        budget.tick()
        for value in (*args, *kwargs.values()):
            budget.weigh(value)
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, str):
            args = _check_method(owner, __obj.__name__, args)
        return budget.note(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """The operators that can make much of little."""
        budget = BUDGET.get()
        budget.tick()
        if operator == "%" and isinstance(left, str):
            check_percent(left, right)
        elif operator == "+":
            budget.fits(budget.weigh(left) + budget.weigh(right))
        elif operator == "*":
            check_product(left, right)
        elif operator == "**":
            check_power(left, right)
        return budget.note(super().call_binop(context, operator, left, right))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """The sandbox's own `str.format`, with its widths and copies bounded."""
        inner = super().wrap_str_format(value)
        if inner is None:
            return None
        text: str = value.__self__

        def bounded(*args: Any, **kwargs: Any) -> str:
            check_format(text, (*args, *kwargs.values()))
            return inner(*args, **kwargs)

        return bounded


def render(template: Template, names: Mapping[str, Any], *, size: int, seconds: float) -> str:
    """The text a template makes of `names`, which come to `size` characters.

    Raises TooCostly, TemplateError for what the template refuses or gets wrong, and the errors
    of Python's operators (TypeError, ValueError, LookupError, ArithmeticError, RecursionError).
    """
    token = BUDGET.set(Budget(size, seconds))
    try:
        return "".join(limited(template.generate(names)))
    finally:
        BUDGET.reset(token)


class Generation(Extension):
    """`{% generation %}` marks the assistant's words for training; here its body is just text."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The body."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class QuietNamespace(Namespace):
    """A namespace that is not written out: it can hold itself."""

    def __repr__(self) -> str:
        return "<namespace>"


class _Hooks(NodeTransformer):
    """Puts the guard where jinja2's sandbox has no hook of its own."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        tick = self._filter(TICK, nodes.Const(None), node)
        node.body.insert(0, nodes.ExprStmt(tick, lineno=node.lineno))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return self._filter(CONCAT, nodes.List(node.nodes, lineno=node.lineno), node)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        cut = node.arg
        if not isinstance(cut, nodes.Slice):
            return node
        ends = [end or nodes.Const(None) for end in (cut.start, cut.stop, cut.step)]
        return self._filter(SLICE, node.node, node, *ends)

    def visit_List(self, node: nodes.List) -> nodes.Node:
        self.generic_visit(node)
        return self._filter(NOTE, node, node)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        self.generic_visit(node)
        return self._filter(NOTE, node, node)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        self.generic_visit(node)
        return self._filter(NOTE, node, node) if node.ctx == "load" else node

    def _filter(
        self, name: str, value: nodes.Expr, at: nodes.Node, *args: nodes.Expr
    ) -> nodes.Filter:
        made = nodes.Filter(value, name, list(args), [], None, None, lineno=at.lineno)
        made.set_environment(self._environment)
        return made


@pass_context
def _finalize(_: Context, value: Any) -> Any:
    """Everything written with `{{ }}`; that it takes the context keeps it out of compiling."""
    budget = BUDGET.get()
    budget.tick()
    budget.weigh(value)
    return value


def _concat(parts: Iterable[str]) -> str:
    """What a macro, a call block or a set block has written."""
    return BUDGET.get().note(joined(list(parts), ""))


def _check_method(owner: str, name: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Before a method of a text; returns the arguments to call it with."""
    if name in _PADDING:
        check_number(name, args)
    elif name == "replace":
        check_replace(owner, *map(str, args))
    elif name == "join" and args:
        parts = [str(part) for part in args[0]]
        BUDGET.get().fits(sum(map(len, parts)) + len(owner) * len(parts))
        return (parts,)
    return args


def _refuse(message: str = "") -> NoReturn:
    raise TemplateError(message)


def _now(form: str) -> str:
    if len(form) > 100 or re.search(r"\d{3}", form):
        raise SecurityError("a date format of that kind")
    return datetime.now().astimezone().strftime(form)
