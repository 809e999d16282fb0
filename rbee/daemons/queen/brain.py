"""The inbox: one task takes events one by one, asks the core what follows, and has it done.

Owns the order in which the colony changes. Nothing else may call `Colony.handle`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import anyio

from rbee.core.colony import TICK, Colony
from rbee.core.events import Effect, Event, Tick
from rbee.errors import ShuttingDown

if TYPE_CHECKING:
    from rbee.clock import Clock

log = logging.getLogger("rbee.brain")
LATE = 2.0
"""Seconds by which a tick may be late before nobody's silence is judged by it."""


class Brain:
    """The colony's state machine on its inbox. `execute` carries out effects, in order, at once."""

    def __init__(self, colony: Colony, clock: Clock, execute: Callable[[Effect], None]) -> None:
        self.colony = colony
        self._clock = clock
        self._execute = execute
        self._ticked = clock.monotonic()
        send, receive = anyio.create_memory_object_stream[tuple[Event, anyio.Event | None]](
            math.inf
        )
        self._send = send
        self._receive = receive

    def post(self, event: Event) -> None:
        """Put an event into the inbox. Bounded by what produces events: slots, children, timers."""
        try:
            self._send.send_nowait((event, None))
        except (anyio.ClosedResourceError, anyio.BrokenResourceError):
            log.debug("too late for %s", type(event).__name__)

    async def call(self, event: Event) -> None:
        """Put an event into the inbox and wait until it has been handled. Raises ShuttingDown."""
        done = anyio.Event()
        try:
            self._send.send_nowait((event, done))
        except (anyio.ClosedResourceError, anyio.BrokenResourceError) as exc:
            raise ShuttingDown("the queen is shutting down") from exc
        await done.wait()

    async def run(self) -> None:
        """Handle events until the inbox is closed; a defect is logged with its story."""
        async with self._receive:
            async for event, done in self._receive:
                self._handle(event)
                if done is not None:
                    done.set()

    def _handle(self, event: Event) -> None:
        """What was decided before a defect struck is still done, so that nothing hangs half-way."""
        now = self._clock.monotonic()
        if isinstance(event, Tick):
            event = replace(event, late=now - self._ticked > TICK + LATE)
            self._ticked = now
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
        """Post a Tick every TICK seconds."""
        while True:
            await anyio.sleep(TICK)
            self.post(Tick(counts()))

    def close(self) -> None:
        """Take no more events; `run` returns when the inbox is empty."""
        self._send.close()
