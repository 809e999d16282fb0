"""The queen open to others: refused without a key, TLS by one's own authority, the allow-list."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from rbee.daemons.queen.doors import networks_of, posture, tls_of
from rbee.daemons.queen.neighbours import Neighbours
from rbee.errors import SettingsError
from rbee.paths import Paths
from rbee.settings import QueenSettings
from tests.support.home import Home

EVERYWHERE = "0.0.0.0"


def own_address() -> str | None:
    """One of this machine that is not loopback."""
    for addresses in psutil.net_if_addrs().values():
        for one in addresses:
            if one.family is socket.AF_INET and not one.address.startswith("127."):
                return one.address
    return None


def free_port() -> str:
    with socket.create_server((EVERYWHERE, 0)) as sock:
        return str(sock.getsockname()[1])


@pytest.fixture(scope="module")
def open_house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A queen open to all, with a certificate and two keys (`infer.key`, `admin.key`)."""
    home = Home(tmp_path_factory.mktemp("open"))
    home.env |= {"RBEE_QUEEN_HOST": EVERYWHERE, "RBEE_QUEEN_PORT": free_port()}
    home.env["RBEE_QUEEN_OLLAMA_PORT"] = free_port()
    refused = home.rbee("queen", "start")
    assert (refused.returncode, "BIND_REFUSED" in refused.stderr) == (1, True), refused.stderr
    assert "rbee key create" in refused.stderr
    for scope in ("infer", "admin"):
        made = home.rbee("key", "create", scope, "--scope", scope, "--json")
        (home.path / f"{scope}.key").write_text(json.loads(made.stdout)["key"])
    assert home.rbee("cert", "create", "--name", "box.example.org").returncode == 0
    started = home.rbee("queen", "start")
    assert started.returncode == 0, started.stderr
    assert "https://0.0.0.0:" in started.stderr
    assert "without TLS" not in started.stderr
    yield home
    home.close()


def key(home: Home, scope: str) -> str:
    return (home.path / f"{scope}.key").read_text()


def door(home: Home, address: str = "127.0.0.1", **headers: str) -> httpx.Client:
    trust = ssl.create_default_context(cafile=str(home.path / "data" / "tls" / "ca.pem"))
    url = f"https://{address}:{home.env['RBEE_QUEEN_PORT']}"
    return httpx.Client(base_url=url, verify=trust, headers=headers, trust_env=False, timeout=20)


def test_her_own_door_stays_on_loopback(open_house: Home) -> None:
    assert open_house.url.startswith("http://127.0.0.1:")
    assert not open_house.url.endswith(open_house.env["RBEE_QUEEN_PORT"])
    assert open_house.rbee("infer", "--model", "echo", "by the owner").stdout.strip() == (
        "by the owner"
    )


def test_ollamas_port_is_guarded_in_the_same_way(open_house: Home) -> None:
    address = own_address()
    if address is None:
        pytest.skip("this machine has no address but loopback's")
    at = f"{address}:{open_house.env['RBEE_QUEEN_OLLAMA_PORT']}"
    with httpx.Client(verify=False, trust_env=False, timeout=20) as anybody:
        refused = anybody.get(f"https://{at}/api/tags")
        assert (refused.status_code, set(refused.json())) == (401, {"error", "code"})
        headers = {"Authorization": f"Bearer {key(open_house, 'infer')}"}
        assert anybody.get(f"https://{at}/api/tags", headers=headers).status_code == 200
        body = {"model": "echo", "prompt": "", "keep_alive": 0}
        forbidden = anybody.post(f"https://{at}/api/generate", headers=headers, json=body)
        assert (forbidden.status_code, forbidden.json()["code"]) == (403, "FORBIDDEN")
        with pytest.raises(httpx.HTTPError):
            anybody.get(f"http://{at}/")


def test_tls_by_ones_own_authority(open_house: Home) -> None:
    with door(open_house) as trusting:
        assert trusting.get("/health").status_code == 200
        assert trusting.get("/v1/models").status_code == 200
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(f"{trusting.base_url}/health", trust_env=False)


def test_callers_from_elsewhere_need_a_key(open_house: Home) -> None:
    address = own_address()
    if address is None:
        pytest.skip("this machine has no address but loopback")
    with door(open_house, address) as other:
        assert other.get("/health").status_code == 200
        for path in ("/v1/models", "/v1/workers", "/v1/info", "/metrics"):
            reply = other.get(path)
            assert reply.status_code == 401, path
            assert reply.json()["error"]["code"] == "MISSING_API_KEY"
        owner = {"Authorization": f"Bearer {open_house.token}"}
        assert other.get("/v1/keys", headers=owner).status_code == 401
        for host in ("evil.example.org", "example.org"):
            assert other.get("/health", headers={"Host": host}).status_code == 403
    with door(open_house, address, **{"x-api-key": key(open_house, "infer")}) as anna:
        chat = {"model": "echo", "messages": [{"role": "user", "content": "hello"}]}
        assert anna.post("/v1/chat/completions", json=chat).status_code == 200
        assert anna.get("/v1/keys").status_code == 403


