"""How freely a conversation's model chooses its words, and the system prompt before them.

The bounds are the protocol's own: a value is good when the queen would take it. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from rbee.errors import ValidationFailed
from rbee.protocol.base import Wire, convert
from rbee.protocol.messages import Message
from rbee.protocol.operations import Infer, check_infer
from rbee.tui.thinking import clean

NUMBERS = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "max_tokens",
    "seed",
)
FIELDS = (*NUMBERS, "stop", "system")
LONGEST_SYSTEM = 100_000
_WHOLE = frozenset({"top_k", "max_tokens", "seed"})
DEFAULTS = {field.name: field.default for field in msgspec.structs.fields(Infer)}
"""Of the fields of `infer`."""
_ESCAPES = {"n": "\n", "t": "\t", "\\": "\\", ",": ","}


class Sampling(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """None: the default of `infer`."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    max_tokens: int | None = None
    seed: int | None = None
    stop: list[str] = []
    system: str = ""

    def told(self) -> dict[str, Any]:
        """The fields of `infer` that are set."""
        found = {name: getattr(self, name) for name in NUMBERS}
        told = {name: value for name, value in found.items() if value is not None}
        return told | ({"stop": self.stop} if self.stop else {})


def default_words(name: str) -> str:
    """What is used for a field that is not set."""
    if name == "max_tokens":
        return "until the model ends"
    if name == "seed":
        return "by chance"
    value = DEFAULTS.get(name)
    return "none" if value in (None, [], msgspec.NODEFAULT) else f"{value}"


def value_text(sampling: Sampling, name: str) -> str:
    """A field as it is written in its box; empty when it is not set."""
    value = getattr(sampling, name)
    if name == "stop":
        return ", ".join(_escaped(word) for word in value)
    return "" if value is None else str(value)


def read(name: str, text: str) -> Any:
    """What was written in the box of a field. Raises ValidationFailed with words for its writer."""
    if name == "system":
        if len(text) > LONGEST_SYSTEM:
            raise _bad(name, f"at most {LONGEST_SYSTEM} characters, these are {len(text)}")
        return clean(text).strip()
    value: Any
    if name == "stop":
        value = _words(text)
    else:
        written = text.strip()
        if not written:
            return None
        try:
            value = int(written) if name in _WHOLE else float(written)
        except ValueError:
            raise _bad(name, "a whole number" if name in _WHOLE else "a number") from None
    try:
        check_infer(
            convert({"operation": "infer", "model": "-", "prompt": "-", name: value}, Infer)
        )
    except ValidationFailed as exc:
        raise _bad(name, _reason(str(exc.details.get("constraint") or exc.message))) from exc
    return value


def asking(
    model: str, messages: Sequence[Message], sampling: Sampling, *, worker_id: str | None = None
) -> Infer:
    """The operation. Raises ValidationFailed for a conversation that is too long."""
    said = [message.plain() for message in messages]
    if sampling.system:
        said.insert(0, {"role": "system", "content": sampling.system})
    wanted = {"operation": "infer", "model": model, "messages": said, **sampling.told()}
    return convert(wanted | ({"worker_id": worker_id} if worker_id else {}), Infer)


def _bad(name: str, reason: str) -> ValidationFailed:
    return ValidationFailed(reason, field=name, constraint=reason)


def _reason(constraint: str) -> str:
    """`Expected `float` <= 5.0` → `at most 5`."""
    for sign, words in ((">=", "at least"), ("<=", "at most"), (">", "more than"), ("<", "below")):
        head, found, bound = constraint.partition(f" {sign} ")
        if found and "length" not in head:
            return f"{words} {bound.removesuffix('.0')}"
    if "length" in constraint:
        return "at most 4 texts of 1 to 256 characters"
    return constraint


def _words(text: str) -> list[str]:
    r"""Texts apart by commas; `\n`, `\t`, `\,` and `\\` mean what they say."""
    words, word, escape = [], "", False
    for character in text:
        if escape:
            word, escape = word + _ESCAPES.get(character, "\\" + character), False
        elif character == "\\":
            escape = True
        elif character == ",":
            words.append(word)
            word = ""
        else:
            word += character
    words.append(word + ("\\" if escape else ""))
    return [word for each in words if (word := each.strip(" "))]


def _escaped(word: str) -> str:
    for mark, meant in _ESCAPES.items():
        if mark == "\\":
            word = word.replace(meant, "\\\\")
    for mark, meant in _ESCAPES.items():
        if mark != "\\":
            word = word.replace(meant, f"\\{mark}")
    return word
