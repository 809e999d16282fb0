"""What went wrong lately, and when it may be tried again: breakers and back-off, as plain state.

A breaker stands before each worker and each hive: after several failures in a row nothing is sent
there for a while, then one probe decides. A place is where a model is started: one that ended badly
is tried again after a pause that doubles, and no more when it goes on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container
from dataclasses import dataclass, field

from rbee.errors import RbeeError

OPENS_AT = 5
OPEN_SECONDS = 60.0
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 60.0
STABLE = 300.0
"""Seconds after which a worker that then ends is taken for a first failure."""
MOST_STARTS = 10
START_WINDOW = 60.0
"""More failed starts than MOST_STARTS in so many seconds, and a place is given up."""
GIVEN_UP = 300.0
"""Seconds a place stays given up, unless a person asks for it."""


def pause(failures: int, jitter: float = 0.0) -> float:
    """Seconds before the next try after so many failures; `jitter` from -1 to 1 is ±20 %."""
    doubled = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(max(0, failures - 1), 16))
    return doubled * (1 + 0.2 * jitter)


@dataclass
class Breaker:
    """Closed, open for OPEN_SECONDS, then half open: one probe."""

    failures: int = 0
    opened: float | None = None
    probing: bool = False

    def refuses(self, now: float) -> float | None:
        """Seconds it stays shut (0: a probe is out); None: one may pass."""
        if self.opened is None:
            return None
        left = self.opened + OPEN_SECONDS - now
        if left > 0:
            return left
        return 0.0 if self.probing else None

    def sent(self, now: float) -> None:
        """One passed; through a half-open breaker that is the probe."""
        if self.opened is not None and now >= self.opened + OPEN_SECONDS:
            self.probing = True

    def succeeded(self) -> None:
        """It went well: closed."""
        self.failures, self.opened, self.probing = 0, None, False

    def failed(self, now: float) -> bool:
        """It went badly; True when that opened the breaker."""
        self.failures += 1
        if self.probing or (self.failures >= OPENS_AT and self.opened is None):
            self.opened, self.probing = now, False
            return True
        return False

    def forgotten(self) -> None:
        """What passed ended without saying anything of the worker."""
        self.probing = False


def times(count: int) -> str:
    """How often."""
    return "once" if count == 1 else f"{count} times"


Where = tuple[str, str, str, str]
"""Model id, ModelInfo.key, hive, device."""


@dataclass
class Setback:
    """The recent failures of one place."""

    error: RbeeError
    failures: int = 0
    until: float = 0.0
    recent: deque[float] = field(default_factory=lambda: deque[float](maxlen=MOST_STARTS + 1))
    given_up: bool = False
    loads: bool = True
    """Whether the model had come up there before it failed."""


class Setbacks:
    """Of all places, hives and workers."""

    def __init__(self) -> None:
        self.places: dict[Where, Setback] = {}
        self.hives: dict[str, Breaker] = {}
        self.workers: dict[str, Breaker] = {}

    def hive(self, name: str) -> Breaker:
        """The hive's breaker."""
        return self.hives.setdefault(name, Breaker())

    def worker(self, worker_id: str) -> Breaker:
        """The worker's breaker."""
        return self.workers.setdefault(worker_id, Breaker())

    def worker_refuses(self, worker_id: str, now: float) -> float | None:
        """See Breaker.refuses; never makes one."""
        breaker = self.workers.get(worker_id)
        return breaker.refuses(now) if breaker is not None else None

    def hive_refuses(self, name: str, now: float) -> float | None:
        """See Breaker.refuses; never makes one."""
        breaker = self.hives.get(name)
        return breaker.refuses(now) if breaker is not None else None

    def place(self, where: Where, now: float) -> Setback | None:
        """What keeps a model from being started there now; None: nothing."""
        setback = self.places.get(where)
        return setback if setback is not None and setback.until > now else None

    def ended_badly(
        self, where: Where, error: RbeeError, now: float, *, lived: float, loaded: bool
    ) -> Setback:
        """A worker there ended on its own after `lived` seconds of being ready (0: never was)."""
        setback = self.places.get(where)
        if setback is None or (loaded and lived >= STABLE):
            setback = self.places[where] = Setback(error)
        setback.error, setback.loads = error, loaded
        setback.failures += 1
        setback.recent.append(now)
        rush = len(setback.recent) > MOST_STARTS and now - setback.recent[0] <= START_WINDOW
        setback.given_up = rush
        setback.until = now + (GIVEN_UP if rush else pause(setback.failures))
        return setback

    def stable(self, where: Where) -> None:
        """It has worked there for long enough."""
        self.places.pop(where, None)

    def forget(self, where: Where) -> None:
        """A person asks for this place: what was is no reason any more."""
        self.places.pop(where, None)

    def tidy(self, now: float, workers: Container[str]) -> None:
        """Drop what nobody will ask for again."""
        for worker_id in [w for w in self.workers if w not in workers]:
            del self.workers[worker_id]
        for where, setback in list(self.places.items()):
            if setback.until + STABLE < now:
                del self.places[where]
