"""Workers sorted so that a decision looks at a few of them, not at all.

Owns three kinds of groups, each changed in place: a Lane holds the workers of one model that would
take a job equally fast, a Pool all live workers of one model, a Spot all workers on one device.
Never decides, never copies: a Lane answers with one member at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rbee.core.fleet import Worker

MOST_SHARERS = 3
"""More busy workers on a device are counted as so many when workers are sorted into lanes."""

LaneKey = tuple[str, int, int, int]
"""Device, decode and prefill speed on their scales, other busy workers on the device."""


class Lane:
    """Workers that are as good as each other; added, removed and picked in constant time."""

    __slots__ = ("decode", "members", "prefill", "seats")

    def __init__(self, decode: float = 0.0, prefill: float = 0.0) -> None:
        self.decode = decode
        """Tokens per second that one more job would see, sharing included."""
        self.prefill = prefill
        self.members: list[Worker] = []
        self.seats: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self.members)

    def add(self, worker: Worker) -> None:
        """Once only."""
        self.seats[worker.id] = len(self.members)
        self.members.append(worker)

    def remove(self, worker: Worker) -> None:
        """The last one takes its seat."""
        seat = self.seats.pop(worker.id)
        last = self.members.pop()
        if last.id != worker.id:
            self.members[seat] = last
            self.seats[last.id] = seat

    def around(self, start: int, most: int) -> Iterator[Worker]:
        """At most `most` members, beginning somewhere that depends on `start`."""
        count = len(self.members)
        for n in range(min(most, count)):
            yield self.members[(start + n) % count]


@dataclass
class Pool:
    """The live workers of one model."""

    workers: dict[str, Worker] = field(default_factory=dict["str", "Worker"])
    hives: dict[str, dict[str, Worker]] = field(default_factory=dict[str, "dict[str, Worker]"])
    free: dict[LaneKey, Lane] = field(default_factory=dict[LaneKey, Lane])
    """Those with a free slot."""
    full: Lane = field(default_factory=Lane)
    """Ready, in use, none free."""
    loading: Lane = field(default_factory=Lane)
    barred: Lane = field(default_factory=Lane)
    """Silent, draining, or making room for another model."""
    ready: int = 0
    slots: int = 0
    """Of those that may be used."""
    busy: int = 0


@dataclass
class Spot:
    """The workers on one device, whatever their state."""

    workers: dict[str, Worker] = field(default_factory=dict["str", "Worker"])
    loading: dict[str, Worker] = field(default_factory=dict["str", "Worker"])
    busy: int = 0
    """Workers that compute."""
    idle_bytes: int = 0
    """Held by unpinned workers without work, as of their last change."""
    settling: int = 0
    """Bytes of workers that are gone and that the hive's last telemetry still counts as used."""
    settles_with: object = None
    """That telemetry."""


@dataclass(slots=True)
class Seat:
    """Where one worker is counted, so that it can be taken out again."""

    pool: Pool | None = None
    lane: Lane | None = None
    key: LaneKey | None = None
    ready: bool = False
    slots: int = 0
    busy: int = 0
    computes: bool = False
    loads: bool = False
    idle_bytes: int = 0
    claimed_for: str | None = None
