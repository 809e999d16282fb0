"""A hub that fails, lies or attacks: always an error with a name, never a hang, never a crash."""

from __future__ import annotations

import contextlib
import json
import logging
import socket

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rbee.errors import (
    BadGateway,
    ConnectionTimeout,
    Forbidden,
    InvalidRequest,
    ModelAmbiguous,
    ModelIncompatible,
    ModelNotFound,
    RateLimited,
)
from rbee.models import hub_http
from rbee.models.hub import Hub
from rbee.models.refs import parse
from tests.models.gguf_files import METADATA, TENSORS, build
from tests.support.hub import MEMBER

GGUF = build(METADATA, TENSORS)
INFO = r"^/api/models/org/tiny"


@pytest.fixture
def tiny(hub, ask):
    """A hub with one model, and a Hub of it."""
    hub.add("org/tiny", {"m-q4_0.gguf": GGUF}, gated="auto")
    return ask(MEMBER)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7),
        ({"RateLimit": '"api";r=0;t=55'}, 55),
        ({"Retry-After": "99999999"}, 3600),
        ({"Retry-After": "0"}, 60),
        ({"Retry-After": "²"}, 60),
        ({"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, 60),
        ({}, 60),
    ],
)
def test_too_many_requests_say_how_long_to_wait(hub, tiny, headers, seconds):
    for path, call in [
        (INFO, lambda: tiny.order(parse("hf:org/tiny"), "x")),
        ("/resolve/", lambda: tiny.order(parse("hf:org/tiny"), "x")),
        ("^/api/models$", lambda: tiny.search("tiny")),
    ]:
        encoded = {name: value.encode().decode("latin-1") for name, value in headers.items()}
        hub.fault(path, "status", status=429, headers=encoded, times=0)
        with pytest.raises(RateLimited) as caught:
            call()
        assert caught.value.details["retry_after"] == seconds
        hub.heal()


def test_nothing_is_asked_twice_of_a_hub_in_trouble(hub, tiny):
    hub.fault("/api/models", "status", status=503, times=0)
    with pytest.raises(BadGateway, match="503"):
        tiny.order(parse("hf:org/tiny"), "x")
    assert len(hub.log()) == 1
    with pytest.raises(BadGateway, match="503"):
        tiny.search("tiny")


@pytest.mark.parametrize("status", [400, 402, 418, 204, 304, 307])
def test_an_answer_that_is_none_is_told(hub, tiny, status):
    hub.fault(INFO, "status", status=status, times=0)
    with pytest.raises(BadGateway) as caught:
        tiny.order(parse("hf:org/tiny"), "x")
    assert caught.value.action


def test_a_bad_token_is_said_to_be_bad(hub, tiny, ask):
    secret = "hf_" + "s" * 30
    for call in (
        lambda: ask(secret).order(parse("hf:org/tiny"), "x"),
        lambda: ask(secret).search("tiny"),
        lambda: ask(secret).repo("org/tiny"),
    ):
        with pytest.raises(Forbidden, match="does not accept the token") as caught:
            call()
        assert secret not in json.dumps(caught.value.body())


def test_a_forbidden_answer_without_terms_is_told_as_it_is(hub, tiny):
    hub.fault("/resolve/", "status", status=403)
    with pytest.raises(Forbidden, match="does not let this token read org/tiny"):
        tiny.order(parse("hf:org/tiny"), "x")


def test_nobody_there(ask):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    hub = Hub(f"http://user:secret@127.0.0.1:{port}")
    with pytest.raises(ConnectionTimeout, match=f"http://127.0.0.1:{port} cannot be") as caught:
        hub.order(parse("hf:org/tiny"), "x")
    assert "secret" not in json.dumps(caught.value.body())
    with pytest.raises(ConnectionTimeout):
        hub.search("tiny")


@pytest.mark.parametrize("address", ["nonsense", "ftp://x.org", "http://", "https:///x"])
def test_an_endpoint_that_is_no_address(ask, address):
    with pytest.raises(InvalidRequest, match="address"):
        Hub(address).choices(parse("hf:org/tiny"))


@pytest.mark.parametrize("path", [INFO, "/resolve/", "^/api/models$"])
def test_a_hub_that_does_not_answer_is_waited_for_so_long(hub, tiny, path, monkeypatch):
    monkeypatch.setitem(hub_http.LIMITS, "read", 0.3)
    monkeypatch.setattr("rbee.models.hub._SECONDS", 0.3)
    hub.fault(path, "mute", times=0)
    with pytest.raises(ConnectionTimeout, match="did not answer"):
        tiny.search("tiny") if path.endswith("$") else tiny.order(parse("hf:org/tiny"), "x")


