"""Jumps, agents and files, with real servers on both ends."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import pytest

from rbee.errors import (
    ConnectionFailed,
    HostKeyUnknown,
    LoginRefused,
    RemoteCommandFailed,
    ValidationFailed,
)
from rbee.ssh.hosts import Hosts
from rbee.ssh.known import KnownHosts
from rbee.ssh.limits import Limits
from rbee.ssh.sending import upload
from rbee.ssh.session import Session, opened
from tests.support.home import wait_for
from tests.support.sshd import Sshd, SshUser, keygen

pytestmark = pytest.mark.anyio


async def test_a_machine_behind_two_others_is_reached(
    start_sshd: Callable[..., Sshd], me: SshUser, known: KnownHosts
):
    servers = [start_sshd(), start_sshd(), start_sshd()]
    machine = Hosts().find(me.chain(*servers))
    assert len(machine.jumps) == 2
    async with opened(machine, known) as session:
        done = await session.run(["sh", "-c", 'echo "$HOME"'])
        assert done.stdout.decode().strip() == str(servers[2].home)
        servers[0].cut()
        with anyio.fail_after(20):
            await session.wait_lost()
    wait_for(lambda: not any(server.children() for server in servers))


async def test_every_key_on_the_way_is_checked(
    start_sshd: Callable[..., Sshd], me: SshUser, known: KnownHosts
):
    first, last = start_sshd(known=False), start_sshd(known=False)
    machine = Hosts().find(me.chain(first, last))
    for server in (first, last):
        with pytest.raises(HostKeyUnknown) as caught:
            async with opened(machine, known):
                pass
        assert caught.value.details["host"] == f"[127.0.0.1]:{server.port}"
        known.pin(caught.value.details["host"], caught.value.details["key"])
    async with opened(machine, known) as session:
        assert (await session.run(["true"])).status == 0


async def test_a_jump_that_cannot_go_on_is_told(
    start_sshd: Callable[..., Sshd], me: SshUser, known: KnownHosts
):
    first, last = start_sshd(), start_sshd()
    name = me.chain(first, last)
    last.stop()
    with pytest.raises(ConnectionFailed, match="machine before it"):
        async with opened(Hosts().find(name), known, Limits(tries=1)):
            pass


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch, short: Path, me: SshUser) -> Iterator[Path]:
    socket = short / "agent"
    process = subprocess.Popen(
        ["ssh-agent", "-D", "-a", str(socket)], stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL
    )
    wait_for(socket.exists)
    monkeypatch.setenv("SSH_AUTH_SOCK", str(socket))
    yield socket
    process.kill()
    process.wait(10)


def add_to_agent(key: Path) -> None:
    subprocess.run(["ssh-add", "-q", str(key)], check=True, capture_output=True, timeout=30)


async def test_a_key_in_the_agent_is_enough(
    start_sshd: Callable[..., Sshd], me: SshUser, known: KnownHosts, agent: Path, tmp_path: Path
):
    elsewhere = keygen(tmp_path / "only-in-agent")
    server = start_sshd(authorized=elsewhere)
    add_to_agent(elsewhere)
    elsewhere.unlink()
    async with opened(Hosts().find(server.address), known) as session:
        assert (await session.run(["true"])).status == 0


async def test_identities_only_keeps_the_agent_s_other_keys_back(
    start_sshd: Callable[..., Sshd], me: SshUser, known: KnownHosts, agent: Path, tmp_path: Path
):
    keys = [keygen(tmp_path / f"key{number}") for number in range(7)]
    for key in keys:
        add_to_agent(key)
    right = keys[-1]
    server = start_sshd(authorized=right, options=["MaxAuthTries 3"])
    target = Hosts().find(server.address)
    with pytest.raises(LoginRefused, match="too many keys") as caught:
        async with opened(target, known):
            pass
    assert "IdentitiesOnly" in caught.value.action
    public = right.with_name(f"{right.name}.pub")
    me.configure(f"Host *\n IdentityFile {public}\n IdentitiesOnly yes\n")
    async with opened(Hosts().find(server.address), known) as session:
        assert (await session.run(["true"])).status == 0


async def test_a_key_with_a_passphrase_outside_the_agent_is_told(
    start_sshd: Callable[..., Sshd], me: SshUser, known: KnownHosts
):
    keygen(me.key, "ed25519", "-N", "secret words")
    server = start_sshd()
    with pytest.raises(LoginRefused) as caught:
        async with opened(Hosts().find(server.address), known):
            pass
    assert "ssh-add" in caught.value.action


def content(path: Path, size: int) -> str:
    data = os.urandom(size)
    path.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


async def test_a_file_arrives_whole_and_is_named_last(session: Session, tmp_path: Path):
    digest = content(tmp_path / "file", 3_000_000)
    remote = tmp_path / "there" / "a b" / "it's"
    told: list[int] = []
    found = await upload(
        session, tmp_path / "file", str(remote), mode=0o755,
        tell=lambda done, total: told.append(done),
    )  # fmt: skip
    assert found == digest
    assert hashlib.sha256(remote.read_bytes()).hexdigest() == digest
    assert stat.S_IMODE(remote.stat().st_mode) == 0o755
    assert told == sorted(told)
    assert told[-1] == 3_000_000
    assert list(remote.parent.iterdir()) == [remote]
    changed = remote.stat().st_mtime_ns
    assert await upload(session, tmp_path / "file", str(remote)) == digest
    assert remote.stat().st_mtime_ns == changed, "what is there is left alone"


async def test_an_empty_file_is_a_file(session: Session, tmp_path: Path):
    digest = content(tmp_path / "file", 0)
    assert await upload(session, tmp_path / "file", str(tmp_path / "there")) == digest
    assert (tmp_path / "there").read_bytes() == b""


@pytest.mark.parametrize("sound", [True, False])
async def test_a_broken_transfer_goes_on(session: Session, tmp_path: Path, sound: bool):
    digest = content(tmp_path / "file", 1_000_000)
    part = tmp_path / f"there.part-{digest[:16]}"
    begun = (tmp_path / "file").read_bytes()[:700_000]
    part.write_bytes(begun if sound else begun[:-1] + b"?" * 1)
    if not sound:
        assert part.read_bytes() != begun
    told: list[int] = []
    await upload(
        session, tmp_path / "file", str(tmp_path / "there"), tell=lambda done, _: told.append(done)
    )
    assert hashlib.sha256((tmp_path / "there").read_bytes()).hexdigest() == digest
    assert told[0] > 700_000
    assert (min(told[1:], default=told[0]) < 700_000) != sound, "a damaged begin is sent again"
    assert not part.exists()


async def test_a_cut_transfer_leaves_what_came_and_no_file(
    session: Session, server: Sshd, known: KnownHosts, tmp_path: Path
):
    digest = content(tmp_path / "file", 4_000_000)

    def cut(done: int, _total: int) -> None:
        if 1_000_000 < done < 1_500_000:
            server.cut()

    with pytest.raises(ConnectionFailed, match="is lost"):
        await upload(session, tmp_path / "file", str(tmp_path / "there"), tell=cut)
    assert not (tmp_path / "there").exists()
    async with opened(Hosts().find(server.address), known) as again:
        assert await upload(again, tmp_path / "file", str(tmp_path / "there")) == digest


async def test_a_place_that_cannot_be_written_is_told(session: Session, tmp_path: Path):
    content(tmp_path / "file", 10)
    (tmp_path / "taken").touch()
    with pytest.raises(RemoteCommandFailed, match="taken") as caught:
        await upload(session, tmp_path / "file", str(tmp_path / "taken" / "x"))
    assert caught.value.details["tail"]


async def test_a_full_disk_is_told(session: Session, tmp_path: Path):
    content(tmp_path / "file", 10_000)
    digest = hashlib.sha256((tmp_path / "file").read_bytes()).hexdigest()
    (tmp_path / f"there.part-{digest[:16]}").symlink_to("/dev/full")
    with pytest.raises(RemoteCommandFailed, match="No space left"):
        await upload(session, tmp_path / "file", str(tmp_path / "there"))


@pytest.mark.parametrize("remote", ["relative", "/a/../b", "/a\nb", "", "/" + "x" * 1000])
async def test_only_absolute_paths_are_written(session: Session, tmp_path: Path, remote: str):
    content(tmp_path / "file", 10)
    with pytest.raises(ValidationFailed):
        await upload(session, tmp_path / "file", remote)
