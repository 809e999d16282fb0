"""The machines of a Tailscale network, told by a stand-in for its command that prints what the
real one prints (`tailscale status --json`, ipn/ipnstate in Tailscale's source)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest

from rbee.discovery import tailscale
from rbee.discovery.finds import Find, Finds
from rbee.discovery.nearby import nearby
from rbee.protocol.base import decode
from rbee.ssh.hosts import Hosts

StandIn = Callable[[str, str], None]
SELF: dict[str, Any] = {
    "ID": "n1CNTRL",
    "PublicKey": "nodekey:1111111111111111111111111111111111111111111111111111111111111111",
    "HostName": "laptop",
    "DNSName": "laptop.tail1234.ts.net.",
    "OS": "linux",
    "UserID": 1,
    "TailscaleIPs": ["100.64.0.1", "fd7a:115c:a1e0::1"],
    "Addrs": None,
    "CurAddr": "",
    "Relay": "fra",
    "RxBytes": 0,
    "TxBytes": 0,
    "Created": "2026-03-01T10:00:00Z",
    "LastSeen": "0001-01-01T00:00:00Z",
    "Online": True,
    "ExitNode": False,
    "ExitNodeOption": False,
    "Active": False,
    "InNetworkMap": True,
    "InMagicSock": False,
    "InEngine": False,
}


def peer(name: str, number: int, **changed: Any) -> dict[str, Any]:
    return SELF | {
        "HostName": name,
        "DNSName": f"{name.lower()}.tail1234.ts.net.",
        "TailscaleIPs": [f"127.64.0.{number}", f"fd7a:115c:a1e0::{number}"],
    } | changed  # fmt: skip


def status(*peers: dict[str, Any], **changed: Any) -> str:
    whole: dict[str, Any] = {
        "Version": "1.80.2-tf8a1d3b2c",
        "TUN": True,
        "BackendState": "Running",
        "HaveNodeKey": True,
        "AuthURL": "",
        "TailscaleIPs": SELF["TailscaleIPs"],
        "Self": SELF,
        "Health": [],
        "MagicDNSSuffix": "tail1234.ts.net",
        "CurrentTailnet": {
            "Name": "bees@example.com",
            "MagicDNSSuffix": "tail1234.ts.net",
            "MagicDNSEnabled": True,
        },
        "CertDomains": None,
        "Peer": {f"nodekey:{n:064x}": one for n, one in enumerate(peers)} or None,
        "User": {"1": {"ID": 1, "LoginName": "bees@example.com", "DisplayName": "Bees"}},
        "ClientVersion": None,
    }
    return json.dumps(whole | changed)


def machines(*peers: dict[str, Any], **changed: Any) -> list[Find]:
    return tailscale.machines(decode(status(*peers, **changed), tailscale.Status))


async def asked(put: StandIn, script: str) -> Finds:
    put("tailscale", script)
    finds = Finds(anyio.create_task_group())
    async with finds.tasks:
        await tailscale.look(finds)
        finds.tasks.cancel_scope.cancel()
    return finds


def test_who_is_online_and_could_be_a_hive():
    found = machines(
        peer("Tower", 3),
        peer("attic", 2, OS="macOS"),
        peer("phone", 4, OS="iOS"),
        peer("tablet", 5, OS="android"),
        peer("asleep", 6, Online=False),
        peer("guest", 7, ShareeNode=True),
        peer("de-fra-wg-001", 8, Tags=["tag:mullvad-exit-node"]),
    )
    assert [(find.name, find.target, find.host, find.detail) for find in found] == [
        ("attic", "attic.tail1234.ts.net", "attic.tail1234.ts.net", "macOS, 127.64.0.2"),
        ("tower", "tower.tail1234.ts.net", "tower.tail1234.ts.net", "linux, 127.64.0.3"),
    ]
    assert found[0].others == ("127.64.0.2", "fd7a:115c:a1e0::2")


def test_without_names_in_the_network_addresses_count():
    (found,) = machines(peer("attic", 2), CurrentTailnet={"MagicDNSEnabled": False})
    assert (found.name, found.target) == ("attic", "127.64.0.2")
    assert found.others == ("fd7a:115c:a1e0::2", "attic.tail1234.ts.net")
    assert found.nearby({"fd7a:115c:a1e0::2": "no", "[fd7a:115c:a1e0::2]:22": "bee"}).added_as == (
        "bee"
    )


def test_what_is_missing_is_no_harm():
    assert machines({"Online": True}) == []
    assert machines() == []
    (found,) = machines({"Online": True, "TailscaleIPs": ["127.64.0.9"]})
    assert (found.name, found.target, found.detail) == ("127.64.0.9", "127.64.0.9", "127.64.0.9")
    (found,) = machines({"Online": True, "DNSName": "a.b.", "TailscaleIPs": None, "OS": ""})
    assert (found.name, found.target, found.detail) == ("a", "a.b", "")


@pytest.mark.parametrize(
    "name", ["-oProxyCommand=x.ts.net", "a b.ts.net", "a\nb.ts.net", "a;b", "user@host", "", "."]
)
def test_a_name_that_is_none_is_not_used(name: str):
    (found,) = machines(peer("attic", 2, DNSName=name, OS="li\x1bnux\n"))
    assert (found.target, found.detail) == ("127.64.0.2", "linux, 127.64.0.2")
    assert (
        machines(peer("x", 2, DNSName=name, TailscaleIPs=["--help", "1.2.3", "fe80::1%eth0"])) == []
    )


@pytest.mark.anyio
async def test_the_command_is_asked(stand_in: StandIn, tmp_path: Path):
    answer = tmp_path / "status.json"
    answer.write_text(status(peer("attic", 2), CurrentTailnet={"MagicDNSEnabled": False}), "utf-8")
    told = tmp_path / "told"
    stand_in("tailscale", f'echo "$@" > {told}; env >> {told}; cat {answer}')
    os.environ["SECRET_OF_OURS"] = "x"
    try:
        found, notes = await nearby(Hosts(), lan=False, known={"127.64.0.2:22": "attic-1"})
    finally:
        del os.environ["SECRET_OF_OURS"]
    (one,) = found
    assert (one.name, one.source, one.target, one.answers, one.added_as) == (
        "attic", "tailscale", "127.64.0.2", False, "attic-1",
    )  # fmt: skip
    assert one.detail == "linux, 127.64.0.2, connection refused"
    assert not any(note.startswith("tailscale") for note in notes)
    arguments, *environment = told.read_text("utf-8").splitlines()
    assert arguments == "status --json"
    assert not any(line.startswith("SECRET_OF_OURS") for line in environment)


@pytest.mark.anyio
@pytest.mark.parametrize(
    "script, note",
    [
        (
            "echo 'failed to connect to local tailscaled; is it running?' >&2; exit 1",
            "tailscale: failed to connect to local tailscaled; is it running?; try ",
        ),
        ("exit 0", "tailscale: it printed nothing; try `tailscale status`."),
        ("echo '{\"BackendState\": \"NeedsLogin\"}'; exit 1",
         "tailscale: it is not connected (NeedsLogin); connect it with `tailscale up`."),
        ("echo '{\"BackendState\": \"Running\"}'",
         "tailscale: no other machine is online; switch one on, or connect it there."),
        ("echo 'Usage: tailscale'",
         "tailscale: its answer makes no sense (body is not valid JSON"),
        ("echo '{\"Peer\": []}'", "tailscale: its answer makes no sense (Peer: Expected"),
        ("cat /dev/zero", "tailscale: its answer makes no sense (it is longer than 4194304 bytes)"),
    ],
)  # fmt: skip
async def test_an_answer_that_is_of_no_use(stand_in: StandIn, script: str, note: str):
    finds = await asked(stand_in, script)
    assert finds.found == []
    (told,) = finds.notes
    assert told.startswith(note)


@pytest.mark.anyio
async def test_a_command_that_hangs_is_ended(
    stand_in: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tailscale, "SECONDS", 0.5)
    finds = await asked(stand_in, f"echo $$ > {tmp_path}/pid; sleep 1000")
    assert finds.notes == ["tailscale: no answer within 0.5 s; try `tailscale status`."]
    group = int((tmp_path / "pid").read_text("ascii"))
    left = [one.pid for one in psutil.process_iter() if _group(one.pid) == group]
    assert left == []


def _group(pid: int) -> int:
    try:
        return os.getpgid(pid) if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE else 0
    except (ProcessLookupError, psutil.NoSuchProcess):
        return 0


@pytest.mark.anyio
async def test_a_command_that_cannot_be_run(stand_in: StandIn, tmp_path: Path):
    stand_in("tailscale", "")
    (tmp_path / "programs" / "tailscale").write_bytes(b"\x7fELF nonsense")
    finds = Finds(anyio.create_task_group())
    async with finds.tasks:
        await tailscale.look(finds)
    assert len(finds.notes) == 1
    assert "cannot be run (" in finds.notes[0]


@pytest.mark.anyio
async def test_without_the_command_nothing_is_said(me: object):
    assert tailscale.installed() is None
    found, notes = await nearby(Hosts(), lan=False, known={})
    assert found == []
    assert len(notes) == 1
