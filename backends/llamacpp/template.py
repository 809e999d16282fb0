"""Renders chat messages the way the model was trained to see them.

Owns the template environment: jinja2 in its immutable sandbox, since a template is code from a
downloaded file. A model without a template is given ChatML, and the log says so.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from rbee.errors import ModelIncompatible, ValidationFailed

log = logging.getLogger("rbee.llamacpp")

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CHATML_END = "<|im_end|>"


class ChatTemplate:
    """A compiled template. `stops` must be added to a request's own."""

    def __init__(self, source: str | None, *, bos: str, eos: str) -> None:
        if source is None:
            log.warning("the model has no chat template; ChatML is used")
        self.stops: tuple[str, ...] = () if source is not None else (CHATML_END,)
        self._names = {"bos_token": bos, "eos_token": eos}
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = _to_json
        names: dict[str, Any] = environment.globals
        names |= {"raise_exception": _refuse, "strftime_now": _now}
        try:
            self._template = environment.from_string(source or CHATML)
        except TemplateError as exc:
            raise ModelIncompatible(f"the model's chat template is not valid: {exc}") from exc

    def render(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """The prompt that makes the model answer as the assistant.

        Raises ValidationFailed when the template refuses the messages.
        """
        try:
            return self._template.render(
                messages=[dict(message) for message in messages],
                add_generation_prompt=True,
                **self._names,
            )
        except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as exc:
            raise ValidationFailed(
                f"messages: the model's chat template refuses them: {str(exc)[:300]}",
                field="messages",
                constraint="chat template",
            ) from exc


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)


def _now(form: str) -> str:
    return datetime.now().astimezone().strftime(form)


def _to_json(value: Any, indent: int | None = None, **_: Any) -> str:
    """Plain JSON; jinja2's own filter escapes for HTML."""
    return json.dumps(value, ensure_ascii=False, indent=indent)
