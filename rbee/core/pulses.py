"""Signs of life that a hive tells of many workers at once, and whose silence is to be looked at.

A worker that goes on as before costs nothing here: all that its hive hears share one Pulse. Owns
who shares which; what silence means is decided in `supervising`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rbee.core.fleet import Worker


@dataclass(slots=True, eq=False)
class Pulse:
    """The workers that one hive hears, and a time since when each of them has given a sign."""

    mono: float = 0.0
    """Monotonic; a bound: none of them was last heard of before."""
    utc: float = 0.0
    workers: dict[str, Worker] = field(default_factory=dict["str", "Worker"])
    strangers: list[str] = field(default_factory=list[str])
    """Ids that the hive hears and that are no workers of it here."""


class Pulses:
    """Of all hives. Each worker shares its hive's pulse or is `alone`, judged by its own beats."""

    def __init__(self) -> None:
        self.of: dict[str, Pulse] = {}
        self.alone: dict[str, Worker] = {}

    def add(self, worker: Worker) -> None:
        """One that is new: its hive does not hear it yet."""
        self.alone[worker.id] = worker

    def remove(self, worker: Worker) -> None:
        """One that is no more; if its hive goes on hearing it, it is a stranger there."""
        self.alone.pop(worker.id, None)
        pulse, worker.pulse = worker.pulse, None
        if pulse is not None:
            del pulse.workers[worker.id]
            pulse.strangers.append(worker.id)

    def forget(self, hive: str) -> None:
        """Its stream has ended or begins anew: nothing it said before holds."""
        pulse = self.of.pop(hive, None)
        for worker in list(pulse.workers.values()) if pulse is not None else ():
            self._part(worker)

    def beat(
        self, hive: str, mono: float, utc: float, heard: Iterable[Worker | str] | None
    ) -> Pulse:
        """Its workers have given a sign since `mono`. `heard`: all of them (ids of strangers);
        None: the same ones as before. Returns the hive's pulse."""
        pulse = self.of.get(hive)
        if pulse is None:
            pulse = self.of[hive] = Pulse()
        if heard is not None:
            before, pulse.workers, pulse.strangers = pulse.workers, {}, []
            for one in heard:
                if isinstance(one, str):
                    pulse.strangers.append(one)
                else:
                    pulse.workers[one.id] = one
            for worker in before.values():
                if worker.id not in pulse.workers:
                    self._part(worker)
            for worker in pulse.workers.values():
                worker.pulse = pulse
                self.alone.pop(worker.id, None)
        pulse.mono, pulse.utc = max(pulse.mono, mono), max(pulse.utc, utc)
        return pulse

    def quiet(self, before: float) -> Iterator[Worker]:
        """All that may not have given a sign since `before` (monotonic); few, as a rule."""
        yield from list(self.alone.values())
        for pulse in list(self.of.values()):
            if pulse.mono < before:
                yield from list(pulse.workers.values())

    def _part(self, worker: Worker) -> None:
        """From now on its own beats count; what the pulse told stays true."""
        pulse, worker.pulse = worker.pulse, None
        if pulse is not None:
            worker.beat_mono = max(worker.beat_mono, pulse.mono)
            worker.beat_at = max(worker.beat_at or 0.0, pulse.utc)
        self.alone[worker.id] = worker
