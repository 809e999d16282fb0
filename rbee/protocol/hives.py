"""Hives: devices, models, telemetry, and the events a hive tells its queen."""

from __future__ import annotations

import math
from typing import Annotated

import msgspec

from rbee.protocol.base import Request, Whole, Wire
from rbee.protocol.machines import HiveRecord, LinkInfo
from rbee.protocol.memory import (
    COMPUTE_CTX,
    DEVICE_BYTES,
    KV_BITS,
    LEAST_MARGIN,
    MASK_BYTES,
    TEXTS,
    UBATCH,
    UNKNOWN_BYTES,
    UNPACKED,
    KvWindow,
    Measured,
    padded,
)
from rbee.protocol.workers import Heartbeat, WorkerReady, WorkerSpec

QUEEN = "x-rbee-queen"
"""Header of what a queen asks a hive on another machine: her own machine's name and what tells her
from all other queens, over restarts. A hive has one queen at a time."""


class Device(Wire, frozen=True, kw_only=True):
    """One place a model can live. Memory in bytes, utilisation 0..100, None: cannot be read."""

    name: str
    """`cpu`, `cuda:0`, …"""
    kind: str
    label: str
    """For people: `RTX 3090`, `8 cores`."""
    memory_total: Whole
    memory_used: Whole
    memory_free: Whole
    utilisation: float | None = None
    temperature_c: float | None = None
    power_w: float | None = None
    cores: Whole | None = None


class Absent(Wire, frozen=True, kw_only=True):
    """A device kind or backend that is not here, and why."""

    name: str
    reason: str
    action: str = ""
    formats: list[str] = []  # of a backend: what it would run


class BackendStatus(Wire, frozen=True, kw_only=True):
    """An installed backend."""

    name: str
    formats: list[str]
    capabilities: list[str]
    devices: list[str]
    max_slots: Whole


