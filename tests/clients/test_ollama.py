"""Ollama's official client, as it is installed, against a queen with a real model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import httpx
import jsonschema
import ollama
import openai
import pytest

from rbee.models import packages
from tests.clients.test_openai_calls import SAID, WEATHER
from tests.support.home import Home, wait_for

MODEL = "smollm2-135m"
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": "get_weather", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "now", "description": "The time"}},
]
SHAPE: dict[str, Any] = {
    "type": "object",
    "properties": {"legs": {"type": "integer"}, "kind": {"enum": ["bee", "ant"]}},
    "required": ["legs", "kind"],
    "additionalProperties": False,
}
EXACT = {"temperature": 0, "num_predict": 4, "repeat_penalty": 1.0}


@pytest.fixture(scope="module")
def owner(user: Home) -> Iterator[ollama.Client]:
    """With the right to fetch and delete."""
    headers = {"Authorization": f"Bearer {user.owner['Authorization'].split()[1]}"}
    client = ollama.Client(user.url, headers=headers, timeout=60)
    yield client
    client.close()


@pytest.fixture(scope="module")
def guest(user: Home) -> Iterator[ollama.Client]:
    client = ollama.Client(user.url, timeout=60)
    yield client
    client.close()


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


# -- answers --------------------------------------------------------------------------------------


def test_generate_whole_and_streamed_say_the_same(guest: ollama.Client) -> None:
    asked: dict[str, Any] = {"model": f"{MODEL}:latest", "prompt": "A hive is", "options": EXACT}
    whole = guest.generate(**asked)
    assert (whole.model, whole.done, whole.done_reason) == (f"{MODEL}:latest", True, "length")
    assert (whole.eval_count, (whole.prompt_eval_count or 0) > 5) == (4, True)
    assert (whole.total_duration or 0) >= (whole.eval_duration or 0) + (whole.load_duration or 0)
    assert (whole.total_duration or 0) > 1_000_000
    *parts, last = guest.generate(**asked, stream=True)
    assert "".join(part.response or "" for part in parts) == whole.response
    assert not any(part.done for part in parts)
    assert (last.done, last.response, last.eval_count) == (True, "", 4)
    created = datetime.fromisoformat(last.created_at or "")
    assert abs((datetime.now(UTC) - created).total_seconds()) < 600


@pytest.mark.parametrize("more", [{}, {"logprobs": True}])
def test_each_line_has_the_time_at_which_it_was_told(
    guest: ollama.Client, more: dict[str, Any]
) -> None:
    parts = list(guest.generate(MODEL, "A hive is", options=EXACT, stream=True, **more))
    times = [datetime.fromisoformat(part.created_at or "") for part in parts]
    assert times == sorted(times)
    assert len(set(times)) > 2


def test_chat_whole_and_streamed_say_the_same(guest: ollama.Client) -> None:
    asked: dict[str, Any] = {"model": MODEL, "messages": said("Hello"), "options": EXACT}
    whole = guest.chat(**asked)
    assert (whole.message.role, whole.message.tool_calls) == ("assistant", None)
    *parts, last = guest.chat(**asked, stream=True)
    assert "".join(part.message.content or "" for part in parts) == whole.message.content
    assert (last.done, last.done_reason) == (True, "length")


def test_a_system_message_and_stops_count(guest: ollama.Client) -> None:
    plain = guest.generate(MODEL, "Hi", options=EXACT).prompt_eval_count or 0
    longer = guest.generate(MODEL, "Hi", system="You are a bee. " * 20, options=EXACT)
    assert (longer.prompt_eval_count or 0) > plain + 50
    stops = {"stop": [*"12345678", "two"]}
    assert guest.generate("echo", "one two three", options=stops).response == "one "
    raw = guest.generate(MODEL, "Hi", raw=True, options=EXACT)
    assert (raw.prompt_eval_count or 0) < plain


def test_a_seed_makes_it_the_same_again(guest: ollama.Client) -> None:
    options = {"seed": 7, "temperature": 2.0, "num_predict": 8}
    first, second = (guest.generate(MODEL, "Bees", options=options).response for _ in range(2))
    assert first == second


@pytest.mark.parametrize("form", ["json", SHAPE])
def test_an_answer_has_the_shape_that_was_asked(guest: ollama.Client, form: Any) -> None:
    options = {"num_predict": 120, "temperature": 0.4, "seed": 3}
    answer = guest.generate(MODEL, "Describe a bee.", format=form, options=options)
    if answer.done_reason == "stop":
        jsonschema.validate(json.loads(answer.response or ""), SHAPE if form == SHAPE else {})
    else:
        assert (answer.response or "").lstrip().startswith("{")


def test_log_probabilities(guest: ollama.Client) -> None:
    answer = guest.generate(MODEL, "A hive is", logprobs=True, top_logprobs=2, options=EXACT)
    assert answer.logprobs is not None
    assert len(answer.logprobs) == 4
    assert "".join(one.token for one in answer.logprobs) == answer.response
    assert all(len(one.top_logprobs or ()) == 2 for one in answer.logprobs)


# -- functions ------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_calls_are_told_whole(guest: ollama.Client, stream: bool) -> None:
    told = guest.chat("echo", said(SAID), tools=TOOLS, stream=stream)  # pyright: ignore[reportCallIssue,reportArgumentType,reportUnknownVariableType]
    parts: list[Any] = list(told) if stream else [told]
    calls = [call for part in parts for call in part.message.tool_calls or ()]
    assert [(call.function.name, call.function.arguments) for call in calls] == [
        ("get_weather", {"city": "Paris"}),
        ("now", {}),
    ]
    assert "".join(part.message.content or "" for part in parts) == "One moment. "


@pytest.mark.parametrize("stream", [False, True])
def test_half_a_character_in_a_call_is_told_as_a_replacement(
    guest: ollama.Client, stream: bool
) -> None:
    text = '{"name": "get_weather", "arguments": {"city": "\\ud83d"}}'
    told = guest.chat("echo", said(text), tools=TOOLS, stream=stream)  # pyright: ignore[reportCallIssue,reportArgumentType,reportUnknownVariableType]
    parts: list[Any] = list(told) if stream else [told]
    calls = [call for part in parts for call in part.message.tool_calls or ()]
    assert [call.function.arguments for call in calls] == [{"city": "\ufffd"}]
    assert parts[-1].done


def test_arguments_that_are_none_stay_text(guest: ollama.Client) -> None:
    cut = guest.chat("echo", said(SAID), tools=TOOLS, options={"num_predict": 7})
    assert cut.done_reason == "length"
    assert cut.message.tool_calls is None
    assert "get_weather(" in (cut.message.content or "")


def test_a_result_goes_back_to_the_model(guest: ollama.Client, caller: str) -> None:
    call = {"function": {"name": "get_weather", "arguments": {"city": "Paris"}}}
    messages: list[Any] = [
        *said("Weather in Paris?"),
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_name": "get_weather", "content": "18 degrees"},
    ]
    answer = guest.chat(caller, messages, tools=TOOLS, options=EXACT)
    assert (answer.prompt_eval_count or 0) > 100


def test_a_model_without_tools_refuses_them(guest: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError, match="smollm2-135m has none") as bad:
        guest.chat(MODEL, said("Weather?"), tools=TOOLS)
    assert bad.value.status_code == 400


# -- models ---------------------------------------------------------------------------------------


def test_what_there_is_and_what_is_loaded(guest: ollama.Client, caller: str) -> None:
    guest.generate(caller, "x", options={"num_predict": 1})
    guest.generate(MODEL, "x", options={"num_predict": 1})
    models = {model.model: model for model in guest.list().models}
    size = packages.packaged(MODEL).path.stat().st_size
    found = models[f"{MODEL}:latest"]
    assert (found.size, found.details and found.details.family) == (size, "llama")
    assert {f"{MODEL}:latest", "caller-135m:latest"} <= set(models)
    loaded = {model.name: model for model in guest.ps().models}
    mine = loaded[f"{MODEL}:latest"]
    assert (mine.context_length, mine.digest) == (4096, found.digest)
    assert mine.expires_at is not None
    assert mine.expires_at > datetime.now(UTC)
    shown = guest.show(f"{MODEL}:latest")
    assert shown.capabilities == ["completion"]
    assert (shown.modelinfo or {})["llama.context_length"] == 4096
    assert guest.show("caller-135m").capabilities == ["completion", "tools"]


def test_loading_and_unloading_without_a_question(guest: ollama.Client, user: Home) -> None:
    assert guest.generate("echo", "").done_reason == "load"
    assert "echo" in {worker["model"] for worker in user.workers()}
    assert guest.chat("echo", [], keep_alive=0).done_reason == "unload"
    assert guest.generate("echo", "a", keep_alive=0).response == "a"
    wait_for(
        lambda: "echo" not in {worker["model"] for worker in user.workers()},
        what="echo is unloaded",
    )


def test_a_model_that_is_there_is_pulled_at_once(owner: ollama.Client) -> None:
    lines = [line.status for line in owner.pull(MODEL, insecure=True, stream=True)]
    assert (lines[0], lines[-1]) == ("pulling manifest", "success")
    assert owner.pull(f"{MODEL}:latest").status == "success"


@pytest.mark.parametrize(
    ("call", "status", "words"),
    [
        (lambda c: c.generate("nothing:1b", "x"), 404, "no model is called 'nothing:1b'"),
        (lambda c: c.show("nothing"), 404, "no model"),
        (lambda c: c.pull("nothing"), 404, "no model"),
        (lambda c: c.delete(MODEL), 409, "not in the catalogue"),
        (lambda c: c.copy(MODEL, "mine"), 400, "models.aliases"),
        (lambda c: c.create("mine", from_=MODEL), 400, "not made here"),
        (lambda c: c.push(MODEL), 400, "not sent anywhere"),
        (lambda c: c.generate(MODEL, "x", template="{{ .Prompt }}"), 400, "template"),
        (lambda c: c.generate(MODEL, "x", images=[b"png"]), 400, "images: pictures"),
        (lambda c: c.chat(MODEL, said("x"), think=True), 400, "think"),
        (lambda c: c.chat(MODEL, [{**said("x")[0], "images": [b"png"]}]), 400, "images"),
        (lambda c: c.generate(MODEL, "x", suffix="y"), 400, "suffix"),
        (lambda c: c.generate(MODEL, "x", options={"mirostat": 1}), 400, "options.mirostat"),
        (lambda c: c.generate(MODEL, "x", options={"top_p": 3}), 400, "options.top_p"),
        (lambda c: c.generate(MODEL, "x", options={"num_predict": 1 << 80}), 400, "num_predict"),
        (lambda c: c.generate(MODEL, "x", keep_alive="soon"), 400, "keep_alive"),
        (lambda c: c.embed("echo", "x", dimensions=3), 400, "dimensions"),
        (lambda c: c.embed(MODEL, "x"), 422, "generates text"),
        (lambda c: c.generate(MODEL, "bee " * 5000), 400, "tokens"),
    ],
)
def test_errors_have_ollamas_form(owner: ollama.Client, call: Any, status: int, words: str) -> None:
    with pytest.raises(ollama.ResponseError, match=words) as bad:
        call(owner)
    assert bad.value.status_code == status


def test_fetching_and_deleting_is_the_owners(guest: ollama.Client) -> None:
    for call in (lambda: guest.pull(MODEL), lambda: guest.delete(MODEL)):
        with pytest.raises(ollama.ResponseError, match="admin") as bad:
            call()
        assert bad.value.status_code == 401


# -- vectors --------------------------------------------------------------------------------------


def test_vectors(guest: ollama.Client) -> None:
    found = guest.embed("echo", ["one two", "three"])
    assert (len(found.embeddings), found.prompt_eval_count) == (2, 3)
    assert [round(sum(x * x for x in one), 4) for one in found.embeddings] == [1, 1]
    assert guest.embed("echo", "one two").embeddings == [found.embeddings[0]]
    assert guest.embed("echo", "one", dimensions=64).model == "echo"
    assert len(guest.embeddings("echo", "one two").embedding) == 64
    assert guest.embed("echo", []).embeddings == []


# -- streams --------------------------------------------------------------------------------------


def test_who_leaves_a_stream_cancels_it(guest: ollama.Client, user: Home) -> None:
    with closing(guest.generate("echo", "@delay=50 @repeat=2000 a b", stream=True)) as parts:
        assert next(iter(parts)).response
    wait_for(
        lambda: user.get("/v1/jobs?limit=1")["jobs"][0]["state"] == "cancelled", what="cancelled"
    )


def test_what_fails_in_a_stream_is_its_last_line(guest: ollama.Client) -> None:
    parts = guest.generate("echo", "@fail_after=1 a b", stream=True)
    with pytest.raises(ollama.ResponseError, match="echo was told to fail"):
        list(parts)


def test_lines_tell_how_a_model_loads(user: Home) -> None:
    for worker in user.workers():
        if worker["model"] == "echo-slow":
            user.rbee("worker", "stop", worker["worker_id"])
    body = {"model": "echo-slow", "prompt": "one two"}
    with httpx.stream(
        "POST", f"{user.url}/api/generate", json=body, trust_env=False, timeout=60
    ) as reply:
        assert reply.headers["content-type"] == "application/x-ndjson"
        lines = [json.loads(line) for line in reply.iter_lines()]
    assert len([line for line in lines if "status" in line]) > 1
    assert "".join(line["response"] for line in lines) == "one two"
    assert (lines[-1]["done"], lines[-1]["done_reason"]) == (True, "stop")


def test_it_is_there_and_says_which_version(user: Home) -> None:
    with httpx.Client(base_url=user.url, trust_env=False) as http:
        assert http.get("/").text == "Ollama is running"
        assert http.head("/").status_code == 200
        version = http.get("/api/version").json()["version"]
        assert tuple(map(int, version.split("."))) >= (0, 6, 4)
        reply = http.post("/api/generate", content=b"{")
        assert (reply.status_code, set(reply.json())) == (400, {"error", "code"})
        reply = http.post("/api/chat", json={"model": "echo", "messages": said("a b"),
                                             "stream": False})  # fmt: skip
        assert reply.headers["x-rbee-model"] == "echo"
        assert http.get("/api/blobs/x").json()["code"] == "NOT_FOUND"


def test_a_name_from_its_list_means_the_same_in_other_dialects(
    user: Home, client: openai.OpenAI
) -> None:
    for name in (f"{MODEL}:latest", "smollm2:135m"):
        answer = client.chat.completions.create(
            model=name, messages=[{"role": "user", "content": "Hi"}], max_tokens=1
        )
        assert answer.model == MODEL
    body = {"model": "echo:latest", "max_tokens": 5, "messages": said("a b")}
    reply = httpx.post(f"{user.url}/v1/messages", json=body, trust_env=False, timeout=30)
    assert reply.json()["content"][0]["text"] == "a b"
    with pytest.raises(openai.APIStatusError, match="nothing:1b"):
        client.completions.create(model="nothing:1b", prompt="x")
