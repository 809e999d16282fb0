"""Host keys against real servers: unknown, pinned, changed, hashed, revoked, signed."""

from __future__ import annotations

import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from rbee.errors import (
    Forbidden,
    HostKeyChanged,
    HostKeyRevoked,
    HostKeyUnknown,
    RbeeError,
    ValidationFailed,
)
from rbee.ssh.hosts import Hosts
from rbee.ssh.known import KnownHosts
from rbee.ssh.session import opened
from tests.support.sshd import Sshd, SshUser, fingerprint, keygen

pytestmark = pytest.mark.anyio


async def enter(server: Sshd, known: KnownHosts) -> bytes:
    async with opened(Hosts().find(server.address), known) as session:
        return (await session.run(["echo", "in"])).stdout


async def refusal(server: Sshd, known: KnownHosts) -> RbeeError:
    with pytest.raises(RbeeError) as caught:
        await enter(server, known)
    return caught.value


async def test_an_unknown_key_is_shown_and_can_be_pinned(
    start_sshd: Callable[..., Sshd], known: KnownHosts
):
    server = start_sshd(known=False)
    error = await refusal(server, known)
    assert isinstance(error, HostKeyUnknown)
    assert error.exit_code == 255
    shown = fingerprint(server.host_keys[0])
    assert error.details["fingerprint"] == shown
    assert error.details["key_type"] == "ssh-ed25519"
    assert shown in error.message
    assert not known.own.exists(), "nothing is kept before somebody accepted it"

    assert known.pin(error.details["host"], error.details["key"]) == shown
    assert known.pin(error.details["host"], error.details["key"]) == shown
    assert known.own.read_text("utf-8") == server.known_line
    assert stat.S_IMODE(known.own.stat().st_mode) == 0o600
    assert await enter(server, known) == b"in\n"

    assert known.forget(error.details["host"]) == 1
    assert known.forget(error.details["host"]) == 0
    assert isinstance(await refusal(server, known), HostKeyUnknown)


async def test_a_changed_key_is_told_apart_with_both_fingerprints(
    server: Sshd, me: SshUser, known: KnownHosts
):
    me.known_hosts.write_text("# a comment\n\nnonsense\n" + server.known_line, "utf-8")
    assert await enter(server, known) == b"in\n"
    old = fingerprint(server.host_keys[0])
    server.change_host_key()
    error = await refusal(server, known)
    assert isinstance(error, HostKeyChanged)
    new = fingerprint(server.host_keys[0])
    assert new != old
    assert (error.details["fingerprint"], error.details["known"]) == (new, old)
    assert (error.details["file"], error.details["line"]) == (str(me.known_hosts), 4)
    assert old in error.message
    assert new in error.message
    assert f"ssh-keygen -R '[127.0.0.1]:{server.port}'" in error.action
    assert "key" not in error.details, "it cannot be pinned in passing"


async def test_a_changed_key_of_another_type_is_a_changed_one(
    start_sshd: Callable[..., Sshd], me: SshUser, known: KnownHosts, tmp_path: Path
):
    server = start_sshd(known=False)
    other = Sshd.public(keygen(tmp_path / "other", "ecdsa"))
    me.known_hosts.write_text(f"[127.0.0.1]:{server.port} {other}\n", "utf-8")
    error = await refusal(server, known)
    assert isinstance(error, HostKeyChanged)
    assert error.details["known_type"] == "ecdsa-sha2-nistp256"
    assert error.details["key_type"] == "ssh-ed25519"


async def test_the_known_one_of_several_keys_is_asked_for(
    start_sshd: Callable[..., Sshd], me: SshUser, known: KnownHosts
):
    server = start_sshd(known=False, key_types=("ed25519", "ecdsa", "rsa"))
    for line in server.known_line.splitlines():
        me.known_hosts.write_text(f"{line}\n", "utf-8")
        assert await enter(server, known) == b"in\n"


async def test_hashed_names_are_honoured(server: Sshd, me: SshUser, known: KnownHosts):
    await anyio.run_process(["ssh-keygen", "-q", "-H", "-f", str(me.known_hosts)])
    assert me.known_hosts.read_text("utf-8").startswith("|1|")
    assert await enter(server, known) == b"in\n"
    server.change_host_key()
    assert isinstance(await refusal(server, known), HostKeyChanged)


