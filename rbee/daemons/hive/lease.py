"""How long a hive goes on without its queen.

Owns the clock that starts when she is gone; never stops anything itself. A hive that does not
announce itself cannot bring its queen back: once she is gone it takes no new work, and goes on
with what runs. A queen that returns in time finds everything loaded.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from rbee.errors import HiveOffline
from rbee.protocol.hives import LeaseInfo

log = logging.getLogger("rbee.hive")
FRAMES = 20.0
"""Seconds without a sign of life after which a queen is gone, though her connection still stands:
a cut network leaves the near end of a forward open."""


class Lease:
    """The clock of one hive, which stands still while a queen follows it.

    `seconds` is how long it goes on without her; `frames` how long she may give no sign of life
    (None: none is asked for, and a hive without her goes on taking work). `now` in seconds.
    """

    def __init__(
        self,
        seconds: float,
        *,
        frames: float | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._own = seconds
        self._frames = frames
        self._now = now
        self._stays: float | None = None
        self._followed = False
        self._heard = self._alone_since = now()
        self._alone = True

    @property
    def seconds(self) -> float:
        """How long the hive goes on without its queen."""
        return self._own if self._stays is None else self._stays

    @property
    def alone_seconds(self) -> float | None:
        """For how long it has been without her; None: she is there."""
        self._look()
        return self._now() - self._alone_since if self._alone else None

    @property
    def has_run_out(self) -> bool:
        """Whether the hive is to stop."""
        alone = self.alone_seconds
        return alone is not None and alone > self.seconds

    def came(self) -> None:
        """A queen follows the telemetry."""
        self._followed, self._heard = True, self._now()
        self._look()

    def went(self) -> None:
        """No queen does any more."""
        self._followed = False
        self._look()

    def frame(self, alone: float | None = None) -> LeaseInfo:
        """A sign of life. With `alone` the hive stays that many seconds without her, from now on,
        in place of its own lease (0: its own again)."""
        self._heard = self._now()
        if alone is not None:
            self._stays = alone or None
            self._alone_since = self._now()
            log.info("without a queen this hive stays %g s", self.seconds)
        return self.info()

    def info(self) -> LeaseInfo:
        """As it is now."""
        return LeaseInfo(lease=self.seconds, alone=self._stays, alone_seconds=self.alone_seconds)

    def check_work(self, name: str) -> None:
        """Raises HiveOffline while no new work is taken."""
        alone = self.alone_seconds
        if self._frames is not None and alone is not None:
            raise HiveOffline(
                f"hive {name} takes no new work: it has had no queen for {alone:.0f} s,"
                f" and stops after {self.seconds:g} s",
                action="Wait until its queen has it back: `rbee hive list` shows the links.",
            )

    def _look(self) -> None:
        now = self._now()
        silent = self._frames is not None and now - self._heard > self._frames
        alone = silent or not self._followed
        if alone and not self._alone:
            self._alone_since = now
            why = f"no sign of life of the queen for {now - self._heard:.0f} s"
            why = why if self._followed else "no queen follows"
            log.warning("%s: without one this hive stops in %g s", why, self.seconds)
        elif self._alone and not alone:
            log.info("a queen follows, after %.1f s without", now - self._alone_since)
        self._alone = alone