def test_the_command_reaches_a_queen_elsewhere(open_house: Home, tmp_path: Path) -> None:
    ca = open_house.path / "data" / "tls" / "ca.pem"
    url = f"https://127.0.0.1:{open_house.env['RBEE_QUEEN_PORT']}"
    laptop = Home(
        tmp_path / "laptop", RBEE_QUEEN_URL=url, RBEE_QUEEN_TLS_CA=str(ca),
        RBEE_API_KEY=key(open_house, "infer"),
    )  # fmt: skip
    done = laptop.rbee("infer", "--model", "echo", "from afar")
    assert (done.returncode, done.stdout.strip()) == (0, "from afar"), done.stderr
    refused = laptop.rbee("key", "list")
    assert (refused.returncode, "FORBIDDEN" in refused.stderr) == (1, True), refused.stderr
    laptop.env["RBEE_API_KEY"] = key(open_house, "admin")
    assert "infer" in laptop.rbee("key", "list").stdout
    del laptop.env["RBEE_QUEEN_TLS_CA"]
    strange = laptop.rbee("hive", "list")
    assert strange.returncode == 255
    assert "queen.tls_ca" in strange.stderr


def test_doctor_tells_what_is_open(open_house: Home) -> None:
    found = json.loads(open_house.rbee("doctor", "--json").stdout)["checks"]
    told = [check["message"] for check in found if check["name"] == "access"]
    assert any("any machine that reaches this one at https://0.0.0.0:" in line for line in told)
    assert any("keys that can be used: 2, of which for an admin: 1" in line for line in told)
    (open_house.path / "data" / "keys.json").chmod(0o644)
    try:
        bad = json.loads(open_house.rbee("doctor", "--json").stdout)["checks"]
    finally:
        (open_house.path / "data" / "keys.json").chmod(0o600)
    assert [c for c in bad if c["state"] == "fail" and "keys.json can be read" in c["message"]]


def test_what_is_open_is_said() -> None:
    closed = QueenSettings()
    assert posture(closed, None, "http://127.0.0.1:8500", 3) == []
    wide = QueenSettings(host=EVERYWHERE, allowed_origins=["https://a.example"])
    told = " ".join(posture(wide, None, "http://0.0.0.0:8500", 3))
    for word in ("any machine", "one of 3 keys", "without TLS", "https://a.example"):
        assert word in told
    narrow = QueenSettings(host=EVERYWHERE, allowed_networks=["10.0.0.0/8"])
    assert "10.0.0.0/8" in posture(narrow, None, "http://0.0.0.0:8500", 1)[0]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("address", "inside"),
    [
        ("192.168.1.77", True), ("192.168.2.1", False), ("127.0.0.1", True), ("::1", True),
        ("::ffff:192.168.1.5", True), ("::ffff:8.8.8.8", False), ("fd00::5", True),
        ("fe80::1%eth0", False), ("", False), ("nonsense", False),
    ],
)  # fmt: skip
async def test_only_named_networks_are_let_in(address: str, inside: bool) -> None:
    passed: list[str] = []
    sent: list[dict[str, object]] = []

    async def app(*_: object) -> None:
        passed.append(address)

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    wanted = QueenSettings(allowed_networks=["192.168.1.0/24", "fd00::/8"])
    gate = Neighbours(app, networks_of(wanted))
    await gate({"type": "http", "client": (address, 1)}, None, send)
    assert bool(passed) == inside
    assert [m.get("status") for m in sent if "status" in m] == ([] if inside else [403])


def test_settings_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    paths = Paths(*(tmp_path / name for name in ("config", "data", "state", "cache", "run")))
    with pytest.raises(SettingsError, match="one is given"):
        tls_of(QueenSettings(tls_cert="/x.pem"), paths)
    broken = tmp_path / "broken.pem"
    broken.write_text("no certificate")
    with pytest.raises(SettingsError, match=r"broken\.pem"):
        tls_of(QueenSettings(tls_cert=str(broken), tls_key=str(broken)), paths)
    with pytest.raises(SettingsError, match="nowhere"):
        networks_of(QueenSettings(allowed_networks=["nowhere"]))
