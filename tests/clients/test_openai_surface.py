"""What all routes for OpenAI's clients share: errors, headers, models, what loads, the document."""

from __future__ import annotations

import json
import random
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import openai
import pytest
from openai.types import completion_create_params as text_params
from openai.types import embedding_create_params as embedding_params
from openai.types.chat import completion_create_params as chat_params
from openai.types.responses import response_create_params as response_params

from rbee.daemons.queen import openapi
from rbee.daemons.queen.openai_params import (
    IGNORED,
    NEUTRAL,
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
)
from rbee.daemons.queen.openapi_routes import ROUTES
from rbee.daemons.queen.responses_params import ResponseRequest
from tests.packaging.test_docs import served_routes
from tests.support.home import Home

DOCUMENT = Path(__file__).parents[2] / "docs" / "openai.md"
SHAPES: dict[str, Any] = {
    "Chat completions": ChatRequest,
    "Completions": CompletionRequest,
    "Embeddings": EmbeddingRequest,
    "Responses": ResponseRequest,
}
NESTED: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 16},
        "kind": {"enum": ["bee", "wasp", "ant"]},
        "size": {"type": "number", "minimum": 0, "maximum": 50},
        "legs": {"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 3},
        "nest": {
            "type": "object",
            "properties": {
                "place": {"type": "string", "maxLength": 12},
                "rooms": {"type": ["integer", "null"]},
            },
            "required": ["place", "rooms"],
            "additionalProperties": False,
        },
    },
    "required": ["name", "kind", "size", "legs", "nest"],
    "additionalProperties": False,
}


# -- errors and headers -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/chat/nothing", 404, "NOT_FOUND"),
        ("GET", "/openai/v1/nothing", 404, "NOT_FOUND"),
        ("GET", "/v1/chat/completions", 405, "METHOD_NOT_ALLOWED"),
        ("PUT", "/openai/v1/models", 405, "METHOD_NOT_ALLOWED"),
        ("POST", "/v1/chat/completions", 400, "VALIDATION_ERROR"),
        ("GET", "/v1/models/org/a:b", 404, "MODEL_NOT_FOUND"),
    ],
)
def test_errors_have_openais_shape_outside_of_handlers_too(
    user: Home, method: str, path: str, status: int, code: str
) -> None:
    reply = httpx.request(method, user.url + path, content=b"{", trust_env=False)
    assert reply.status_code == status
    error = reply.json()["error"]
    assert (error["code"], set(error)) == (code, {"message", "type", "param", "code", "details"})
    if status == 405:
        assert reply.headers["allow"]
    assert reply.headers["x-correlation-id"]


def test_a_body_that_is_too_large_is_told_in_the_same_way(user: Home) -> None:
    large = {"model": "echo", "messages": [{"role": "user", "content": "x" * (1 << 20)}]}
    reply = httpx.post(f"{user.url}/v1/chat/completions", json=large, trust_env=False)
    assert (reply.status_code, reply.json()["error"]["type"]) == (413, "invalid_request_error")


def test_rbees_own_routes_keep_their_own_errors(user: Home) -> None:
    error = httpx.get(f"{user.url}/v1/nothing", trust_env=False).json()["error"]
    assert set(error) == {"code", "message", "details"}


HEADERS = {
    "Job",
    "Worker",
    "Hive",
    "Model",
    "Quant",
    "Device",
    "Queue-Ms",
    "Overhead-Ms",
    "Resumed",
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("chat/completions", {"messages": [{"role": "user", "content": "a b"}]}),
        ("completions", {"prompt": ["a b"]}),
        ("responses", {"input": "a b"}),
        ("embeddings", {"input": "a b"}),
    ],
)
def test_every_answer_says_who_served_it(
    user: Home, path: str, body: dict[str, Any], stream: bool
) -> None:
    given = {"model": "echo", **body} | (
        {"stream": True} if path != "embeddings" and stream else {}
    )
    reply = httpx.post(f"{user.url}/v1/{path}", json=given, trust_env=False, timeout=30)
    assert reply.status_code == 200
    assert {name for name in HEADERS if f"x-rbee-{name}" in reply.headers} == HEADERS
    assert reply.headers["x-rbee-model"] == "echo"


def test_a_failed_answer_says_who_failed(user: Home) -> None:
    body = {"model": "echo", "messages": [{"role": "user", "content": "@fail_after=1 a b"}]}
    reply = httpx.post(f"{user.url}/v1/chat/completions", json=body, trust_env=False, timeout=30)
    assert reply.status_code == 500
    assert reply.headers["x-rbee-worker"]


# -- models -------------------------------------------------------------------------------------


def test_models_are_named_with_their_hives(user: Home, client: openai.OpenAI, caller: str) -> None:
    client.completions.create(model=caller, prompt="x", max_tokens=1)
    models = {model.id: model for model in client.models.list()}
    assert {"smollm2-135m", "caller-135m"} <= set(models)
    assert {model.owned_by for model in models.values()} == {"home"}
    assert len({model.created for model in models.values()}) == 1
    assert client.models.retrieve("smollm2-135m") == models["smollm2-135m"]
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("org/repo:Q4_K_M")


