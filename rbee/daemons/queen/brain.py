"""The inbox: events are taken one by one, the core is asked what follows, and that is done.

Owns the order in which the colony changes. Nothing else may call `Colony.handle`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping
from contextvars import Context, copy_context
from dataclasses import replace
from typing import TYPE_CHECKING

import anyio

from rbee.core.colony import TICK, Colony
from rbee.core.effects import Effect
from rbee.core.events import (
    Counted,
    Event,
    HiveLeft,
    HiveSaid,
    Loss,
    RunFailed,
    ShutdownAsked,
    Tick,
)
from rbee.errors import ShuttingDown
from rbee.protocol.hives import HiveWorkerExited

if TYPE_CHECKING:
    from rbee.clock import Clock

log = logging.getLogger("rbee.brain")
LATE = 2.0
"""Seconds by which a tick may be late before nobody's silence is judged by it."""

AT_ONCE = 64
"""Events that are handled before the loop does something else."""


class Brain:
    """The colony's state machine on its inbox. `execute` carries out effects, in order, at once."""

    def __init__(self, colony: Colony, clock: Clock, execute: Callable[[Effect], None]) -> None:
        self.colony = colony
        self._clock = clock
        self._execute = execute
        self._ticked = clock.monotonic()
        self._counts: Callable[[], Mapping[str, int]] = dict[str, int]
        self._inbox: deque[tuple[Event, anyio.Event | None]] = deque()
        self._home: tuple[asyncio.AbstractEventLoop, Context] | None = None
        """Where and as whom events are handled, while that goes on."""
        self._due = False
        self._closed = False
        self._empty = anyio.Event()
        """Nothing more will come, and nothing waits."""

    def post(self, event: Event) -> None:
        """Put an event into the inbox. Bounded by what produces events: slots, children, timers."""
        if self._closed:
            log.debug("too late for %s", type(event).__name__)
            return
        self._inbox.append((event, None))
        self._see()

    async def call(self, event: Event) -> None:
        """Have an event handled, in its turn, and return after that. Raises ShuttingDown."""
        if self._closed:
            raise ShuttingDown("the queen is shutting down")
        if self._home is not None and len(self._inbox) < AT_ONCE:
            self._home[1].run(self._in_turn, event)
            return
        done = anyio.Event()
        self._inbox.append((event, done))
        self._see()
        await done.wait()

    async def run(self) -> None:
        """Handle events until the inbox is closed; a defect is logged with its story."""
        self._home = asyncio.get_running_loop(), copy_context()
        self._see()
        try:
            await self._empty.wait()
        finally:
            self._closed, self._home = True, None

    def _in_turn(self, event: Event) -> None:
        """What waits already, then this: it need not wait for the loop."""
        while self._inbox:
            self._take()
        self._handle(event)

    def _take(self) -> None:
        event, done = self._inbox.popleft()
        self._handle(event)
        if done is not None:
            done.set()

    def _see(self) -> None:
        """Look into the inbox in the loop's next round: events that are put there by one that is
        being handled come after it."""
        if self._home is not None and not self._due:
            self._due = True
            loop, context = self._home
            loop.call_soon(self._empty_inbox, context=context)

    def _empty_inbox(self) -> None:
        self._due = False
        for _ in range(min(len(self._inbox), AT_ONCE)):
            self._take()
        if self._inbox:
            self._see()
        elif self._closed:
            self._empty.set()

    def _handle(self, event: Event) -> None:
        """What was decided before a defect struck is still done, so that nothing hangs half-way."""
        now = self._clock.monotonic()
        if _ends_runs(event):
            self._apply(Counted(self._counts()), now)
        elif isinstance(event, Tick):
            event = replace(event, late=now - self._ticked > TICK + LATE)
            self._ticked = now
        self._apply(event, now)

    def _apply(self, event: Event, now: float) -> None:
        try:
            self.colony.handle(event, now=now, utc=self._clock.utc())
        except Exception:
            log.exception("deciding on %s failed", type(event).__name__)
        for effect in self.colony.effects:
            try:
                self._execute(effect)
            except Exception:
                log.exception("carrying out %s failed", type(effect).__name__)

    async def tick(self, counts: Callable[[], dict[str, int]]) -> None:
        """Post a Tick every TICK seconds; `counts` tells the tokens of every running job."""
        self._counts = counts
        while True:
            await anyio.sleep(TICK)
            self.post(Tick(counts()))

    def close(self) -> None:
        """Take no more events; `run` returns when the inbox is empty."""
        self._closed = True
        self._see()


def _ends_runs(event: Event) -> bool:
    """Whether jobs may lose their worker by it without a word about what they have so far."""
    match event:
        case HiveSaid(_, said):
            return isinstance(said, HiveWorkerExited)
        case RunFailed():
            return event.loss is Loss.STALLED
        case _:
            return isinstance(event, HiveLeft | ShutdownAsked)
