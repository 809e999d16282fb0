"""What a machine tells the local network of itself, and how little of it is believed.

Owns the fields of an announcement (name, version of rbee, SSH host key's fingerprint, addresses,
port), their check letter by letter, and what becomes of one on a screen. Pure but for `host_key`.

Anybody on the network can announce anything. It is good for a line to read and an address to try,
never for trust.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from rbee.discovery.finds import Find, place

SOURCE = "lan"
SERVICE = "_rbee._tcp.local."
SSH_PORT = 22
KEYS = Path("/etc/ssh")
NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
VERSION = re.compile(r"[0-9A-Za-z.+!-]{1,64}")
FINGERPRINT = re.compile(r"SHA256:[A-Za-z0-9+/]{43}")
_ADDRESSES = 8
_KINDS = ("ed25519", "ecdsa", "rsa")
"""In the order in which our connections ask for them."""
_KEY_BYTES = 16384


@dataclass(frozen=True)
class Announced:
    """What one machine says of itself, as far as it may be shown."""

    name: str
    port: int
    addresses: tuple[str, ...]
    """IPv4."""
    version: str | None = None
    fingerprint: str | None = None


def properties(name: str, version: str, fingerprint: str | None) -> dict[str, str]:
    """The text record of an announcement."""
    told = {"name": name, "version": version}
    return told | ({"fingerprint": fingerprint} if fingerprint else {})


def read(
    port: int | None, addresses: Sequence[str], told: Mapping[bytes, bytes | None]
) -> Announced | None:
    """What was heard, reduced to what is sound; None: nothing of use. `told`: the text record."""
    name = _value(told, b"name", NAME)
    usable = tuple(text for text in addresses[: 2 * _ADDRESSES] if _is_usable(text))[:_ADDRESSES]
    if name is None or port is None or not 0 < port < 65536 or not usable:
        return None
    return Announced(
        name=name,
        port=port,
        addresses=usable,
        version=_value(told, b"version", VERSION),
        fingerprint=_value(told, b"fingerprint", FINGERPRINT),
    )


def find_of(one: Announced, networks: Mapping[str, IPv4Network]) -> Find | None:
    """As it is shown; None for this machine itself. `networks`: `own_networks`.

    Only an address on a network of our own is tried: who announces may name any of the world.
    """
    if set(one.addresses) <= set(networks):
        return None
    near = [a for a in one.addresses if a not in networks and _is_in(a, networks)]
    address, *others = [*near, *(a for a in one.addresses if a not in near)]
    return Find(
        name=one.name,
        source=SOURCE,
        target=address if one.port == SSH_PORT else place(address, one.port),
        host=address if near else "",
        port=one.port,
        version=one.version,
        fingerprint=one.fingerprint,
        others=tuple(others),
        detail="" if near else "on none of this machine's networks",
        tried=not near,
    )


def host_key(folder: Path = KEYS) -> str | None:
    """The fingerprint `SHA256:…`, as ssh-keygen -l shows it, of this machine's SSH host key; None
    where none can be read. Reads files: for worker threads."""
    for kind in _KINDS:
        try:
            with (folder / f"ssh_host_{kind}_key.pub").open("rb") as file:
                blob = base64.b64decode(file.read(_KEY_BYTES).split()[1], validate=True)
        except (OSError, ValueError, IndexError):
            continue
        digest = base64.b64encode(hashlib.sha256(blob).digest()).decode("ascii")
        return f"SHA256:{digest.rstrip('=')}"
    return None


def _value(told: Mapping[bytes, bytes | None], key: bytes, pattern: re.Pattern[str]) -> str | None:
    text = (told.get(key) or b"").decode("ascii", "replace")
    return text if pattern.fullmatch(text) else None


def _is_in(address: str, networks: Mapping[str, IPv4Network]) -> bool:
    return any(IPv4Address(address) in network for network in networks.values())


def _is_usable(text: str) -> bool:
    try:
        address = IPv4Address(text)
    except ValueError:
        return False
    none = address.is_loopback or address.is_multicast or address.is_unspecified
    return not none and address != IPv4Address("255.255.255.255")
