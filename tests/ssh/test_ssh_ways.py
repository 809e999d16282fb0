"""Jumps, agents, files and forwards, with real servers on both ends."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import psutil
import pytest

from rbee.errors import (
    ConnectionFailed,
    Forbidden,
    HostKeyUnknown,
    LoginRefused,
    PortTaken,
    RemoteCommandFailed,
    ValidationFailed,
)
from rbee.ssh.forwards import Endpoint, Tcp, Unix, forwarded
from rbee.ssh.hosts import Hosts
from rbee.ssh.known import KnownHosts
from rbee.ssh.limits import Limits
from rbee.ssh.sending import upload
from rbee.ssh.session import Session, opened
from rbee.ssh.system import installed, system_forwarded
from tests.support.home import wait_for
from tests.support.sshd import Sshd, SshUser, free_port, keygen

pytestmark = pytest.mark.anyio


@pytest.fixture
def known(tmp_path: Path) -> KnownHosts:
    return KnownHosts(tmp_path / "data" / "known_hosts")


@pytest.fixture
async def session(server: Sshd, known: KnownHosts) -> AsyncIterator[Session]:
    async with opened(Hosts().find(server.address), known) as session:
        yield session


@pytest.fixture
def short(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A private folder with a path short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="rs", dir="/tmp") as folder:
        yield Path(folder)


def chain(me: SshUser, *servers: Sshd) -> str:
    """A config in which each server is behind the one before; the last one is `target`."""
    names = [f"hop{number}" for number in range(len(servers) - 1)] + ["target"]
    text = ""
    for number, (name, server) in enumerate(zip(names, servers, strict=True)):
        text += f"Host {name}\n HostName 127.0.0.1\n Port {server.port}\n User {server.user}\n"
        text += f" IdentityFile {me.key}\n IdentitiesOnly yes\n"
        text += f" ProxyJump {names[number - 1]}\n" if number else ""
    me.configure(text)
    return "target"


async def test_a_machine_behind_two_others_is_reached(
    start_sshd: Callable[..., Sshd], me: SshUser, known: KnownHosts
):
    servers = [start_sshd(), start_sshd(), start_sshd()]
    machine = Hosts().find(chain(me, *servers))
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
    machine = Hosts().find(chain(me, first, last))
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
    name = chain(me, first, last)
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


@asynccontextmanager
async def echo(end: Endpoint) -> AsyncIterator[None]:
    """A server there, that answers in capitals."""

    open_: list[asyncio.StreamWriter] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_.append(writer)
        while data := await reader.read(4096):
            writer.write(data.upper())
        writer.close()

    if isinstance(end, Unix):
        server = await asyncio.start_unix_server(answer, end.path)
    else:
        server = await asyncio.start_server(answer, end.host, end.port)
    async with server:
        yield
    for writer in open_:  # its reader may not have seen the end yet
        writer.close()
        with anyio.fail_after(20), contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def ask(end: Endpoint) -> bytes:
    if isinstance(end, Unix):
        stream: anyio.abc.ByteStream = await anyio.connect_unix(end.path)
    else:
        stream = await anyio.connect_tcp(end.host, end.port)
    async with stream:
        await stream.send(b"bees")
        with anyio.fail_after(20):
            return await stream.receive()


KINDS = [("unix", "unix"), ("unix", "tcp"), ("tcp", "unix"), ("tcp", "tcp")]


def ends(short: Path, kinds: tuple[str, str], local_port: int) -> tuple[Endpoint, Endpoint]:
    local = Unix(f"{short}/in/l") if kinds[0] == "unix" else Tcp(local_port)
    remote = Unix(f"{short}/r") if kinds[1] == "unix" else Tcp(free_port())
    return local, remote


@pytest.mark.parametrize("kinds", KINDS, ids=str)
async def test_a_forward_leads_there(session: Session, short: Path, kinds: tuple[str, str]):
    local, remote = ends(short, kinds, 0)
    async with echo(remote):
        async with forwarded(session, local, remote) as door:
            assert await ask(door) == b"BEES"
            assert await ask(door) == b"BEES"
            if isinstance(door, Unix):
                assert stat.S_IMODE(Path(door.path).parent.stat().st_mode) == 0o700
        with pytest.raises(OSError, match=r"."):
            await ask(door)
    assert not isinstance(local, Unix) or not os.listdir(f"{short}/in")


async def test_a_place_others_may_enter_is_no_place_for_a_door(session: Session, short: Path):
    os.chmod(short, 0o755)
    with pytest.raises(Forbidden, match="others may enter"):
        async with forwarded(session, Unix(f"{short}/l"), Tcp(1)):
            pass


async def test_a_taken_port_is_told(session: Session):
    async with forwarded(session, Tcp(0), Tcp(1)) as door:
        assert isinstance(door, Tcp)
        with pytest.raises(PortTaken):
            async with forwarded(session, Tcp(door.port), Tcp(1)):
                pass


@pytest.mark.parametrize(
    "local, remote",
    [
        (Tcp(0, "0.0.0.0"), Tcp(1)),
        (Tcp(1), Tcp(0)),
        (Tcp(1), Tcp(70000)),
        (Unix("relative"), Tcp(1)),
        (Unix("/" + "x" * 120), Tcp(1)),
        (Unix("/tmp/a:b"), Tcp(1)),
        (Tcp(1), Unix("/a\nb")),
        (Tcp(1), Tcp(1, "-x")),
    ],
)
async def test_ends_that_make_no_sense_are_refused(
    session: Session, local: Endpoint, remote: Endpoint
):
    with pytest.raises(ValidationFailed):
        async with forwarded(session, local, remote):
            pass


def members(group: int) -> list[str]:
    """Names of the processes of a process group that have not ended."""
    found: list[str] = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.name())
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


needs_ssh = pytest.mark.skipif(installed() is None, reason="OpenSSH's ssh is not installed")


@needs_ssh
@pytest.mark.parametrize("kinds", KINDS, ids=str)
async def test_the_system_s_ssh_leads_there_too(
    server: Sshd, me: SshUser, known: KnownHosts, short: Path, kinds: tuple[str, str]
):
    machine = Hosts().find(chain(me, server))
    local, remote = ends(short, kinds, free_port())
    async with echo(remote):
        async with system_forwarded(machine, known, local, remote, folder=short / "c") as door:
            assert await ask(door.local) == b"BEES"
            group = door.pid
        await anyio.to_thread.run_sync(lambda: wait_for(lambda: not members(group)))
        assert list((short / "c").iterdir()) == []


@needs_ssh
async def test_the_system_s_ssh_uses_jumps_and_our_known_hosts(
    start_sshd: Callable[..., Sshd], me: SshUser, known: KnownHosts, short: Path
):
    servers = [start_sshd(known=False), start_sshd(known=False)]
    machine = Hosts().find(chain(me, *servers))
    remote = Unix(f"{short}/r")
    async with echo(remote):
        local = Unix(f"{short}/in/l")
        with pytest.raises(ConnectionFailed, match="Host key verification failed"):
            async with system_forwarded(machine, known, local, remote, folder=short / "c"):
                pass
        for server in servers:
            known.pin(f"[127.0.0.1]:{server.port}", server.public(server.host_keys[0]))
        async with system_forwarded(machine, known, local, remote, folder=short / "c") as door:
            assert await ask(door.local) == b"BEES"
            servers[1].cut()
            with anyio.fail_after(20):
                assert await door.wait_lost()


@needs_ssh
async def test_a_taken_port_ends_the_system_s_ssh(
    server: Sshd, me: SshUser, known: KnownHosts, short: Path, session: Session
):
    machine = Hosts().find(chain(me, server))
    async with forwarded(session, Tcp(0), Tcp(1)) as taken:
        with pytest.raises(ConnectionFailed, match="in use"):
            async with system_forwarded(machine, known, taken, Tcp(1), folder=short / "c"):
                pass


OWNER = """
import sys, anyio
from pathlib import Path
from rbee.ssh.forwards import Tcp, Unix
from rbee.ssh.hosts import Hosts
from rbee.ssh.known import KnownHosts
from rbee.ssh.system import system_forwarded
async def main():
    folder = Path(sys.argv[1])
    machine, known = Hosts().find("target"), KnownHosts(folder / "known")
    local = Unix(f"{folder}/in/l")
    async with system_forwarded(machine, known, local, Tcp(1), folder=folder / "c") as door:
        print(door.pid, flush=True)
        await anyio.sleep_forever()
anyio.run(main)
"""


@needs_ssh
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_the_system_s_ssh_ends_with_its_owner(
    server: Sshd, me: SshUser, short: Path, number: signal.Signals
):
    chain(me, server)
    async with await anyio.open_process([sys.executable, "-c", OWNER, str(short)]) as owner:
        assert owner.stdout is not None
        with anyio.fail_after(60):
            group = int(re.findall(rb"[0-9]+", await owner.stdout.receive())[0])

        assert "ssh" in members(group)
        owner.send_signal(number)
        await owner.wait()
        await anyio.to_thread.run_sync(
            lambda: wait_for(lambda: not members(group), what="ssh gone")
        )