class ModelInfo(Wire, frozen=True, kw_only=True):
    """A model on a hive's disk, with what the memory preflight needs (bytes)."""

    id: str
    ref: str
    path: str
    format: str
    size: Whole
    architecture: str | None = None
    quant: str | None = None
    parameters: Whole | None = None
    context: Whole | None = None
    """Context length the model was trained for, tokens."""
    weights_bytes: Whole = 0
    """In main memory, for the CPU; 0: not known."""
    gpu_weights_bytes: Whole = 0
    """On a GPU, which does not hold everything; 0: the same."""
    kv_bytes_per_token: Whole = 0
    """With 16-bit keys and values, as if all layers looked at the whole context."""
    kv_windows: list[KvWindow] = []
    """Which part of it belongs to layers that look back a few tokens only."""
    state_bytes: Whole = 0
    """Recurrent state of one slot."""
    compute_bytes: Whole = 0
    """Working buffers at the default batch, for a context of 4096 tokens."""
    heads: Whole = 0
    """Attention heads of a layer."""
    row_bytes: Whole = 0
    """One row of logits; 0: it has none."""
    measured: list[Measured] = []
    """What workers of certain shapes really took on the hive that tells this."""
    capabilities: list[str] = []
    tools: bool = False
    """Its chat template speaks of tools, as far as the header tells."""
    hidden: bool = False
    """Not offered in listings (echo)."""
    digest: str | None = None
    """Of its content, where it is known: the same on every hive that has the model."""

    @property
    def key(self) -> str:
        """What tells this very model from all others of its name: its digest, else its path."""
        return self.digest or self.path

    @property
    def embeds(self) -> bool:
        """Whether it only turns texts into vectors."""
        return self.capabilities == ["embedding"]

    def with_weights(self, size: int) -> ModelInfo:
        """The same model with weights of another size, of which nothing was measured."""
        return msgspec.structs.replace(
            self, weights_bytes=size, gpu_weights_bytes=0, size=size, measured=[]
        )

    def kv_bytes(self, *, ctx: int, slots: int, kv_type: str = "f16") -> int:
        """Keys and values of `slots` contexts of `ctx` tokens each, in bytes.

        A layer with a window keeps that many tokens and those computed at a time, if that is less.
        """
        ctx = padded(ctx)
        full, narrow = self.kv_bytes_per_token, 0
        for window in self.kv_windows:
            full -= window.bytes_per_token
            narrow += window.bytes_per_token * min(ctx, padded(window.tokens + UBATCH))
        bits = KV_BITS.get(kv_type, KV_BITS["f32"])
        return math.ceil((max(0, full) * ctx + narrow) * slots * bits / 16)

    def memory_used(
        self,
        *,
        ctx: int,
        slots: int,
        kv_type: str = "f16",
        device_kind: str = "cpu",
        flash: bool = True,
        backend: str = "",
    ) -> int:
        """Weights, contexts and working buffers on a device of that kind, in bytes.

        What was measured of a worker of this very shape, else the estimate. `flash`: attention in
        one pass, without which its weights are held for all tokens at once. `backend` "": any.
        """
        known = [
            m.bytes
            for m in self.measured
            if m.slots == slots
            and m.ctx == padded(ctx)
            and m.device_kind == device_kind
            and m.kv_type == kv_type
            and m.flash == flash
            and backend in ("", m.backend)
        ]
        if known:
            return max(known)
        weights = self.weights_bytes
        if device_kind != "cpu":
            weights = self.gpu_weights_bytes or weights
        if self.format == "gguf" and backend in UNPACKED:
            weights = max(weights, (self.parameters or 0) * UNPACKED[backend])
        if self.embeds:
            return weights + self._vectors(ctx, flash=flash)
        kv = self.kv_bytes(ctx=ctx, slots=slots, kv_type=kv_type)
        state = self.state_bytes * slots
        return weights + kv + state + self._working(padded(ctx), slots, flash=flash)

    def memory_needed(
        self,
        *,
        ctx: int,
        slots: int,
        kv_type: str = "f16",
        device_kind: str = "cpu",
        flash: bool = True,
        backend: str = "",
    ) -> int:
        """`memory_used` with what the process takes on the device, and a margin: bytes to be free.

        The margin is max(512 MiB, 5 %). 64 MiB for unknown weights.
        """
        if not self.weights_bytes:
            return UNKNOWN_BYTES
        used = self.memory_used(
            ctx=ctx, slots=slots, kv_type=kv_type, device_kind=device_kind, flash=flash,
            backend=backend,
        )  # fmt: skip
        return used + DEVICE_BYTES.get(device_kind, 0) + max(LEAST_MARGIN, used // 20)

    def _working(self, ctx: int, slots: int, *, flash: bool) -> int:
        """Buffers for UBATCH tokens at a time, and a row of logits a slot."""
        if self.state_bytes:  # these keep one KV stream for all slots
            ctx *= slots
        seen = ctx + sum(min(ctx, padded(w.tokens + UBATCH)) for w in self.kv_windows)
        masks = MASK_BYTES * (seen if flash else 2 * seen) - MASK_BYTES * COMPUTE_CTX
        scores = 0 if flash else 4 * self.heads * UBATCH * ctx
        rows = self.row_bytes * slots
        return max(0, self.compute_bytes + masks + scores, rows) + rows

    def _vectors(self, ctx: int, *, flash: bool) -> int:
        """Of a model that computes `ctx` tokens at a time, whole texts, whatever the slots.

        One that looks at all of a text at once keeps no keys and values.
        """
        count = max(UBATCH, min(ctx, self.context or ctx))
        each = max(0, self.compute_bytes - COMPUTE_CTX * MASK_BYTES) // UBATCH
        pairs = 2 if flash else 4 * self.heads + 4
        kv = self.kv_bytes(ctx=count, slots=1) if self.row_bytes else 0
        return max(each, self.row_bytes) * count + pairs * count**2 + self.row_bytes * TEXTS + kv


class Capabilities(Wire, frozen=True, kw_only=True):
    """GET /v1/capabilities of a hive."""

    hive: str
    version: str
    protocol: Whole
    hostname: str
    os: str
    devices: list[Device]
    absent_devices: list[Absent]
    backends: list[BackendStatus]
    absent_backends: list[Absent]
    models: list[ModelInfo]
    disk_free: Whole
    disk_total: Whole
    labels: dict[str, str] = {}
    """Of its machine's settings."""
    models_dir: str = ""
    """Where it keeps models, on its machine."""

    def with_models(self, models: list[ModelInfo], disk_free: int) -> Capabilities:
        """The same with other models and so many bytes of free disk."""
        return msgspec.structs.replace(self, models=models, disk_free=disk_free)


class WorkerLoad(Wire, frozen=True, kw_only=True):
    """One worker's process figures: whole per cent of a core, whole MiB."""

    worker_id: str
    cpu_percent: float
    rss_bytes: Whole


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
    exit_code: Whole
    expected: bool
    log_tail: list[str]


class HiveTelemetry(HiveEvent, frozen=True, kw_only=True, tag="telemetry"):
    """Every second: what has changed since the telemetry before. The first that a queen gets of a
    hive tells everything, so does the first on every new stream.

    A heartbeat passes on its own (HiveHeartbeat) when it says anything new, or when the worker is
    not among those `heard`; any other is told of by `within`, which then covers it. A hive whose
    workers beat faster than it measures passes every heartbeat on and hears none.
    """

    measured: bool = True
    """False: a measurement takes longer; this tells only of whom the hive hears."""
    devices: list[Device] | None = None
    """All of them; None: as before."""
    workers: list[WorkerLoad] = []
    """Those whose load has changed."""
    heard: list[str] | None = None
    """Ids of all workers that have given a sign of life lately; None: the same ones as before."""
    within: float = 0.0
    """Seconds: each of those has given one within this time."""
    silent: dict[str, float] = {}
    """Of the others that have ever given one: seconds since the last."""


class HiveWorkers(HiveEvent, frozen=True, kw_only=True, tag="workers"):
    """First event of a telemetry stream: what already runs there."""

    workers: list[HiveWorker]


class HiveModels(HiveEvent, frozen=True, kw_only=True, tag="models"):
    """The models on the hive's disk have changed; all of them."""

    models: list[ModelInfo]
    disk_free: Whole


class HiveWorker(Wire, frozen=True, kw_only=True):
    """A worker as its hive knows it."""

    spec: WorkerSpec
    pid: Whole
    log_path: str
    started_at: float
    ready: WorkerReady | None = None
    beat: Heartbeat | None = None


class HiveReady(Wire, frozen=True, kw_only=True):
    """POST /v1/hives/ready, hive → queen."""

    name: Annotated[str, msgspec.Meta(max_length=200)]
    url: Annotated[str, msgspec.Meta(max_length=300)]
    token: Annotated[str, msgspec.Meta(pattern=r"^[!-~]{1,300}\Z")]
    """Goes into a header."""
    version: Annotated[str, msgspec.Meta(pattern=r"^[0-9A-Za-z.+!-]{1,60}\Z")]
    protocol: Whole


class HiveUp(HiveReady, frozen=True, kw_only=True):
    """The line `rbee-hive {…}` of `rbee-hive --ensure`: a hive that stands by itself."""

    pid: Whole
    started_at: float
    """Unix time."""
    alone: float | None = None
    """Seconds it stays without a queen in place of its lease; None: its lease."""


class LeaseFrame(Request, frozen=True, kw_only=True):
    """POST /v1/lease of a hive: its queen lives."""

    alone: Annotated[float, msgspec.Meta(ge=0, le=31_536_000)] | None = None
    """Seconds to stay without a queen from now on; 0: its lease again; None: as before."""


class LeaseInfo(Wire, frozen=True, kw_only=True):
    """GET and POST /v1/lease of a hive, in seconds."""

    lease: float
    """How long it goes on without a queen."""
    alone: float | None = None
    """That, where it was told to stay for so long."""
    alone_seconds: float | None = None
    """For how long it has had no queen; None: one follows it."""


class HiveInfo(Wire, frozen=True, kw_only=True):
    """A hive as the queen lists it."""

    name: str
    kind: str
    """`local`, `http` or `ssh`."""
    url: str | None
    online: bool
    version: str | None
    hostname: str | None
    devices: list[Device]
    absent_devices: list[Absent]
    backends: list[BackendStatus]
    absent_backends: list[Absent]
    last_seen_at: float | None
    workers: Whole = 0
    labels: dict[str, str] = {}
    state: str = ""
    """Of a machine that was added: `online`, `connecting`, `offline`, `stopped`, `not installed`,
    `other version`, `refused` or `working` (an operation is under way)."""
    link: LinkInfo | None = None
    record: HiveRecord | None = None
    """None: the queen's own, or one that came by itself."""
    disk_free: Whole | None = None
    """Bytes, where its models are kept; None: it was not up since the queen started."""
    disk_total: Whole | None = None
    models_dir: str = ""
    os: str = ""
    """System, release and CPU; empty: it was not up since the queen started."""


AnyHiveEvent = (
    HiveWorkerReady | HiveHeartbeat | HiveWorkerExited | HiveTelemetry | HiveModels | HiveWorkers
)
