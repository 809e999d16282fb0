"""A colony of four machines at one fixed moment, for tests and pictures."""

from __future__ import annotations

from typing import Any

from rbee.protocol.base import Wire
from rbee.protocol.colony import Narration, Snapshot, Telemetry, Totals
from rbee.protocol.hives import Device, HiveInfo, ModelInfo
from rbee.protocol.jobs import (
    EndData,
    JobInfo,
    JobState,
    MetricsData,
    QueuedData,
    StartedData,
    StatusData,
    TokenData,
)
from rbee.protocol.workers import WorkerInfo, WorkerState

NOW = 1_700_000_000.0 + 49_880
GIB = 1 << 30
WAVE = (20, 35, 55, 85, 75, 55, 35, 20, 5, 20, 35, 60, 85, 98, 88, 62, 40)


def device(
    name: str, label: str, used: float, total: float, use: float | None, **more: Any
) -> Device:
    """Sizes in GiB."""
    return Device(
        name=name,
        kind=name.partition(":")[0],
        label=label,
        memory_total=int(total * GIB),
        memory_used=int(used * GIB),
        memory_free=int((total - used) * GIB),
        utilisation=use,
        **more,
    )


DEVICES: dict[str, list[Device]] = {
    "mule": [
        device("cuda:0", "RTX 3090", 21.3, 24, 95, temperature_c=71, power_w=338),
        device("cuda:1", "RTX 3090", 9.1, 24, 42, temperature_c=54, power_w=141),
    ],
    "attic": [device("cuda:0", "RTX 4060", 7.4, 8, 78, temperature_c=66, power_w=102)],
    "pi-hive": [device("cpu", "8 cores", 3.2, 8, 31, cores=8)],
    "laptop": [device("cpu", "12 cores", 0, 16, None, cores=12)],
}


def hive(name: str, *, online: bool = True) -> HiveInfo:
    """A hive with its devices."""
    return HiveInfo(
        name=name,
        kind="local",
        url=None,
        online=online,
        version="0",
        hostname=name,
        devices=DEVICES[name],
        absent_devices=[],
        backends=[],
        absent_backends=[],
        last_seen_at=NOW,
    )


def worker(
    worker_id: str, place: str, model: str, state: WorkerState, slots: str = "0/1", **more: Any
) -> WorkerInfo:
    """`place` is `hive device`, `slots` is `busy/total`."""
    busy, _, total = slots.partition("/")
    where, _, dev = place.partition(" ")
    return WorkerInfo(
        worker_id=worker_id,
        hive=where,
        device=dev,
        model=model,
        backend=more.pop("backend", "llamacpp"),
        state=state,
        slots_busy=int(busy),
        slots_total=int(total),
        ctx=8192,
        log_path=f"/home/bee/.local/state/rbee/logs/{worker_id}.log",
        **more,
    )


WORKERS = [
    worker(
        "w-01",
        "mule cuda:0",
        "qwen2.5-32b-q4",
        WorkerState.BUSY,
        "2/4",
        tokens_per_second=61.2,
        started_at=NOW - 3720,
        memory_bytes=19 * GIB,
        rss_bytes=2 * GIB,
        pid=48211,
        url="http://127.0.0.1:9300",
        quant="Q4_K_M",
    ),
    worker("w-02", "mule cuda:0", "bge-m3", WorkerState.IDLE, "0/8", started_at=NOW - 3720),
    worker(
        "w-03",
        "mule cuda:1",
        "llama-3.2-3b",
        WorkerState.BUSY,
        "7/16",
        tokens_per_second=81.7,
        started_at=NOW - 2640,
    ),
    worker(
        "w-04",
        "attic cuda:0",
        "mistral-7b-q8",
        WorkerState.FAILED,
        "0/0",
        error="the process was killed: out of memory",
    ),
    worker(
        "w-05",
        "mule cuda:1",
        "phi-4-mini",
        WorkerState.LOADING,
        "0/0",
        progress=0.63,
        started_at=NOW - 4,
    ),
    worker("w-06", "pi-hive cpu", "smollm2-360m", WorkerState.IDLE, "0/1", started_at=NOW - 720),
]

JOBS = [
    JobInfo(
        job_id="j-118",
        operation="infer",
        state=JobState.RUNNING,
        model="llama-3.2-3b",
        worker_id="w-03",
        hive="mule",
        tokens_out=96,
        tokens_per_second=81.7,
        created_at=NOW - 9,
    ),
    JobInfo(
        job_id="j-119",
        operation="infer",
        state=JobState.RUNNING,
        model="qwen2.5-32b-q4",
        worker_id="w-01",
        hive="mule",
        created_at=NOW - 3,
    ),
    JobInfo(
        job_id="j-120",
        operation="infer",
        state=JobState.QUEUED,
        model="qwen2.5-32b-q4",
        queue_position=1,
        waiting_for="needs 19.8G, mule:0 has 2.7G free",
        created_at=NOW - 2,
    ),
    JobInfo(
        job_id="j-117",
        operation="infer",
        state=JobState.COMPLETED,
        model="llama-3.2-3b",
        worker_id="w-03",
        tokens_out=212,
        tokens_per_second=84.0,
        created_at=NOW - 60,
        finished_at=NOW - 40,
    ),
]


