"""The official client against a real queen with the echo backend."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
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
    reply = httpx.get(f"{user.url}/v1/jobs", params={"limit": number}, trust_env=False)
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
