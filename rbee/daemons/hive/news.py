"""What a hive has to tell its queen: what has changed since it told her last.

Owns what was told, never measures and never sends. Leaving out what has not changed is all that is
decided here: what a worker says anew passes at once, and what it repeats is told for all at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from rbee.protocol.hives import Device, HiveTelemetry, WorkerLoad
from rbee.protocol.workers import Heartbeat

MISSED = 1.5
"""Heartbeats without one after which a worker is not among those that are heard."""
MIB = 1 << 20


class News:
    """`heartbeat`: seconds between two of a worker; `every`: seconds between two telemetries."""

    def __init__(self, *, heartbeat: float, every: float) -> None:
        self._quiet = MISSED * heartbeat
        self._gathers = heartbeat >= every
        self._devices: list[Device] | None = None
        self._loads: dict[str, WorkerLoad] = {}
        self._heard: frozenset[str] | None = None

    def afresh(self) -> None:
        """Whoever listens now knows nothing: the next telemetry tells everything."""
        self._devices, self._loads, self._heard = None, {}, None

    def is_new(self, beat: Heartbeat, before: Heartbeat | None) -> bool:
        """Whether a heartbeat is to be passed on: False when the next telemetry tells all of it."""
        if not self._gathers or before is None or beat.worker_id not in (self._heard or ()):
            return True
        return msgspec.structs.replace(beat, idle_seconds=before.idle_seconds) != before

    def telemetry(
        self,
        measured: tuple[Sequence[Device], Iterable[WorkerLoad]] | None,
        ages: Mapping[str, float],
    ) -> HiveTelemetry:
        """`measured`: devices and loads now, None: nothing new; `ages`: of each worker that has
        ever given a sign of life, the seconds since the last."""
        near = {name: age for name, age in ages.items() if age <= self._quiet and self._gathers}
        heard = frozenset(near)
        same, self._heard = heard == self._heard, heard
        return HiveTelemetry(
            measured=measured is not None,
            devices=self._changed_devices(measured[0]) if measured is not None else None,
            workers=self._changed_loads(measured[1]) if measured is not None else [],
            heard=None if same else sorted(heard),
            within=round(max(near.values(), default=0.0), 3),
            silent={
                name: round(age, 3)
                for name, age in ages.items()
                if name not in heard and self._gathers
            },
        )

    def _changed_devices(self, devices: Sequence[Device]) -> list[Device] | None:
        now = list(devices)
        same, self._devices = now == self._devices, now
        return None if same else now

    def _changed_loads(self, loads: Iterable[WorkerLoad]) -> list[WorkerLoad]:
        now = {load.worker_id: load for load in map(_rounded, loads)}
        before, self._loads = self._loads, now
        return [load for name, load in now.items() if before.get(name) != load]


def _rounded(load: WorkerLoad) -> WorkerLoad:
    """So that what does not matter is no change."""
    return WorkerLoad(
        worker_id=load.worker_id,
        cpu_percent=float(round(load.cpu_percent)),
        rss_bytes=-(-load.rss_bytes // MIB) * MIB,
    )
