"""What a worker lets through to its backend, and how what comes back travels."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rbee.backend_api import Embedded, Embedding, Generation, Likely, Logprob, Piece
from rbee.daemons.worker.requests import check_can, request_of
from rbee.daemons.worker.wire import text_event, vectors_of
from rbee.errors import ValidationFailed
from rbee.protocol.base import convert, decode, encode
from rbee.protocol.workers import Execute, TextEvent, Vectors

USER = {"role": "user", "content": "x"}


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth - 1):
        value = {"properties": value}
    return value


def test_everything_a_request_can_say_reaches_the_backend() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        USER,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "3", "tool_call_id": "c", "name": "f"},
    ]
    tool = {"type": "function", "function": {"name": "f"}}
    made = request_of(
        Execute(
            request_id="r", messages=messages, tools=[tool], presence_penalty=-2.0,
            frequency_penalty=2.0, logit_bias={"0": 1.5, "2147483647": -100.0}, ignore_eos=True,
            logprobs=20, json_schema={}, cache=False, deterministic=True, max_tokens=3,
            ids=True, emitted="so", emitted_ids=[5, 6], emitted_tokens=9,
        )
    )  # fmt: skip
    assert made == Generation(
        messages=tuple(messages), tools=(tool,), presence_penalty=-2.0, frequency_penalty=2.0,
        logit_bias={0: 1.5, 2147483647: -100.0}, ignore_eos=True, logprobs=20, json_schema={},
        cache=False, deterministic=True, max_tokens=3, emitted="so", emitted_ids=(5, 6),
        emitted_tokens=2,
    )  # fmt: skip


def test_the_defaults_of_the_wire_are_those_of_the_backend() -> None:
    assert request_of(Execute(request_id="r", prompt="x")) == Generation(prompt="x")
    assert request_of(Execute(request_id="r", input=["x"])) == Embedding(("x",))


@pytest.mark.parametrize(
    ("extra", "field"),
    [
        ({"prompt": "x", "request_id": ""}, "request_id"),
        ({}, "prompt"),
        ({"prompt": "x", "messages": [USER]}, "prompt"),
        ({"prompt": "x", "presence_penalty": 2.01}, "presence_penalty"),
        ({"prompt": "x", "frequency_penalty": -2.01}, "frequency_penalty"),
        ({"prompt": "x", "logprobs": 21}, "logprobs"),
        ({"prompt": "x", "logprobs": -1}, "logprobs"),
        ({"prompt": "x", "stop": [""]}, "stop"),
        ({"prompt": "x", "logit_bias": {"2147483648": 1}}, "logit_bias"),
        ({"prompt": "x", "logit_bias": {"-1": 1}}, "logit_bias"),
        ({"prompt": "x", "logit_bias": {"\u0663": 1}}, "logit_bias"),
        ({"prompt": "x", "logit_bias": {"1_0": 1}}, "logit_bias"),
        ({"prompt": "x", "logit_bias": {"": 1}}, "logit_bias"),
        ({"prompt": "x", "logit_bias": {"1": 100.5}}, "logit_bias"),
        ({"prompt": "x", "logit_bias": {str(n): 0 for n in range(301)}}, "logit_bias"),
        ({"prompt": "x", "grammar": " \n"}, "grammar"),
        ({"prompt": "x", "grammar": "é" * 32769}, "grammar"),
        ({"prompt": "x", "grammar": "root ::= x", "json_schema": {}}, "grammar"),
        ({"prompt": "x", "json_schema": nested(65)}, "json_schema"),
        ({"prompt": "x", "tools": [{"type": "function"}]}, "tools"),
        ({"messages": [USER], "tools": [{}] * 129}, "tools"),
        ({"messages": [USER], "tools": [nested(64)]}, "tools"),
        ({"messages": []}, "messages"),
        ({"messages": [USER] * 1001}, "messages"),
        ({"messages": [{"content": "x"}]}, "messages"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages"),
        ({"messages": [USER | {"tool_calls": [nested(64)]}]}, "messages"),
        ({"input": []}, "input"),
        ({"input": ["a", ""]}, "input"),
        ({"input": ["a"] * 2049}, "input"),
        ({"input": ["a"], "prompt": "b"}, "input"),
        ({"input": ["a"], "emitted_tokens": 1}, "emitted"),
        ({"prompt": "x", "emitted_tokens": -1}, "emitted_tokens"),
        ({"prompt": "x", "emitted_ids": [1 << 31]}, "emitted_ids"),
        ({"prompt": "x", "emitted_ids": [7, -1]}, "emitted_ids"),
        ({"prompt": "x", "emitted": "é" * (1 << 21) + "x"}, "emitted"),
        ({"input": ["a"], "messages": [USER]}, "input"),
    ],
)
def test_what_is_out_of_bounds_is_named(extra: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationFailed) as caught:
        request_of(convert({"request_id": "r"} | extra, Execute))
    assert caught.value.details["field"] == field
    assert len(caught.value.message) < 160


def test_what_is_just_within_bounds_passes() -> None:
    biases = {str(n): 0.0 for n in range(300)}
    made = request_of(
        Execute(request_id="r", prompt="x", json_schema=nested(64), logit_bias=biases)
    )
    assert isinstance(made, Generation)
    assert len(made.logit_bias) == 300
    assert request_of(Execute(request_id="r", input=["a"] * 2048))


@pytest.mark.parametrize(
    "field",
    ["temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty",
     "frequency_penalty"],
)  # fmt: skip
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_no_number_that_is_none_passes(field: str, value: float) -> None:
    with pytest.raises(ValidationFailed, match=field):
        request_of(Execute(request_id="r", prompt="x", **{field: value}))  # type: ignore[arg-type]
    with pytest.raises(ValidationFailed, match="logit_bias"):
        request_of(Execute(request_id="r", prompt="x", logit_bias={"1": value}))


@pytest.mark.parametrize(
    ("capabilities", "made_for"),
    [(("text-gen",), Generation), (("embedding",), Embedding), ((), None)],
)
def test_a_model_is_asked_only_for_what_it_can(
    capabilities: tuple[str, ...], made_for: type[Any] | None
) -> None:
    for request in (Generation(prompt="x"), Embedding(("x",))):
        if isinstance(request, made_for or ()):
            check_can(request, capabilities, model="tiny")
        else:
            with pytest.raises(ValidationFailed, match="tiny makes") as caught:
                check_can(request, capabilities, model="tiny")
            assert caught.value.details["field"] == "model"


@pytest.mark.parametrize("said", [{"emitted": "a"}, {"emitted_ids": [1]}, {"emitted_tokens": 1}])
def test_a_backend_that_cannot_go_on_is_not_asked_to(said: dict[str, Any]) -> None:
    request = request_of(Execute(request_id="r", prompt="x", **said))
    check_can(request, ("text-gen",), model="tiny", continues=True)
    with pytest.raises(ValidationFailed, match="tiny cannot go on") as caught:
        check_can(request, ("text-gen",), model="tiny", continues=False)
    assert caught.value.details["field"] == "emitted"
    fresh = request_of(Execute(request_id="r", prompt="x"))
    check_can(fresh, ("text-gen",), model="tiny", continues=False)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=5), below),
    max_leaves=20,
)


@settings(deadline=None, max_examples=60)
@given(
    messages=st.lists(st.dictionaries(st.sampled_from(["role", "content", "name"]), JSON)),
    tools=st.lists(st.dictionaries(st.text(max_size=5), JSON), max_size=3),
    biases=st.dictionaries(st.text(max_size=12), st.floats()),
)
def test_whatever_comes_is_bounded_or_named(
    messages: list[dict[str, Any]], tools: list[dict[str, Any]], biases: dict[str, float]
) -> None:
    request = Execute(request_id="r", messages=messages, tools=tools, logit_bias=biases)
    try:
        made = request_of(request)
    except ValidationFailed as refused:
        field = refused.details["field"]
    else:
        field = ""
        assert isinstance(made, Generation)
        assert all(0 <= token < 1 << 31 and abs(x) <= 100 for token, x in made.logit_bias.items())
        assert all(isinstance(m["role"], str) for m in made.messages)
    assert field in ("", "messages", "tools", "logit_bias")


def test_a_plain_token_carries_nothing_more() -> None:
    assert encode(text_event(Piece("a", ids=(7,)), 3)) == b'{"token":"a","index":3}'


def test_ids_come_last() -> None:
    piece = Piece("a", logprob=Logprob(6, "a", b"a", -1.5))
    told = encode(text_event(piece, 3, [5, 6]))
    assert told.startswith(b'{"token":"a","index":3,"logprob":{')
    assert told.endswith(b',"ids":[5,6]}')


def test_log_probabilities_keep_bytes_that_are_no_text() -> None:
    top = (
        Likely(5, "a", b"a", -0.25),
        Likely(6, "\ufffd", b"\xf0\x9f", -math.inf),
    )
    piece = Piece("", logprob=Logprob(6, "\ufffd", b"\xf0\x9f", -1.5, top))
    event = decode(encode(text_event(piece, 0)), TextEvent)
    assert event.token == ""
    assert event.logprob is not None
    assert (event.logprob.token, event.logprob.bytes) == ("\ufffd", [0xF0, 0x9F])
    assert [(t.token, t.logprob) for t in event.logprob.top] == [("a", -0.25), ("\ufffd", -9999.0)]


def test_vectors_are_told_in_order_with_their_tokens() -> None:
    made = vectors_of(Embedded(([1.0, 0.0], (0.6, 0.8)), 7))
    back = decode(encode(made), Vectors)
    assert back.vectors == [[1.0, 0.0], [0.6, 0.8]]
    assert back.usage.prompt_tokens == 7
