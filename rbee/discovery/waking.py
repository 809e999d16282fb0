"""Machines that sleep: their network card's address, learned while they are up, and the packet.

Owns the magic packet (AMD, "Magic Packet Technology", publication 20213, 1995), where it is sent,
how a MAC address is learned (the script `mac.sh`, which changes nothing) and how long waking is
believed to take. What is remembered of a machine, and the waiting for it, are the queen's.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path

import anyio
import anyio.to_thread

from rbee.discovery.networks import broadcasts
from rbee.errors import ConnectionFailed, RbeeError, ValidationFailed
from rbee.ssh.session import Session

PORT = 9
"""Discard (RFC 863): nothing listens there, and the card looks at the packet's content only."""
TIMES = 3
PAUSE = 0.1
"""Seconds between them: a packet to all is not sent again when it is lost."""
WEIGHT = 0.3
"""Of the newest waking against all earlier ones."""
ARP = Path("/proc/net/arp")
_MARK = "rbee-mac "
_MAC = re.compile(r"[0-9a-f]{1,2}(?:[:-][0-9a-f]{1,2}){5}|[0-9a-f]{12}")


def normal(mac: str) -> str:
    """`aa:bb:cc:dd:ee:ff` of any usual way to write it. Raises ValidationFailed for anything that
    is no single card's address: IEEE 802's group bit, all zeros."""
    text = mac.strip().lower()
    parts: list[str] = []
    if _MAC.fullmatch(text):
        parts = re.findall("..", text) if text.isalnum() else re.split("[:-]", text)
    values = [int(part, 16) for part in parts] or [1]
    if values[0] & 1 or not any(values):
        raise ValidationFailed(
            f"{mac[:40]!r} is not the MAC address of a network card",
            action="Write it like 3c:52:82:0a:1b:2c; `ip link` on that machine shows it.",
            field="mac",
            constraint="six bytes, not of a group",
        )
    return ":".join(f"{value:02x}" for value in values)


def magic(mac: str) -> bytes:
    """The packet that wakes a card: six bytes 255, then its address 16 times; 102 bytes."""
    return b"\xff" * 6 + bytes.fromhex(normal(mac).replace(":", "")) * 16


async def wake(
    mac: str,
    *,
    broadcast: Sequence[str] | None = None,
    port: int = PORT,
    times: int = TIMES,
    pause: float = PAUSE,
) -> None:
    """Send the packet to all on the networks of this machine, or on those named by `broadcast`
    (IPv4 addresses). That it is sent says nothing about whether anything wakes.

    Raises ConnectionFailed when it could be sent nowhere, ValidationFailed for a bad address.
    """
    packet = magic(mac)
    if broadcast is None:
        broadcast = await anyio.to_thread.run_sync(broadcasts)
    addresses = [str(_ipv4(text)) for text in broadcast]
    if not addresses:
        raise ConnectionFailed(
            "this machine is on no network that a packet to all can be sent on",
            action="Connect it to the network of the machine that sleeps.",
        )
    failed: dict[str, str] = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        for turn in range(times):
            if turn:
                await anyio.sleep(pause)
            for address in addresses:
                try:
                    sender.sendto(packet, (address, port))
                    failed.pop(address, None)
                except OSError as exc:
                    failed[address] = exc.strerror or str(exc)
    if len(failed) == len(set(addresses)):
        reasons = "; ".join(f"{address}: {why}" for address, why in failed.items())
        raise ConnectionFailed(
            f"the packet that wakes {normal(mac)} could not be sent: {reasons}",
            action="Look at this machine's network: `ip address`, and a firewall's rules.",
        )


def neighbour(address: str, table: str | None = None) -> str | None:
    """The MAC address of a machine on the same link, as the kernel has it; None: not there.

    `table`: the text of `/proc/net/arp` (proc_net(5)) instead of this machine's own; there is none
    but on Linux, and it has IPv4 only. Blocks shortly: for worker threads.
    """
    if table is None:
        try:
            table = ARP.read_text("ascii", "replace")
        except OSError:
            return None
    for line in table.splitlines()[1:]:
        columns = line.split()
        if len(columns) < 4 or columns[0] != address:
            continue
        with contextlib.suppress(ValueError, ValidationFailed):
            ethernet, complete = int(columns[1], 16) == 1, int(columns[2], 16) & 2
            if ethernet and complete:
                return normal(columns[3])
    return None


async def learn(session: Session) -> str | None:
    """The MAC address that wakes the machine of a session; None: it cannot be told.

    From this machine's own table where they are on one link, else from the machine itself. Raises
    ConnectionFailed when the link is lost meanwhile.
    """
    if not session.machine.jumps and not session.machine.proxy_command:
        peer = session.connection.get_extra_info("peername")
        if peer and (found := await anyio.to_thread.run_sync(neighbour, str(peer[0]))):
            return found
    script = files("rbee.discovery").joinpath("mac.sh").read_bytes()
    try:
        done = await session.run(["sh", "-s"], stdin=script, limit=1 << 14, timeout=20)
    except ConnectionFailed:
        raise
    except RbeeError:
        return None
    return told(done.stdout.decode("ascii", "replace").splitlines())


def told(lines: Iterable[str]) -> str | None:
    """What a machine said of itself, if that is an address."""
    for line in lines:
        if line.startswith(_MARK):
            with contextlib.suppress(ValidationFailed):
                return normal(line.removeprefix(_MARK))
    return None


def learned(before: float | None, seconds: float) -> float:
    """How long a machine takes to come, from the packet to its link: the newest time counts for
    three tenths (exponential average). `before`: what was believed; None: nothing."""
    if before is None:
        return seconds
    return before + WEIGHT * (seconds - before)


def _ipv4(text: str) -> ipaddress.IPv4Address:
    try:
        return ipaddress.IPv4Address(text)
    except ValueError as exc:
        raise ValidationFailed(
            f"{text[:40]!r} is no IPv4 address", field="broadcast", constraint="IPv4 address"
        ) from exc
