"""Text completions through the official client: lists, echo, several answers, probabilities."""

from __future__ import annotations

from typing import Any

import openai
import pytest

MODEL = "smollm2-135m"


def test_each_prompt_has_its_answers_in_order(client: openai.OpenAI) -> None:
    said = client.completions.create(model="echo", prompt=["a b", "c"], n=2, echo=True)
    assert [(c.index, c.text) for c in said.choices] == [
        (0, "a ba b"), (1, "a ba b"), (2, "cc"), (3, "cc")
    ]  # fmt: skip
    assert said.object == "text_completion"
    assert said.usage is not None
    assert (said.usage.prompt_tokens, said.usage.completion_tokens) == (3, 6)


def test_streamed_answers_come_with_their_index_and_usage(client: openai.OpenAI) -> None:
    texts, reasons, usage = ["", ""], ["", ""], None
    for chunk in client.completions.create(
        model="echo", prompt=["one two", "three"], stream=True, echo=True,
        stream_options={"include_usage": True},
    ):  # fmt: skip
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            reasons[choice.index] += choice.finish_reason or ""
    assert texts == ["one twoone two", "threethree"]
    assert reasons == ["stop", "stop"]
    assert usage is not None
    assert usage.total_tokens == 6


def test_without_a_limit_there_are_sixteen_tokens(client: openai.OpenAI) -> None:
    said = client.completions.create(model="echo", prompt="@repeat=40 word")
    assert said.choices[0].finish_reason == "length"
    assert said.usage is not None
    assert said.usage.completion_tokens == 16


def test_a_prompt_is_gone_on_with_as_it_stands(client: openai.OpenAI) -> None:
    given: dict[str, Any] = {"model": MODEL, "prompt": "The capital of France is", "max_tokens": 4}
    said = client.completions.create(**given, temperature=0, logprobs=2, seed=1)
    choice = said.choices[0]
    assert "Paris" in choice.text
    logprobs = choice.logprobs
    assert logprobs is not None
    assert "".join(logprobs.tokens or ()) == choice.text
    assert [choice.text[at] for at in logprobs.text_offset or ()] == [
        token[0] for token in logprobs.tokens or ()
    ]
    for token, logprob, top in zip(
        logprobs.tokens or (),
        logprobs.token_logprobs or (),
        logprobs.top_logprobs or (),
        strict=True,
    ):
        assert len(top) == 2
        assert top[token] == logprob == max(top.values())
    again = client.completions.create(**given, temperature=0, seed=1, stream=True)
    assert "".join(chunk.choices[0].text for chunk in again) == choice.text
    stopped = client.completions.create(**given, temperature=0, seed=1, stop=" Paris")
    assert (stopped.choices[0].text, stopped.choices[0].finish_reason) == ("", "stop")


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"suffix": "the end"}, "suffix"),
        ({"best_of": 3}, "best_of"),
        ({"prompt": [1, 2]}, "prompt"),
        ({"prompt": [[1, 2]]}, "prompt"),
        ({"prompt": ["a"] * 65}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"echo": True, "logprobs": 1}, "logprobs"),
        ({"logprobs": 6}, "logprobs"),
        ({"extra_body": {"messages": []}}, "messages"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(
    client: openai.OpenAI, more: dict[str, Any], field: str
) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        client.completions.create(**({"model": "echo", "prompt": "x"} | more))
    assert (bad.value.code, bad.value.param) == ("VALIDATION_ERROR", field)