def model(name: str, size: float, **more: Any) -> ModelInfo:
    """`size` in GiB."""
    return ModelInfo(
        id=name,
        ref=f"file:/models/{name}.gguf",
        path=f"/models/{name}.gguf",
        format="gguf",
        size=int(size * GIB),
        **more,
    )


MODELS = [
    model("echo", 0.0, hidden=True),
    model("llama-3.2-3b", 2.0, quant="Q4_K_M", context=131072),
    model("qwen2.5-32b-q4", 19.8, quant="Q4_K_M", context=32768),
    model("smollm2-135m", 0.1, quant="Q4_1", context=8192),
]

NARRATION = [
    Narration(
        at=NOW - 9,
        source="queen",
        message="starting w-05 for phi-4-mini on mule cuda:1: least loaded, 14.9G free",
    ),
    Narration(at=NOW - 9, source="mule", message="w-05 listens on :9311, loading phi-4-mini"),
    Narration(at=NOW - 4, source="mule", message="w-03 ready in 4.8 s"),
    Narration(at=NOW - 4, source="queen", message="job j-118 → w-03"),
    Narration(
        at=NOW,
        source="attic",
        message="w-04 exited with signal 9 (out of memory)",
        level="error",
    ),
]

TOTALS = Totals(
    hives_online=3,
    hives_total=4,
    workers=5,
    jobs_running=2,
    jobs_queued=1,
    tokens_per_second=143.0,
    uptime_seconds=8040,
)


def full() -> Snapshot:
    """Everything at once."""
    return Snapshot(
        hives=[hive("mule"), hive("pi-hive"), hive("attic"), hive("laptop", online=False)],
        workers=WORKERS,
        jobs=JOBS,
        models=MODELS,
        narration=NARRATION,
        totals=TOTALS,
    )


def quiet() -> Snapshot:
    """One machine, no worker."""
    return Snapshot(
        hives=[hive("pi-hive")],
        workers=[],
        jobs=[],
        models=MODELS,
        narration=[
            Narration(at=NOW, source="pi-hive", message="hive is up: cpu 8 cores, 1 backend")
        ],
        totals=Totals(
            hives_online=1,
            hives_total=1,
            workers=0,
            jobs_running=0,
            jobs_queued=0,
            tokens_per_second=0.0,
            uptime_seconds=12,
        ),
    )


def lonely() -> Snapshot:
    """No hive at all."""
    return Snapshot(
        hives=[],
        workers=[],
        jobs=[],
        models=MODELS,
        narration=[],
        totals=Totals(
            hives_online=0,
            hives_total=0,
            workers=0,
            jobs_running=0,
            jobs_queued=0,
            tokens_per_second=0.0,
            uptime_seconds=3,
        ),
    )


def telemetry(samples: int = 60) -> list[tuple[str, Wire]]:
    """A minute of device use; the last sample is the one in DEVICES."""
    out: list[tuple[str, Wire]] = []
    for at in range(samples):
        for shift, (name, devices) in enumerate(DEVICES.items()):
            if name == "laptop":
                continue
            last = at == samples - 1
            moved = [
                each
                if last
                else device(
                    each.name,
                    each.label,
                    each.memory_used / GIB,
                    each.memory_total / GIB,
                    WAVE[(at + 5 * shift + 3 * place) % len(WAVE)],
                )
                for place, each in enumerate(devices)
            ]
            out.append(("telemetry", Telemetry(hive=name, devices=moved)))
    return out


ANSWER = """The waggle dance encodes two numbers:

| what the dancer does | what it means |
|---|---|
| angle to the vertical | direction relative to the sun |
| duration of the run | distance |

```python
def distance_m(seconds: float) -> float:
    return seconds * 1000
```
"""


def waiting() -> list[tuple[str, Wire]]:
    """The events before the first token."""
    return [
        ("queued", QueuedData(position=2)),
        ("status", StatusData(stage="loading", message="loading llama-3.2-3b", progress=0.4)),
    ]


def started() -> tuple[str, Wire]:
    """A worker has the job."""
    return (
        "started",
        StartedData(
            worker_id="w-03",
            hive="mule",
            model="llama-3.2-3b",
            device="cuda:1",
            quant="Q4_K_M",
            queued_ms=0,
        ),
    )


def tokens(text: str = ANSWER, size: int = 3) -> list[tuple[str, Wire]]:
    """The answer in pieces."""
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    return [("token", TokenData(t=piece, i=index)) for index, piece in enumerate(pieces)]


def ended(count: int) -> list[tuple[str, Wire]]:
    """Figures and the end."""
    return [
        (
            "metrics",
            MetricsData(tokens_per_second=81.7, ttft_ms=140.0, prompt_tokens=12, cached_tokens=0),
        ),
        ("end", EndData(finish_reason="stop", tokens_out=count, duration_ms=1300)),
    ]
