"""How long and how often: the numbers of every connection, and how many may log in at once.

A server lets in 10 unauthenticated connections by default (sshd_config(5), MaxStartups 10:30:100)
and far fewer where it was told to; hence a limit for each address beside the one for all.
"""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio
from anyio.lowlevel import RunVar

LOGINS = 8
LOGINS_TO_ONE = 2


@dataclass(frozen=True)
class Limits:
    """Seconds and counts of one connection."""

    connect: float = 10.0
    """For each machine on the way, from the first packet to the end of the login."""
    tries: int = 3
    pause: float = 0.3
    """Before the second try; three times that before the next, half as much more or less."""
    keepalive: float = 10.0
    keepalive_count: int = 3
    """Unanswered so often, the link is lost: 30 s."""
    sessions: float = 30.0
    """For a free session where the server allows few (MaxSessions)."""

    def pause_before(self, attempt: int) -> float:
        """Seconds to wait before try number `attempt` (from 2)."""
        return self.pause * 3 ** (attempt - 2) * random.uniform(0.5, 1.5)


DEFAULTS = Limits()

_all: RunVar[anyio.CapacityLimiter] = RunVar("rbee.ssh.logins")
_each: RunVar[dict[tuple[str, int], anyio.CapacityLimiter]] = RunVar("rbee.ssh.logins_to_one")


@asynccontextmanager
async def login_slot(host: str, port: int) -> AsyncGenerator[None]:
    """One of the logins that may be under way at once; waits for it."""
    try:
        everywhere, here = _all.get(), _each.get()
    except LookupError:
        _all.set(everywhere := anyio.CapacityLimiter(LOGINS))
        _each.set(here := {})
    one = here.setdefault((host, port), anyio.CapacityLimiter(LOGINS_TO_ONE))
    try:
        async with one, everywhere:
            yield
    finally:
        if not one.borrowed_tokens and not one.statistics().tasks_waiting:
            here.pop((host, port), None)
