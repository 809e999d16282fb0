"""Responses through the official client: turns that are kept, functions, numbered events."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

TOOL: Any = {
    "type": "function",
    "name": "get_weather",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}},
        "required": ["city"],
    },
}
THREE: Any = {"type": "input_text", "text": "three"}
SAID = 'Look: <tool_call> {"name": "get_weather", "arguments": {"city": "Rome"}} </tool_call>'


def test_a_turn_is_kept_and_gone_on_with(client: openai.OpenAI) -> None:
    first = client.responses.create(model="echo", input="one two", instructions="Repeat.")
    assert (first.output_text, first.status, first.store) == ("one two", "completed", True)
    assert first.usage is not None
    assert (first.usage.input_tokens, first.usage.output_tokens) == (3, 2)
    second = client.responses.create(
        model="echo", input=[{"role": "user", "content": [THREE]}],
        previous_response_id=first.id, metadata={"k": "v"},
    )  # fmt: skip
    assert second.output_text == "three"
    assert second.usage is not None
    assert second.usage.input_tokens == 5  # without the instructions of the turn before
    again = client.responses.retrieve(second.id)
    assert again.output_text == "three"
    assert (again.previous_response_id, again.metadata) == (first.id, {"k": "v"})
    client.responses.delete(first.id)
    for unknown in (first.id, "resp_none"):
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(unknown)
    with pytest.raises(openai.NotFoundError) as gone:
        client.responses.create(model="echo", input="x", previous_response_id=first.id)
    assert gone.value.param == "previous_response_id"


def test_what_is_not_to_be_stored_is_not(client: openai.OpenAI) -> None:
    said = client.responses.create(model="echo", input="one", store=False)
    assert said.store is False
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(said.id)


def test_events_are_numbered_and_make_the_response(client: openai.OpenAI) -> None:
    events = list(client.responses.create(model="echo", input=SAID, tools=[TOOL], stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds[-1] == "response.completed"
    assert [kind for kind in kinds if "added" in kind] == [
        "response.output_item.added",
        "response.content_part.added",
        "response.output_item.added",
    ]
    last: Any = events[-1]
    message, call = last.response.output
    assert message.content[0].text == "Look: "
    assert (call.type, call.name, call.arguments) == (
        "function_call", "get_weather", '{"city": "Rome"}'
    )  # fmt: skip
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    arguments = "".join(
        e.delta for e in events if e.type == "response.function_call_arguments.delta"
    )
    assert (text, arguments) == ("Look: ", call.arguments)
    kept: Any = client.responses.retrieve(last.response.id)
    assert kept.output == last.response.output


def test_the_clients_own_reader_of_streams_agrees(client: openai.OpenAI) -> None:
    with client.responses.stream(model="echo", input=SAID, tools=[TOOL]) as stream:
        for _ in stream:
            pass
        final = stream.get_final_response()
    assert [item.type for item in final.output] == ["message", "function_call"]


def test_a_call_and_its_result_are_turns(client: openai.OpenAI, caller: str) -> None:
    asked: Any = client.responses.create(
        model=caller, input="Weather in Paris?", tools=[TOOL], max_output_tokens=80, temperature=0,
        tool_choice={"type": "function", "name": "get_weather"},
    )  # fmt: skip
    (call,) = asked.output
    assert set(json.loads(call.arguments)) == {"city"}
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "18 degrees"}
    answer = client.responses.create(
        model=caller, input=[result], previous_response_id=asked.id, max_output_tokens=4,
        temperature=0,
    )  # fmt: skip
    assert answer.status == "incomplete"
    assert answer.incomplete_details is not None
    assert answer.incomplete_details.reason == "max_output_tokens"
    whole = client.responses.create(
        model=caller, max_output_tokens=1,
        input=[{"role": "user", "content": "Weather in Paris?"}, call.model_dump(), result],
    )  # fmt: skip
    assert whole.usage is not None
    assert answer.usage is not None
    assert abs(whole.usage.input_tokens - answer.usage.input_tokens) < 10


def test_an_answer_has_the_shape_that_was_asked(client: openai.OpenAI) -> None:
    shape: Any = {
        "type": "json_schema", "name": "bee", "strict": True,
        "schema": {
            "type": "object", "properties": {"legs": {"type": "integer", "maximum": 9}},
            "required": ["legs"], "additionalProperties": False,
        },
    }  # fmt: skip
    said = client.responses.create(
        model="smollm2-135m", input="A bee!", text={"format": shape}, max_output_tokens=40
    )
    assert set(json.loads(said.output_text)) == {"legs"}


DESCRIPTION = "tools[0].description"


def test_a_failure_on_the_way_is_the_last_event(client: openai.OpenAI) -> None:
    events: list[Any] = list(
        client.responses.create(model="echo", input="@fail_after=1 a b", stream=True)
    )
    assert events[-1].type == "response.failed"
    failed = events[-1].response
    assert failed.error.code == "INTERNAL_ERROR"
    assert failed.error.message.endswith("try again.")
    assert [item.status for item in failed.output] == ["incomplete"]
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(events[-1].response.id)


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"background": True}, "background"),
        ({"truncation": "auto"}, "truncation"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input"),
        ({"extra_body": {"magic": 1}}, "magic"),
        ({"input": []}, "input"),
        ({"input": [{"role": 5, "content": "x"}]}, "input"),
        ({"input": [{"type": "function_call", "call_id": "c"}]}, "input"),
        ({"text": {"format": {"type": 5}}}, "text.format.type"),
        ({"tools": [{"type": "function", "name": "a", "description": "x" * 10_001}]}, DESCRIPTION),
    ],
)
def test_what_is_not_supported_is_refused_by_name(
    client: openai.OpenAI, more: dict[str, Any], field: str
) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        client.responses.create(**({"model": "echo", "input": "x"} | more))
    assert (bad.value.code, bad.value.param) == ("VALIDATION_ERROR", field)
