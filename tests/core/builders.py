"""A small colony for unit tests of the core: one hive, a model, and a clock that is a number."""

from __future__ import annotations

from rbee.core.colony import Colony
from rbee.core.effects import Append, Effect, StartWorker
from rbee.core.events import (
    Event,
    HiveJoined,
    HiveSaid,
    JobSubmitted,
    Loss,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunStarted,
)
from rbee.core.jobs import Job
from rbee.core.limits import Limits
from rbee.core.scheduling import Ect
from rbee.errors import RbeeError, WorkerCrashed
from rbee.protocol.hives import (
    BackendStatus,
    Capabilities,
    Device,
    HiveHeartbeat,
    HiveWorkerExited,
    HiveWorkerReady,
    ModelInfo,
)
from rbee.protocol.operations import Infer, Operation
from rbee.protocol.workers import Heartbeat, Usage, WorkerReady, WorkerState

GIB = 1 << 30


def model(name: str = "tiny", *, gib: float = 1.0) -> ModelInfo:
    size = int(gib * GIB)
    return ModelInfo(
        id=name, ref=f"file:/{name}.gguf", path=f"/{name}.gguf", format="gguf", size=size,
        weights_bytes=size, kv_bytes_per_token=1024, compute_bytes=1 << 20, context=8192,
        quant="Q4_0",
    )  # fmt: skip


def device(name: str = "cpu", *, free_gib: float = 16.0) -> Device:
    free = int(free_gib * GIB)
    return Device(
        name=name, kind=name.partition(":")[0], label=name, memory_total=32 * GIB,
        memory_used=32 * GIB - free, memory_free=free,
    )  # fmt: skip


EVERYWHERE = (
    "tiny", "small", "large", "vast", "big", "other", "huge", "hot", "cold", "a", "b", "c", "new",
    "old", "third",
)  # fmt: skip
"""Models that every hive has unless a test says otherwise."""


def capabilities(
    *devices: Device,
    backend_devices: tuple[str, ...] = ("cpu", "cuda"),
    models: tuple[str, ...] = EVERYWHERE,
    disk_gib: float = 100.0,
) -> Capabilities:
    return Capabilities(
        hive="home", version="0", protocol=1, hostname="home", os="Linux",
        devices=list(devices) or [device()], absent_devices=[],
        backends=[
            BackendStatus(
                name="llamacpp", formats=["gguf"], capabilities=["text-gen"],
                devices=list(backend_devices), max_slots=1,
            )
        ],
        absent_backends=[], models=[model(name) for name in models],
        disk_free=int(disk_gib * GIB), disk_total=200 * GIB,
    )  # fmt: skip


class World:
    """A colony with a hand-driven clock, remembering every effect."""

    def __init__(self, *devices: Device, limits: Limits | None = None) -> None:
        self.now = 100.0
        self.colony = Colony(policy=Ect(ctx=4096), limits=limits or Limits(), started_mono=100.0)
        self.all: list[Effect] = []
        self.jobs: dict[str, Job] = {}
        self.tell(HiveJoined("home", "local", None, capabilities(*devices)))

    def tell(self, event: Event, *, after: float = 0.0) -> list[Effect]:
        self.now += after
        effects = list(self.colony.handle(event, now=self.now, utc=1e9 + self.now))
        self.all += effects
        return effects

    def submit(
        self, job_id: str, operation: Operation | None = None, **more: object
    ) -> list[Effect]:
        name = str(more.pop("model_name", "tiny"))
        op = operation or Infer(model=name, prompt="hi", **more)  # type: ignore[arg-type]
        job = Job(
            job_id=job_id, request=op, created_at=0.0, queued_mono=self.now, model=model(name)
        )
        self.jobs[job_id] = job
        return self.tell(JobSubmitted(job))

    def bring_up(self, worker_id: str, *, slots: int = 1) -> list[Effect]:
        spec = next(
            e.spec for e in self.all if isinstance(e, StartWorker) and e.spec.worker_id == worker_id
        )
        self.tell(
            HiveSaid(
                "home",
                HiveWorkerReady(
                    ready=WorkerReady(
                        worker_id=worker_id, url="http://127.0.0.1:9300", model=spec.model_id,
                        backend=spec.backend, device=spec.device, pid=1, protocol=1,
                    )
                ),
            ),
            after=0.5,
        )  # fmt: skip
        return self.beat(worker_id, WorkerState.IDLE, slots=slots)

    def beat(
        self, worker_id: str, state: WorkerState, *, slots: int = 1, **more: object
    ) -> list[Effect]:
        beat = Heartbeat(worker_id=worker_id, state=state, slots_total=slots, **more)  # type: ignore[arg-type]
        return self.tell(HiveSaid("home", HiveHeartbeat(beat=beat)), after=0.5)

    def stream(self, job_id: str) -> list[str]:
        return [str(e.type) for e in self.all if isinstance(e, Append) and e.job_id == job_id]


def started(job_id: str, attempt: int = 1) -> RunStarted:
    return RunStarted(job_id=job_id, attempt=attempt, tokens_out=1, ttft_ms=12.0)


def done(
    job_id: str, attempt: int = 1, *, tokens: int = 20, usage: Usage | None = None
) -> RunCompleted:
    used = usage or Usage(
        prompt_tokens=5, completion_tokens=tokens, cached_tokens=2, decode_ms=50.0 * tokens
    )
    return RunCompleted(
        job_id=job_id, attempt=attempt, tokens_out=tokens, finish_reason="stop",
        duration_ms=1200.0, usage=used,
    )  # fmt: skip


def broke(job_id: str, attempt: int = 1, *, tokens: int = 3) -> RunFailed:
    return failed(job_id, WorkerCrashed("broke"), attempt, tokens=tokens, loss=Loss.BROKEN)


def failed(
    job_id: str, error: RbeeError, attempt: int = 1, *, tokens: int = 0, loss: Loss | None = None
) -> RunFailed:
    return RunFailed(job_id=job_id, attempt=attempt, tokens_out=tokens, error=error, loss=loss)


def let_go(job_id: str, attempt: int = 1, *, tokens: int = 0, wasted: int = 0) -> RunCancelled:
    return RunCancelled(job_id=job_id, attempt=attempt, tokens_out=tokens, wasted=wasted)


def exited(worker_id: str, code: int = -9, *, expected: bool = False) -> HiveSaid:
    event = HiveWorkerExited(
        worker_id=worker_id, exit_code=code, expected=expected, log_tail=["boom"]
    )
    return HiveSaid("home", event)


def of(effects: list[Effect], kind: type) -> list[Effect]:
    return [e for e in effects if isinstance(e, kind)]
