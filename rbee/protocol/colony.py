"""The queen's health, and the colony event stream that dashboards live on."""

from __future__ import annotations

from rbee.protocol.base import Wire
from rbee.protocol.hives import Device, HiveInfo, ModelInfo
from rbee.protocol.jobs import JobInfo
from rbee.protocol.models import DownloadInfo
from rbee.protocol.workers import WorkerInfo


class Health(Wire, frozen=True, kw_only=True):
    """GET /health"""

    status: str
    version: str
    uptime_seconds: float
    hives_online: int
    workers_total: int
    workers_healthy: int
    queue_depth: int


class Info(Wire, frozen=True, kw_only=True):
    """GET /v1/info"""

    version: str
    api: str
    protocol: int
    features: list[str]
    backends: list[str]
    base_url: str
    pid: int
    started_at: float
    lifetime: str
    """`persistent`, `linger` or `owned`."""


class Narration(Wire, frozen=True, kw_only=True):
    """One line of who did what and why. `level` is info, warning or error."""

    at: float
    source: str
    message: str
    level: str = "info"


class Totals(Wire, frozen=True, kw_only=True):
    """The top bar's figures."""

    hives_online: int
    hives_total: int
    workers: int
    jobs_running: int
    jobs_queued: int
    tokens_per_second: float
    uptime_seconds: float


class Snapshot(Wire, frozen=True, kw_only=True):
    """`event: snapshot`, the first of GET /v1/events/stream. Jobs: those that have not ended."""

    hives: list[HiveInfo]
    workers: list[WorkerInfo]
    jobs: list[JobInfo]
    models: list[ModelInfo]
    narration: list[Narration]
    totals: Totals
    downloads: list[DownloadInfo] = []


class HiveGone(Wire, frozen=True, kw_only=True):
    """`event: hive_gone`"""

    name: str


class WorkerGone(Wire, frozen=True, kw_only=True):
    """`event: worker_gone`"""

    worker_id: str
    reason: str


class Telemetry(Wire, frozen=True, kw_only=True):
    """`event: telemetry`, each second per hive."""

    hive: str
    devices: list[Device]


class Models(Wire, frozen=True, kw_only=True):
    """`event: models`: the catalogue changed."""

    models: list[ModelInfo]


EVENTS: dict[str, type[Wire]] = {
    "snapshot": Snapshot,
    "hive": HiveInfo,
    "hive_gone": HiveGone,
    "worker": WorkerInfo,
    "worker_gone": WorkerGone,
    "job": JobInfo,
    "telemetry": Telemetry,
    "models": Models,
    "download": DownloadInfo,
    "narration": Narration,
    "totals": Totals,
}
"""Name on the wire → payload. Deltas replace the object of the same id."""
