"""Renders chat messages the way the model was trained to see them.

Owns what the engine knows of a model's template: whether it takes tools and a system message, and
how to render a request. What a template may do is `template_guard`'s, what it wants is
`template_shape`'s. A model that came without a template gets one of `template_fallback`, and the
log says so.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jinja2 import Template, TemplateError, TemplateSyntaxError

from rbee.errors import ModelIncompatible, ValidationFailed

from .families import Family, family_of
from .template_budget import TooCostly
from .template_fallback import choose
from .template_guard import SECONDS, GuardedEnvironment, render
from .template_shape import Message, Shape, find_shape, fit

log = logging.getLogger("rbee.template")
_TRIAL_SECONDS = 2.0
"""For all trials together; they take a tenth of one."""
_ERRORS = (TemplateError, TypeError, ValueError, LookupError, ArithmeticError, AttributeError)
_ANOTHER = "Choose another file of this model, or send `prompt` instead of `messages`."


class ChatTemplate:
    """A model's template, tried out and ready. Safe to use from several threads."""

    def __init__(
        self,
        source: str | None,
        *,
        bos: str,
        eos: str,
        tool_source: str | None = None,
        has_token: Callable[[str], bool] = lambda _: False,
        name: str = "",
    ) -> None:
        """`source` and `tool_source` as the model's file has them, `bos` and `eos` as text.

        For a model without a template: `has_token` says whether a text is one token of its
        vocabulary, `name` is what the model is called. Raises ModelIncompatible for a template
        that is not valid, with the line, or that runs away on two words.
        """
        self.fallback: str | None = None
        """The name of the form that is used in place of the missing template."""
        self.stops: tuple[str, ...] = ()
        """To be added to a request's own."""
        if source is None or "{" not in source:  # llama.cpp gives a form's name for some models
            chosen = choose(has_token, source or name)
            log.warning("the model has no chat template; the form %s is used", chosen.name)
            self.fallback, self.stops, source = chosen.name, chosen.stops, chosen.source
        self._names = {"bos_token": bos, "eos_token": eos}
        environment = GuardedEnvironment()
        try:
            self._plain = self._tried(environment.compiled(source))
        except (TemplateError, RecursionError) as exc:
            raise _incompatible(exc) from exc
        self._tools = self._plain
        if tool_source is not None:
            try:
                self._tools = self._tried(environment.compiled(tool_source), for_tools=True)
            except (TemplateError, RecursionError) as exc:
                log.warning("the model's template for tools is not used: %s", _reason(exc))
        self.supports_tools = self._tools[1].tools
        self.family: Family = family_of(source if tool_source is None else tool_source)
        """How the model says that it calls a function."""
        self._name = name
        self.supports_system = self._plain[1].system
        """Otherwise what the system says goes in front of the user's next words."""
        self._told = False

    def render(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()
    ) -> str:
        """The prompt that makes the model answer as the assistant; it may begin with `bos`.

        Raises ValidationFailed: `tools` when the template has no place for them, `messages` when
        it refuses them, when they are of another kind than text, or when it takes too long.
        """
        if tools and not self.supports_tools:
            raise ValidationFailed(
                f"tools: {self._name or 'the model'} has none: its chat template has no place for"
                " them",
                field="tools",
                constraint="supported by the model",
                action="Choose a model that was trained to call tools, or send no tools.",
            )
        with_tools = bool(tools) or any(
            one.get("tool_calls") or one.get("role") == "tool" for one in messages
        )
        template, shape = self._tools if with_tools else self._plain
        if not (shape.system or self._told) and any(
            one.get("role") in ("system", "developer") for one in messages
        ):
            self._told = True
            log.info("the model has no system role: what it says goes before the user's words")
        try:
            return self._run(template, fit(messages, shape), [dict(tool) for tool in tools])
        except (*_ERRORS, RecursionError) as exc:
            raise ValidationFailed(
                f"messages: the model's chat template refuses them: {_reason(exc)}",
                field="messages",
                constraint="chat template",
            ) from exc

    def _tried(self, template: Template, *, for_tools: bool = False) -> tuple[Template, Shape]:
        end = time.monotonic() + _TRIAL_SECONDS

        def attempt(messages: list[Message], tools: list[Any]) -> str | None:
            left = end - time.monotonic()
            if left <= 0:
                raise TooCostly(f"trying it takes longer than {_TRIAL_SECONDS:g} s")
            try:
                return self._run(template, messages, tools, seconds=left)
            except TooCostly:
                raise
            except (*_ERRORS, RecursionError):
                return None

        return template, find_shape(attempt, for_tools=for_tools)

    def _run(
        self,
        template: Template,
        messages: list[Message],
        tools: list[Any],
        *,
        seconds: float = SECONDS,
    ) -> str:
        names = {
            "messages": messages,
            "tools": tools or None,
            "documents": None,
            "add_generation_prompt": True,
            **self._names,
        }
        return render(template, names, size=_size(messages) + _size(tools), seconds=seconds)


def _size(value: Any) -> int:
    """Characters in all texts of a JSON value."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(map(_size, value.keys())) + sum(map(_size, value.values()))
    return sum(map(_size, value)) if isinstance(value, (list, tuple)) else 1


def _incompatible(exc: Exception) -> ModelIncompatible:
    return ModelIncompatible(
        f"the model's chat template is not usable: {_reason(exc)}", action=_ANOTHER
    )


def _reason(exc: Exception) -> str:
    line = f"line {exc.lineno}: " if isinstance(exc, TemplateSyntaxError) else ""
    return f"{line}{str(exc)[:300] or type(exc).__name__}"
