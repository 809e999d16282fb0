"""A link that comes back: connected, watched, measured, and after a loss connected again.

Owns the waiting between attempts. What the link is for is the caller's: it gets every session, and
hears what happens. Where trying again cannot help (a changed key, a refused login) it waits to be
told to.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio

from rbee.errors import ConnectionFailed, Forbidden, RbeeError
from rbee.ssh.groups import task_group
from rbee.ssh.limits import DEFAULTS, Limits
from rbee.ssh.session import Session, connect

if TYPE_CHECKING:
    from rbee.ssh.hosts import Machine
    from rbee.ssh.known import KnownHosts

STABLE = 30.0
"""Seconds a link must have held for the waiting to begin anew."""
MEASURE_EVERY = 10.0
SAMPLES = 3
"""The least of the last so many: a server holds an answer back for 40 ms where it waits for our
word that what it sent before has come (RFC 896)."""


@dataclass
class Backoff:
    """Seconds to wait before the next attempt: doubling, half as much more or less, bounded."""

    first: float = 1.0
    most: float = 60.0
    rand: Callable[[], float] = random.random
    """0 to 1."""
    _next: float | None = None

    def take(self) -> float:
        """The next wait."""
        base = self.first if self._next is None else self._next
        self._next = min(self.most, base * 2)
        return min(self.most, base * (0.5 + self.rand()))

    def reset(self) -> None:
        """The next wait is the first again."""
        self._next = None


@dataclass(frozen=True)
class LinkState:
    """What a link is doing. Seconds; None where it does not apply."""

    up: bool
    latency: float | None = None
    reason: str = ""
    """Why it is down."""
    error: RbeeError | None = None
    """The last attempt's, with what to do."""
    next_try: float | None = None
    """In so many seconds; None while down: only when it is told to (`Link.retry`)."""
    losses: int = 0
    """How often it was lost."""


@dataclass
class Link:
    """One machine's link. `use` runs with each session and is cancelled when that is lost."""

    machine: Machine
    known: KnownHosts
    tell: Callable[[LinkState], None]
    use: Callable[[Session], Awaitable[None]]
    limits: Limits = DEFAULTS
    backoff: Backoff = field(default_factory=Backoff)
    measure_every: float = MEASURE_EVERY
    session: Session | None = None
    """The one that is up."""
    losses: int = 0
    _kick: anyio.Event = field(default_factory=anyio.Event)

    def retry(self) -> None:
        """Try at once, or as soon as the attempt under way has ended."""
        self._kick.set()

    async def run(self) -> None:
        """Until cancelled. Raises what `use` raises, except for the loss of the link."""
        while True:
            try:
                session = await connect(self.machine, self.known, self.limits)
            except RbeeError as error:
                await self._wait(error.message, error, hopeless=isinstance(error, Forbidden))
                continue
            began = anyio.current_time()
            reason = await self._hold(session)
            if anyio.current_time() - began >= STABLE:
                self.backoff.reset()
            self.losses += 1
            await self._wait(reason, None, hopeless=False)

    async def _hold(self, session: Session) -> str:
        self.session = session
        try:
            async with task_group() as tasks:
                tasks.start_soon(self._use, session)
                tasks.start_soon(self._measure, session)
                reason = await session.wait_lost()
                tasks.cancel_scope.cancel()
            return reason
        finally:
            self.session = None
            with anyio.CancelScope(shield=True):
                await session.aclose()

    async def _use(self, session: Session) -> None:
        try:
            await self.use(session)
        except ConnectionFailed:
            if not session.lost:
                raise

    async def _measure(self, session: Session) -> None:
        last: deque[float] = deque(maxlen=SAMPLES)
        while not session.lost:
            try:
                last.append(await session.latency())
                while len(last) < SAMPLES:
                    last.append(await session.latency())
            except ConnectionFailed:  # the keepalive says when it is lost
                last.clear()
            if not session.lost:
                latency = min(last, default=None)
                self.tell(LinkState(up=True, latency=latency, losses=self.losses))
            await anyio.sleep(self.measure_every)

    async def _wait(self, reason: str, error: RbeeError | None, *, hopeless: bool) -> None:
        seconds = None if hopeless else self.backoff.take()
        self.tell(
            LinkState(up=False, reason=reason, error=error, next_try=seconds, losses=self.losses)
        )
        with anyio.move_on_after(seconds):
            await self._kick.wait()
            self.backoff.reset()
        self._kick = anyio.Event()
