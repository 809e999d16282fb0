"""Grammars for answers that must call: every family's form, and nothing else."""

from __future__ import annotations

import json
import random
from pathlib import Path

import jsonschema
import pytest
from rbee.backends.llamacpp import calling, gbnf, schema
from rbee.backends.shared.families import HERMES, JSON, LLAMA, MISTRAL, Family, family_of

from rbee import registry
from rbee.backend_api import Generation
from rbee.daemons.queen.tool_calls import CallBegun, CallMore, read
from rbee.errors import ValidationFailed
from tests.support.backends import Driver, load
from tests.support.gbnf_walk import Walk
from tests.support.tiny_gguf import CHATML, llama

WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 8},
        "near": {"$ref": "#/$defs/place"},
    },
    "required": ["city", "near"],
    "additionalProperties": False,
    "$defs": {"place": {"anyOf": [{"type": "null"}, {"enum": ["sea", '{"lake"}']}]}},
}
TREE = {
    "type": "object",
    "properties": {"below": {"type": "array", "items": {"$ref": "#"}, "maxItems": 2}},
    "additionalProperties": False,
}
PARAMETERS = {"get_weather": WEATHER, "plant-tree": TREE, "now": None}
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": parameters}}
    for name, parameters in PARAMETERS.items()
]


def called(text: str) -> list[tuple[str, str]]:
    """What the reader of answers takes out of it; all of it must be calls."""
    found: list[tuple[str, str]] = []
    for part in read(text, list(PARAMETERS)):
        if isinstance(part, CallBegun):
            found.append((part.name, ""))
        else:
            assert isinstance(part, CallMore), text
            found[-1] = (found[-1][0], found[-1][1] + part.text)
    return found


@pytest.mark.parametrize("family", [HERMES, MISTRAL, LLAMA, JSON], ids=lambda one: one.name)
@pytest.mark.parametrize("several", [False, True])
def test_every_sentence_is_calls_with_valid_arguments(family: Family, several: bool) -> None:
    walk = Walk(calling.calls(TOOLS, list(PARAMETERS), family, several=several))
    dice, names, most = random.Random(7), set[str](), 0
    for _ in range(60):
        found = called(walk.sentence(dice))
        most = max(most, len(found))
        for name, arguments in found:
            names.add(name)
            if (parameters := PARAMETERS[name]) is None:
                assert json.loads(arguments) == {}
            else:
                jsonschema.validate(json.loads(arguments), parameters)
    assert names == set(PARAMETERS)
    assert (most > 1) == (several and family.several)
    assert most <= calling.MOST_CALLS


def test_only_the_function_that_is_named_is_called() -> None:
    walk = Walk(calling.calls(TOOLS, ["now"], HERMES, several=False))
    dice = random.Random(3)
    assert {name for _ in range(9) for name, _ in called(walk.sentence(dice))} == {"now"}


def test_a_shape_and_calls_are_alternatives_that_keep_their_rules_apart() -> None:
    shape = {
        "type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"],
        "additionalProperties": False,
    }  # fmt: skip
    called_for = calling.calls(TOOLS, list(PARAMETERS), HERMES, several=True)
    both = calling.either(schema.to_gbnf(shape), called_for)
    gbnf.check(both)
    dice, shapes = random.Random(5), 0
    walk = Walk(both)
    for _ in range(60):
        text = walk.sentence(dice)
        if text.startswith("<tool_call>"):
            assert called(text)
        else:
            shapes += 1
            jsonschema.validate(json.loads(text), shape)
    assert 0 < shapes < 60


def test_what_cannot_be_enforced_names_the_function_and_the_place() -> None:
    odd = {"type": "object", "properties": {"n": {"not": {}}}}
    tools = [{"type": "function", "function": {"name": "odd", "parameters": odd}}]
    with pytest.raises(ValidationFailed, match="of odd: /properties/n/not") as bad:
        calling.calls(tools, ["odd"], HERMES, several=True)
    assert bad.value.details["field"] == "tools"


@pytest.mark.parametrize(
    ("template", "family"),
    [
        ("{{ '<tool_call>' }} [TOOL_CALLS]", HERMES),
        ("[TOOL_CALLS] {{ calls }}", MISTRAL),
        ("{%- if builtin_tools %}<|python_tag|>", LLAMA),
        ('{"name": function name, "parameters": dictionary}', LLAMA),
        ("{{ tools }}", JSON),
    ],
)
def test_a_template_tells_its_family(template: str, family: Family) -> None:
    assert family_of(template) is family


@pytest.mark.skipif(
    not registry.load("llamacpp").probe().available, reason="llama-cpp-python is not installed"
)
def test_a_mark_that_is_a_control_token_is_shown_where_tools_are_told_of(tmp_path: Path) -> None:
    template = "{{ tools }}{% for m in messages %}{{ m.content }}{% endfor %}[TOOL_CALLS]"
    file = llama(layers=1)
    tokens = file.metadata["tokenizer.ggml.tokens"].value
    at = tokens.index("<|im_start|>")
    tokens[at] = "[TOOL_CALLS]"
    for name, marked in (("with", template), ("without", CHATML)):
        file.set({"tokenizer.chat_template": marked})
        driver = Driver(load(file.save(tmp_path / f"{name}.gguf"), ctx=128, slots=1))
        bias = {at: 100.0}
        asked = Generation(
            messages=({"role": "user", "content": "hi"},), max_tokens=2, temperature=0.0,
            logit_bias=bias,
        )  # fmt: skip
        stream = driver.submit(asked)
        stream.end()
        assert stream.text == ("[TOOL_CALLS]" * 2 if name == "with" else "")
        driver.close()
