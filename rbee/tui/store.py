"""The colony as the screens see it: fed by events, asked by widgets.

Owns the last known hives, workers, jobs, models, narration and the short histories behind the
graphs. It does no I/O and knows no widget; one writer (the link) calls `apply` and `link_changed`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import urlsplit

import msgspec

from rbee.errors import RbeeError
from rbee.protocol.base import Wire
from rbee.protocol.colony import (
    HiveGone,
    Models,
    Narration,
    Snapshot,
    Telemetry,
    Totals,
    WorkerGone,
)
from rbee.protocol.hives import Device, HiveInfo, ModelInfo
from rbee.protocol.jobs import JobInfo, JobState
from rbee.protocol.machines import Around
from rbee.protocol.models import DownloadInfo, TransferState
from rbee.protocol.workers import WorkerInfo, WorkerState
from rbee.tui.past import Past

HISTORY = 60
NARRATION_LINES = 500
FINISHED_JOBS = 100
ACTIVE_JOBS = frozenset({JobState.QUEUED, JobState.DISPATCHED, JobState.RUNNING})
RESTING = frozenset({"stopped", "not installed"})
"""States of a machine that is down because somebody wanted it so, or not set up yet."""
ENDED_TRANSFERS = frozenset({TransferState.DONE, TransferState.FAILED, TransferState.CANCELLED})
DEAD_WORKERS = frozenset({WorkerState.FAILED, WorkerState.STOPPED})


class Link(StrEnum):
    """The way to the queen. `lost`: she was there; `failed`: she cannot be started; `refused`:
    what answers cannot be used: no valid key, another version, no queen at all."""

    STARTING = "starting"
    UP = "up"
    LOST = "lost"
    FAILED = "failed"
    REFUSED = "refused"
    STOPPING = "stopping"


@dataclass(frozen=True)
class Counts:
    """The figures of the top bar and the panel borders."""

    hives_online: int
    hives_total: int
    hives_missing: int
    """Those that should be up and are not."""
    workers_live: int
    workers_loading: int
    workers_failed: int
    jobs_running: int
    jobs_queued: int


@dataclass(frozen=True)
class DeviceView:
    """A device, its place and history; `title` is unique in the colony (`mule:0`, `pi-hive`)."""

    title: str
    device: Device
    history: tuple[float, ...]

    @property
    def memory_fraction(self) -> float | None:
        """Used share of the memory, 0…1, or None when the total is not known."""
        total = self.device.memory_total
        return self.device.memory_used / total if total > 0 else None


def _ring() -> deque[float]:
    return deque(maxlen=HISTORY)


@dataclass
class ColonyStore:
    """All state of the screens that comes from the queen. Times: UTC seconds from `clock`."""

    clock: Callable[[], float] = time.time
    link: Link = Link.STARTING
    message: str = ""
    error: RbeeError | None = None
    """Why there is no way to her."""
    retry_at: float | None = None
    """When the next try is due, by `clock`; None: nobody tries, or none is needed."""
    url: str | None = None
    address: str | None = None
    """What the queen calls herself (`/v1/info` base_url); for people."""
    version: str | None = None
    """The queen's rbee."""
    connected: bool = False
    """True while the event stream is open and its snapshot is in."""
    hives: dict[str, HiveInfo] = field(default_factory=dict)
    workers: dict[str, WorkerInfo] = field(default_factory=dict)
    jobs: dict[str, JobInfo] = field(default_factory=dict)
    models: list[ModelInfo] = field(default_factory=list)
    downloads: dict[tuple[str, str], DownloadInfo] = field(
        default_factory=dict[tuple[str, str], DownloadInfo]
    )
    """Models on their way, by hive and reference."""
    narration: deque[Narration] = field(default_factory=lambda: deque(maxlen=NARRATION_LINES))
    narrated: int = 0
    """Lines ever received: lets a reader see that the ring has moved."""
    around: Around | None = None
    """Machines that could be added, as last asked for; None: not asked yet."""
    beats: dict[str, float] = field(default_factory=dict[str, float])
    """When each hive's telemetry last came."""
    totals: Totals | None = None
    heard_at: float | None = None
    utilisation: dict[str, deque[float]] = field(default_factory=dict)
    queue_depth: deque[float] = field(default_factory=_ring)
    throughput: deque[float] = field(default_factory=_ring)
    past: Past = field(default_factory=Past)
    _totals_at: float = 0.0
    _sampled_at: int = 0

    def apply(self, name: str, payload: Wire) -> None:
        """Take in one colony event; an unknown payload changes nothing but `heard_at`."""
        self.heard_at = self.clock()
        match payload:
            case Snapshot():
                self._replace(payload)
            case HiveInfo():
                self._take_hive(payload)
            case HiveGone():
                self.hives.pop(payload.name, None)
                self._forget_figures(payload.name)
            case WorkerInfo():
                self.workers[payload.worker_id] = payload
                self.past.saw(payload, self.heard_at)
                self._recount(payload.hive)
            case WorkerGone():
                gone = self.workers.pop(payload.worker_id, None)
                self.past.gone(payload.worker_id, payload.reason, self.heard_at)
                self._recount(gone.hive if gone is not None else "")
            case JobInfo():
                self.jobs[payload.job_id] = payload
                self.past.job(payload)
                self._forget_old_jobs()
            case Telemetry():
                self._telemetry(payload)
            case Models():
                self.models = payload.models
            case DownloadInfo():
                self._take_download(payload)
            case Narration():
                self._narrate(payload)
            case Totals():
                self.totals, self._totals_at = payload, self.clock()
            case _:
                pass

    def link_changed(
        self,
        link: Link,
        *,
        message: str = "",
        url: str | None = None,
        error: RbeeError | None = None,
        retry_at: float | None = None,
    ) -> None:
        """The way to the queen changed; what she last said stays readable."""
        self.link, self.message = link, message
        self.error, self.retry_at = error, retry_at
        if url is not None:
            self.url = url
        if link is not Link.UP:
            self.connected = False

    def say(self, source: str, message: str, *, level: str = "info") -> None:
        """A narration line of the screen's own."""
        self._narrate(Narration(at=self.clock(), source=source, message=message, level=level))

    def tick(self) -> None:
        """At most one sample a second of the colony-wide graphs."""
        now = int(self.clock())
        if now > self._sampled_at and self.connected:
            self._sampled_at = now
            self.queue_depth.append(float(self.counts().jobs_queued))
            self.throughput.append(self.tokens_per_second())
            self.past.sample(self.workers.values())

    def counts(self) -> Counts:
        """Counted from the objects, so that a figure never contradicts the rows below it."""
        workers = [worker.state for worker in self.workers.values()]
        jobs = [job.state for job in self.jobs.values()]
        return Counts(
            hives_online=sum(hive.online for hive in self.hives.values()),
            hives_total=len(self.hives),
            hives_missing=sum(
                not hive.online and hive.state not in RESTING for hive in self.hives.values()
            ),
            workers_live=sum(state not in DEAD_WORKERS for state in workers),
            workers_loading=sum(state is WorkerState.LOADING for state in workers),
            workers_failed=sum(state is WorkerState.FAILED for state in workers),
            jobs_running=sum(state in (JobState.RUNNING, JobState.DISPATCHED) for state in jobs),
            jobs_queued=sum(state is JobState.QUEUED for state in jobs),
        )

    def tokens_per_second(self) -> float:
        """The whole colony's, as the queen last counted it; 0 while she is away."""
        return self.totals.tokens_per_second if self.totals is not None and self.connected else 0.0

    def uptime(self) -> float | None:
        """Seconds the queen has been up, going on between her reports."""
        if self.totals is None or not self.connected:
            return None
        return self.totals.uptime_seconds + max(0.0, self.clock() - self._totals_at)

    def port(self) -> str:
        """`:8500` of the queen's address, or an empty text."""
        port = urlsplit(self.address or self.url or "").port
        return f":{port}" if port else ""

    def worker_list(self) -> list[WorkerInfo]:
        """Workers in the order of the table: living ones by id, then the dead."""
        return sorted(
            self.workers.values(),
            key=lambda worker: (worker.state in DEAD_WORKERS, worker.worker_id),
        )

    def job_list(self) -> list[JobInfo]:
        """Running jobs, then queued ones by position, then finished ones, newest first."""
        return sorted(self.jobs.values(), key=_job_order)

    def active_jobs(self) -> list[JobInfo]:
        """Jobs that have not ended."""
        return [job for job in self.job_list() if job.state in ACTIVE_JOBS]

    def offered_models(self) -> list[ModelInfo]:
        """Models a person may choose, each id once."""
        seen: dict[str, ModelInfo] = {}
        for model in self.models:
            if not model.hidden:
                seen.setdefault(model.id, model)
        return list(seen.values())

    def device_views(self) -> list[DeviceView]:
        """Every device of every hive that is online."""
        online = [hive for _, hive in sorted(self.hives.items()) if hive.online]
        return [view for hive in online for view in self.devices_of(hive)]

    def devices_of(self, hive: HiveInfo) -> list[DeviceView]:
        """One hive's devices; as they were last told while it is not online."""
        return [
            DeviceView(
                title=_device_title(hive.name, device, alone=len(hive.devices) == 1),
                device=device,
                history=tuple(self.utilisation.get(f"{hive.name}/{device.name}", ())),
            )
            for device in hive.devices
        ]

    def hive_list(self) -> list[HiveInfo]:
        """The queen's own machine first, then the others by name."""
        return sorted(self.hives.values(), key=lambda hive: (hive.kind != "local", hive.name))

    def hive_job(self, name: str) -> JobInfo | None:
        """The newest of the operations on a machine: adding, installing, stopping, …"""
        jobs = [
            job
            for job in self.jobs.values()
            if job.hive == name and job.operation.startswith("hive_")
        ]
        return max(jobs, key=lambda job: (job.created_at, job.job_id), default=None)

    def _replace(self, snapshot: Snapshot) -> None:
        self.connected = True
        for gone in self.hives.keys() - {hive.name for hive in snapshot.hives}:
            self._forget_figures(gone)
        self.workers = {worker.worker_id: worker for worker in snapshot.workers}
        self.hives = {}
        for hive in snapshot.hives:
            self._take_hive(hive)
        self.jobs = {job.job_id: job for job in snapshot.jobs}
        self.past.snapshot(snapshot.workers, self.clock())
        self.models = snapshot.models
        self.downloads = {(info.hive, info.ref): info for info in snapshot.downloads}
        self.totals, self._totals_at = snapshot.totals, self.clock()
        known = {(line.at, line.source, line.message) for line in self.narration}
        fresh = [x for x in snapshot.narration if (x.at, x.source, x.message) not in known]
        merged = sorted([*self.narration, *fresh], key=lambda line: line.at)
        self.narration = deque(merged, maxlen=NARRATION_LINES)
        self.narrated += len(fresh)
        self._forget_old_jobs()

    def _take_hive(self, hive: HiveInfo) -> None:
        """The figures of a machine that is not there have a gap, which a graph must not hide."""
        self.hives[hive.name] = hive
        self._recount(hive.name)
        if not hive.online:
            self._forget_figures(hive.name)

    def _recount(self, name: str) -> None:
        """How many workers a machine has: she tells of workers, not of their number, as they come
        and go."""
        hive = self.hives.get(name)
        if hive is None:
            return
        living = [worker for worker in self.workers.values() if worker.state not in DEAD_WORKERS]
        count = sum(worker.hive == name for worker in living)
        if count != hive.workers:
            self.hives[name] = msgspec.structs.replace(hive, workers=count)

    def _take_download(self, info: DownloadInfo) -> None:
        if info.state in ENDED_TRANSFERS:
            self.downloads.pop((info.hive, info.ref), None)
        else:
            self.downloads[info.hive, info.ref] = info

    def _forget_figures(self, name: str) -> None:
        self.beats.pop(name, None)
        for key in [key for key in self.utilisation if key.startswith(f"{name}/")]:
            del self.utilisation[key]

    def _narrate(self, line: Narration) -> None:
        self.narration.append(line)
        self.narrated += 1

    def _telemetry(self, event: Telemetry) -> None:
        hive = self.hives.get(event.hive)
        if hive is None or not hive.online:
            return
        self.beats[event.hive] = self.clock()
        self.hives[event.hive] = msgspec.structs.replace(hive, devices=event.devices)
        for device in event.devices:
            if device.utilisation is not None:
                key = f"{event.hive}/{device.name}"
                self.utilisation.setdefault(key, _ring()).append(device.utilisation)

    def _forget_old_jobs(self) -> None:
        ended = [job for job in self.job_list() if job.state not in ACTIVE_JOBS]
        for job in ended[FINISHED_JOBS:]:
            del self.jobs[job.job_id]


def _job_order(job: JobInfo) -> tuple[int, float, str]:
    if job.state in (JobState.RUNNING, JobState.DISPATCHED):
        return 0, job.created_at, job.job_id
    if job.state is JobState.QUEUED:
        return 1, float(job.queue_position or 0), job.job_id
    return 2, -(job.finished_at or job.created_at), job.job_id


def _device_title(hive: str, device: Device, *, alone: bool) -> str:
    if device.kind == "cuda":
        return f"{hive}:{device.name.partition(':')[2] or '0'}"
    return hive if alone else f"{hive}:{device.name}"
