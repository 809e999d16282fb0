"""Hives and workers as the brain sees them: soft state, rebuilt from what the hives say."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from rbee.core.holdings import Holdings
from rbee.core.index import Index, ModelKey, Pool, Spot
from rbee.core.pulses import Pulse, Pulses
from rbee.core.setbacks import Where
from rbee.core.speeds import Speeds
from rbee.core.states import WORKER_LIVE, WORKER_READY, WORKER_STEPS, Lifecycle
from rbee.protocol.hives import Capabilities, Device, HiveInfo, ModelInfo
from rbee.protocol.workers import WorkerInfo, WorkerSpec, WorkerState


@dataclass(kw_only=True, eq=False)
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
    counted_bytes: int = 0
    """What it had taken of a GPU, by its own report, when its hive last told of the device."""
    cpu_percent: float = 0.0
    beat_mono: float = 0.0
    beat_at: float | None = None
    pulse: Pulse | None = None
    """Its hive hears it, and tells that of many at once; None: its own beats are all there is."""
    idle_since: float = 0.0
    suspect: bool = False
    """A connection to it broke: nothing more is sent until it beats again or its exit is known."""
    suspect_mono: float = 0.0
    blamed: bool = False
    """Its end is counted as a failure already; until it gives a sign of life."""
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
    metered: bool = False
    """Its hive has told its load, and tells it again when it changes."""
    settled: bool = False
    """Its hive's telemetry is younger than its load: the device's free memory counts it."""
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
    def where(self) -> Where:
        """What its failures are counted for."""
        return (self.spec.model_id, self.model.key, self.hive, self.spec.device)

    @property
    def kind(self) -> str:
        """The kind of its device: `cpu`, `cuda`, …"""
        return self.spec.device.partition(":")[0]

    @property
    def held_bytes(self) -> int:
        """What would be free on its device without it: on a GPU what its backend says it took."""
        if self.spec.device == "cpu":
            return max(self.rss_bytes, self.memory_bytes)
        return self.memory_bytes or (0 if self.ready_mono is None else self.need_bytes)

    @property
    def taken_bytes(self) -> int:
        """What its device already counts as used while it loads. The process's own memory is main
        memory, and says nothing of a GPU's."""
        return self.rss_bytes if self.spec.device == "cpu" else self.counted_bytes

    @property
    def loading_bytes(self) -> int:
        """What it has taken of its device by its own report; while it reads its weights, by how far
        it is."""
        weights = self.model.gpu_weights_bytes or self.model.weights_bytes
        return self.memory_bytes or int((self.progress or 0.0) * weights)

    @property
    def free_slots(self) -> int:
        """Slots that could take a job now, 0 when it may not be used."""
        if self.state not in WORKER_READY or self.suspect or self.draining or self.claimed_for:
            return 0
        return max(0, self.slots_total - len(self.jobs))

    @property
    def heard_mono(self) -> float:
        """Monotonic: it has given a sign of life then or later."""
        return self.beat_mono if self.pulse is None else max(self.beat_mono, self.pulse.mono)

    @property
    def heard_at(self) -> float | None:
        """The same in UTC seconds; None: never."""
        if self.pulse is None:
            return self.beat_at
        return max(self.beat_at or 0.0, self.pulse.utc)

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
            last_beat_at=self.heard_at,
            idle_seconds=0.0 if self.jobs else max(0.0, now - self.idle_since),
            quant=self.model.quant,
            pinned=self.pinned,
            draining=self.draining,
            log_path=self.log_path,
            error=self.error,
        )


@dataclass(kw_only=True, eq=False)
class HiveState:
    """One hive. `devices` is replaced by every telemetry."""

    name: str
    kind: str
    url: str | None
    capabilities: Capabilities
    online: bool = True
    left_mono: float | None = None
    """Monotonic: when it went offline."""
    seen_at: float | None = None
    devices: list[Device] = field(default_factory=list[Device])
    paths: dict[str, str] = field(default_factory=dict[str, str])
    """ModelInfo.key → path there, of every model it has; changed by Holdings only."""
    held: set[ModelKey] = field(default_factory=set[ModelKey])
    """The same models by name and key."""
    located: dict[str, ModelInfo] = field(default_factory=dict[str, ModelInfo])
    """By key: those of them that it does not list, such as files outside its models folder."""
    labels: dict[str, str] = field(default_factory=dict[str, str])
    """Such as `region`, `tier`, `cost_per_hour`, `watts`."""
    resting: bool = False
    """It gets nothing more: it is about to be started anew."""
    asleep: bool = False
    """It is off and can be woken."""
    wake_seconds: float = 90.0

    def device(self, name: str) -> Device | None:
        """The device of that name; a bare kind (`cuda`) means its first one."""
        for device in self.devices:
            if name in (device.name, device.kind):
                return device
        return None


def number_of(worker_id: str) -> int:
    """The number in an id, `w-01` → 1; 0 where none is."""
    digits = worker_id.removeprefix("w-")
    return int(digits) if digits.isascii() and digits.isdecimal() and len(digits) < 10 else 0


