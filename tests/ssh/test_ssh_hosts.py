"""What a word means by the user's ssh config."""

from __future__ import annotations

import getpass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rbee.errors import SettingsError, ValidationFailed
from rbee.ssh.hosts import Hosts, Target, parse


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    return tmp_path


def configured(home: Path, text: str) -> Hosts:
    (home / ".ssh" / "config").write_text(text, "utf-8")
    return Hosts()


@pytest.mark.parametrize(
    "text, target",
    [
        ("mule", Target("mule")),
        ("vince@10.0.0.7", Target("10.0.0.7", "vince")),
        ("vince@host.local:2222", Target("host.local", "vince", 2222)),
        ("[::1]:22", Target("::1", None, 22)),
        ("me@[fe80::1%eth0]:99", Target("fe80::1%eth0", "me", 99)),
        ("::1", Target("::1")),
        ("a@b@host", Target("host", "a@b")),
        ("DOM\\me@host", Target("host", "DOM\\me")),
    ],
)
def test_targets_are_read(text: str, target: Target):
    assert parse(text) == target
    assert parse(str(target)) == target


@pytest.mark.parametrize(
    "text",
    [
        *("", "@host", "user@", "-oProxyCommand=x", "me@-host", "-me@host", "host:", "host:0"),
        *("host:65536", "host:ssh", "ho st", "host\n", "me\n@host", "host;id", "host$(id)", "[::1"),
        *("host:22:", "a/b", "h" * 300, "me@host:٣", "[::1]x", "[-x]"),
    ],
)
def test_what_could_be_taken_for_more_is_refused(text: str):
    with pytest.raises(ValidationFailed):
        parse(text)


@given(st.text(max_size=40))
@settings(deadline=None, max_examples=300)
def test_whatever_is_accepted_is_harmless(text: str):
    try:
        target = parse(text)
    except ValidationFailed:
        return
    for part in (target.host, target.user or "x"):
        assert part.isprintable()
        assert not part.startswith("-")
        assert not set(part) & set(" \t\r\n;&|<>()`'\"")


def test_without_a_config_ssh_s_defaults_hold(home: Path):
    machine = Hosts().find("10.0.0.7")
    assert (machine.host, machine.port, machine.user) == ("10.0.0.7", 22, getpass.getuser())
    assert machine.identity_files == ()
    assert machine.config is None
    assert home / ".ssh" / "known_hosts" in machine.known_hosts
    assert str(machine) == f"{getpass.getuser()}@10.0.0.7:22"
    assert Hosts().names() == []


def test_a_host_of_the_config(home: Path):
    (home / "key").touch()
    hosts = configured(
        home,
        f"""
        Host gaming-pc gp
            HostName 10.0.0.7
            User vince
            Port 2222
            IdentityFile {home}/key
            IdentityFile ~/missing
            IdentitiesOnly yes
            HostKeyAlias Pc
            UserKnownHostsFile {home}/mine none
        Host *.local !dark.local
            User somebody
        Match originalhost special
            Port 99
        Host *
            ProxyCommand nc %h %p
        """,
    )
    machine = hosts.find("gaming-pc")
    assert str(machine) == "vince@10.0.0.7:2222"
    assert machine.identity_files == (home / "key",)
    assert machine.identities_only
    assert machine.known_as == "pc"
    assert machine.known_hosts[0] == home / "mine"
    assert machine.proxy_command == ("nc", "10.0.0.7", "2222")
    assert hosts.find("me@gp:1").port == 1
    assert hosts.find("me@gp").user == "me"
    assert hosts.find("x.local").user == "somebody"
    assert hosts.find("dark.local").user == getpass.getuser()
    assert hosts.find("special").port == 99
    assert hosts.find("special").known_as == "[special]:99"


def test_match_exec_and_final_and_include(home: Path):
    (home / ".ssh" / "more").write_text("Host extra\n  Port 7\n", "utf-8")
    hosts = configured(
        home,
        """
        Include more
        Match exec "test -d /"
            Port 11
        Match final host thing
            User last
        """,
    )
    assert hosts.find("extra").port == 7
    assert hosts.find("thing").port == 11
    assert hosts.find("thing").user == "last"
    assert hosts.names() == ["extra"]


def test_no_known_hosts_file_is_not_no_check(home: Path):
    machine = configured(home, "UserKnownHostsFile none\nGlobalKnownHostsFile none\n").find("h")
    assert machine.known_hosts == ()


def test_names_leave_out_patterns(home: Path):
    hosts = configured(home, "Host a b *.c !d e?\nhost=f\nHost a\nHost 'g'\nHost -x\n#Host no\n")
    assert hosts.names() == ["a", "b", "f", "g"]


def test_jumps_are_found_in_their_order(home: Path):
    hosts = configured(
        home,
        """
        Host target
            ProxyJump first,me@second:2222
        Host first
            HostName 10.0.0.1
            ProxyJump outer
        Host second
            ProxyJump ignored
        """,
    )
    machine = hosts.find("target")
    assert [str(hop) for hop in machine.jumps] == [
        f"{getpass.getuser()}@outer:22",
        f"{getpass.getuser()}@10.0.0.1:22",
        "me@second:2222",
    ]
    assert all(not hop.jumps for hop in machine.jumps)


@pytest.mark.parametrize(
    "text, told",
    [
        ("Host a\n  ProxyJump b\nHost b\n  ProxyJump a\n", "circle"),
        ("Host a\n  ProxyJump a\n", "circle"),
        ("Port many\n", "Port|port"),
        ("Port 0\n", "Port"),
        ("HostName -oProxyCommand=id\n", "HostName"),
        ('User "a b"\n', "User"),
        ('Host "\n', "quotation"),
    ],
)
def test_a_bad_config_is_told(home: Path, text: str, told: str):
    with pytest.raises((SettingsError, ValidationFailed), match=told):
        configured(home, text).find("a")


def test_an_unreadable_target_in_proxyjump_is_refused(home: Path):
    with pytest.raises(ValidationFailed):
        configured(home, "ProxyJump 'a b'\n").find("x")
