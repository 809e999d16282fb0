"""Announcements on the local network: really sent and heard, and what is believed of them."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rbee.discovery import announcement, lan
from rbee.discovery.announcement import Announced, find_of, host_key, read
from rbee.discovery.finds import Finds
from rbee.discovery.nearby import nearby
from rbee.discovery.networks import broadcasts, own_networks
from rbee.errors import Unavailable, ValidationFailed
from rbee.ssh.hosts import Hosts
from tests.support.netns import Host
from tests.support.sshd import MISSING, fingerprint, keygen

needs_zeroconf = pytest.mark.skipif(
    find_spec("zeroconf") is None, reason="the package zeroconf is not installed"
)
PRINT = "SHA256:" + "a" * 43
NETWORKS = {
    "192.168.1.2": IPv4Network("192.168.1.0/24"),
    "172.17.0.1": IPv4Network("172.17.0.0/16"),
}
ANNOUNCER = """
import pathlib, sys, anyio, anyio.to_thread
from rbee.discovery import lan
from rbee.discovery.lan import announced
lan.LOOK_EVERY = 0.2
async def main():
    async with announced(sys.argv[1], "0.1.0", keys=pathlib.Path(sys.argv[2])):
        print("announced", flush=True)
        await anyio.to_thread.run_sync(sys.stdin.read)
anyio.run(main)
"""


@contextmanager
def announcing(far: Host, name: str, keys: Path) -> Iterator[None]:
    """A process over there that announces itself, and says goodbye at the end."""
    process = far.start(
        [sys.executable, "-W", "error", "-c", ANNOUNCER, name, str(keys)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"announced\n"
        yield
        process.communicate(timeout=20)
        assert process.returncode == 0
    finally:
        process.kill()
        process.communicate(timeout=20)


async def heard(
    far: Host, wanted: int, seconds: float = 10.0, *, address: str = ""
) -> list[Announced]:
    """What is heard of that host, as soon as there is so much. The socket of mDNS is one for a
    whole machine: it hears what other programs' interfaces hear, too."""
    found: list[Announced] = []
    enough = anyio.Event()

    def tell(one: Announced) -> None:
        if one.addresses == (address or far.address,):
            found.append(one)
        if len(found) >= wanted:
            enough.set()

    async with anyio.create_task_group() as tasks:

        async def browse() -> None:
            await lan.browse(seconds, tell, addresses=[far.ours])
            enough.set()

        tasks.start_soon(browse)
        await enough.wait()
        tasks.cancel_scope.cancel()
    return sorted(found, key=lambda one: one.fingerprint or "")


@needs_zeroconf
@pytest.mark.anyio
async def test_a_machine_that_announces_itself_is_heard(far: Host, tmp_path: Path):
    assert far.sshd is not None
    key = keygen(tmp_path / "ssh_host_ed25519_key")
    with announcing(far, "attic", tmp_path), announcing(far, "attic", tmp_path / "none"):
        two, one = await heard(far, 2)  # another one of the same name does not hide it
    assert one == Announced("attic", 22, (far.address,), "0.1.0", fingerprint(key))
    assert two == Announced("attic", 22, (far.address,), "0.1.0", None)
    networks = own_networks()
    assert networks[far.ours] == IPv4Network(f"{far.ours}/30", strict=False)
    shown = find_of(one, networks)
    assert shown is not None
    assert (shown.target, shown.host, shown.tried) == (far.address, far.address, False)


@needs_zeroconf
@pytest.mark.anyio
async def test_a_machine_that_changes_its_address_is_announced_anew(far: Host, tmp_path: Path):
    other = str(IPv4Address(far.address) + 256 * 256)
    with announcing(far, "attic", tmp_path):
        assert len(await heard(far, 1)) == 1
        far.readdress(far.address, other)
        (one,) = await heard(far, 1, seconds=20.0, address=other)
        assert one.name == "attic"
        far.readdress(other, None)  # it is on no network for a while
        far.readdress(None, far.address)
        assert len(await heard(far, 1, seconds=20.0)) == 1


@needs_zeroconf
@pytest.mark.anyio
async def test_a_search_of_the_network_finds_it(
    far: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    only = {far.ours: IPv4Network(f"{far.ours}/30", strict=False)}
    monkeypatch.setattr(lan, "own_networks", lambda: only)  # nothing leaves this machine
    with announcing(far, "attic", tmp_path):
        found, notes = await nearby(
            Hosts(), lan=True, known={f"{far.address}:22": "bee"}, limit=8.0
        )
    (one,) = [one for one in found if one.target == far.address]
    assert (one.source, one.target, one.version, one.added_as, one.answers) == (
        "lan", far.address, "0.1.0", "bee", False,
    )  # fmt: skip
    assert one.detail == "connection refused"
    assert not any(note.startswith("lan") for note in notes)


@needs_zeroconf
@pytest.mark.anyio
async def test_who_has_gone_is_not_heard(far: Host, tmp_path: Path):
    with announcing(far, "attic", tmp_path):
        pass
    assert await heard(far, 1, seconds=1.5) == []


@pytest.mark.anyio
async def test_without_the_package_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "zeroconf", None)
    finds = Finds(anyio.create_task_group())
    async with finds.tasks:
        await lan.look(finds, 1.0)
    (note,) = finds.notes
    assert note == (
        "lan: the package zeroconf, which announcements need, is not installed. Install it for the "
        "queen: pip install 'rbee[lan]'."
    )
    with pytest.raises(Unavailable):
        async with lan.announced("attic", "0.1.0"):
            pytest.fail("announced")


