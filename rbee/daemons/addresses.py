"""Addresses of callers: which is which, and whose count as one. Pure; looks nothing up."""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache

OWN_BITS = 64
"""Of an IPv6 address that tell networks apart: within one, a machine takes any it likes."""

_HOST = re.compile(r"(?:\[([^\[\]]*)\]|([^\[\]:@/]*))(?::[0-9]{0,5})?")


def name_of(host: str) -> str:
    """The name or address in a `Host` header, RFC 9110, section 7.2: those with colons stand in
    brackets, and a port follows. Empty for what is not of that form."""
    found = _HOST.fullmatch(host)
    return (found[1] or found[2] or "") if found is not None else ""


@lru_cache(maxsize=256)
def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_address(host: str) -> bool:
    """Whether it is an IP address and no name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


@lru_cache(maxsize=1024)
def plain(host: str) -> str:
    """The address without its zone, an IPv4 one out of IPv6's clothes (`::ffff:192.0.2.1`), as a
    socket for both kinds shows it. What is no address is left as it is."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(address)


@lru_cache(maxsize=1024)
def network_of(host: str) -> str:
    """Whose wrong keys and connections are counted together: an IPv4 address, or an IPv6 network of
    64 bits; `unknown` for what is no address."""
    try:
        address = ipaddress.ip_address(plain(host))
    except ValueError:
        return "unknown"
    if address.version == 6:
        return str(ipaddress.ip_network((address, OWN_BITS), strict=False))
    return str(address)