class Fleet:
    """All hives and workers of the colony.

    `workers` is for reading. Every change of a worker goes through `add`, `remove` and `touch`,
    which keep the index right; `changes` counts them.
    """

    def __init__(self, next_worker: int = 1) -> None:
        self.hives: dict[str, HiveState] = {}
        self.holdings = Holdings()
        self.workers: dict[str, Worker] = {}
        self.changes = 0
        self.index = Index()
        self.pulses = Pulses()
        self._on: dict[str, dict[str, Worker]] = {}
        self.next_worker = next_worker
        """Number of the next id. None is given twice, by this queen or the next one: hives outlive
        queens, and a worker that still runs there would be taken for the new one."""

    def join(self, hive: HiveState) -> bool:
        """A hive that is new or comes back, with the models it lists; whether the colony has other
        models than before."""
        before = self.hives.get(hive.name)
        self.hives[hive.name] = hive
        return self.holdings.join(hive, before)

    def forget(self, name: str) -> bool:
        """A hive that is offline is no more; whether the colony has other models than before."""
        hive = self.hives.pop(name, None)
        return hive is not None and self.holdings.leave(hive)

    def held_models(self) -> list[tuple[ModelInfo, list[str], int]]:
        """Every model of the colony, hidden ones last: as the first hive tells it, the hives that
        have it, how many workers have it loaded. Not for decisions."""
        found: dict[tuple[str, str], tuple[ModelInfo, list[str]]] = {}
        for hive in self.hives.values():
            for model in (*hive.capabilities.models, *hive.located.values()):
                found.setdefault((model.id, model.key), (model, []))[1].append(hive.name)
        return [
            (model, list(dict.fromkeys(hives)), len(pool.workers) if pool is not None else 0)
            for model, hives in sorted(found.values(), key=lambda f: (f[0].hidden, f[0].id))
            for pool in (self.pool(model.id, model.key),)
        ]

    def new_worker_id(self) -> str:
        """An id that no worker has had."""
        name = f"w-{self.next_worker:02d}"
        self.next_worker += 1
        return name

    def add(self, worker: Worker) -> None:
        """A worker that is new to the colony."""
        self.remove(worker.id)
        self.next_worker = max(self.next_worker, number_of(worker.id) + 1)
        self.changes += 1
        self.workers[worker.id] = worker
        self.index.add(worker)
        self.pulses.add(worker)
        self._on.setdefault(worker.hive, {})[worker.id] = worker

    def remove(self, worker_id: str) -> Worker | None:
        """A worker that is no more; None: there was none."""
        worker = self.workers.pop(worker_id, None)
        if worker is not None:
            self.changes += 1
            hive = self.hives.get(worker.hive)
            told = hive.devices if hive is not None and hive.online else None
            self.index.remove(worker, told)
            self.pulses.remove(worker)
            there = self._on[worker.hive]
            del there[worker.id]
            if not there:
                del self._on[worker.hive]
        return worker

    def touch(self, worker: Worker) -> None:
        """Something of the worker has changed: its state, jobs, slots, claims or speed."""
        self.changes += 1
        self.index.touch(worker)

    def live(self) -> Iterator[Worker]:
        """Workers that are loading or ready."""
        return (w for w in self.workers.values() if w.state in WORKER_LIVE)

    def live_count(self, model_id: str) -> int:
        """How many live workers have a model of that name."""
        return self.index.live.get(model_id, 0)

    def pool(self, model_id: str, key: str) -> Pool | None:
        """The live workers with that very model; `key`: its ModelInfo.key."""
        return self.index.pools.get((model_id, key))

    def of_model(self, model_id: str, key: str) -> list[Worker]:
        """Live workers with that very model, as a list: not for decisions."""
        pool = self.pool(model_id, key)
        return list(pool.workers.values()) if pool is not None else []

    def spot(self, hive: str, device: str) -> Spot | None:
        """What is on a device; None: nothing."""
        return self.index.spots.get((hive, device))

    def claimed(self) -> list[Worker]:
        """Workers that make room for another model."""
        return [w for there in self.index.claims.values() for w in there.values()]

    def claimed_for(self, model_id: str) -> list[Worker]:
        """Workers that make room for this model."""
        return list(self.index.claims.get(model_id, {}).values())

    def on(self, hive: str) -> list[Worker]:
        """All workers of a hive, whatever their state."""
        return list(self._on.get(hive, {}).values())

    def unready(self) -> list[Worker]:
        """Workers that load or leave."""
        return list(self.index.unready.values())

    def suspects(self) -> list[Worker]:
        """Ready workers that get nothing until they give a sign of life."""
        return list(self.index.suspects.values())

    def live_total(self) -> int:
        """How many workers are loading or ready."""
        return sum(self.index.live.values())

    def draining(self) -> list[Worker]:
        """Workers that are ready and get nothing more."""
        return list(self.index.draining.values())

    def free_memory(self, hive: HiveState, device: Device) -> int:
        """Bytes free on the device, less what workers take there of which it is not yet told."""
        spot = self.spot(hive.name, device.name)
        if spot is None or not spot.loading:
            return device.memory_free
        coming = sum(max(0, w.need_bytes - w.taken_bytes) for w in spot.loading.values())
        return max(0, device.memory_free - coming)

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
            workers=self.index.live_on.get(hive.name, 0),
            labels=hive.labels,
            state="online" if hive.online else "offline",
            disk_free=caps.disk_free,
            disk_total=caps.disk_total,
            models_dir=caps.models_dir,
            os=caps.os,
        )