# -- a model that is not loaded -----------------------------------------------------------------


@pytest.mark.parametrize("path", ["chat/completions", "completions", "responses"])
def test_who_waits_for_a_model_hears_how_it_loads(user: Home, path: str) -> None:
    for worker in user.workers():
        if worker["model"] == "echo-slow":
            user.rbee("worker", "stop", worker["worker_id"])
    asked: dict[str, Any] = {
        "chat/completions": {"messages": [{"role": "user", "content": "one two"}]},
        "completions": {"prompt": "one two"},
        "responses": {"input": "one two"},
    }[path]
    body = {"model": "echo-slow", "stream": True, **asked}
    with httpx.stream(
        "POST", f"{user.url}/v1/{path}", json=body, trust_env=False, timeout=60
    ) as reply:
        assert reply.status_code == 200
        assert reply.headers["x-rbee-job"]
        assert "x-rbee-worker" not in reply.headers
        lines = [line for line in reply.iter_lines() if line]
    comments = [line for line in lines if line.startswith(":")]
    loading = [
        int(found[1]) for line in comments if (found := re.match(r": loading (\d+) %", line))
    ]
    assert len(loading) > 1
    assert loading == sorted(set(loading))
    assert any(re.match(r": rbee worker=\S+ hive=home model=echo-slow", line) for line in comments)
    assert "two" in "".join(line for line in lines if line.startswith("data:"))


# -- shapes -------------------------------------------------------------------------------------


def shaped(client: openai.OpenAI, seed: int) -> str:
    named: Any = {"type": "json_schema", "json_schema": {"name": "n", "schema": NESTED}}
    draw = random.Random(seed)
    said = client.chat.completions.create(
        model="smollm2-135m", response_format=named, seed=seed, max_tokens=400,
        messages=[{"role": "user", "content": f"Describe insect number {seed}."}],
        temperature=draw.uniform(0, 2),
    )  # fmt: skip
    assert said.choices[0].finish_reason == "stop"
    return said.choices[0].message.content or ""


def test_answers_fit_a_nested_schema(client: openai.OpenAI) -> None:
    with ThreadPoolExecutor(2) as pool:
        for said in pool.map(lambda seed: shaped(client, seed), range(2)):
            jsonschema.validate(json.loads(said), NESTED)


@pytest.mark.lab
@pytest.mark.parametrize("part", range(5))
def test_a_hundred_of_a_hundred_answers_fit_a_nested_schema(
    client: openai.OpenAI, part: int
) -> None:
    with ThreadPoolExecutor(4) as pool:
        said = list(pool.map(lambda seed: shaped(client, seed), range(20 * part, 20 * part + 20)))
    assert len(said) == 20
    for one in said:
        jsonschema.validate(json.loads(one), NESTED)


# -- what is documented -------------------------------------------------------------------------


def rows(title: str) -> dict[str, set[str]]:
    """Parameters by what becomes of them, as the table under a title says."""
    text = DOCUMENT.read_text("utf-8").split(f"\n### {title}\n", 1)[1].split("\n#", 1)[0]
    found: dict[str, set[str]] = {"supported": set(), "ignored": set(), "refused": set()}
    for fate, names in re.findall(r"^\| (supported|ignored|refused) \| ([^|]*) \|", text, re.M):
        found[fate] |= set(re.findall(r"`([a-z_]+)`", re.sub(r"\([^)]*\)", "", names)))
    return found


@pytest.mark.parametrize("title", SHAPES)
def test_the_table_of_parameters_is_what_the_code_has(title: str) -> None:
    shape = SHAPES[title]
    assert rows(title) == {
        "supported": set(shape.__struct_encode_fields__),
        "ignored": set(IGNORED[shape]),
        "refused": set(NEUTRAL[shape]),
    }


@pytest.mark.parametrize(
    ("title", "theirs"),
    [
        ("Chat completions", chat_params.CompletionCreateParamsBase),
        ("Completions", text_params.CompletionCreateParamsBase),
        ("Embeddings", embedding_params.EmbeddingCreateParams),
        ("Responses", response_params.ResponseCreateParamsBase),
    ],
)
def test_no_parameter_of_the_official_client_is_forgotten(title: str, theirs: Any) -> None:
    known = set().union(*rows(title).values())
    assert set(theirs.__annotations__) <= known


def test_every_public_route_is_in_the_document(user: Home) -> None:
    routes = [(method, path.replace("{model}", "{model:path}")) for method, path in served()]
    assert {f"{method} {path}" for method, path in openapi.public(routes)} == set(ROUTES)
    document = user.get("/openapi.json")
    assert document["openapi"] == "3.1.0"
    described = {
        f"{method.upper()} {path}" for path, one in document["paths"].items() for method in one
    }
    assert described == {route.replace(":path", "") for route in ROUTES}
    references = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document)))
    assert references <= set(document["components"]["schemas"])


def served() -> set[tuple[str, str]]:
    """Routes as they stand in the code."""
    return {
        (method, path) for method, path in served_routes("queen") if path != "/v1/models/{model}"
    } | {("GET", "/v1/models/{model:path}"), ("GET", "/openapi.json")}