def test_an_answer_without_end_is_cut_short(hub, tiny, monkeypatch):
    hub.fault(INFO, "status", status=200, body=" ", repeat=30 << 20, times=0)
    with pytest.raises(BadGateway, match="more than 24 MiB"):
        tiny.order(parse("hf:org/tiny"), "x")
    monkeypatch.setattr(hub_http, "_TOTAL", -1.0)
    with pytest.raises(ConnectionTimeout, match="not done"):
        tiny.order(parse("hf:org/tiny"), "x")


def test_a_packed_answer_is_not_unpacked(hub, tiny):
    packed = {"Content-Encoding": "gzip"}
    hub.fault(INFO, "status", status=200, body="{}", headers=packed)
    with pytest.raises(BadGateway, match="packed"):
        tiny.order(parse("hf:org/tiny"), "x")
    assert {entry["authorized"] for entry in hub.log()} == {True}


def test_no_address_with_a_signature_is_logged(hub, tiny, caplog):
    caplog.set_level(logging.DEBUG, "rbee")
    caplog.set_level(logging.INFO)
    order = tiny.order(parse("hf:org/tiny"), "x")
    tiny.look(order)
    tiny.search("tiny")
    assert "Signature=" in order.files[0].url
    assert "Signature" not in caplog.text
    assert MEMBER not in caplog.text


def test_a_signed_address_must_be_one_of_the_web(hub, tiny):
    head = {"X-Linked-Size": "9", "X-Linked-Etag": '"a"', "X-Repo-Commit": "c" * 40}
    hub.fault("/resolve/", "status", status=302, headers={**head, "Location": "file:///etc/passwd"})
    with pytest.raises(BadGateway, match="'file'"):
        tiny.order(parse("hf:org/tiny"), "x")


_JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5), st.just("c" * 40)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["rfilename", "size", "lfs", "sha256", "x"]), inner),
    ),
    max_leaves=6,
)
_NAME = st.sampled_from(["m-q4_0.gguf", "../m.gguf", "/m.gguf", "m\x1b.gguf", "model.safetensors"])
_SIBLING = st.fixed_dictionaries(
    {"rfilename": st.one_of(_NAME, _JSON)},
    optional={
        "size": _JSON,
        "blobId": _JSON,
        "lfs": st.one_of(
            _JSON,
            st.fixed_dictionaries({"sha256": _JSON, "size": _JSON, "pointerSize": st.just(1)}),
        ),
    },
)
_ANSWER = st.one_of(
    _JSON,
    st.fixed_dictionaries(
        {"id": st.just("org/tiny"), "sha": st.one_of(st.just("c" * 40), _JSON)},
        optional={
            "siblings": st.one_of(st.lists(_SIBLING, max_size=4), _JSON),
            "gated": _JSON,
            "private": _JSON,
            "downloads": _JSON,
            "likes": _JSON,
            "lastModified": _JSON,
            "pipeline_tag": _JSON,
            "safetensors": _JSON,
            "gguf": _JSON,
            "cardData": _JSON,
        },
    ),
)


_REFUSALS = (ModelAmbiguous, ModelIncompatible, ModelNotFound, Forbidden)


@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(_ANSWER)
def test_whatever_the_hub_answers_is_a_model_or_an_error(hub, ask, answer):
    hub.heal()
    hub.fault(INFO, "status", status=200, body=json.dumps(answer), times=0)
    hub.fault("^/api/models$", "status", status=200, body=json.dumps([answer]), times=0)
    client = ask()
    for call in (
        lambda: client.order(parse("hf:org/tiny"), "x"),
        lambda: client.repo("org/tiny"),
        lambda: client.choices(parse("hf:org/tiny")),
        lambda: client.search("tiny"),
    ):
        with contextlib.suppress(BadGateway, *_REFUSALS):
            call()


@pytest.mark.parametrize(
    "body", ["", "<html>", "[" * 100_000, '{"id": 1' + "0" * 5000 + "}", "\x00"]
)
def test_an_answer_that_is_no_json_is_told(hub, tiny, body):
    hub.fault("/api/models", "status", status=200, body=body, times=0)
    with pytest.raises(BadGateway):
        tiny.order(parse("hf:org/tiny"), "x")
    with pytest.raises(BadGateway):
        tiny.search("tiny")
