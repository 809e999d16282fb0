"""Simulated machines: devices with memory, disks, worker processes and the runs on them.

Owns their state and its bounds (slots, memory); never a decision and never the time, which is told.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from rbee.protocol.hives import (
    BackendStatus,
    Capabilities,
    Device,
    ModelInfo,
)
from rbee.protocol.workers import WorkerSpec, WorkerState
from rbee.sim.asks import Ask
from rbee.sim.fleets import GIB, DeviceSpec, HiveSpec
from rbee.sim.prompts import Remembered
from rbee.sim.speed import WRITING_SHARE, Fluid, Part, decode_rate, prefill_rate

PROCESS_BYTES = 400 << 20
"""What a process takes on a device besides its model (a CUDA context takes 300–500 MiB)."""


@dataclass(eq=False)
class Run(Part):
    """A request on a worker: it reads its prompt, then writes. `left`: tokens of that."""

    job_id: str = ""
    attempt: int = 0
    ask: Ask | None = None
    writing: bool = False
    known: int = 0
    """Prompt tokens that were not read again."""
    before: int = 0
    """Tokens of the answer that another run had said."""
    began: float = 0.0
    wrote_from: float = 0.0
    """When it began to write."""

    def said(self) -> int:
        """Tokens of the whole answer that its readers have."""
        assert self.ask is not None
        if not self.writing:
            return self.before
        return max(self.before, int(self.ask.answer[1] - self.left))


@dataclass(eq=False)
class Process:
    """A worker on paper."""

    spec: WorkerSpec
    model: ModelInfo
    card: Card
    need: int
    """Bytes it holds once loaded."""
    state: WorkerState = WorkerState.LOADING
    load: Part | None = None
    """The reading of its file, while it goes on."""
    bound: bool = False
    """Its process listens."""
    runs: dict[str, Run] = field(default_factory=dict[str, Run])
    memory: Remembered = field(init=False)

    def __post_init__(self) -> None:
        spec, kv = self.spec, max(1, self.model.kv_bytes_per_token)
        more = (spec.prompt_cache_mb << 20) // kv
        self.memory = Remembered(spec.slots * spec.ctx + more)

    @property
    def progress(self) -> float:
        """Of its load, 0..1."""
        if self.state is not WorkerState.LOADING:
            return 1.0
        if self.load is None:
            return 0.0
        return min(1.0, max(0.0, 1.0 - self.load.left / max(1, self.model.size)))

    @property
    def held(self) -> int:
        """Bytes at this moment; what did not fit was let go of."""
        if self.state is WorkerState.FAILED:
            return 0
        return round(self.need * self.progress)


class Card(Fluid):
    """A device: memory, and time that its workers share."""

    def __init__(self, spec: DeviceSpec) -> None:
        super().__init__()
        self.spec = spec
        self.total = round(spec.memory * GIB)
        self.workers: dict[str, Process] = {}

    @property
    def promised(self) -> int:
        """Bytes that the workers on it hold or will hold when they have loaded."""
        there = self.workers.values()
        return sum(w.need for w in there if w.load is not None or w.state is WorkerState.IDLE)

    def told(self) -> Device:
        """As a hive tells it."""
        used = sum(w.held for w in self.workers.values())
        return Device(
            name=self.spec.name,
            kind=self.spec.kind,
            label=self.spec.label,
            memory_total=self.total,
            memory_used=used,
            memory_free=max(0, self.total - used),
        )

    def parts(self) -> Iterator[Run]:
        """All runs."""
        for worker in self.workers.values():
            yield from worker.runs.values()

    def share(self) -> None:
        """The law of rbee.sim.speed."""
        busy = [w for w in self.workers.values() if w.runs]
        for worker in busy:
            writers = sum(1 for r in worker.runs.values() if r.writing)
            readers = len(worker.runs) - writers
            writing = (WRITING_SHARE if readers else 1.0) / len(busy)
            reading = (1 - WRITING_SHARE if writers else 1.0) / len(busy)
            spec, model = self.spec, worker.model
            decode = decode_rate(spec.kind, spec.bandwidth, model.weights_bytes, max(1, writers))
            prefill = prefill_rate(spec.tflops, model.parameters or 1) / max(1, readers)
            for run in worker.runs.values():
                run.rate = decode * writing if run.writing else prefill * reading


class Disk(Fluid):
    """What models are read from."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self._rate = rate * 1e9
        self.loads: dict[str, Part] = {}

    def parts(self) -> Iterator[Part]:
        """All loads."""
        yield from self.loads.values()

    def share(self) -> None:
        """Evenly."""
        for load in self.loads.values():
            load.rate = self._rate / len(self.loads)


class Machine:
    """A hive on paper."""

    def __init__(self, spec: HiveSpec, models: list[ModelInfo]) -> None:
        self.spec = spec
        self.models = {model.id: model for model in models}
        self.up = True
        self.disk = Disk(spec.disk)
        self.cards = {device.name: Card(device) for device in spec.device}
        self.workers: dict[str, Process] = {}

    def start(self, spec: WorkerSpec) -> Process:
        """A process for this worker, which does not load yet."""
        model, card = self.models[spec.model_id], self.cards[spec.device]
        kv = model.kv_bytes(ctx=spec.ctx, slots=spec.slots, kv_type=spec.kv_type)
        need = model.weights_bytes + kv + model.compute_bytes + PROCESS_BYTES
        process = Process(spec, model, card, need)
        self.workers[spec.worker_id] = card.workers[spec.worker_id] = process
        return process

    def end(self, worker_id: str) -> Process | None:
        """The process is gone, and its memory is free; its card and disk must be settled before."""
        process = self.workers.pop(worker_id, None)
        if process is not None:
            process.card.workers.pop(worker_id, None)
            self.disk.loads.pop(worker_id, None)
        return process

    def told(self) -> list[Device]:
        """Its devices now."""
        return [card.told() for card in self.cards.values()]

    def capabilities(self) -> Capabilities:
        """What it says when it joins."""
        backend = BackendStatus(
            name="llamacpp",
            formats=["gguf"],
            capabilities=["text-gen"],
            devices=list(self.cards),
            max_slots=self.spec.slots,
        )
        return Capabilities(
            hive=self.spec.name,
            version="sim",
            protocol=1,
            hostname=self.spec.name,
            os="paper",
            devices=self.told(),
            absent_devices=[],
            backends=[backend],
            absent_backends=[],
            models=list(self.models.values()),
            disk_free=0,
            disk_total=0,
        )
