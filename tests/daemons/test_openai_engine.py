"""The official client against a real queen with a real model: shapes, probabilities, reuse."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.support.home import Home

pytest.importorskip("llama_cpp")
MODEL = "smollm2-135m"
BEE = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "legs": {"type": "integer"}},
    "required": ["name", "legs"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    home = Home(tmp_path_factory.mktemp("engine"))
    assert home.rbee("queen", "start").returncode == 0
    yield home
    home.close()


@pytest.fixture
def client(user: Home) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{user.url}/v1", api_key="none", max_retries=0) as it:
        yield it


def ask(client: openai.OpenAI, text: str, **more: Any) -> Any:
    given = {"max_tokens": 8, "temperature": 0, "seed": 1} | more
    said = [{"role": "user", "content": text}]
    return client.chat.completions.create(model=MODEL, messages=said, **given)


def test_log_probabilities_are_those_of_a_distribution(client: openai.OpenAI) -> None:
    answer = ask(client, "Why do bees dance?", logprobs=True, top_logprobs=5)
    places = answer.choices[0].logprobs.content
    assert len(places) == answer.usage.completion_tokens
    assert "".join(p.token for p in places).startswith(answer.choices[0].message.content[:10])
    for place in places:
        found = [t.logprob for t in place.top_logprobs]
        assert found == sorted(found, reverse=True)
        assert sum(map(math.exp, found)) <= 1 + 1e-4
        assert place.logprob == pytest.approx(found[0])  # greedy
    streamed = ask(client, "Why do bees dance?", logprobs=True, top_logprobs=1, stream=True)
    said = [p for c in streamed if c.choices[0].logprobs for p in c.choices[0].logprobs.content]
    assert [p.token for p in said] == [p.token for p in places]


def test_an_answer_fits_its_schema_and_any_json_is_an_object(client: openai.OpenAI) -> None:
    named = {"type": "json_schema", "json_schema": {"name": "bee", "schema": BEE, "strict": True}}
    answer = ask(client, "Describe a bee.", response_format=named, max_tokens=60)
    bee = json.loads(answer.choices[0].message.content)
    assert set(bee) == {"name", "legs"}
    assert isinstance(bee["legs"], int)
    started = ask(client, "JSON!", response_format={"type": "json_object"}, max_tokens=20)
    assert started.choices[0].message.content.lstrip().startswith("{")


def test_an_answer_is_a_sentence_of_its_grammar(client: openai.OpenAI) -> None:
    rules = 'root ::= "yes" | "no"'
    answer = ask(client, "Do bees sleep?", extra_body={"grammar": rules}, max_tokens=10)
    assert answer.choices[0].message.content in ("yes", "no")
    assert answer.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"extra_body": {"grammar": "root ::= ["}}, "grammar"),
        ({"extra_body": {"grammar": "leaf ::= [a]"}}, "grammar"),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "schema": {"type": "bee"}},
                }
            },
            "response_format",
        ),
    ],
)
def test_a_shape_that_is_none_is_a_400_and_the_worker_goes_on(
    user: Home, client: openai.OpenAI, more: dict[str, Any], param: str, stream: bool
) -> None:
    ask(client, "Hi", max_tokens=1)
    before = [w["worker_id"] for w in user.workers()]
    with pytest.raises(openai.BadRequestError) as bad:
        ask(client, "x", stream=stream, **more)
    assert (bad.value.code, bad.value.param) == ("VALIDATION_ERROR", param)
    ask(client, "Hi", max_tokens=1)
    assert [w["worker_id"] for w in user.workers()] == before


def test_several_answers_share_their_prompt_and_have_seeds_of_their_own(
    client: openai.OpenAI,
) -> None:
    given: dict[str, Any] = {"temperature": 1.5, "seed": 5, "max_tokens": 12}
    answer = ask(client, "Tell me of bees.", n=3, **given)
    texts = [c.message.content for c in answer.choices]
    assert len(set(texts)) > 1
    one = ask(client, "Tell me of bees.", **given)
    assert answer.usage.prompt_tokens == one.usage.prompt_tokens
    assert answer.usage.completion_tokens <= 36


def test_a_prompt_that_was_seen_is_counted_as_cached(client: openai.OpenAI) -> None:
    text = "The queen of a colony of bees lays up to two thousand eggs in a day. " * 8
    ask(client, text, max_tokens=1)
    again = ask(client, text, max_tokens=1)
    assert again.usage.prompt_tokens_details.cached_tokens > again.usage.prompt_tokens // 2
    anew = ask(client, text, max_tokens=1, extra_body={"cache_prompt": False})
    assert anew.usage.prompt_tokens_details.cached_tokens == 0


def test_an_end_can_be_ignored_and_a_token_banned(client: openai.OpenAI) -> None:
    plain = ask(client, "Say yes.", max_tokens=64)
    assert plain.choices[0].finish_reason == "stop"
    ignored = ask(client, "Say yes.", max_tokens=64, extra_body={"ignore_eos": True})
    # The ids of the first tokens of this vocabulary are the special ones: every way to end.
    banned = ask(client, "Say yes.", max_tokens=64, logit_bias={str(n): -100 for n in range(17)})
    for answer in (ignored, banned):
        assert answer.choices[0].finish_reason == "length"
        assert answer.usage.completion_tokens == 64


def test_a_model_of_text_makes_no_vectors(client: openai.OpenAI) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match=MODEL) as bad:
        client.embeddings.create(model=MODEL, input="a bee")
    assert bad.value.code == "MODEL_INCOMPATIBLE"
