"""The failure lab of what comes in: one real queen, and everything that must not harm her."""

from __future__ import annotations

import json
import random
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from rbee.sse import Decoder
from tests.support.home import Home, wait_for

PAGE = "https://app.example.org"
PATIENCE = "1.0"
SECONDS = 20.0


class House:
    """A queen, and callers from addresses of their own, so that one's wrong keys slow no other."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.secrets: list[str] = []
        self._next = 10

    def caller(self, key: str | None = None, **headers: str) -> httpx.Client:
        self._next += 1
        transport = httpx.HTTPTransport(local_address=f"127.0.3.{self._next}")
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        return httpx.Client(
            base_url=self.home.url, headers=headers, timeout=SECONDS, transport=transport
        )

    def key(self, *args: str) -> str:
        """A new key, made by the command."""
        done = self.home.rbee("key", "create", *args)
        assert done.returncode == 0, done.stderr
        key = done.stdout.strip()
        assert key not in done.stderr
        self.secrets.append(key)
        return key

    def connect(self) -> socket.socket:
        """A plain connection."""
        host, port = self.home.url.removeprefix("http://").split(":")
        return socket.create_connection((host, int(port)), timeout=SECONDS)

    def healthy(self) -> bool:
        reply = httpx.get(f"{self.home.url}/health", timeout=SECONDS, trust_env=False)
        return reply.status_code == 200 and reply.json()["status"] == "healthy"


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    home = Home(
        tmp_path_factory.mktemp("house"),
        RBEE_QUEEN_REQUEST_TIMEOUT=PATIENCE, RBEE_QUEEN_ALLOWED_ORIGINS=PAGE,
        RBEE_QUEEN_ALLOWED_HOSTS="box.example.org", RBEE_LOG_LEVEL="debug",
    )  # fmt: skip
    assert home.rbee("queen", "start").returncode == 0
    yield House(home)
    home.close()


def chat(text: str = "one two") -> dict[str, Any]:
    return {"model": "echo", "messages": [{"role": "user", "content": text}]}


def code_of(reply: httpx.Response) -> tuple[int, str]:
    return reply.status_code, reply.json()["error"]["code"]


def test_keys_live_from_their_making_to_their_end(house: House) -> None:
    key = house.key("anna", "--expires", "1d", "--requests-per-minute", "5")
    with house.caller(key, **{"User-Agent": "notebook/2.0"}) as anna:
        reply = anna.post("/v1/chat/completions", json=chat())
        assert reply.status_code == 200, reply.text
        assert reply.headers["x-ratelimit-remaining-requests"] == "4"
        job = reply.headers["x-rbee-job"]
        assert house.home.get(f"/v1/jobs/{job}")["client"] == "key:anna"
        assert anna.get(f"/v1/jobs/{job}").status_code == 200
        asked = {"operation": "infer", "model": "echo", "prompt": "x"}
        other = house.home.post("/v1/jobs", asked).json()["job_id"]
        for path in (f"/v1/jobs/{other}", f"/v1/jobs/{other}/stream"):
            assert code_of(anna.get(path)) == (404, "NOT_FOUND")
        assert code_of(anna.delete(f"/v1/jobs/{other}")) == (404, "NOT_FOUND")
        assert code_of(anna.get("/v1/keys")) == (403, "FORBIDDEN")
        spawn = {"operation": "worker_spawn", "model": "echo"}
        assert code_of(anna.post("/v1/jobs", json=spawn)) == (403, "FORBIDDEN")
        fresh = house.home.rbee("key", "rotate", "anna", "--json")
        renewed = json.loads(fresh.stdout)["key"]
        house.secrets.append(renewed)
        refused = anna.post("/v1/chat/completions", json=chat())
        assert code_of(refused) == (401, "INVALID_API_KEY")
        assert refused.json()["error"]["type"] == "authentication_error"
        assert 'error="invalid_token"' in refused.headers["www-authenticate"]
        told = refused.json()["error"]["details"]["suggested_action"]
        assert "rbee key list" in told
    with house.caller(renewed) as anna:
        assert anna.get("/v1/models").status_code == 200
        assert house.home.rbee("key", "revoke", "anna").returncode == 0
        assert code_of(anna.get("/v1/info")) == (401, "INVALID_API_KEY")
    listed = json.loads(house.home.rbee("key", "list", "--json").stdout)
    assert "anna" not in [one["name"] for one in listed["keys"]]
    report = json.loads(house.home.rbee("usage", "--json").stdout)
    (row,) = [row for row in report["rows"] if row["app"] == "notebook"]
    assert (row["key"], row["model"], row["requests"], row["tokens_out"]) == ("anna", "echo", 1, 2)
    assert row["tokens_in"] > 0


def test_an_admins_key_does_what_the_owner_does(house: House) -> None:
    key = house.key("boss", "--scope", "admin")
    with house.caller(key) as boss:
        made = boss.post("/v1/keys", json={"name": "by-http", "tokens_per_minute": 5})
        assert made.status_code == 201
        assert made.headers["cache-control"] == "no-store"
        house.secrets.append(made.json()["key"])
        assert code_of(boss.post("/v1/keys", json={"name": "by-http"})) == (409, "CONFLICT")
        names = [one["name"] for one in boss.get("/v1/keys").json()["keys"]]
        assert "by-http" in names
        again = boss.post("/v1/keys/by-http/rotate")
        house.secrets.append(again.json()["key"])
        assert boss.delete("/v1/keys/by-http").status_code == 200
        assert code_of(boss.delete("/v1/keys/by-http")) == (404, "NOT_FOUND")
        for body in (
            {"name": "a b"}, {"name": ""}, {"name": "a" * 49}, {"name": "x", "scopes": []},
            {"name": "x", "scopes": ["root"]}, {"name": "x", "expires_in": 0}, {"name": 5},
            {"name": "x", "expires_in": 1e12}, {"name": "x", "requests_per_minute": 0},
            {"name": "x", "hash": "y"}, {"name": "x\u0000"}, [], {"name": "../x"}, {"name": "x\n"},
        ):  # fmt: skip
            assert code_of(boss.post("/v1/keys", json=body)) == (400, "VALIDATION_ERROR"), body
        for name in ("..x", "a%00b", "%1b[2J", "a" * 100):
            assert code_of(boss.delete(f"/v1/keys/{name}")) == (400, "VALIDATION_ERROR")
        assert code_of(boss.get("/v1/usage?days=0")) == (400, "VALIDATION_ERROR")


def test_without_a_key_this_machine_asks_and_does_no_more(house: House) -> None:
    with house.caller() as anybody:
        assert anybody.get("/v1/models").status_code == 200
        assert anybody.post("/v1/chat/completions", json=chat()).status_code == 200
        for method, path in (
            ("POST", "/v1/hives"), ("DELETE", "/v1/hives/attic"), ("GET", "/v1/hives/nearby"),
            ("POST", "/v1/shutdown"), ("POST", "/v1/stay"), ("GET", "/v1/jobs"),
            ("GET", "/v1/events/stream"), ("POST", "/v1/keys"), ("GET", "/v1/logs"),
            ("POST", "/v1/catalog/import"), ("POST", "/v1/catalog/gc"), ("GET", "/v1/usage"),
            ("GET", "/v1/catalog/foreign?hive=home"),
        ):  # fmt: skip
            reply = anybody.request(method, path)
            assert code_of(reply) == (401, "MISSING_API_KEY"), path
            assert reply.headers["www-authenticate"].startswith("Bearer")
        for operation in (
            {"operation": "hive_add", "name": "x", "target": "root@10.0.0.1"},
            {"operation": "worker_stop", "worker_id": "w-01"},
            {"operation": "model_delete", "model": "echo", "hive": "home"},
        ):
            reply = anybody.post("/v1/jobs", json=operation)
            assert code_of(reply) == (401, "MISSING_API_KEY"), operation
        # What tools send that want just any key does not get in the way, nor count as wrong.
        for _ in range(10):
            reply = anybody.get("/v1/models", headers={"Authorization": "Bearer ollama"})
            assert reply.status_code == 200


def test_twenty_wrong_keys_in_a_row_are_slowed_down(house: House) -> None:
    with house.caller() as thief:
        replies = [
            thief.get("/v1/models", headers={"Authorization": f"Bearer rbee_wrong{n}"})
            for n in range(20)
        ]
    codes = [code_of(reply) for reply in replies]
    assert codes[:5] == [(401, "INVALID_API_KEY")] * 5
    assert codes[-1] == (429, "RATE_LIMITED")
    slowed = [reply for reply in replies if reply.status_code == 429]
    assert len(slowed) >= 10
    assert all(int(reply.headers["retry-after"]) >= 1 for reply in slowed)
    with house.caller() as somebody_else:
        assert somebody_else.get("/v1/models").status_code == 200


def test_limits_hold_over_http(house: House) -> None:
    key = house.key("slow", "--requests-per-minute", "1", "--tokens-per-minute", "1000")
    with house.caller(key) as slow:
        first = slow.post("/v1/chat/completions", json=chat() | {"stream": True})
        assert first.status_code == 200
        assert first.headers["x-ratelimit-remaining-requests"] == "0"
        second = slow.post("/v1/chat/completions", json=chat())
        assert code_of(second) == (429, "RATE_LIMITED")
        assert 50 <= int(second.headers["retry-after"]) <= 60
        assert second.headers["x-ratelimit-limit-tokens"] == "1000"
        assert int(second.headers["x-ratelimit-remaining-tokens"]) < 1000
        assert slow.get("/v1/models").status_code == 200


def test_one_byte_more_than_a_body_may_have(house: House) -> None:
    with house.caller() as somebody:
        for path in ("/v1/jobs", "/v1/chat/completions"):
            reply = somebody.post(path, content=b" " * ((1 << 20) + 1))
            assert code_of(reply) == (413, "PAYLOAD_TOO_LARGE")

        def parts() -> Iterator[bytes]:
            for _ in range(17):
                yield b" " * (1 << 16)

        reply = somebody.post("/v1/jobs", content=parts())
        assert code_of(reply) == (413, "PAYLOAD_TOO_LARGE")
    assert house.healthy()


def malformed(count: int) -> Iterator[bytes]:
    """Bodies that are no request, the same ones each time."""
    chance = random.Random(8)
    whole = json.dumps({"operation": "infer", "model": "echo", "prompt": "x" * 50}).encode()
    nasty = [
        b"", b"{", b"[]", b"null", b"\xff\xfe", b"\x00" * 40, b'{"operation":5}', b"[" * 5000,
        b'{"operation":"infer","model":"\\u0000","prompt":"x"}', b'{"a":' * 900,
        b'{"operation":"infer","model":"../../etc/passwd","prompt":"x"}',
        b'{"operation":"infer","model":"echo; rm -rf /","prompt":"x"}',
        b'{"operation":"infer","model":"\\u001b[2Jecho","prompt":"x"}',
        b'{"operation":"infer","model":"echo","prompt":"x","hive":"a\\nb"}',
        b'{"operation":"infer","model":"echo","prompt":"x","max_tokens":1e400}',
        b'{"operation":"infer","model":"echo","prompt":"x","temperature":NaN}',
        b'{"operation":"infer","model":"echo","prompt":"\\ud800"}',
        b'{"operation":"infer","model":"echo","prompt":["x"]}',
    ]  # fmt: skip
    yield from nasty
    for _ in range(count - len(nasty)):
        body = bytearray(whole)
        for _ in range(chance.randrange(1, 6)):
            body[chance.randrange(len(body))] = chance.randrange(256)
        yield bytes(body[: chance.randrange(1, len(body))])


def test_200_malformed_bodies_leave_her_healthy(house: House) -> None:
    with house.caller() as somebody:
        for number, body in enumerate(malformed(200)):
            path = ("/v1/jobs", "/v1/chat/completions", "/v1/embeddings")[number % 3]
            reply = somebody.post(path, content=body)
            assert 400 <= reply.status_code < 500, (body, reply.text)
            error = reply.json()["error"]
            assert error["code"]
            assert error["message"]
            assert "Traceback" not in reply.text
        assert somebody.post("/v1/chat/completions", json=chat()).status_code == 200
    assert house.healthy()


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"", b"408"),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Slow: ", b"408"),
        (b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n{", b"408"),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"x" * (80 << 10), b"431"),
        (b"GET /" + b"a" * (80 << 10), b"431"),
        (b"\x16\x03\x01 this is no HTTP \r\n\r\n", b"400"),
    ],
    ids=["silent", "half a head", "half a body", "endless head", "endless line", "garbage"],
)
def test_who_sends_a_request_by_halves_is_cut_off(house: House, sent: bytes, status: bytes) -> None:
    with house.connect() as slow:
        slow.sendall(sent)
        assert house.healthy()
        seen = b""
        try:
            while piece := slow.recv(4096):
                seen += piece
        except ConnectionResetError:  # it was closed before it had read all that was sent
            pass
        assert seen.startswith(b"HTTP/1.1 " + status) or (not seen and status == b"431"), seen


def test_drips_of_a_header_do_not_keep_a_connection(house: House) -> None:
    """Slow-loris: one byte at a time, and 50 at once; others are answered meanwhile."""
    many = [house.connect() for _ in range(50)]
    try:
        for one in many:
            one.sendall(b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\n")
        assert house.healthy()

        def cut() -> bool:
            gone = 0
            for one in many:
                try:
                    one.sendall(b"X")
                    one.setblocking(False)
                    gone += one.recv(1, socket.MSG_PEEK) == b"H"
                except BlockingIOError:
                    pass
                except OSError:
                    gone += 1
                finally:
                    one.setblocking(True)
            return gone == len(many)

        wait_for(cut, what="all were cut off")
        assert house.healthy()
    finally:
        for one in many:
            one.close()


def test_a_long_answer_is_not_cut_off_with_the_slow(house: House) -> None:
    """The limit is for requests: an answer may take as long as it does."""
    body = {"operation": "infer", "model": "echo", "prompt": "@delay=60 @repeat=30 tick"}
    job = house.home.post("/v1/jobs", body).json()["job_id"]
    decoder, kinds = Decoder(), list[str]()
    with house.caller() as somebody, somebody.stream("GET", f"/v1/jobs/{job}/stream") as reply:
        for chunk in reply.iter_raw():
            kinds += [event.event for event in decoder.feed(chunk)]
    assert kinds.count("token") == 30
    assert "end" in kinds


@pytest.mark.parametrize(
    "host", ["evil.example.org", "127.0.0.1.evil.example.org", "192.0.2.1", ""]
)
def test_a_name_that_is_not_hers_is_refused(house: House, host: str) -> None:
    with house.caller(Host=host) as page:
        assert code_of(page.get("/v1/models")) == (403, "FORBIDDEN")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8500", "[::1]:1", "box.example.org:99"])
def test_a_name_that_is_hers_is_fine(house: House, host: str) -> None:
    with house.caller(Host=host) as tool:
        assert tool.get("/v1/models").status_code == 200


def test_web_pages_that_were_named_may_call_and_no_others(house: House) -> None:
    preflight = {"Access-Control-Request-Method": "POST"}
    with house.caller(Origin=PAGE) as page:
        reply = page.options("/v1/chat/completions", headers=preflight)
        assert reply.status_code == 204
        assert reply.headers["access-control-allow-origin"] == PAGE
        assert "authorization" in reply.headers["access-control-allow-headers"]
        reply = page.get("/v1/models")
        assert reply.headers["access-control-allow-origin"] == PAGE
        assert reply.headers["vary"] == "origin"
        assert "access-control-allow-credentials" not in reply.headers
        refused = page.get("/v1/jobs")
        assert code_of(refused) == (401, "MISSING_API_KEY")
        assert refused.headers["access-control-allow-origin"] == PAGE
    for origin in ("https://evil.example.org", "null", PAGE + ".evil", "http://app.example.org"):
        with house.caller(Origin=origin) as page:
            for reply in (page.get("/v1/models"), page.options("/v1/models", headers=preflight)):
                assert code_of(reply) == (403, "FORBIDDEN")
                assert "access-control-allow-origin" not in reply.headers


@pytest.fixture(scope="module")
def used(house: House) -> House:
    """Keys that infer, that may not, that are revoked and that never were; their use on disk."""
    key, admin = house.key("used"), house.key("ruler", "--scope", "admin")
    for one, code in ((key, 200), (admin, 200), (f"{key[:-1]}!", 401)):
        with house.caller(one) as caller:
            assert caller.post("/v1/chat/completions", json=chat()).status_code == code
    assert house.home.rbee("key", "revoke", "ruler").returncode == 0
    with house.caller(admin) as gone:
        assert gone.get("/v1/models").status_code == 401
    assert house.home.rbee("usage").returncode == 0
    return house


def test_a_key_is_in_no_file_of_hers(used: House) -> None:
    """At the level that tells most; with all that tests before it have done, if any were here."""
    secrets = [*used.secrets, used.home.token]
    with used.caller(used.secrets[0]) as gone:
        gone.get("/v1/models?key=" + used.secrets[0])
    done = used.home.rbee("doctor", "--json")
    assert not [secret for secret in secrets if secret in done.stdout]
    files = [file for file in used.home.path.rglob("*") if file.is_file()]
    names = {file.name for file in files}
    assert {"queen.log", "keys.json", "usage.db", "rbee.db"} <= names
    for file in files:
        held = file.read_bytes()
        for secret in secrets:
            if file.name != "owner.token":
                assert secret.encode() not in held, file
                assert secret.encode()[-20:] not in held, file
    logged = next(file for file in files if file.name == "queen.log").read_text("utf-8")
    assert "fingerprint=" in logged


def test_no_other_user_can_read_what_is_hers(used: House) -> None:
    for name in ("state/owner.token", "data/keys.json", "data/usage.db", "state/queen.json"):
        file: Path = used.home.path / name
        assert file.stat().st_mode & 0o077 == 0, name


def test_a_child_gets_no_key_of_its_user(house: House) -> None:
    home = house.home
    home.env["RBEE_API_KEY"] = "rbee_secret-of-the-user"
    try:
        assert home.rbee("key", "list").returncode == 0
        done = subprocess.run(
            home.command("config", "show"), env=home.env, capture_output=True, text=True,
            timeout=60, check=True,
        )  # fmt: skip
        assert "rbee_secret" not in done.stdout + done.stderr
        assert "(hidden)" in done.stdout
    finally:
        del home.env["RBEE_API_KEY"]
