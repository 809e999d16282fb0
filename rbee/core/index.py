"""Workers sorted so that a decision looks at a few of them, not at all.

Owns three kinds of groups, each changed in place: a Lane holds the workers of one model that would
take a job equally fast, a Pool all live workers of one model, a Spot all workers on one device.
Never decides, never copies: a Lane answers with one member at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rbee.core.speeds import bucket, prior_speeds
from rbee.core.states import WORKER_LIVE, WORKER_READY
from rbee.protocol.workers import WorkerState

if TYPE_CHECKING:
    from rbee.core.fleet import Worker

ModelKey = tuple[str, str]
"""Id and ModelInfo.key: names alone may be shared by different files."""

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
    """And those that came up after their hive's last telemetry, which does not count them yet."""
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
    idle_since: float | None = None
    drains: bool = False
    claimed_for: str | None = None


class Index:
    """All groups. A worker is regarded as it was at its last `add` or `touch`."""

    def __init__(self) -> None:
        self.pools: dict[ModelKey, Pool] = {}
        self.spots: dict[tuple[str, str], Spot] = {}
        """By hive and device."""
        self.claims: dict[str, dict[str, Worker]] = {}
        """Model id → workers that make room for it."""
        self.draining: dict[str, Worker] = {}
        self.unready: dict[str, Worker] = {}
        """Whatever their state: those that are neither idle nor busy."""
        self.suspects: dict[str, Worker] = {}
        self.idle: dict[str, dict[str, Worker]] = {}
        """Model id → workers without work that are not pinned, the longest idle first."""
        self.live: dict[str, int] = {}
        """Model id → live workers."""
        self.live_on: dict[str, int] = {}
        """Hive → live workers."""
        self._seats: dict[str, Seat] = {}

    def add(self, worker: Worker) -> None:
        """Regard it from now on."""
        spot = self.spots.setdefault((worker.hive, worker.spec.device), Spot())
        spot.workers[worker.id] = worker
        worker.sharers = spot.busy
        self._seats[worker.id] = Seat()
        self.touch(worker)

    def touch(self, worker: Worker) -> None:
        """Regard it as it is now."""
        seat = self._seats.get(worker.id)
        if seat is not None:
            self._regard(worker, seat, self.spots[worker.hive, worker.spec.device])
            self._file(worker, seat)

    def weigh(self, worker: Worker) -> None:
        """It holds another amount of memory; nothing else of it has changed."""
        seat = self._seats.get(worker.id)
        if seat is not None and seat.idle_since is not None:
            held = worker.held_bytes
            spot = self.spots[worker.hive, worker.spec.device]
            spot.idle_bytes += held - seat.idle_bytes
            seat.idle_bytes = held

    def remove(self, worker: Worker, told: object) -> None:
        """Forget it. `told`: its hive's last telemetry, which still counts its memory as used."""
        where = (worker.hive, worker.spec.device)
        spot = self.spots[where]
        self._leave(worker, self._seats.pop(worker.id), spot)
        del spot.workers[worker.id]
        if told is not None:
            if spot.settles_with is not told:
                spot.settling, spot.settles_with = 0, told
            spot.settling += worker.held_bytes
        elif not spot.workers:
            del self.spots[where]

    def _leave(self, worker: Worker, seat: Seat, spot: Spot) -> None:
        """Take it out of everything."""
        self._count(worker, seat, spot, Seat())
        if seat.pool is not None:
            self._unpool(worker, seat)
        self._claim(worker, seat, None)
        self.unready.pop(worker.id, None)
        self.suspects.pop(worker.id, None)
        self._rest(worker, seat, None)

    def _regard(self, worker: Worker, seat: Seat, spot: Spot) -> None:
        """Count it on its device and among its model's workers as it is now."""
        state = worker.state
        ready = state in WORKER_READY
        usable = ready and not (worker.suspect or worker.draining or worker.claimed_for)
        for table, here in ((self.unready, not ready), (self.suspects, ready and worker.suspect)):
            if here:
                table[worker.id] = worker
            else:
                table.pop(worker.id, None)
        idle = ready and not worker.jobs and not worker.pinned
        fresh = Seat(
            ready=ready,
            slots=worker.slots_total if usable else 0,
            busy=min(len(worker.jobs), worker.slots_total) if usable else 0,
            computes=bool(worker.jobs) and state in WORKER_LIVE,
            loads=state is WorkerState.LOADING or (ready and not worker.settled),
            drains=ready and worker.draining,
            idle_bytes=worker.held_bytes if idle else 0,
        )
        if state not in WORKER_LIVE:
            if seat.pool is not None:
                self._unpool(worker, seat)
        elif seat.pool is None:
            key = (worker.spec.model_id, worker.model.key)
            seat.pool = self.pools.setdefault(key, Pool())
            seat.pool.workers[worker.id] = worker
            seat.pool.hives.setdefault(worker.hive, {})[worker.id] = worker
            for table, name in ((self.live, key[0]), (self.live_on, worker.hive)):
                table[name] = table.get(name, 0) + 1
        self._count(worker, seat, spot, fresh)
        self._claim(worker, seat, worker.claimed_for if ready else None)
        self._rest(worker, seat, worker.idle_since if idle else None)

    def _count(self, worker: Worker, seat: Seat, spot: Spot, fresh: Seat) -> None:
        pool = seat.pool
        if pool is not None:
            pool.ready += fresh.ready - seat.ready
            pool.slots += fresh.slots - seat.slots
            pool.busy += fresh.busy - seat.busy
            seat.ready, seat.slots, seat.busy = fresh.ready, fresh.slots, fresh.busy
        spot.idle_bytes += fresh.idle_bytes - seat.idle_bytes
        seat.idle_bytes = fresh.idle_bytes
        if fresh.loads != seat.loads:
            seat.loads = fresh.loads
            if fresh.loads:
                spot.loading[worker.id] = worker
            else:
                del spot.loading[worker.id]
        if fresh.drains != seat.drains:
            seat.drains = fresh.drains
            if fresh.drains:
                self.draining[worker.id] = worker
            else:
                del self.draining[worker.id]
        if fresh.computes != seat.computes:
            seat.computes = fresh.computes
            self._share(worker, spot, 1 if fresh.computes else -1)

    def _share(self, worker: Worker, spot: Spot, change: int) -> None:
        """One more, or one fewer, computes there: its neighbours go at another speed."""
        spot.busy += change
        for other in spot.workers.values():
            if other is not worker:
                other.sharers += change
                # Beyond the cap the lane stays the same.
                if other.sharers + min(0, -change) < MOST_SHARERS:
                    self._file(other, self._seats[other.id])

    def _claim(self, worker: Worker, seat: Seat, claimed_for: str | None) -> None:
        if claimed_for == seat.claimed_for:
            return
        if seat.claimed_for is not None:
            claimed = self.claims[seat.claimed_for]
            del claimed[worker.id]
            if not claimed:
                del self.claims[seat.claimed_for]
        if claimed_for is not None:
            self.claims.setdefault(claimed_for, {})[worker.id] = worker
        seat.claimed_for = claimed_for

    def _rest(self, worker: Worker, seat: Seat, since: float | None) -> None:
        """Keep those without work in the order in which they came to rest."""
        if since == seat.idle_since:
            return
        name = worker.spec.model_id
        if seat.idle_since is not None:
            idle = self.idle[name]
            del idle[worker.id]
            if not idle:
                del self.idle[name]
        seat.idle_since = since
        if since is None:
            return
        idle = self.idle.setdefault(name, {})
        late = bool(idle) and since < idle[next(reversed(idle))].idle_since
        idle[worker.id] = worker
        if late:  # a pin was taken off: all others come in order
            self.idle[name] = dict(sorted(idle.items(), key=lambda one: one[1].idle_since))

    def _unpool(self, worker: Worker, seat: Seat) -> None:
        pool = seat.pool
        assert pool is not None
        self._move(worker, seat, None, None)
        pool.ready -= seat.ready
        pool.slots -= seat.slots
        pool.busy -= seat.busy
        seat.pool, seat.ready, seat.slots, seat.busy = None, False, 0, 0
        del pool.workers[worker.id]
        there = pool.hives[worker.hive]
        del there[worker.id]
        if not there:
            del pool.hives[worker.hive]
        if not pool.workers:
            del self.pools[worker.spec.model_id, worker.model.key]
        for table, name in ((self.live, worker.spec.model_id), (self.live_on, worker.hive)):
            table[name] -= 1
            if not table[name]:
                del table[name]

    def _file(self, worker: Worker, seat: Seat) -> None:
        """Put it into the lane it belongs to now."""
        pool = seat.pool
        if pool is None:
            return
        key: LaneKey | None = None
        if worker.free_slots:
            speeds = worker.speeds or prior_speeds(worker.kind, worker.model.weights_bytes)
            at = bucket(len(worker.jobs) + 1)
            decode, prefill = speeds.shape[at]
            shared = min(worker.sharers, MOST_SHARERS)
            key = (worker.spec.device, decode, prefill, shared)
            lane = pool.free.get(key)
            if lane is None:
                share = 1 + shared
                lane = Lane(speeds.decode[at] / share, speeds.prefill[at] / share)
                pool.free[key] = lane
        elif worker.state is WorkerState.LOADING:
            lane = pool.loading
        elif seat.slots:
            lane = pool.full
        else:
            lane = pool.barred
        self._move(worker, seat, lane, key)

    def _move(self, worker: Worker, seat: Seat, lane: Lane | None, key: LaneKey | None) -> None:
        if lane is seat.lane:
            return
        if seat.lane is not None:
            seat.lane.remove(worker)
            if seat.key is not None and not seat.lane.members and seat.pool is not None:
                del seat.pool.free[seat.key]
        if lane is not None:
            lane.add(worker)
        seat.lane, seat.key = lane, key
