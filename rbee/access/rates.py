"""How much a key may ask for: a bucket that fills evenly, of requests and of tokens.

Pure: the time is handed in. Token bucket: it holds what a minute allows, is refilled by a sixtieth
of that each second, and a request is refused while there is less than one in it. Tokens are only
known when an answer has ended and are taken then, so its level may fall below nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

MINUTE = 60.0


@dataclass(slots=True)
class Bucket:
    """`limit` a minute; `at` is the monotonic time of `level`."""

    limit: int
    level: float
    at: float

    @classmethod
    def full(cls, limit: int, now: float) -> Bucket:
        """A new one."""
        return cls(limit, float(limit), now)

    def fill(self, now: float) -> None:
        """What has come since."""
        self.level = min(float(self.limit), self.level + (now - self.at) * self.limit / MINUTE)
        self.at = now

    def take(self, amount: float, now: float) -> None:
        """Take it, though there may be less."""
        self.fill(now)
        self.level -= amount

    def wait(self, now: float) -> float:
        """Seconds until there is one in it; 0: there is."""
        self.fill(now)
        return max(0.0, (1.0 - self.level) * MINUTE / self.limit)

    def until_full(self, now: float) -> float:
        """Seconds."""
        self.fill(now)
        return (self.limit - self.level) * MINUTE / self.limit

    @property
    def left(self) -> int:
        """Whole ones in it, never less than none."""
        return max(0, int(self.level))
