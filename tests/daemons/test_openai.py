"""The official client against a real queen with the echo backend."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import openai
import pytest

from tests.support.home import Home, wait_for


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    home = Home(tmp_path_factory.mktemp("openai"))
    assert home.rbee("queen", "start").returncode == 0
    yield home
    home.close()


@pytest.fixture
def client(user: Home) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{user.url}/v1", api_key="none", max_retries=0) as it:
        yield it


def messages(text: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": "repeat"}, {"role": "user", "content": text}]


def test_a_whole_answer_with_usage_and_who_served_it(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model="echo", messages=messages("one two three")
    )
    answer = raw.parse()
    assert answer.choices[0].message.content.strip() == "one two three"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens == 3
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 3
    for header in ("Worker", "Hive", "Model", "Quant", "Device", "Queue-Ms", "Overhead-Ms"):
        assert raw.headers[f"X-Rbee-{header}"]


def test_a_streamed_answer_with_usage(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="echo",
            messages=messages("one two three"),
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text.strip() == "one two three"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].usage.completion_tokens == 3


def test_max_tokens_ends_with_length(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="echo", messages=messages("one two three"), max_completion_tokens=2
    )
    assert answer.choices[0].finish_reason == "length"


def test_models_are_listed_without_the_test_ones(client: openai.OpenAI) -> None:
    names = [m.id for m in client.models.list()]
    assert "smollm2-135m" in names
    assert "echo" not in names
    assert client.models.retrieve("smollm2-135m").id == "smollm2-135m"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nope")


def test_errors_have_the_clients_types_and_our_codes(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="nope", messages=messages("x"))
    assert missing.value.code == "MODEL_NOT_FOUND"
    assert "no model is called 'nope' here. Known names: " in missing.value.message
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model="echo", messages=messages("x"), temperature=9)
    assert bad.value.code == "VALIDATION_ERROR"
    assert bad.value.param == "temperature"
    with pytest.raises(openai.InternalServerError) as failed:
        client.chat.completions.create(model="echo", messages=messages("@fail_after=0 a b"))
    assert failed.value.code == "INTERNAL_ERROR"


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_a_limit_of_no_tokens_is_refused_by_name(client: openai.OpenAI, name: str) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model="echo", messages=messages("x"), **{name: 0})
    assert bad.value.param == name


@pytest.mark.parametrize("number", ["²", "0" * 19 + "5", "9" * 24, "-1", "", "1e2"])
def test_numbers_that_are_none_are_refused_or_ignored(user: Home, number: str) -> None:
    reply = httpx.get(
        f"{user.url}/v1/jobs", params={"limit": number}, headers=user.owner, trust_env=False
    )
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "VALIDATION_ERROR")
    job = user.post("/v1/jobs", {"operation": "infer", "model": "echo", "prompt": "x"}).json()
    url = f"{user.url}{job['stream_url']}"
    header = {"Last-Event-ID": number.encode("utf-8")}
    reply = httpx.get(url, headers=header, trust_env=False, timeout=30)
    assert reply.status_code == 200
    assert "event: end" in reply.text


def test_a_failure_in_mid_stream_reaches_the_client(client: openai.OpenAI) -> None:
    seen: list[str] = []
    stream = client.chat.completions.create(
        model="echo", messages=messages("@fail_after=2 a b c d"), stream=True
    )
    with pytest.raises(openai.APIError) as failed:
        seen.extend(chunk.choices[0].delta.content or "" for chunk in stream)
    assert "".join(seen).split() == ["a", "b"]
    assert failed.value.code == "INTERNAL_ERROR"


@pytest.mark.parametrize("stream", [True, False])
def test_a_caller_that_leaves_cancels_its_job(user: Home, stream: bool) -> None:
    body = {"model": "echo", "messages": messages("@delay=50 @repeat=500 tick"), "stream": stream}
    url = f"{user.url}/v1/chat/completions"
    if stream:
        with httpx.stream("POST", url, json=body, timeout=30, trust_env=False) as reply:
            next(reply.iter_raw())
    else:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(url, json=body, timeout=1.0, trust_env=False)
    wait_for(
        lambda: user.get("/v1/jobs?limit=1")["jobs"][0]["state"] == "cancelled", what="cancelled"
    )
    wait_for(lambda: all(w["slots_busy"] == 0 for w in user.workers()), what="slot free")


CHOICES = "@delay=20 @repeat=3 one two"


def test_several_answers_are_choices_of_one_with_the_prompt_counted_once(
    client: openai.OpenAI,
) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model="echo", messages=messages(CHOICES), n=3, seed=4294967295
    )
    answer = raw.parse()
    assert [c.index for c in answer.choices] == [0, 1, 2]
    assert {c.message.content.strip() for c in answer.choices} == {"one two one two one two"}
    assert answer.usage.completion_tokens == 18
    assert answer.usage.prompt_tokens == 5
    assert answer.usage.total_tokens == 23
    assert len(set(raw.headers["X-Rbee-Job"].split(","))) == 3


def test_several_streamed_answers_come_merged(client: openai.OpenAI) -> None:
    texts, ends, heads = ["", "", ""], list[int](), list[int]()
    usage = None
    for chunk in client.chat.completions.create(
        model="echo", messages=messages(CHOICES), n=3, stream=True,
        stream_options={"include_usage": True},
    ):  # fmt: skip
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            if choice.delta.role:
                heads.append(choice.index)
            if choice.finish_reason:
                ends.append(choice.index)
    assert {text.strip() for text in texts} == {"one two one two one two"}
    assert (sorted(heads), sorted(ends)) == ([0, 1, 2], [0, 1, 2])
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (5, 18)
    assert usage.prompt_tokens_details.cached_tokens == 0


@pytest.mark.parametrize("stream", [True, False])
def test_a_caller_that_leaves_cancels_all_its_answers(user: Home, stream: bool) -> None:
    said = messages("@delay=50 @repeat=500 tock")
    body = {"model": "echo", "messages": said, "stream": stream, "n": 4}
    url = f"{user.url}/v1/chat/completions"
    if stream:
        with httpx.stream("POST", url, json=body, timeout=30, trust_env=False) as reply:
            next(reply.iter_raw())
    else:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(url, json=body, timeout=1.0, trust_env=False)
    wait_for(
        lambda: [j["state"] for j in user.get("/v1/jobs?limit=4")["jobs"]] == ["cancelled"] * 4,
        what="all cancelled",
    )
    wait_for(lambda: all(w["slots_busy"] == 0 for w in user.workers()), what="slots free")


def test_a_failing_answer_ends_the_others_too(user: Home, client: openai.OpenAI) -> None:
    with pytest.raises(openai.InternalServerError):
        client.chat.completions.create(
            model="echo", messages=messages("@fail_after=2 a b c"), n=2, max_tokens=50
        )
    wait_for(lambda: all(w["slots_busy"] == 0 for w in user.workers()), what="slots free")


@pytest.mark.parametrize("stream", [True, False])
def test_log_probabilities_are_told_with_their_tokens(client: openai.OpenAI, stream: bool) -> None:
    given = {"model": "echo", "messages": messages("one zwölf"), "logprobs": True,
             "top_logprobs": 2}  # fmt: skip
    if stream:
        chunks = client.chat.completions.create(**given, stream=True)
        places = [p for c in chunks if c.choices[0].logprobs for p in c.choices[0].logprobs.content]
    else:
        places = client.chat.completions.create(**given).choices[0].logprobs.content
    assert [place.token for place in places] == ["one ", "zwölf"]
    assert bytes(places[1].bytes) == "zwölf".encode()
    assert [(t.token, t.logprob) for t in places[1].top_logprobs] == [("zwölf", 0.0)]


def test_without_being_asked_no_log_probabilities_are_told(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="echo", messages=messages("a"), logprobs=False)
    assert answer.choices[0].logprobs is None
    asked = client.chat.completions.create(model="echo", messages=messages("a"), logprobs=True)
    assert asked.choices[0].logprobs.content[0].top_logprobs == []


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("extra", "field"),
    [
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"extra_body": {"grammar": "root ::= [a"}}, "grammar"),
    ],
)
def test_what_a_worker_refuses_is_a_400_that_names_it_and_hurts_no_worker(
    user: Home, client: openai.OpenAI, extra: dict, field: str, stream: bool
) -> None:
    client.chat.completions.create(model="echo", messages=messages("warm"))
    before = user.workers()
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model="echo", messages=messages("x"), stream=stream, **extra)
    assert (bad.value.code, bad.value.param) == ("VALIDATION_ERROR", field)
    after = user.workers()
    assert [w["worker_id"] for w in after] == [w["worker_id"] for w in before]
    assert all(w["error"] is None for w in after)
    newest = user.get("/v1/jobs?limit=1")["jobs"][0]
    assert (newest["state"], newest["error_code"]) == ("failed", "VALIDATION_ERROR")


@pytest.mark.parametrize(
    ("extra", "field"),
    [
        ({"n": 9}, "n"),
        ({"n": 0}, "n"),
        ({"presence_penalty": 2.5}, "presence_penalty"),
        ({"frequency_penalty": -2.5}, "frequency_penalty"),
        ({"logit_bias": {"1": 101}}, "logit_bias"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"tools": [{"type": "magic", "function": {"name": "f"}}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {"name": "f g"}}]}, "tools[0].function.name"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"extra_body": {"mirostat": 2}}, "mirostat"),
    ],
)
def test_what_is_out_of_bounds_or_unknown_is_named(
    client: openai.OpenAI, extra: dict, field: str
) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model="echo", messages=messages("x"), **extra)
    assert (bad.value.code, bad.value.param) == ("VALIDATION_ERROR", field)


def test_all_that_asks_for_something_is_taken(client: openai.OpenAI) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    answer = client.chat.completions.create(
        model="echo",
        messages=[
            {"role": "user", "content": "what is it"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "3", "tool_call_id": "c"},
            {"role": "user", "content": "go on"},
        ],
        presence_penalty=-2, frequency_penalty=2, logit_bias={"7": -100}, seed=3, stop=["z"],
        response_format={"type": "text"}, tools=[], tool_choice="none", user="me",
        extra_body={
            "top_k": 5, "min_p": 0.1, "repetition_penalty": 1.1, "ignore_eos": False,
            "cache_prompt": False, "cache": True, "deterministic": True,
        },
    )  # fmt: skip
    assert answer.choices[0].message.content == "go on"


# -- vectors -----------------------------------------------------------------------------------


def test_texts_become_vectors_in_both_encodings(client: openai.OpenAI) -> None:
    texts = ["the queen lays eggs", "QUEEN eggs lays the", "tax form"]
    packed = client.embeddings.create(model="echo", input=texts)  # the client asks for base64
    plain = client.embeddings.create(model="echo", input=texts, encoding_format="float", user="me")
    assert [item.index for item in plain.data] == [0, 1, 2]
    for one, other in zip(packed.data, plain.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-6)
    assert plain.data[0].embedding == plain.data[1].embedding != plain.data[2].embedding
    assert (plain.usage.prompt_tokens, plain.usage.total_tokens) == (10, 10)
    assert plain.model == "echo"
    single = client.embeddings.create(model="echo", input="tax form", dimensions=64)
    assert single.data[0].embedding == pytest.approx(plain.data[2].embedding, abs=1e-6)


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"input": [1, 2]}, "input"),
        ({"input": [[1, 2]]}, "input"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", ""]}, "input[1]"),
        ({"input": ["a"] * 2049}, "input"),
        ({"input": "a", "dimensions": 3}, "dimensions"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format"),
        ({"input": "a", "extra_body": {"late_chunking": True}}, "late_chunking"),
    ],
)
def test_what_is_no_text_to_embed_is_named(client: openai.OpenAI, given: dict, field: str) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        client.embeddings.create(model="echo", **given)
    assert (bad.value.code, bad.value.param) == ("VALIDATION_ERROR", field)


def test_a_caller_that_leaves_cancels_its_vectors(user: Home) -> None:
    body = {"model": "echo", "input": ["@hang_after=0 x"]}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{user.url}/v1/embeddings", json=body, timeout=1.0, trust_env=False)
    wait_for(
        lambda: user.get("/v1/jobs?limit=1")["jobs"][0]["state"] == "cancelled", what="cancelled"
    )
    wait_for(lambda: all(w["slots_busy"] == 0 for w in user.workers()), what="slot free")


def test_vectors_are_kept_for_jobs_and_not_for_callers_that_waited(
    user: Home, client: openai.OpenAI
) -> None:
    client.embeddings.create(model="echo", input="gone at once")
    job_id = user.get("/v1/jobs?limit=1")["jobs"][0]["job_id"]
    url = f"{user.url}/v1/jobs/{job_id}/stream"
    seen = httpx.get(url, trust_env=False, timeout=30).text
    assert "event: end" in seen
    assert "event: result" not in seen
    job = user.post("/v1/jobs", {"operation": "embed", "model": "echo", "input": ["a", "b"]}).json()
    for _ in range(2):
        seen = httpx.get(f"{user.url}{job['stream_url']}", trust_env=False, timeout=30).text
        data = seen.split("event: result\ndata: ", 1)[1].split("\n", 1)[0]
        result = msgspec.json.decode(data)
        assert (len(result["vectors"]), result["model"]) == (2, "echo")
        assert result["usage"] == {"prompt_tokens": 2}
    assert user.get(f"/v1/jobs/{job['job_id']}")["prompt_tokens"] == 2


def test_a_foreign_host_or_origin_and_a_large_body_are_refused(user: Home) -> None:
    for header in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
        reply = httpx.get(f"{user.url}/v1/models", headers=header, trust_env=False)
        assert (reply.status_code, reply.json()["error"]["code"]) == (403, "FORBIDDEN")
    reply = httpx.post(f"{user.url}/v1/jobs", content=b" " * ((1 << 20) + 1), trust_env=False)
    assert (reply.status_code, reply.json()["error"]["code"]) == (413, "PAYLOAD_TOO_LARGE")


def test_the_token_is_in_no_log(user: Home) -> None:
    assert user.state is not None
    for log in (Path(user.path) / "state" / "logs").iterdir():
        assert user.state["token"] not in log.read_text("utf-8")
