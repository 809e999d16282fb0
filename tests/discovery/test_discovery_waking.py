"""Waking machines: the packet, how it travels, and how a card's address is learned."""

from __future__ import annotations

import socket
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rbee.discovery.networks import broadcasts
from rbee.discovery.waking import learn, learned, magic, neighbour, normal, told, wake
from rbee.errors import ConnectionFailed, ValidationFailed
from rbee.ssh.hosts import Hosts
from rbee.ssh.known import KnownHosts
from rbee.ssh.session import opened
from tests.support.netns import Host
from tests.support.sshd import Sshd

MAC = "3c:52:82:0a:1b:2c"
RECEIVER = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
    receiver.bind(("", 9))
    print("bound", flush=True)
    for _ in range(3):
        print(receiver.recv(2048).hex(), flush=True)
"""


def test_the_packet():
    packet = magic(MAC)
    assert len(packet) == 102
    assert packet[:6] == b"\xff" * 6
    assert packet[6:] == bytes([0x3C, 0x52, 0x82, 0x0A, 0x1B, 0x2C]) * 16


@pytest.mark.parametrize(
    "written", [MAC, MAC.upper(), MAC.replace(":", "-"), MAC.replace(":", ""), "3c:52:82:a:1b:2c",
                f" {MAC}\n"],
)  # fmt: skip
def test_the_ways_to_write_an_address(written: str):
    assert normal(written) == MAC


@pytest.mark.parametrize(
    "written",
    ["", "3c:52:82:0a:1b", f"{MAC}:00", "3c:52:82:0a:1b:2g", "3c52820a1b2", "3c52820a1b2c0",
     "00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:fb", "3c:52:82:0a:1b:2c; reboot",
     "3c 52 82 0a 1b 2c", "３c:52:82:0a:1b:2c", "::::::"],
)  # fmt: skip
def test_what_is_no_card_is_refused(written: str):
    with pytest.raises(ValidationFailed):
        magic(written)


@settings(deadline=None, max_examples=100)
@given(st.binary(min_size=6, max_size=6).filter(lambda b: not b[0] & 1 and any(b)))
def test_every_card_has_one_packet(address: bytes):
    assert magic(address.hex()) == magic(normal(address.hex(":"))) == b"\xff" * 6 + address * 16


@pytest.mark.anyio
async def test_the_packet_arrives_three_times():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("", 0))
        receiver.settimeout(20)
        await wake(MAC, broadcast=["127.255.255.255"], port=receiver.getsockname()[1], pause=0.001)
        assert [receiver.recv(2048) for _ in range(3)] == [magic(MAC)] * 3


@pytest.mark.anyio
async def test_another_machine_on_the_network_receives_it(far: Host):
    receiver = far.start([sys.executable, "-c", RECEIVER], stdout=subprocess.PIPE)
    try:
        assert receiver.stdout is not None
        assert receiver.stdout.readline() == b"bound\n"
        await wake(far.mac, broadcast=broadcasts(far.address))
        said, _ = receiver.communicate(timeout=20)
    finally:
        receiver.kill()
        receiver.wait(20)
    assert said.decode().splitlines() == [magic(far.mac).hex()] * 3


@pytest.mark.anyio
async def test_a_packet_that_can_go_nowhere():
    with pytest.raises(ConnectionFailed, match=r"127\.255\.255\.255"):
        await wake(MAC, broadcast=["127.255.255.255"], port=0, pause=0.0)
    with pytest.raises(ConnectionFailed, match="no network"):
        await wake(MAC, broadcast=[])
    with pytest.raises(ValidationFailed):
        await wake(MAC, broadcast=["300.1.1.1"])


def test_the_neighbours_a_kernel_knows():
    table = """\
IP address       HW type     Flags       HW address            Mask     Device
192.168.1.1      0x1         0x2         3c:52:82:0a:1b:2c     *        eth0
192.168.1.10     0x1         0x2         3c:52:82:0a:1b:2d     *        eth0
192.168.1.3      0x1         0x0         00:00:00:00:00:00     *        eth0
192.168.1.4      0x1         0x0         3c:52:82:0a:1b:2e     *        eth0
192.168.1.5      0x20        0x2         3c:52:82:0a:1b:2f     *        ib0
192.168.1.6      0x1
192.168.1.8      what        is          this
"""
    assert neighbour("192.168.1.1", table) == MAC
    assert neighbour("192.168.1.10", table) == "3c:52:82:0a:1b:2d"
    for number in (2, 3, 4, 5, 6, 8):
        assert neighbour(f"192.168.1.{number}", table) is None
    assert neighbour("192.168.1.1", "") is None


@pytest.mark.anyio
async def test_the_card_of_a_machine_that_is_up_is_learned(far: Host, tmp_path: Path):
    assert far.sshd is not None
    machine = Hosts().find(far.sshd.address)
    async with opened(machine, KnownHosts(tmp_path / "known_hosts")) as session:
        assert neighbour(far.address) == far.mac
        assert await learn(session) == far.mac
        script = files("rbee.discovery").joinpath("mac.sh").read_bytes()
        done = await session.run(["sh", "-s"], stdin=script)
    assert (done.status, done.stderr) == (0, b"")
    assert told(done.stdout.decode().splitlines()) == far.mac


def cards_to_the_world() -> set[str]:
    routes = [line.split() for line in Path("/proc/net/route").read_text("ascii").splitlines()]
    cards = [Path("/sys/class/net") / route[0] for route in routes if route[1] == "00000000"]
    return {
        (card / "address").read_text("ascii").strip()
        for card in cards
        if (card / "type").read_text("ascii").strip() == "1"
    }


@pytest.mark.anyio
async def test_over_a_way_without_a_card_it_is_the_one_to_the_world(server: Sshd, tmp_path: Path):
    expected = cards_to_the_world()
    async with opened(Hosts().find(server.address), KnownHosts(tmp_path / "kh")) as session:
        found = await learn(session)
    assert found in expected if expected else found is None


@pytest.mark.parametrize("shell", ["sh", "busybox sh", "bash"])
def test_the_script_says_nothing_where_there_is_no_connection(shell: str):
    script = files("rbee.discovery").joinpath("mac.sh").read_bytes()
    if subprocess.run(["which", shell.split()[0]], capture_output=True, check=False).returncode:
        pytest.skip(f"{shell} is not installed")
    done = subprocess.run(
        [*shell.split(), "-s"], input=script, capture_output=True, timeout=20, check=True,
        env={"PATH": "/usr/sbin:/usr/bin:/bin", "SSH_CONNECTION": "$(reboot) 1 ; 2"},
    )  # fmt: skip
    assert done.stderr == b""
    lines = done.stdout.decode("ascii").splitlines()
    assert not lines or (len(lines) == 2 and told(lines) is not None)


@pytest.mark.parametrize("line", ["rbee-mac ", "rbee-mac x", "rbee-mac ff:ff:ff:ff:ff:ff", MAC, ""])
def test_what_a_machine_says_is_checked(line: str):
    assert told([line, "more"]) is None
    assert told([line, f"rbee-mac {MAC}"]) == MAC


def test_how_long_waking_takes_is_learned():
    assert learned(None, 60.0) == 60.0
    assert learned(60.0, 90.0) == pytest.approx(69.0)


@settings(deadline=None, max_examples=100)
@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_what_is_learned_lies_between(before: float, seconds: float):
    low, high = sorted((before, seconds))
    assert low - 1e-6 <= learned(before, seconds) <= high + 1e-6