@pytest.mark.parametrize("names", ["[127.0.0.*]:*", "x,[127.0.0.1]:PORT", "127.0.0.1"])
async def test_patterns_lists_and_names_without_a_port_count(
    start_sshd: Callable[..., Sshd], me: SshUser, known: KnownHosts, names: str
):
    server = start_sshd(known=False)
    key = server.public(server.host_keys[0])
    me.known_hosts.write_text(f"{names.replace('PORT', str(server.port))} {key}\n", "utf-8")
    assert await enter(server, known) == b"in\n"


async def test_another_key_under_the_name_without_a_port_is_no_change(
    start_sshd: Callable[..., Sshd], me: SshUser, known: KnownHosts, tmp_path: Path
):
    server = start_sshd(known=False)
    other = Sshd.public(keygen(tmp_path / "other"))
    me.known_hosts.write_text(f"127.0.0.1 {other}\n", "utf-8")
    assert isinstance(await refusal(server, known), HostKeyUnknown)


async def test_a_revoked_key_is_refused(server: Sshd, me: SshUser, known: KnownHosts):
    key = server.public(server.host_keys[0])
    with me.known_hosts.open("a", encoding="utf-8") as file:
        file.write(f"@revoked * {key}\n")
    error = await refusal(server, known)
    assert isinstance(error, HostKeyRevoked)
    assert error.details["line"] == 2
    assert error.details["fingerprint"] == fingerprint(server.host_keys[0])


def signed(server: Sshd, authority: Path, name: str) -> None:
    """Give a server a certificate of an authority."""
    public = server.host_keys[0].with_name(f"{server.host_keys[0].name}.pub")
    subprocess.run(
        ["ssh-keygen", "-q", "-s", str(authority), "-I", "test", "-h", "-n", name, str(public)],
        check=True, timeout=30,
    )  # fmt: skip
    certificate = public.with_name(f"{server.host_keys[0].name}-cert.pub")
    server.stop()
    server.options.append(f"HostCertificate {certificate}")
    server.start()


async def test_a_certificate_of_a_known_authority_is_enough(
    start_sshd: Callable[..., Sshd], me: SshUser, known: KnownHosts, tmp_path: Path
):
    server = start_sshd(known=False)
    ours, other = keygen(tmp_path / "ca"), keygen(tmp_path / "other-ca")
    signed(server, ours, "127.0.0.1")
    me.known_hosts.write_text(f"@cert-authority * {Sshd.public(ours)}\n", "utf-8")
    assert await enter(server, known) == b"in\n"

    me.known_hosts.write_text(f"@cert-authority * {Sshd.public(other)}\n", "utf-8")
    error = await refusal(server, known)
    assert isinstance(error, HostKeyChanged)
    assert fingerprint(ours) in error.message
    assert fingerprint(other) in error.message

    me.known_hosts.write_text(
        f"@cert-authority * {Sshd.public(ours)}\n@revoked * {Sshd.public(ours)}\n", "utf-8"
    )
    with pytest.raises(Forbidden):
        await enter(server, known)


async def test_a_certificate_for_another_name_is_refused(
    start_sshd: Callable[..., Sshd], me: SshUser, known: KnownHosts, tmp_path: Path
):
    server = start_sshd(known=False)
    authority = keygen(tmp_path / "ca")
    signed(server, authority, "elsewhere.example")
    me.known_hosts.write_text(f"@cert-authority * {Sshd.public(authority)}\n", "utf-8")
    error = await refusal(server, known)
    assert isinstance(error, HostKeyUnknown)
    assert "not valid" in error.message
    assert "key" not in error.details


async def test_a_config_cannot_switch_the_check_off(
    start_sshd: Callable[..., Sshd], me: SshUser, known: KnownHosts
):
    server = start_sshd(known=False)
    me.configure("StrictHostKeyChecking no\nUserKnownHostsFile none\nGlobalKnownHostsFile none\n")
    assert isinstance(await refusal(server, known), HostKeyUnknown)


@pytest.mark.parametrize(
    "host, key",
    [
        ("a b", "KEY"),
        ("", "KEY"),
        ("a\nb", "KEY"),
        ("@revoked", "KEY"),
        ("*", "KEY"),
        ("host", "nonsense"),
        ("host", ""),
    ],
)
def test_only_a_name_and_a_key_can_be_pinned(known: KnownHosts, me: SshUser, host: str, key: str):
    with pytest.raises(ValidationFailed):
        known.pin(host, key.replace("KEY", Sshd.public(me.key)))
    assert not known.own.exists()
