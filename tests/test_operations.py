"""What users may ask for: bounds of every field, and which one is named when it is outside."""

from __future__ import annotations

from typing import Any

import pytest

from rbee.errors import ValidationFailed
from rbee.protocol.base import encode
from rbee.protocol.messages import schema_of
from rbee.protocol.operations import Embed, Infer, parse_operation

FUNCTION = {"name": "weather", "description": "of a place", "parameters": {"type": "object"}}
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"x":1}'}}


def infer(**fields: Any) -> Infer:
    given = {"operation": "infer", "model": "m", **fields}
    if not {"prompt", "messages"} & fields.keys():
        given["prompt"] = "x"
    made = parse_operation(encode(given))
    assert isinstance(made, Infer)
    return made


def embed(**fields: Any) -> Embed:
    made = parse_operation(encode({"operation": "embed", "model": "m", **fields}))
    assert isinstance(made, Embed)
    return made


def test_the_defaults_ask_for_nothing() -> None:
    made = infer()
    assert (made.presence_penalty, made.frequency_penalty, made.logit_bias) == (0, 0, {})
    assert (made.logprobs, made.response_format, made.grammar, made.tools) == (None, None, None, [])
    assert (made.ignore_eos, made.cache, made.deterministic) == (False, True, False)
    assert embed(input="x").normalize


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"presence_penalty": 2.1}, "presence_penalty"),
        ({"frequency_penalty": -2.1}, "frequency_penalty"),
        ({"logit_bias": {"1": 101}}, "logit_bias"),
        ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"logit_bias": {"01": 1}}, "logit_bias"),
        ({"logit_bias": {"1\n": 1}}, "logit_bias"),
        ({"logit_bias": {"2147483648": 1}}, "logit_bias"),
        ({"logit_bias": {str(n): 1 for n in range(301)}}, "logit_bias"),
        ({"stop": list("abcde")}, "stop"),
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": -1}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"grammar": ""}, "grammar"),
        ({"grammar": "x" * 65537}, "grammar"),
        ({"grammar": "é" * 40000}, "grammar"),
        ({"grammar": "root ::= x", "response_format": {"type": "json_object"}}, "grammar"),
        ({"response_format": {"type": "yaml"}}, "response_format.type"),
        ({"response_format": {}}, "response_format.type"),
        ({"tool_choice": {"type": "function"}}, "tool_choice.function"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{}]}]},
            "messages[0].tool_calls[0].function",
        ),
        (
            {"tools": [{"type": "function", "function": {**FUNCTION, "x": 1}}]},
            "tools[0].function.x",
        ),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
            "response_format.json_schema.schema",
        ),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"type": "code", "function": FUNCTION}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "function", "function": FUNCTION}] * 129}, "tools"),
        ({"tools": [{"type": "function", "function": FUNCTION}], "raw": True}, "tools"),
        ({"cache": "no"}, "cache"),
        ({"mirostat": 2}, "mirostat"),
        ({"messages": [{"role": "tool", "tool_call_id": "x" * 129}]}, "messages[0].tool_call_id"),
    ],
)
def test_what_is_outside_is_named(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationFailed) as caught:
        infer(**fields)
    assert caught.value.details["field"] == named
    assert len(caught.value.message) < 200


def test_the_edges_are_inside() -> None:
    biases = {str(n): -100.0 for n in range(299)} | {"2147483647": 100.0}
    made = infer(
        presence_penalty=-2,
        frequency_penalty=2,
        logit_bias=biases,
        logprobs=20,
        grammar="x" * 65536,
    )
    assert len(made.logit_bias) == 300
    assert infer(response_format={"type": "text"}, grammar="root ::= [a]").grammar


def test_the_shape_of_an_answer_becomes_a_schema() -> None:
    schema = {"type": "object", "properties": {"bee": {"type": "string"}}}
    named = {"name": "bee", "schema": schema, "strict": True}
    assert schema_of(infer().response_format) is None
    assert schema_of(infer(response_format={"type": "text"}).response_format) is None
    assert schema_of(infer(response_format={"type": "json_object"}).response_format) == {}
    by_schema = {"type": "json_schema", "json_schema": named}
    assert schema_of(infer(response_format=by_schema).response_format) == schema


def test_tool_messages_reach_the_template_as_they_are() -> None:
    parts = [{"type": "text", "text": "how "}, {"type": "text", "text": "is it"}]
    made = infer(
        messages=[
            {"role": "user", "content": parts},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "content": "mild", "tool_call_id": "c1", "name": "weather"},
            {"role": "assistant", "content": None, "refusal": None},
        ],
        tools=[{"type": "function", "function": FUNCTION}],
    )  # fmt: skip
    assert [m.plain() for m in made.messages or ()] == [
        {"role": "user", "content": "how is it"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "mild", "tool_call_id": "c1", "name": "weather"},
        {"role": "assistant", "content": ""},
    ]


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({}, "input"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", ""]}, "input[1]"),
        ({"input": [1]}, "input[0]"),
        ({"input": ["a"] * 2049}, "input"),
        ({"input": "a", "normalize": 1}, "normalize"),
        ({"input": "a", "temperature": 1}, "temperature"),
    ],
)
def test_what_is_no_input_is_named(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationFailed) as caught:
        embed(**fields)
    assert caught.value.details["field"] == named


def test_one_text_is_a_list_of_one() -> None:
    assert embed(input="a").texts() == ["a"]
    assert embed(input=["a", "b"], normalize=False, wait=False).texts() == ["a", "b"]


@pytest.mark.parametrize(
    "device", ["cpu", "cuda:0", "hip:1", "metal:0", "sycl:0", "vulkan:12", "xpu", "xpu:0"]
)
def test_any_kind_of_device_that_a_backend_reports_may_be_asked_for(device: str) -> None:
    assert infer(device=device).device == device


@pytest.mark.parametrize(
    "device", ["", "cpu:0", "abacus:0", "xpu:", "xpu:100", "cuda:0\n", "XPU:0"]
)
def test_what_is_no_device_is_refused_by_name(device: str) -> None:
    with pytest.raises(ValidationFailed) as caught:
        infer(device=device)
    assert caught.value.details["field"] == "device"
