"""Sockets that lead to another machine, over our connection and over the system's ssh."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import stat
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import psutil
import pytest

from rbee.errors import ConnectionFailed, Forbidden, PortTaken, ValidationFailed
from rbee.ssh.forwards import Endpoint, Tcp, Unix, forwarded
from rbee.ssh.hosts import Hosts
from rbee.ssh.known import KnownHosts
from rbee.ssh.session import Session
from rbee.ssh.system import installed, system_forwarded
from tests.support.home import wait_for
from tests.support.sshd import Sshd, SshUser, free_port

pytestmark = pytest.mark.anyio


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
    machine = Hosts().find(me.chain(server))
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
    machine = Hosts().find(me.chain(*servers))
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
    machine = Hosts().find(me.chain(server))
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
    me.chain(server)
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
