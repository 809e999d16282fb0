"""Hives and workers as the brain sees them: soft state, rebuilt from what the hives say."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

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
    def free_slots(self) -> int:
        """Slots that could take a job now, 0 when it may not be used."""
        if self.state not in WORKER_READY or self.suspect:
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

    def device(self, name: str) -> Device | None:
        """The device of that name; a bare kind (`cuda`) means its first one."""
        for device in self.devices:
            if name in (device.name, device.kind):
                return device
        return None


class Fleet:
    """All hives and workers of the colony."""

    def __init__(self) -> None:
        self.hives: dict[str, HiveState] = {}
        self.workers: dict[str, Worker] = {}
        self._next_worker = 1

    def new_worker_id(self) -> str:
        """The next free id."""
        while True:
            name = f"w-{self._next_worker:02d}"
            self._next_worker += 1
            if name not in self.workers:
                return name

    def live(self) -> Iterator[Worker]:
        """Workers that are loading or ready."""
        return (w for w in self.workers.values() if w.state in WORKER_LIVE)

    def of_model(self, model_id: str, path: str) -> list[Worker]:
        """Live workers with that very model: names alone may be shared by different files."""
        return [w for w in self.live() if (w.spec.model_id, w.spec.model_path) == (model_id, path)]

    def free_memory(self, hive: HiveState, device: Device) -> int:
        """Bytes free on the device, less what workers still loading there will take."""
        coming = sum(
            max(0, w.need_bytes - w.rss_bytes)
            for w in self.workers.values()
            if w.hive == hive.name
            and w.spec.device == device.name
            and w.state is WorkerState.LOADING
        )
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
            workers=sum(1 for w in self.live() if w.hive == hive.name),
        )
