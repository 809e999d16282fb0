"""Functions, called through the official client: forced by the sampler, read from every form."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import openai
import pytest

WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 20},
        "unit": {"enum": ["c", "f"]},
    },
    "required": ["city", "unit"],
    "additionalProperties": False,
}
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": "get_weather", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "now", "description": "The time"}},
]
SAID = (
    'One moment. <tool_call> {"name": "get_weather", "arguments": {"city": "Paris"}} </tool_call> '
    '<tool_call> {"name": "now", "arguments": {}} </tool_call>'
)


def ask(client: openai.OpenAI, model: str, text: str, **more: Any) -> Any:
    given = {"tools": TOOLS, "max_tokens": 90, "temperature": 0} | more
    said: Any = [{"role": "user", "content": text}]
    return client.chat.completions.create(model=model, messages=said, **given)


def joined(chunks: Any) -> tuple[str, list[dict[str, Any]], list[str]]:
    """Text, calls and reasons of a stream, put together by `index`."""
    text, calls, reasons = "", dict[int, dict[str, Any]](), list[str]()
    for chunk in chunks:
        choice = chunk.choices[0]
        text += choice.delta.content or ""
        for part in choice.delta.tool_calls or ():
            call = calls.setdefault(part.index, {"id": part.id, "arguments": ""})
            if part.function.name:
                assert part.type == "function"
                call["name"] = part.function.name
            call["arguments"] += part.function.arguments or ""
        if choice.finish_reason:
            reasons.append(choice.finish_reason)
    assert list(calls) == list(range(len(calls)))
    return text, list(calls.values()), reasons


def test_calls_are_taken_out_of_an_answer(client: openai.OpenAI) -> None:
    choice = ask(client, "echo", SAID).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "One moment. "
    calls = [(c.type, c.function.name, c.function.arguments) for c in choice.message.tool_calls]
    assert calls == [("function", "get_weather", '{"city": "Paris"}'), ("function", "now", "{}")]
    assert len({c.id for c in choice.message.tool_calls}) == 2


def test_streamed_calls_carry_their_index(client: openai.OpenAI) -> None:
    text, calls, reasons = joined(ask(client, "echo", SAID, stream=True))
    assert (text, reasons) == ("One moment. ", ["tool_calls"])
    assert [(c["name"], c["arguments"]) for c in calls] == [
        ("get_weather", '{"city": "Paris"}'),
        ("now", "{}"),
    ]


@pytest.mark.parametrize("more", [{"tools": []}, {"tool_choice": "none"}])
def test_without_tools_the_same_words_are_words(
    client: openai.OpenAI, more: dict[str, Any]
) -> None:
    choice = ask(client, "echo", SAID, **more).choices[0]
    assert (choice.message.content, choice.message.tool_calls) == (SAID, None)
    assert choice.finish_reason == "stop"


def test_an_answer_cut_by_its_limit_says_so(client: openai.OpenAI) -> None:
    choice = ask(client, "echo", SAID, max_tokens=7).choices[0]
    assert choice.finish_reason == "length"
    assert choice.message.tool_calls[0].function.name == "get_weather"


def test_a_result_goes_back_to_the_model(client: openai.OpenAI, caller: str) -> None:
    call = ask(client, caller, "Weather in Paris?", tool_choice="required").choices[0].message
    first = call.tool_calls[0]
    said: list[Any] = [
        {"role": "user", "content": "Weather in Paris?"},
        {"role": "assistant", "tool_calls": [first.model_dump()]},
        {"role": "tool", "tool_call_id": first.id, "content": "18 degrees"},
    ]
    answer = client.chat.completions.create(
        model=caller, messages=said, tools=TOOLS, max_tokens=5, temperature=0
    )
    assert answer.usage is not None
    assert answer.usage.prompt_tokens > 100


@pytest.mark.parametrize("seed", range(4))
def test_a_required_call_fits_its_schema(client: openai.OpenAI, caller: str, seed: int) -> None:
    answer = ask(
        client, caller, "Weather?", tool_choice="required", temperature=1.5, seed=seed,
        parallel_tool_calls=False, max_tokens=120,
    )  # fmt: skip
    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls
    arguments = json.loads(call.function.arguments)
    if call.function.name == "get_weather":
        jsonschema.validate(arguments, WEATHER)
    else:
        assert (call.function.name, arguments) == ("now", {})


def test_a_named_function_is_the_one_that_is_called(client: openai.OpenAI, caller: str) -> None:
    named = {"type": "function", "function": {"name": "now"}}
    _, calls, reasons = joined(
        ask(client, caller, "Weather in Paris?", tool_choice=named, stream=True)
    )
    assert [call["name"] for call in calls] == ["now"]
    assert reasons == ["tool_calls"]


def test_with_tools_a_shape_binds_what_is_no_call(client: openai.OpenAI, caller: str) -> None:
    shape = {
        "type": "object",
        "properties": {"answer": {"type": "integer"}},
        "required": ["answer"],
        "additionalProperties": False,
    }
    named = {"type": "json_schema", "json_schema": {"name": "a", "schema": shape}}
    message = ask(client, caller, "Two and two?", response_format=named).choices[0].message
    assert message.tool_calls or set(json.loads(message.content)) == {"answer"}


@pytest.mark.parametrize("choice", ["auto", "required"])
def test_a_model_without_tools_refuses_them_by_name(client: openai.OpenAI, choice: str) -> None:
    with pytest.raises(openai.BadRequestError, match="smollm2-135m has none") as bad:
        ask(client, "smollm2-135m", "Weather?", tool_choice=choice)
    assert (bad.value.code, bad.value.param) == ("VALIDATION_ERROR", "tools")


@pytest.mark.parametrize(
    ("more", "field", "what"),
    [
        ({"tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice", "'x'"),
        ({"tool_choice": "sometimes"}, "tool_choice", "sometimes"),
        ({"tools": [*TOOLS, TOOLS[0]]}, "tools", "same name"),
    ],
)
def test_what_cannot_be_called_is_refused(
    client: openai.OpenAI, more: dict[str, Any], field: str, what: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=what) as bad:
        ask(client, "echo", "x", **more)
    assert bad.value.param == field


def test_a_schema_that_cannot_be_enforced_is_named(client: openai.OpenAI, caller: str) -> None:
    odd = {"type": "object", "properties": {"n": {"type": "integer", "multipleOf": 3}}}
    tools = [{"type": "function", "function": {"name": "count", "parameters": odd}}]
    with pytest.raises(openai.BadRequestError, match="of count: /properties/n/multipleOf") as bad:
        ask(client, caller, "x", tools=tools, tool_choice="required")
    assert bad.value.param == "tools"
