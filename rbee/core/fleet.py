"""Hives and workers as the brain sees them: soft state, rebuilt from what the hives say."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from rbee.core.index import MOST_SHARERS, Lane, LaneKey, Pool, Seat, Spot
from rbee.core.speeds import Speeds, bucket, prior_speeds
from rbee.core.states import WORKER_LIVE, WORKER_READY, WORKER_STEPS, Lifecycle
from rbee.protocol.hives import Capabilities, Device, HiveInfo, ModelInfo
from rbee.protocol.workers import WorkerInfo, WorkerSpec, WorkerState


@dataclass(kw_only=True)
class Worker:
    """One worker. Busy slots are the queen's own ledger (`jobs`), never read from a heartbeat."""

    spec: WorkerSpec
    hive: str
    model: ModelInfo
    started_at: float
    started_mono: float
    need_bytes: int
    pinned: bool = False
    url: str | None = None
    pid: int | None = None
    log_path: str | None = None
    slots_total: int = 0
    ctx: int = 0
    stage: str = "starting"
    progress: float | None = None
    memory_bytes: int = 0
    rss_bytes: int = 0
    cpu_percent: float = 0.0
    beat_mono: float = 0.0
    beat_at: float | None = None
    idle_since: float = 0.0
    suspect: bool = False
    """A connection to it broke: nothing more is sent until it beats again or its exit is known."""
    decode_rate: float | None = None
    """Measured tokens per second of one stream, moving average."""
    error: str | None = None
    stop_reason: str | None = None
    stopping_mono: float = 0.0
    draining: bool = False
    """It ends what it runs and gets nothing more."""
    claimed_for: str | None = None
    """The model that it makes room for as soon as it is idle."""
    ready_mono: float | None = None
    """Monotonic: when it had loaded."""
    speeds: Speeds | None = None
    """What was measured of it and of those before it in its place; None: nothing yet."""
    sharers: int = 0
    """Other workers on its device that compute; kept by the fleet."""
    jobs: set[str] = field(default_factory=set[str])
    life: Lifecycle[WorkerState] = field(init=False)

    def __post_init__(self) -> None:
        self.life = Lifecycle(self.id, WorkerState.LOADING, WORKER_STEPS)

    @property
    def id(self) -> str:
        """The worker's id, `w-01`."""
        return self.spec.worker_id

    @property
    def state(self) -> WorkerState:
        """Where it is; idle and busy follow from the ledger."""
        return self.life.state

    @property
    def kind(self) -> str:
        """The kind of its device: `cpu`, `cuda`, …"""
        return self.spec.device.partition(":")[0]

    @property
    def held_bytes(self) -> int:
        """What would be free without it."""
        return max(self.rss_bytes, self.memory_bytes)

    @property
    def free_slots(self) -> int:
        """Slots that could take a job now, 0 when it may not be used."""
        if self.state not in WORKER_READY or self.suspect or self.draining or self.claimed_for:
            return 0
        return max(0, self.slots_total - len(self.jobs))

    def info(self, now: float) -> WorkerInfo:
        """The wire form."""
        return WorkerInfo(
            worker_id=self.id,
            hive=self.hive,
            model=self.spec.model_id,
            backend=self.spec.backend,
            device=self.spec.device,
            state=self.state,
            slots_total=self.slots_total,
            slots_busy=len(self.jobs),
            ctx=self.ctx,
            url=self.url,
            pid=self.pid,
            stage=self.stage,
            progress=self.progress,
            memory_bytes=self.memory_bytes,
            rss_bytes=self.rss_bytes,
            cpu_percent=self.cpu_percent,
            tokens_per_second=self.decode_rate,
            started_at=self.started_at,
            last_beat_at=self.beat_at,
            idle_seconds=0.0 if self.jobs else max(0.0, now - self.idle_since),
            quant=self.model.quant,
            pinned=self.pinned,
            log_path=self.log_path,
            error=self.error,
        )


@dataclass(kw_only=True)
class HiveState:
    """One hive. `devices` is replaced by every telemetry."""

    name: str
    kind: str
    url: str | None
    capabilities: Capabilities
    online: bool = True
    seen_at: float | None = None
    devices: list[Device] = field(default_factory=list[Device])
    asleep: bool = False
    """It is off and can be woken."""
    wake_seconds: float = 90.0

    def device(self, name: str) -> Device | None:
        """The device of that name; a bare kind (`cuda`) means its first one."""
        for device in self.devices:
            if name in (device.name, device.kind):
                return device
        return None


ModelKey = tuple[str, str]
"""Id and path: names alone may be shared by different files."""


