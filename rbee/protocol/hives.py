"""Hives: devices, models, telemetry, and the events a hive tells its queen."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from rbee.protocol.base import Wire
from rbee.protocol.workers import Heartbeat, WorkerReady, WorkerSpec

KV_BITS = {
    "f32": 32.0, "f16": 16.0, "bf16": 16.0, "q8_0": 8.5, "q5_1": 6.0, "q5_0": 5.5, "q4_1": 5.0,
    "q4_0": 4.5, "iq4_nl": 4.5,
}  # fmt: skip
"""How keys and values can be kept → bits each number takes, block scales included."""
_MEASURED_CTX, _MASK_BYTES = 4096, 1024
"""compute_bytes holds the masks of so much context; more takes so many bytes a token."""


class Device(Wire, frozen=True, kw_only=True):
    """One place a model can live. Memory in bytes, utilisation 0..100, None: cannot be read."""

    name: str
    """`cpu`, `cuda:0`, …"""
    kind: str
    label: str
    """For people: `RTX 3090`, `8 cores`."""
    memory_total: int
    memory_used: int
    memory_free: int
    utilisation: float | None = None
    temperature_c: float | None = None
    power_w: float | None = None
    cores: int | None = None


class Absent(Wire, frozen=True, kw_only=True):
    """A device kind or backend that is not here, and why."""

    name: str
    reason: str
    action: str = ""


class BackendStatus(Wire, frozen=True, kw_only=True):
    """An installed backend."""

    name: str
    formats: list[str]
    capabilities: list[str]
    devices: list[str]
    max_slots: int


class ModelInfo(Wire, frozen=True, kw_only=True):
    """A model on a hive's disk, with what the memory preflight needs (bytes)."""

    id: str
    ref: str
    path: str
    format: str
    size: int
    architecture: str | None = None
    quant: str | None = None
    parameters: int | None = None
    context: int | None = None
    """Context length the model was trained for, tokens."""
    weights_bytes: int = 0
    kv_bytes_per_token: int = 0
    """With 16-bit keys and values."""
    compute_bytes: int = 0
    """Working buffers at the default batch, for a context of 4096 tokens."""
    capabilities: list[str] = []
    hidden: bool = False
    """Not offered in listings (echo)."""
    digest: str | None = None
    """Of its content, where it is known: the same on every hive that has the model."""

    @property
    def key(self) -> str:
        """What tells this very model from all others of its name: its digest, else its path."""
        return self.digest or self.path

    def kv_bytes(self, *, ctx: int, slots: int, kv_type: str = "f16") -> int:
        """Keys and values of `slots` contexts of `ctx` tokens each, in bytes."""
        bits = KV_BITS.get(kv_type, KV_BITS["f32"])
        return math.ceil(self.kv_bytes_per_token * _round_up(ctx, 256) * slots * bits / 16)

    def memory_needed(self, *, ctx: int, slots: int, kv_type: str = "f16") -> int:
        """Estimate in bytes, margin max(512 MiB, 5 %) included; 64 MiB for unknown weights."""
        if not self.weights_bytes:
            return 64 << 20
        masks = max(0, ctx - _MEASURED_CTX) * _MASK_BYTES
        kv = self.kv_bytes(ctx=ctx, slots=slots, kv_type=kv_type)
        need = self.weights_bytes + kv + self.compute_bytes + masks
        return need + max(512 << 20, need // 20)


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step


class Capabilities(Wire, frozen=True, kw_only=True):
    """GET /v1/capabilities of a hive."""

    hive: str
    version: str
    protocol: int
    hostname: str
    os: str
    devices: list[Device]
    absent_devices: list[Absent]
    backends: list[BackendStatus]
    absent_backends: list[Absent]
    models: list[ModelInfo]
    disk_free: int
    disk_total: int

    def with_models(self, models: list[ModelInfo], disk_free: int) -> Capabilities:
        """The same with other models and so many bytes of free disk."""
        return msgspec.structs.replace(self, models=models, disk_free=disk_free)


class WorkerLoad(Wire, frozen=True, kw_only=True):
    """One worker's process figures."""

    worker_id: str
    cpu_percent: float
    rss_bytes: int


class HiveEvent(Wire, frozen=True, kw_only=True, tag_field="type"):
    """What a hive tells its queen, over a function call or its telemetry stream."""


class HiveWorkerReady(HiveEvent, frozen=True, kw_only=True, tag="worker_ready"):
    """A worker's HTTP is up. `log_path` is on the hive's machine."""

    ready: WorkerReady
    log_path: str = ""


class HiveHeartbeat(HiveEvent, frozen=True, kw_only=True, tag="heartbeat"):
    """A worker's heartbeat, passed on."""

    beat: Heartbeat


class HiveWorkerExited(HiveEvent, frozen=True, kw_only=True, tag="worker_exited"):
    """A worker process ended. `exit_code` is negative for a signal; `log_tail` its last lines."""

    worker_id: str
    exit_code: int
    expected: bool
    log_tail: list[str]


class HiveTelemetry(HiveEvent, frozen=True, kw_only=True, tag="telemetry"):
    """Every second."""

    devices: list[Device]
    workers: list[WorkerLoad]


class HiveWorkers(HiveEvent, frozen=True, kw_only=True, tag="workers"):
    """First event of a telemetry stream: what already runs there."""

    workers: list[HiveWorker]


class HiveModels(HiveEvent, frozen=True, kw_only=True, tag="models"):
    """The models on the hive's disk have changed; all of them."""

    models: list[ModelInfo]
    disk_free: int


class HiveWorker(Wire, frozen=True, kw_only=True):
    """A worker as its hive knows it."""

    spec: WorkerSpec
    pid: int
    log_path: str
    started_at: float
    ready: WorkerReady | None = None
    beat: Heartbeat | None = None


class HiveReady(Wire, frozen=True, kw_only=True):
    """POST /v1/hives/ready, hive → queen."""

    name: str
    url: str
    token: str
    version: str
    protocol: int


class HiveInfo(Wire, frozen=True, kw_only=True):
    """A hive as the queen lists it."""

    name: str
    kind: str
    """`local` or `http`."""
    url: str | None
    online: bool
    version: str | None
    hostname: str | None
    devices: list[Device]
    absent_devices: list[Absent]
    backends: list[BackendStatus]
    absent_backends: list[Absent]
    last_seen_at: float | None
    workers: int = 0
    labels: dict[str, Any] = msgspec.field(default_factory=dict)


AnyHiveEvent = (
    HiveWorkerReady | HiveHeartbeat | HiveWorkerExited | HiveTelemetry | HiveModels | HiveWorkers
)
