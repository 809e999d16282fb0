"""What the sources have found so far, and whether its SSH port answers.

Owns the list, the tries (16 at once, 2 s each) and the greeting that counts as an answer. Nothing
is ever sent to a machine: an SSH server greets first (RFC 4253, 4.2).

OpenSSH 9.8 and newer keep away, for some time, addresses that come again and again without logging
in (sshd_config(5), PerSourcePenalties): this is for a person who asks, not for a loop.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field

import anyio
import anyio.abc

from rbee.errors import ValidationFailed
from rbee.protocol.machines import Nearby
from rbee.ssh.hosts import parse

MAX_FINDS = 256
"""Of one source."""
AT_ONCE = 16
TRY_SECONDS = 2.0
GREETING_BYTES = 8192
"""An SSH server may say something else before its version; so much is read of it."""
_VERSIONS = (b"SSH-2.0-", b"SSH-1.99-")
"""The second: 2.0, and 1.x too (RFC 4253, 5.1)."""


def place(host: str, port: int = 22) -> str:
    """`host:port`, an IPv6 address in brackets: how known machines are recognised."""
    return f"[{host.lower()}]:{port}" if ":" in host else f"{host.lower()}:{port}"


@dataclass
class Find:
    """One machine. `host`: where it is reached directly, empty while that is not known or cannot
    be."""

    name: str
    source: str
    target: str
    host: str = ""
    port: int = 22
    answers: bool | None = None
    version: str | None = None
    fingerprint: str | None = None
    detail: str = ""
    others: tuple[str, ...] = ()
    """Further addresses or names of it."""
    tried: bool = False
    """Whether all is known that will be: the try has ended, or there is none to make."""

    def add_detail(self, text: str) -> None:
        """Say one thing more of it."""
        self.detail = f"{self.detail}, {text}" if self.detail else text

    def nearby(self, known: Mapping[str, str]) -> Nearby:
        """As it is told. `known`: target or `place` → hive."""
        places = [place(host, self.port) for host in (self.host, *self.others) if host]
        with contextlib.suppress(ValidationFailed):  # an alias may look like none
            plain = parse(self.target)
            places.append(place(plain.host, plain.port or 22))
        hives = (known.get(key) for key in (self.target, *places))
        return Nearby(
            name=self.name,
            source=self.source,
            target=self.target,
            answers=self.answers,
            added_as=next((hive for hive in hives if hive), None),
            version=self.version,
            fingerprint=self.fingerprint,
            detail=self.detail,
        )


@dataclass
class Finds:
    """All of one search, in the order they were found in. `tasks`: where the tries run."""

    tasks: anyio.abc.TaskGroup
    found: list[Find] = field(default_factory=list[Find])
    notes: list[str] = field(default_factory=list[str])
    _limiter: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(AT_ONCE))

    def add(self, find: Find) -> Find:
        """One more; tried when its `host` is known already, else by `try_port`."""
        self.found.append(find)
        if find.host and not find.tried:
            self.tasks.start_soon(self.try_port, find)
        return find

    def note(self, text: str) -> None:
        """Why a source gave nothing, and what to do."""
        self.notes.append(text)

    async def try_port(self, find: Find) -> None:
        """Find out whether it answers."""
        async with self._limiter:
            wrong = await greeted(find.host, find.port)
        find.answers = not wrong
        if wrong:
            find.add_detail(wrong)
        find.tried = True


async def greeted(host: str, port: int, limit: float = TRY_SECONDS) -> str:
    """Why no SSH server answers at a port, in a few words; empty: one does."""
    try:
        with anyio.fail_after(limit):
            async with await anyio.connect_tcp(host, port) as stream:
                return await _greeting(stream, port)
    except TimeoutError:
        return f"no answer on port {port} within {limit:g} s"
    except anyio.BrokenResourceError:
        return f"port {port} closes at once"
    except OSError as exc:
        return _reason(exc, host)


async def _greeting(stream: anyio.abc.ByteStream, port: int) -> str:
    seen = b""
    while len(seen) < GREETING_BYTES:
        try:
            seen += await stream.receive(GREETING_BYTES - len(seen))
        except anyio.EndOfStream:
            break
        if any(line.startswith(_VERSIONS) for line in seen.splitlines()):
            return ""
    return f"something else than SSH on port {port}" if seen else f"port {port} closes at once"


def _reason(exc: OSError, host: str) -> str:
    # of several addresses each has an error of its own
    inner = exc.__cause__
    while isinstance(inner, ExceptionGroup):
        inner = inner.exceptions[0]
    told = inner if isinstance(inner, OSError) else exc
    if isinstance(told, socket.gaierror):
        return f"no address for {host[:80]}"
    if told.errno and told.errno > 0:
        return os.strerror(told.errno).lower()
    return (told.strerror or str(told) or "no connection").lower()[:120]
