"""Grammars that make a model say that a function is to be called.

Owns the rules for an answer that must call, in the form the model was trained to say it in
(`shared.families`).
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from rbee.errors import ValidationFailed

from ..shared.families import Family
from . import gbnf, schema
from .json_gbnf import COLON, json_text, literal

MOST_CALLS = 8
"""In one answer that must call: a model that cannot stop would fill its context with them."""
_OWN = re.compile(r'"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]|\b(root|r[0-9]+)\b')
"""Rules of one schema's own, outside of literals and sets."""


def calls(
    tools: Sequence[Mapping[str, Any]], names: Sequence[str], family: Family, *, several: bool
) -> str:
    """GBNF: a call, or several, of these functions with arguments as their schemas want them.

    Where the family's marker is a control token, which no grammar can ask for, the call is JSON
    alone. Raises ValidationFailed, field `tools`, naming the function and the place in its schema.
    """
    wanted = [tool["function"] for tool in tools if tool["function"]["name"] in names]
    text = json.dumps([[one["name"], _parameters(one)] for one in wanted])
    return _calls(text, family, several and family.several)


def either(shape: str, called: str) -> str:
    """GBNF: one or the other."""
    rules = {"root": "shape-root | calls-root"} | _renamed(shape, "shape-") | _renamed(called, "")
    return _text(rules)


def _parameters(function: Mapping[str, Any]) -> Any:
    given: Any = function.get("parameters")
    if given is None or given.get("properties") == {}:
        nothing = {"type": "object", "properties": {}, "additionalProperties": False}
        return nothing | (given or {})
    return given


@functools.lru_cache(maxsize=64)
def _calls(text: str, family: Family, several: bool) -> str:
    rules = {"calls-root": "", "calls-one": ""}
    count = 0
    for number, (name, parameters) in enumerate(json.loads(text)):
        try:
            rules |= _renamed(schema.to_gbnf(parameters), f"t{number}-")
        except ValidationFailed as exc:
            why = exc.message.removeprefix("json_schema: ")
            raise ValidationFailed(
                f"tools: the parameters of {name}: {why}",
                field="tools",
                constraint=exc.details.get("constraint"),
            ) from exc
        begin, key = literal(f'{{"name": {json_text(name)}, '), literal(f'"{family.key}"')
        rules[f"t{number}-call"] = f'{begin} {key} {COLON} t{number}-root "}}"'
        count = number + 1
    choice = " | ".join(f"t{number}-call" for number in range(count))
    parts = (literal(family.begin), f"({choice})", literal(family.end))
    rules["calls-one"] = " ".join(part for part in parts if part != '""')
    more = f' ("\\n" calls-one){{0,{MOST_CALLS - 1}}}' if several else ""
    rules["calls-root"] = f"calls-one{more}"
    found = _text({"root": "calls-root"} | rules)
    gbnf.check(found)
    return found


def _renamed(grammar: str, prefix: str) -> dict[str, str]:
    """Rules by name, one schema's own with a prefix; those that all share keep their names."""
    if prefix:
        grammar = _OWN.sub(lambda m: prefix + m[1] if m[1] else m[0], grammar)
    rules = (line.partition(" ::= ") for line in grammar.splitlines())
    return {name: body for name, _, body in rules if name != "root"}


def _text(rules: Mapping[str, str]) -> str:
    return "".join(f"{name} ::= {body}\n" for name, body in rules.items())
