"""The machines of the user's Tailscale network, as the `tailscale` command tells them.

Owns the one call of `tailscale status --json` (5 s, 4 MiB) and the reading of what it prints
(ipn/ipnstate, Status and PeerStatus, in Tailscale's source). Phones, machines that are switched
off, and those that are there only as exits to the internet are left out.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import shutil
import signal
import subprocess
from pathlib import Path

import anyio
import anyio.abc
from msgspec import field

from rbee.discovery.finds import MAX_FINDS, Find, Finds
from rbee.errors import PayloadTooLarge, RbeeError
from rbee.protocol.base import Wire, decode
from rbee.ssh.attached import Kept
from rbee.ssh.groups import task_group
from rbee.ssh.hosts import parse

SOURCE = "tailscale"
OUTPUT_BYTES = 4 << 20
SECONDS = 5.0
_APP = "/Applications/Tailscale.app/Contents/MacOS/Tailscale"
"""Where macOS has it, when the app did not put it on the PATH."""
_ENVIRONMENT = ("HOME", "LOGNAME", "PATH", "USER")
_NO_HIVES = frozenset({"ios", "tvos", "android"})
_EXITS = "tag:mullvad-exit-node"


class Peer(Wire, frozen=True, kw_only=True):
    """One machine of the network."""

    host_name: str = field(name="HostName", default="")
    dns_name: str = field(name="DNSName", default="")
    os: str = field(name="OS", default="")
    addresses: list[str] | None = field(name="TailscaleIPs", default=None)
    tags: list[str] | None = field(name="Tags", default=None)
    online: bool = field(name="Online", default=False)
    sharee: bool = field(name="ShareeNode", default=False)
    """It belongs to somebody who was let into this network, and answers nobody here."""


class Tailnet(Wire, frozen=True, kw_only=True):
    """What concerns the network as a whole."""

    magic_dns: bool = field(name="MagicDNSEnabled", default=True)


class Status(Wire, frozen=True, kw_only=True):
    """The whole answer, as far as it is of use here."""

    state: str = field(name="BackendState", default="")
    tailnet: Tailnet | None = field(name="CurrentTailnet", default=None)
    peers: dict[str, Peer] | None = field(name="Peer", default=None)


def installed() -> str | None:
    """Where the command is; None where there is none."""
    return shutil.which("tailscale") or (_APP if Path(_APP).is_file() else None)


async def look(finds: Finds) -> None:
    """Add the machines that are online; without the command: nothing, and nothing is said."""
    program = installed()
    if program is None:
        return
    try:
        output, said = await _ask(program)
        if not output:
            finds.note(f"tailscale: {said or 'it printed nothing'}; try `tailscale status`.")
            return
        status = decode(output, Status)
    except TimeoutError:
        finds.note(f"tailscale: no answer within {SECONDS:g} s; try `tailscale status`.")
        return
    except OSError as exc:
        finds.note(f"tailscale: {program} cannot be run ({exc.strerror}); install it anew.")
        return
    except RbeeError as exc:
        finds.note(f"tailscale: its answer makes no sense ({exc.message[:200]}); update it.")
        return
    if status.state != "Running":
        state = _printable(status.state) or "unknown"
        finds.note(f"tailscale: it is not connected ({state}); connect it with `tailscale up`.")
        return
    peers = machines(status)
    for find in peers[:MAX_FINDS]:
        finds.add(find)
    if not peers:
        finds.note("tailscale: no other machine is online; switch one on, or connect it there.")
    if len(peers) > MAX_FINDS:
        finds.note(
            f"tailscale: {len(peers)} machines are online, and the first {MAX_FINDS} by name are "
            "shown; the others are added by name: rbee hive add NAME user@name."
        )


def machines(status: Status) -> list[Find]:
    """Those that could be hives and are online, by name."""
    by_name = status.tailnet is None or status.tailnet.magic_dns
    found = [_find(peer, by_name) for peer in (status.peers or {}).values() if _may_be(peer)]
    return sorted((find for find in found if find), key=lambda find: find.name)


def _may_be(peer: Peer) -> bool:
    return (
        peer.online
        and not peer.sharee
        and peer.os.lower() not in _NO_HIVES
        and _EXITS not in (peer.tags or ())
    )


def _find(peer: Peer, by_name: bool) -> Find | None:
    name = peer.dns_name.rstrip(".").lower()
    if not _is_host(name):
        name = ""
    addresses = tuple(text for text in peer.addresses or () if _is_address(text))[:8]
    ways = (name, *addresses) if by_name else (*addresses, name)
    host, *others = [way for way in ways if way] or [""]
    if not host:
        return None
    label = name.partition(".")[0] or _printable(peer.host_name).lower() or host
    return Find(
        name=label,
        source=SOURCE,
        target=host,
        host=host,
        others=tuple(others),
        detail=", ".join(text for text in (_printable(peer.os), *addresses[:1]) if text),
    )


def _is_host(text: str) -> bool:
    try:
        return parse(text).host == text and ":" not in text
    except RbeeError:
        return False


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return "%" not in text


def _printable(text: str) -> str:
    return "".join(c for c in text[:80] if c.isprintable()).strip()


async def _ask(program: str) -> tuple[bytes, str]:
    """What it printed, and the last line of what it complained of. Its exit status is of no use:
    it is 1 where Tailscale is stopped, too. Raises TimeoutError, OSError, PayloadTooLarge."""
    env = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    out, err = Kept(OUTPUT_BYTES, tail=False), Kept(1 << 14, tail=True)
    with anyio.fail_after(SECONDS):
        process = await anyio.open_process(
            [program, "status", "--json"], stdin=subprocess.DEVNULL,
            env=env | {"LC_ALL": "C"}, start_new_session=True, cwd="/",
        )  # fmt: skip
        async with process:
            try:
                async with task_group() as tasks:
                    tasks.start_soon(_keep, process.stdout, out, tasks)
                    tasks.start_soon(_keep, process.stderr, err, tasks)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
    if out.overrun:
        raise PayloadTooLarge(f"it is longer than {OUTPUT_BYTES} bytes")
    lines = [_printable(line) for line in bytes(err).decode("utf-8", "replace").splitlines()]
    return bytes(out), next((line for line in reversed(lines) if line), "")


async def _keep(
    stream: anyio.abc.ByteReceiveStream | None, kept: Kept, tasks: anyio.abc.TaskGroup
) -> None:
    if stream is not None:
        async for data in stream:
            kept.take(data)
            if kept.overrun:
                tasks.cancel_scope.cancel()
