"""The IPv4 networks this machine is on, as its interfaces say.

Owns which of them count: those of interfaces that are up and reach several machines. Everything
here asks the system: for worker threads.
"""

from __future__ import annotations

import contextlib
import socket
from ipaddress import IPv4Address, IPv4Network


def own_networks() -> dict[str, IPv4Network]:
    """Address of this machine → the network it is of; without loopback and single addresses."""
    import psutil  # 15 ms, and only when somebody searches, announces or wakes

    up = {name for name, stats in psutil.net_if_stats().items() if stats.isup}
    found: dict[str, IPv4Network] = {}
    for name, addresses in psutil.net_if_addrs().items():
        for one in addresses:
            if name in up and one.family == socket.AF_INET and one.netmask:
                with contextlib.suppress(ValueError):
                    network = IPv4Network(f"{one.address}/{one.netmask}", strict=False)
                    if not network.is_loopback and network.prefixlen <= 30:
                        found[one.address] = network
    return found


def broadcasts(near: str | None = None) -> list[str]:
    """The broadcast addresses of the networks; only the one's in which `near` lies, if it does."""
    networks = list(dict.fromkeys(own_networks().values()))
    if near is not None:
        with contextlib.suppress(ValueError):
            address = IPv4Address(near)
            networks = [network for network in networks if address in network] or networks
    return [str(network.broadcast_address) for network in networks]