@needs_zeroconf
@pytest.mark.anyio
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
async def test_a_network_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(Unavailable, match=r"multicast DNS cannot be used: "):
        async with lan.announced("attic", "0.1.0", addresses=["203.0.113.9"]):
            pytest.fail("announced")
    gc.collect()  # zeroconf leaves a socket behind then
    monkeypatch.setattr(lan, "own_networks", dict)
    with pytest.raises(Unavailable, match="no IPv4 address on a local network"):
        async with lan.announced("attic", "0.1.0"):
            pytest.fail("announced")


@pytest.mark.anyio
@pytest.mark.parametrize("name, version", [("A", "1"), ("a.b", "1"), ("", "1"), ("a", "1 2")])
async def test_what_may_not_be_announced(name: str, version: str):
    with pytest.raises(ValidationFailed):
        async with lan.announced(name, version):
            pytest.fail("announced")


def told(name: str = "attic", **fields: bytes) -> Announced | None:
    record = {b"name": name.encode()} | {key.encode(): text for key, text in fields.items()}
    return read(22, ["192.168.1.7"], record)


def test_only_what_is_sound_is_believed():
    assert told(version=b"1.2.3", fingerprint=PRINT.encode(), user=b"vince") == Announced(
        "attic", 22, ("192.168.1.7",), "1.2.3", PRINT
    )
    for bad in (b"", b"1\n2", b"x" * 65, b"\x1b[31m", "1.ä".encode()):
        assert told(version=bad) == Announced("attic", 22, ("192.168.1.7",))
    for bad in (b"SHA256:short", PRINT.encode() + b"=", b"MD5:" + b"a" * 43):
        assert told(fingerprint=bad) == Announced("attic", 22, ("192.168.1.7",))
    for name in ("", "-x", "Attic", "a b", "a.b", "a\n", "x" * 64, "ä", "a;b", "a'"):
        assert told(name) is None
    for port in (None, 0, -1, 65536):
        assert read(port, ["192.168.1.7"], {b"name": b"a"}) is None
    for address in ("127.0.0.1", "224.0.0.251", "0.0.0.0", "255.255.255.255", "fe80::1", "x"):
        assert read(22, [address], {b"name": b"a"}) is None
    assert read(22, ["192.168.1.7"], {}) is None
    assert read(22, ["192.168.1.7"], {b"name": None}) is None


@settings(deadline=None, max_examples=200)
@given(
    st.from_regex(announcement.NAME) | st.text(max_size=80), st.integers() | st.just(22),
    st.lists(st.text(max_size=20) | st.ip_addresses(v=4).map(str)),
    st.dictionaries(st.sampled_from([b"version", b"fingerprint", b"x"]), st.none() | st.binary()),
)  # fmt: skip
def test_nothing_that_is_heard_can_be_taken_for_something_else(
    name: str, port: int, addresses: list[str], fields: dict[bytes, bytes | None]
):
    one = read(port, addresses, fields | {b"name": name.encode("utf-8", "replace")})
    if one is not None:
        shown = json.dumps([one.name, one.version, one.fingerprint, one.addresses])
        assert shown.isprintable()
        assert len(shown) < 600
        assert all(IPv4Address(address) for address in one.addresses)
        find = find_of(one, NETWORKS)
        assert find is not None
        assert find.nearby({}).target.startswith(one.addresses)


def test_which_address_is_tried():
    def find(*addresses: str, port: int = 22):
        return find_of(Announced("attic", port, addresses), NETWORKS)

    assert find("172.17.0.1") is None, "this machine itself"
    near = find("10.9.9.9", "172.17.0.1", "192.168.1.7", port=2222)
    assert near is not None
    assert (near.target, near.host, near.port, near.tried) == (
        "192.168.1.7:2222", "192.168.1.7", 2222, False,
    )  # fmt: skip
    away = find("8.8.8.8")
    assert away is not None
    assert (away.target, away.host, away.tried) == ("8.8.8.8", "", True)
    assert away.detail == "on none of this machine's networks"


@pytest.mark.skipif(bool(MISSING), reason=MISSING)
def test_the_fingerprint_is_what_ssh_keygen_shows(tmp_path: Path):
    assert host_key(tmp_path) is None
    rsa = keygen(tmp_path / "ssh_host_rsa_key", "rsa")
    assert host_key(tmp_path) == fingerprint(rsa)
    key = keygen(tmp_path / "ssh_host_ed25519_key")
    assert host_key(tmp_path) == fingerprint(key)
    (tmp_path / "ssh_host_ed25519_key.pub").write_text("ssh-ed25519 !!", "utf-8")
    assert host_key(tmp_path) == fingerprint(rsa)


def test_nothing_else_is_announced():
    told = {"name": "attic", "version": "1.0"}
    assert announcement.properties("attic", "1.0", None) == told
    assert announcement.properties("attic", "1.0", PRINT) == told | {"fingerprint": PRINT}


def test_where_a_packet_to_all_goes(far: Host):
    everywhere = broadcasts()
    assert far.broadcast in everywhere
    assert broadcasts(far.address) == [far.broadcast]
    assert broadcasts("203.0.113.9") == everywhere
    assert broadcasts("attic") == everywhere
    assert not any(address.startswith("127.") for address in everywhere)
