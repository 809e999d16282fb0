"""Anthropic's official client, as it is installed, against a queen with a real model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import jsonschema
import openai
import pytest

from tests.clients.test_openai_calls import SAID, WEATHER
from tests.support.home import Home, wait_for

MODEL = "smollm2-135m"
TOOLS: list[Any] = [
    {"name": "get_weather", "description": "The weather", "input_schema": WEATHER},
    {"name": "now", "input_schema": {"type": "object", "properties": {}}},
]
EXACT: dict[str, Any] = {"extra_body": {"temperature": 0}}


@pytest.fixture(scope="module")
def claude(user: Home) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(
        base_url=user.url, api_key="none", max_retries=0, timeout=60
    ) as client:
        yield client


def said(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def ask(claude: anthropic.Anthropic, text: str, model: str = MODEL, **more: Any) -> Any:
    given: dict[str, Any] = {"max_tokens": 6, "messages": said(text)} | EXACT | more
    return claude.messages.create(model=model, **given)


# -- answers --------------------------------------------------------------------------------------


def test_a_message_whole_and_streamed(claude: anthropic.Anthropic) -> None:
    whole = ask(claude, "Hello")
    assert (whole.type, whole.role, whole.model) == ("message", "assistant", MODEL)
    assert (whole.stop_reason, whole.stop_sequence) == ("max_tokens", None)
    assert [block.type for block in whole.content] == ["text"]
    assert whole.usage.output_tokens == 6
    with claude.messages.stream(
        model=MODEL, max_tokens=6, messages=said("Hello"), **EXACT
    ) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_message()
    assert final.content[0].to_dict() == whole.content[0].to_dict()
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert (final.stop_reason, final.usage.output_tokens) == ("max_tokens", 6)
    for usage in (whole.usage, final.usage):
        assert usage.input_tokens + (usage.cache_read_input_tokens or 0) > 10
        assert usage.cache_creation_input_tokens == 0


def test_the_events_of_a_stream_are_anthropics(user: Home) -> None:
    body = {"model": "echo", "max_tokens": 9, "messages": said("a b"), "stream": True}
    with httpx.stream("POST", f"{user.url}/v1/messages", json=body, trust_env=False) as reply:
        assert reply.headers["content-type"].startswith("text/event-stream")
        assert reply.headers["x-rbee-model"] == "echo"
        lines = [line for line in reply.iter_lines() if line and not line.startswith(":")]
    named = [line.removeprefix("event: ") for line in lines[::2]]
    told = [json.loads(line.removeprefix("data: ")) for line in lines[1::2]]
    assert named == [one["type"] for one in told]
    assert named == [
        "message_start", "ping", "content_block_start", "content_block_delta",
        "content_block_delta", "content_block_stop", "message_delta", "message_stop",
    ]  # fmt: skip
    assert told[0]["message"]["content"] == []
    assert [one["delta"]["text"] for one in told[3:5]] == ["a ", "b"]
    assert told[6]["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}


def test_a_system_message_counts(claude: anthropic.Anthropic) -> None:
    plain = claude.messages.count_tokens(model=MODEL, messages=said("Hi")).input_tokens
    text = "You are a bee. " * 10
    blocks: Any = [{"type": "text", "text": text, "cache_control": {"type": "ephemeral"}}]
    counts = [
        claude.messages.count_tokens(model=MODEL, messages=said("Hi"), system=system).input_tokens
        for system in (text, blocks)
    ]
    assert counts[0] == counts[1] > plain + 20


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_sequence_is_named(claude: anthropic.Anthropic, stream: bool) -> None:
    given: dict[str, Any] = {
        "model": "echo", "max_tokens": 20, "messages": said("one two three four"),
        "stop_sequences": ["four", "three"],
    }  # fmt: skip
    if stream:
        with claude.messages.stream(**given) as events:
            answer = events.get_final_message()
    else:
        answer = claude.messages.create(**given)
    assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", "three")
    assert answer.content[0].to_dict()["text"] == "one two "


def test_a_stop_sequence_of_the_real_model_is_named(claude: anthropic.Anthropic) -> None:
    text = ask(claude, "Hello", max_tokens=8).content[0].text
    stop = text[4:7]
    answer = ask(claude, "Hello", max_tokens=8, stop_sequences=["@@@", stop])
    assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", stop)
    assert answer.content[0].text == text[: text.index(stop)]


def test_tokens_are_counted_as_an_answer_counts_them(
    claude: anthropic.Anthropic, client: openai.OpenAI, caller: str
) -> None:
    counted = claude.messages.count_tokens(
        model=caller, messages=said("Weather in Paris?"), tools=TOOLS, system="Be brief."
    ).input_tokens
    usage = ask(claude, "Weather in Paris?", caller, tools=TOOLS, system="Be brief.").usage
    assert counted == usage.input_tokens + usage.cache_read_input_tokens > 60
    plain = claude.messages.count_tokens(model=MODEL, messages=said("Hi")).input_tokens
    answer = client.chat.completions.create(model=MODEL, messages=said("Hi"), max_tokens=1)
    assert answer.usage is not None
    assert plain == answer.usage.prompt_tokens


def test_a_shape_is_enforced(claude: anthropic.Anthropic) -> None:
    shape = {
        "type": "object",
        "properties": {"legs": {"type": "integer", "minimum": 0, "maximum": 99}},
        "required": ["legs"],
        "additionalProperties": False,
    }
    form: Any = {"format": {"type": "json_schema", "schema": shape}}
    answer = ask(claude, "A bee!", max_tokens=60, output_config=form)
    assert answer.stop_reason == "end_turn"
    jsonschema.validate(json.loads(answer.content[0].text), shape)


# -- functions ------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_calls_are_blocks(claude: anthropic.Anthropic, stream: bool) -> None:
    given: dict[str, Any] = {
        "model": "echo", "max_tokens": 99, "messages": said(SAID), "tools": TOOLS,
    }  # fmt: skip
    parts: list[str] = []
    if stream:
        with claude.messages.stream(**given) as events:
            parts = [event.partial_json for event in events if event.type == "input_json"]
            answer = events.get_final_message()
    else:
        answer = claude.messages.create(**given)
    text, *calls = [block.to_dict() for block in answer.content]
    assert text == {"type": "text", "text": "One moment. "}
    assert [(call["name"], call["input"]) for call in calls] == [
        ("get_weather", {"city": "Paris"}),
        ("now", {}),
    ]
    assert all(str(call["id"]).startswith("toolu_") for call in calls)
    assert answer.stop_reason == "tool_use"
    assert not stream or "".join(parts) == '{"city": "Paris"}{}'


@pytest.mark.parametrize("seed", range(2))
def test_a_required_call_fits_its_schema(
    claude: anthropic.Anthropic, caller: str, seed: int
) -> None:
    choice: Any = {"type": "any", "disable_parallel_tool_use": True}
    answer = ask(
        claude, f"Weather in town {seed}?", caller, tools=TOOLS[:1], tool_choice=choice,
        max_tokens=120, extra_body={"temperature": 1.0},
    )  # fmt: skip
    (call,) = answer.content
    assert (answer.stop_reason, call.name) == ("tool_use", "get_weather")
    jsonschema.validate(call.input, WEATHER)


def test_a_named_tool_is_called_and_its_result_goes_back(
    claude: anthropic.Anthropic, caller: str
) -> None:
    choice: Any = {"type": "tool", "name": "now"}
    first = ask(claude, "Weather?", caller, tools=TOOLS, tool_choice=choice, max_tokens=40)
    (call,) = first.content
    assert call.name == "now"
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "noon"}
    turns: list[Any] = [
        *said("Weather?"),
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": [result, {"type": "text", "text": "So?"}]},
    ]
    counted = claude.messages.count_tokens(model=caller, messages=turns, tools=TOOLS)
    answer = ask(claude, "", caller, messages=turns, tools=TOOLS)
    assert answer.usage.input_tokens + answer.usage.cache_read_input_tokens == counted.input_tokens


@pytest.mark.parametrize("choice", [{"type": "none"}, None])
def test_without_tools_the_same_words_are_words(
    claude: anthropic.Anthropic, choice: dict[str, str] | None
) -> None:
    more: dict[str, Any] = {"tools": TOOLS, "tool_choice": choice} if choice else {}
    answer = ask(claude, SAID, "echo", max_tokens=99, **more)
    assert [block.text for block in answer.content] == [SAID]


# -- what goes wrong ------------------------------------------------------------------------------

IMAGE = {"type": "image", "source": {"type": "url", "url": "https://example.org/bee.png"}}


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"messages": [{"role": "user", "content": [IMAGE]}]}, r"content\[0\]: 'image'"),
        ({"messages": [*said("x"), {"role": "assistant", "content": "{"}]}, "the last one"),
        ({"messages": []}, "messages"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stop_sequences": ["x"] * 17}, "stop_sequences: 17 texts"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "of Anthropic's own"),
        ({"tool_choice": {"type": "any"}}, "no tools to call"),
        ({"tool_choice": {"type": "tool", "name": "x"}, "tools": TOOLS}, "'x' is none"),
        ({"extra_body": {"mcp_servers": [{"url": "x"}]}}, "mcp_servers"),
        ({"extra_body": {"nonsense": 1}}, "nonsense: unknown parameter"),
        ({"stop_sequences": [""]}, r"stop_sequences\[0\]: Expected"),
        ({"tools": [{"name": "w", "input_schema": 5}]}, r"tools\[0\].input_schema: Expected"),
        ({"tools": TOOLS, "tool_choice": {"type": "tool"}}, "tool_choice.name: Expected"),
        ({"extra_body": {"temperature": 1.5}}, "temperature"),
        ({"extra_headers": {"anthropic-version": "2023-01-01"}}, "anthropic-version"),
        ({"tools": TOOLS, "model": MODEL}, "smollm2-135m has none"),
        ({"messages": said("bee " * 5000), "model": MODEL}, "tokens"),
    ],
)
def test_what_is_refused(claude: anthropic.Anthropic, more: dict[str, Any], words: str) -> None:
    with pytest.raises(anthropic.BadRequestError, match=words) as bad:
        ask(claude, "x", **({"model": "echo"} | more))
    body: Any = bad.value.body
    assert body["type"] == "error"
    assert body["error"]["type"] == "invalid_request_error"
    assert body["error"]["code"] in ("VALIDATION_ERROR", "CONTEXT_LENGTH_EXCEEDED")


@pytest.mark.parametrize("content", [5, ["text"], {"type": "text"}, True])
def test_a_result_that_is_neither_text_nor_blocks_is_refused(user: Home, content: object) -> None:
    result = {"type": "tool_result", "tool_use_id": "a", "content": content}
    body = {"model": "echo", "max_tokens": 5, "messages": [{"role": "user", "content": [result]}]}
    reply = httpx.post(f"{user.url}/v1/messages", json=body, trust_env=False)
    assert (reply.status_code, reply.json()["error"]["type"]) == (400, "invalid_request_error")
    assert "messages[0].content[0].content" in reply.json()["error"]["message"]


def test_what_asks_for_nothing_is_taken(claude: anthropic.Anthropic) -> None:
    edits = {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}
    thought = {"type": "thinking", "thinking": "hm", "signature": "x"}
    turns: list[Any] = [
        *said("x"),
        {"role": "assistant", "content": [thought, {"type": "text", "text": "y"}]},
        *said("last one"),
    ]
    answer = ask(
        claude, "", "echo", messages=turns, thinking={"type": "enabled", "budget_tokens": 1024},
        metadata={"user_id": "u"}, service_tier="auto",
        extra_body={
            "context_management": edits, "container": None,
            "tool_choice": {"type": "auto", "disable_parallel_tool_use": None},
        },
    )  # fmt: skip
    assert answer.content[0].text == "last one"


def test_other_errors_have_their_types(claude: anthropic.Anthropic, user: Home) -> None:
    with pytest.raises(anthropic.NotFoundError) as missing:
        ask(claude, "x", "nothing")
    assert missing.value.body["error"]["code"] == "MODEL_NOT_FOUND"  # pyright: ignore[reportIndexIssue,reportOptionalSubscript]
    with pytest.raises(anthropic.InternalServerError, match="told to fail"):
        ask(claude, "@fail_after=1 a b", "echo")
    wrong = anthropic.Anthropic(base_url=user.url, api_key=f"rbee_{'A' * 43}", max_retries=0)
    with wrong, pytest.raises(anthropic.AuthenticationError):
        ask(wrong, "x", "echo")
    reply = httpx.get(f"{user.url}/v1/messages/nothing", trust_env=False)
    assert (reply.status_code, reply.json()["error"]["type"]) == (404, "not_found_error")


def test_what_fails_in_a_stream_is_its_last_event(claude: anthropic.Anthropic) -> None:
    with (
        claude.messages.stream(
            model="echo", max_tokens=9, messages=said("@fail_after=1 a b")
        ) as stream,
        pytest.raises(anthropic.APIStatusError, match="told to fail"),
    ):
        stream.until_done()


def test_who_leaves_a_stream_cancels_it(claude: anthropic.Anthropic, user: Home) -> None:
    with claude.messages.stream(
        model="echo", max_tokens=4000, messages=said("@delay=50 @repeat=2000 a b")
    ) as stream:
        assert next(iter(stream.text_stream))
    wait_for(
        lambda: user.get("/v1/jobs?limit=1")["jobs"][0]["state"] == "cancelled", what="cancelled"
    )


def test_the_models_there_are(claude: anthropic.Anthropic) -> None:
    models = {model.id: model for model in claude.models.list()}
    assert models[MODEL].type == "model"
    assert claude.models.retrieve(MODEL) == models[MODEL]
    with pytest.raises(anthropic.NotFoundError, match="no model 'nothing'"):
        claude.models.retrieve("nothing")
