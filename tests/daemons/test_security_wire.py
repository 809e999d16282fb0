"""What comes in byte by byte to a real queen: bent requests, and models that are nobody's yet."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from rbee.daemons.addresses import name_of, network_of, plain
from rbee.daemons.guests import ALL, EACH, HOME, Guests
from tests.support.home import Home

SECONDS = 20.0
HERE = b"Host: localhost\r\n"
TRAILED = (
    b"POST /v1/jobs HTTP/1.1\r\n" + HERE + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    home = Home(tmp_path_factory.mktemp("wire"), RBEE_QUEEN_REQUEST_TIMEOUT="1.0")
    home.env["HF_ENDPOINT"] = "http://127.0.0.1:9"
    assert home.rbee("queen", "start").returncode == 0
    yield home
    home.close()


def connect(home: Home) -> socket.socket:
    host, port = home.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=SECONDS)


def until_closed(sock: socket.socket) -> bytes:
    """What comes until she closes the connection; fails when she does not."""
    seen = b""
    try:
        while piece := sock.recv(65536):
            seen += piece
    except ConnectionResetError:  # she had not read all that was sent
        pass
    return seen


def reply(sock: socket.socket) -> bytes:
    """One whole reply with a length."""
    seen = b""
    while b"\r\n\r\n" not in seen:
        seen += sock.recv(65536)
    head, _, body = seen.partition(b"\r\n\r\n")
    (length,) = [
        int(line.partition(b":")[2])
        for line in head.lower().split(b"\r\n")
        if line.startswith(b"content-length:")
    ]
    while len(body) < length:
        body += sock.recv(65536)
    return head


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (b"Host: 127.0.0.1:evil.example\r\n", b"403"),
        (b"Host: localhost:80@evil.example\r\n", b"403"),
        (b"Host: [::1\r\n", b"403"),
        (b"Host: 0.0.0.0\r\n", b"403"),
        (b"Host: evil.example\r\n" + HERE, b"400"),
        (HERE + b"Origin: https://evil.example\r\nOrigin: http://localhost\r\n", b"400"),
        (HERE + b"Authorization: Bearer a\r\nAuthorization: Bearer b\r\n", b"400"),
        (HERE + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n", b"400"),
        (HERE + b"X-Folded: a\r\n b\r\n", b"400"),
        (HERE + b"X-Rbee-Client : a\r\n", b"400"),
    ],
)
def test_requests_that_two_readers_could_read_in_two_ways(
    home: Home, headers: bytes, status: bytes
) -> None:
    with connect(home) as sock:
        sock.sendall(b"GET /v1/models HTTP/1.1\r\nConnection: close\r\n" + headers + b"\r\n")
        assert until_closed(sock).startswith(b"HTTP/1.1 " + status)


def test_headers_behind_a_body_are_not_kept(home: Home) -> None:
    """They would be memory without end, and a second chance to say who one is."""
    with connect(home) as sock:
        sock.sendall(TRAILED + b"X-Rbee-Client: key:anna\r\n\r\n")
        assert reply(sock).startswith(b"HTTP/1.1 400")
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert reply(sock).startswith(b"HTTP/1.1 200")
    for more in (b"X-Long: " + b"x" * 1000, b"X: y\r\n" * 200):
        with connect(home) as sock:
            sock.sendall(TRAILED)
            with pytest.raises(OSError, match=r"reset|[Bb]roken"):
                flood(sock, more)


def flood(sock: socket.socket, more: bytes) -> None:
    for _ in range(20_000):
        sock.sendall(more)


def test_a_body_in_small_chunks_is_no_attack(home: Home) -> None:
    body = json.dumps({"operation": "infer", "model": "echo", "prompt": "x" * 40_000}).encode()
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    with connect(home) as sock:
        sock.sendall(
            b"POST /v1/jobs HTTP/1.1\r\n" + HERE + b"Transfer-Encoding: chunked\r\n\r\n" + chunks
        )
        assert reply(sock).startswith(b"HTTP/1.1 202")


def test_bytes_that_begin_nothing_do_not_keep_a_connection(home: Home) -> None:
    with connect(home) as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert reply(sock).startswith(b"HTTP/1.1 200")
        sock.sendall(b"\r\n")
        assert until_closed(sock).startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize("protocol", [b"websocket", b"h2c"])
def test_who_wants_another_protocol_is_answered_and_left(home: Home, protocol: bytes) -> None:
    with connect(home) as sock:
        sock.sendall(
            b"GET /v1/keys HTTP/1.1\r\n" + HERE + b"Connection: Upgrade\r\nUpgrade: " + protocol
            + b"\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MTIzNDU2Nzg5MDEyMw==\r\n\r\n"
        )  # fmt: skip
        assert until_closed(sock).startswith(b"HTTP/1.1 401")


def test_garbage_fills_no_log(home: Home) -> None:
    log = home.path / "state" / "logs" / "queen.log"
    before = log.stat().st_size
    for _ in range(20):
        with connect(home) as sock:
            sock.sendall(b"\x16\x03\x01 no HTTP \r\n\r\n")
            assert until_closed(sock).startswith(b"HTTP/1.1 400")
    assert log.stat().st_size == before


def test_who_may_ask_models_asks_those_there_are(home: Home, tmp_path: Path) -> None:
    """Neither told what files the owner has, nor having her fetch what they like."""
    mine = tmp_path / "diary.gguf"
    mine.write_bytes(b"not a model")
    made = json.loads(home.rbee("key", "create", "anna", "--json").stdout)
    for key, error in ((None, (401, "MISSING_API_KEY")), (made["key"], (403, "FORBIDDEN"))):
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        with httpx.Client(base_url=home.url, headers=headers, timeout=SECONDS) as other:
            for model in (f"file:{mine}", "file:/no/such/file", "hf:org/repo:Q4_K_M"):
                asked = {"operation": "infer", "model": model, "prompt": "x"}
                chat = {"model": model, "messages": [{"role": "user", "content": "x"}]}
                for path, body in (("/v1/jobs", asked), ("/v1/chat/completions", chat)):
                    refused = other.post(path, json=body)
                    told = refused.json()["error"]
                    assert (refused.status_code, told["code"]) == error, (path, model)
                    assert "rbee model" in told["details"]["suggested_action"]
                if key is None and model.startswith("file:"):
                    for path in ("/v1/catalog/models/", "/v1/catalog/fits?model="):
                        assert other.get(path + model).status_code == 401
            assert other.post("/v1/jobs", json=asked | {"model": "echo"}).status_code == 202
    asked = {"operation": "infer", "model": f"file:{mine}", "prompt": "x"}
    assert home.post("/v1/jobs", asked).json()["error"]["code"] == "MODEL_CORRUPTED"


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("localhost", "localhost"), ("localhost:8500", "localhost"), ("[::1]:1", "::1"),
        ("[::1]", "::1"), ("box.example.org:", "box.example.org"), ("", ""), ("a:b", ""),
        ("a:1:2", ""), ("::1", ""), ("[a]b", ""), ("a@b", ""), ("a/b", ""), ("a:999999", ""),
    ],
)  # fmt: skip
def test_the_name_in_a_host_header(host: str, name: str) -> None:
    assert name_of(host) == name


def test_addresses_that_count_as_one() -> None:
    assert plain("::ffff:192.0.2.1") == "192.0.2.1"
    assert plain("fe80::1%eth0") == "fe80::1"
    assert plain("nobody") == "nobody"
    assert network_of("::ffff:192.0.2.1") != network_of("::ffff:192.0.2.2")
    assert network_of("fe80::1%eth0") == network_of("fe80::2%eth1")
    assert network_of("") == "unknown"


def test_other_machines_hold_so_many_connections_and_no_more() -> None:
    guests = Guests(files=1 << 20)
    seen = [guests.enter("192.0.2.1") for _ in range(EACH + 5)]
    assert seen == ["192.0.2.1"] * EACH + [None] * 5
    assert {guests.enter(own) for own in ("127.0.0.1", "::1", "::ffff:127.0.0.9")} == {HOME}
    assert guests.enter("192.0.2.2") == "192.0.2.2"
    guests.leave(HOME)
    guests.leave("192.0.2.1")
    assert guests.enter("192.0.2.1") == "192.0.2.1"
    few = Guests(files=8)
    assert [few.enter(f"192.0.2.{n}") is not None for n in range(6)] == [True] * 4 + [False] * 2
    assert ALL > EACH


def test_a_keys_jobs_are_shown_to_nobody_without_it(home: Home) -> None:
    key = json.loads(home.rbee("key", "create", "carl", "--json").stdout)["key"]
    asked = {"operation": "infer", "model": "echo", "prompt": "a secret"}
    with httpx.Client(base_url=home.url, timeout=SECONDS) as anybody:
        theirs, own = (
            anybody.post("/v1/jobs", json=asked, headers=headers).json()["job_id"]
            for headers in ({"x-api-key": key}, {})
        )
        for method, path in (
            ("GET", ""), ("GET", "/stream?follow=false"), ("GET", "/decision"), ("DELETE", ""),
            ("POST", "/retry"),
        ):  # fmt: skip
            refused = anybody.request(method, f"/v1/jobs/{theirs}{path}")
            assert refused.status_code == 404, path
            assert "secret" not in refused.text
        for path in ("", "/stream?follow=false"):
            assert anybody.get(f"/v1/jobs/{own}{path}").status_code == 200
        assert anybody.get(f"/v1/jobs/{theirs}", headers={"x-api-key": key}).status_code == 200
    assert home.get(f"/v1/jobs/{theirs}")["client"] == "key:carl"
