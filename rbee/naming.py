"""Names and ids: of jobs, requests and hives.

Owns how an id looks and how a foreign name is made fit; never keeps a registry of what is taken.
"""

from __future__ import annotations

import hashlib
import os
import re
import socket

_CORRELATION = re.compile(r"[A-Za-z0-9-]{1,64}")
_LEGIBLE = "abcdefghijkmnpqrstuvwxyz23456789"
"""Without l, o, 0 and 1, which look alike."""
_VARIABLE = (1 << 128) - 1 & ~(0xF << 76) & ~(3 << 62)
_VERSION_4 = 4 << 76 | 2 << 62
"""Of a UUID: the bits that are drawn, and what the others are (RFC 9562, 5.4)."""
_DRAWN = 4096
"""Random bytes that are fetched at once: a system call for each id takes longer than the rest."""
_NOT_LABEL = re.compile(r"[^a-z0-9]+")


_drawn = bytearray()


def _random(count: int) -> bytes:
    """From the system's generator; no byte is given twice."""
    if len(_drawn) < count:
        _drawn[:] = os.urandom(_DRAWN)
    taken = bytes(_drawn[-count:])
    del _drawn[-count:]
    return taken


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_drawn.clear)


def job_id() -> str:
    """A new job id: `j-` and 8 letters or digits (40 bits), short enough to read out and type."""
    bits = int.from_bytes(_random(5), "big")
    return "j-" + "".join([_LEGIBLE[bits >> at & 31] for at in range(0, 40, 5)])


def correlation_id(header: str | None) -> str:
    """The caller's `X-Correlation-Id` when it is 1..64 of A-Z a-z 0-9 -, else a new UUIDv4."""
    if header is not None and _CORRELATION.fullmatch(header):
        return header
    bits = int.from_bytes(_random(16), "big") & _VARIABLE | _VERSION_4
    text = f"{bits:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def dns_label(name: str) -> str:
    """`name` as a DNS label (a-z, 0-9, dashes inside, at most 63); `local` when nothing is left."""
    short = name.split(".", 1)[0].lower()
    return _NOT_LABEL.sub("-", short).strip("-")[:63].strip("-") or "local"


def hive_name() -> str:
    """This machine's short host name as a DNS label: its hive's name by default."""
    return dns_label(socket.gethostname())


def queen_name(data: str) -> str:
    """Of the queen with that data folder on this machine: `laptop 0f3c…`, the same each time."""
    whose = f"{os.getuid()}@{socket.gethostname()}:{data}"
    return f"{hive_name()} {hashlib.sha256(whose.encode('utf-8', 'replace')).hexdigest()[:16]}"
