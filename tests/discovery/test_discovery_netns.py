"""Hosts with networks of their own, which other tests rely on: cut, mended, slow, swept."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import psutil
import pytest

from rbee.errors import ConnectionFailed, ConnectionTimeout
from rbee.ssh.hosts import Hosts
from rbee.ssh.known import KnownHosts
from rbee.ssh.limits import Limits
from rbee.ssh.session import connect, opened
from tests.support import netns
from tests.support.netns import SLOW_MISSING, Host
from tests.support.sshd import SshUser

pytestmark = pytest.mark.anyio
QUICK = Limits(connect=5.0, tries=1, keepalive=0.5)


def names() -> set[str]:
    links = {name for _, name in socket.if_nameindex()}
    return links | {path.name for path in Path("/run/netns").glob("*")}


async def test_a_cable_is_cut_and_mended(far: Host, tmp_path: Path):
    assert far.sshd is not None
    known = KnownHosts(tmp_path / "known_hosts")
    machine = Hosts().find(far.sshd.address)
    session = await connect(machine, known, QUICK)
    assert (await session.run(["true"])).status == 0
    far.cut()
    assert await session.wait_lost() == "no answer any more"
    await session.aclose()
    with pytest.raises((ConnectionTimeout, ConnectionFailed)):
        await connect(machine, known, Limits(connect=1.0, tries=1))
    far.mend()
    async with opened(machine, known, Limits(connect=5.0, tries=5)) as again:
        assert (await again.run(["true"])).status == 0


@pytest.mark.skipif(bool(SLOW_MISSING), reason=SLOW_MISSING)
async def test_a_cable_is_slow(me: SshUser, tmp_path: Path):
    known = KnownHosts(tmp_path / "known_hosts")
    with netns.hosts("s", slowable=True) as (far,):
        server = far.serve(tmp_path / "far", authorized=me.key)
        me.trust(server)
        async with opened(Hosts().find(server.address), known, QUICK) as session:
            far.slow(50)
            # no packet can be there and back sooner
            assert await session.latency() >= 0.05
            data = os.urandom(1 << 20)
            assert (await session.run(["cat"], stdin=data, limit=2 << 20)).stdout == data
            far.slow(0)
            assert (await session.run(["true"])).status == 0
            far.cut()
            assert await session.wait_lost() == "no answer any more"
    assert far.name not in names()


async def test_it_is_another_network(far: Host, tmp_path: Path):
    assert far.sshd is not None
    machine = Hosts().find(far.sshd.address)
    async with opened(machine, KnownHosts(tmp_path / "known_hosts"), QUICK) as session:
        routes = await session.run(["cat", "/proc/net/route"])
        cards = await session.run(["ls", "/sys/class/net"])
    assert cards.stdout.split() == [b"cable", b"lo"]
    (only,) = routes.stdout.splitlines()[1:]
    assert only.split()[1] != b"00000000", "there is a way out"


def test_what_a_killed_run_left_is_swept(far: Host):
    with subprocess.Popen(["sleep", "0"]) as gone:
        pass
    assert not psutil.pid_exists(gone.pid)
    left = f"rbee{gone.pid}a"
    netns._ip("netns", "add", left)
    netns._ip("link", "add", left, "type", "veth", "peer", "name", "cable", "netns", left)
    sleeper = subprocess.Popen([str(netns.IP), "netns", "exec", left, "sleep", "1000"])
    try:
        assert left in names()
        netns.sweep()
        assert sleeper.wait(20) == -9
    finally:
        sleeper.kill()
        sleeper.wait(20)
    assert left not in names()
    assert f"rbee{os.getpid()}a" in names()


def test_a_host_leaves_nothing_when_it_ends(me):
    if netns.MISSING:
        pytest.skip(netns.MISSING)
    with netns.hosts("bc") as (one, two):
        assert one.address != two.address
        sleeper = two.start(["sleep", "1000"])
    assert sleeper.wait(20) == -9
    assert not {one.name, two.name} & names()