class Fleet:
    """All hives and workers of the colony.

    `workers` is for reading. Every change of a worker goes through `add`, `remove` and `touch`,
    which keep the groups of rbee.core.index right.
    """

    def __init__(self) -> None:
        self.hives: dict[str, HiveState] = {}
        self.workers: dict[str, Worker] = {}
        self.pools: dict[ModelKey, Pool] = {}
        self.spots: dict[tuple[str, str], Spot] = {}
        """By hive and device."""
        self.claims: dict[str, dict[str, Worker]] = {}
        """Model id → workers that make room for it."""
        self._live: dict[str, int] = {}
        self._live_on: dict[str, int] = {}
        self._seats: dict[str, Seat] = {}
        self._next_worker = 1

    def new_worker_id(self) -> str:
        """The next free id."""
        while True:
            name = f"w-{self._next_worker:02d}"
            self._next_worker += 1
            if name not in self.workers:
                return name

    def add(self, worker: Worker) -> None:
        """A worker that is new to the colony."""
        self.workers[worker.id] = worker
        spot = self.spots.setdefault((worker.hive, worker.spec.device), Spot())
        spot.workers[worker.id] = worker
        worker.sharers = spot.busy
        self._seats[worker.id] = Seat()
        self.touch(worker)

    def remove(self, worker_id: str) -> Worker | None:
        """A worker that is no more; None: there was none."""
        worker = self.workers.pop(worker_id, None)
        if worker is None:
            return None
        spot = self.spots[worker.hive, worker.spec.device]
        self._leave(worker, self._seats.pop(worker_id), spot)
        del spot.workers[worker_id]
        hive = self.hives.get(worker.hive)
        if hive is not None and hive.online:
            if spot.settles_with is not hive.devices:
                spot.settling, spot.settles_with = 0, hive.devices
            spot.settling += worker.held_bytes
        elif not spot.workers:
            del self.spots[worker.hive, worker.spec.device]
        return worker

    def touch(self, worker: Worker) -> None:
        """Something of the worker has changed: its state, jobs, slots, claims or speed."""
        seat = self._seats.get(worker.id)
        if seat is None:
            return
        spot = self.spots[worker.hive, worker.spec.device]
        self._regard(worker, seat, spot)
        self._file(worker, seat)

    def live(self) -> Iterator[Worker]:
        """Workers that are loading or ready."""
        return (w for w in self.workers.values() if w.state in WORKER_LIVE)

    def live_count(self, model_id: str) -> int:
        """How many live workers have a model of that name."""
        return self._live.get(model_id, 0)

    def pool(self, model_id: str, path: str) -> Pool | None:
        """The live workers with that very model."""
        return self.pools.get((model_id, path))

    def of_model(self, model_id: str, path: str) -> list[Worker]:
        """Live workers with that very model, as a list: not for decisions."""
        pool = self.pool(model_id, path)
        return list(pool.workers.values()) if pool is not None else []

    def spot(self, hive: str, device: str) -> Spot | None:
        """What is on a device; None: nothing ever was."""
        return self.spots.get((hive, device))

    def free_memory(self, hive: HiveState, device: Device) -> int:
        """Bytes free on the device, less what workers still loading there will take."""
        spot = self.spots.get((hive.name, device.name))
        if spot is None or not spot.loading:
            return device.memory_free
        coming = sum(max(0, w.need_bytes - w.rss_bytes) for w in spot.loading.values())
        return max(0, device.memory_free - coming)

    def _leave(self, worker: Worker, seat: Seat, spot: Spot) -> None:
        """Take it out of everything."""
        self._count(worker, seat, spot, Seat())
        if seat.pool is not None:
            self._unpool(worker, seat)
        self._claim(worker, seat, None)

    def _regard(self, worker: Worker, seat: Seat, spot: Spot) -> None:
        """Count it on its device and among its model's workers as it is now."""
        state = worker.state
        ready = state in WORKER_READY
        usable = ready and not (worker.suspect or worker.draining or worker.claimed_for)
        idle = ready and not worker.jobs and not worker.pinned
        fresh = Seat(
            ready=ready,
            slots=worker.slots_total if usable else 0,
            busy=min(len(worker.jobs), worker.slots_total) if usable else 0,
            computes=bool(worker.jobs) and state in WORKER_LIVE,
            loads=state is WorkerState.LOADING,
            idle_bytes=worker.held_bytes if idle else 0,
        )
        if state not in WORKER_LIVE:
            if seat.pool is not None:
                self._unpool(worker, seat)
        elif seat.pool is None:
            key = (worker.spec.model_id, worker.spec.model_path)
            seat.pool = self.pools.setdefault(key, Pool())
            seat.pool.workers[worker.id] = worker
            seat.pool.hives.setdefault(worker.hive, {})[worker.id] = worker
            for table, name in ((self._live, key[0]), (self._live_on, worker.hive)):
                table[name] = table.get(name, 0) + 1
        self._count(worker, seat, spot, fresh)
        self._claim(worker, seat, worker.claimed_for if ready else None)

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
            del self.pools[worker.spec.model_id, worker.spec.model_path]
        for table, name in ((self._live, worker.spec.model_id), (self._live_on, worker.hive)):
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

    def hive_info(self, hive: HiveState) -> HiveInfo:
        """The wire form."""
        caps = hive.capabilities
        return HiveInfo(
            name=hive.name,
            kind=hive.kind,
            url=hive.url,
            online=hive.online,
            version=caps.version,
            hostname=caps.hostname,
            devices=hive.devices,
            absent_devices=caps.absent_devices,
            backends=caps.backends,
            absent_backends=caps.absent_backends,
            last_seen_at=hive.seen_at,
            workers=self._live_on.get(hive.name, 0),
        )
