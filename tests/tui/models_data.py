"""A library, transfers and a hub, for tests and pictures of the Models screen."""

from __future__ import annotations

from typing import Any

import colony_data as data
from colony_data import GIB, NOW
from colony_double import ColonyDouble
from msgspec.structs import replace

from rbee.protocol.colony import Snapshot
from rbee.protocol.hives import BackendStatus, ModelInfo
from rbee.protocol.jobs import ErrorData, JobInfo, JobState
from rbee.protocol.models import (
    CatalogueEntry,
    CatalogueFile,
    Choice,
    DownloadInfo,
    FoundModel,
    HeldModel,
    Spot,
    TransferState,
)

GB = 10**9
RUNS = BackendStatus(
    name="llamacpp", formats=["gguf"], capabilities=["text-gen"], devices=["cuda", "cpu"],
    max_slots=16,
)  # fmt: skip


def held(name: str, gigabytes: float, hives: list[str], **more: Any) -> HeldModel:
    """A model with its row of a catalogue."""
    size = int(gigabytes * GB)
    quant, kind = more.pop("quant", "Q4_K_M"), more.pop("kind", "text-gen")
    form, used = more.pop("form", "gguf"), more.pop("used", None)
    digest = "sha256:91ac" + "0f" * 30
    model = ModelInfo(
        id=name, ref=f"hf:{name}", path=f"/models/{name}.gguf", format=form, size=size,
        quant=quant, capabilities=[kind], digest=digest, **more,
    )  # fmt: skip
    entry = CatalogueEntry(
        id=name, provider="hf", ref=f"hf:{name}@6f2c", revision="6f2c9d1", path=model.path,
        size=size, format=form, template=True, digest=digest,
        files=[CatalogueFile(name=f"{name}.gguf", size=size, sha256="91ac" * 16)],
        downloaded_at=NOW - 9 * 86400, used_at=NOW - used if used else None,
    )  # fmt: skip
    return HeldModel(model=model, hives=hives, entry=entry)


QWEN = held(
    "qwen2.5-32b-q4", 19.8, ["mule"], architecture="qwen2", parameters=32_800_000_000,
    context=32768, used=40, weights_bytes=19 * GIB,
)  # fmt: skip
HELD = [
    QWEN,
    held("llama-3.2-3b", 6.4, ["mule", "laptop"], form="safetensors", quant=None, used=600),
    held("bge-m3", 1.2, ["mule"], quant="F16", kind="embedding", used=7200),
    held("smollm2-360m", 0.386, ["pi-hive"], quant="Q8_0", used=86400 * 3),
    held("mistral-7b-v0.3", 7.7, ["attic"], quant="Q8_0"),
]
SPOTS = [
    Spot(
        hive="mule", device="cuda:1", memory_total=24 * GIB, fits=True, here=True,
        words="needs 21.4 GiB with 4 slots, 14.9 GiB is free; w-05, idle, would be stopped for it",
    ),
    Spot(
        hive="attic", device="cuda:0", memory_total=8 * GIB, fits=False, here=False,
        words="qwen2.5-32b-q4 needs 21.4 GiB on attic cuda:0 (4 × 4096 tokens of context in f16),"
        " 0.6 GiB is free",
        action="Use a smaller quantisation: Q3_K_M would need about 15.9 GiB.",
    ),
    Spot(hive="laptop", fits=False, here=False, words="hive laptop is offline"),
]  # fmt: skip
COMING = DownloadInfo(
    download_id="d-1", ref="hf:org/whisper@1::w.gguf", model_id="org/whisper-large-v3:Q5_0",
    state=TransferState.RUNNING, bytes_done=1_953_000_000, bytes_total=3_100_000_000, rate=82e6,
    eta_seconds=14.0, hive="mule", jobs=["j-130"], message="",
)  # fmt: skip
FETCH = JobInfo(
    job_id="j-130", operation="model_download", state=JobState.RUNNING,
    model="hf:org/whisper-large-v3:Q5_0", hive=None, created_at=NOW - 24,
    waiting_for="downloading org/whisper-large-v3:Q5_0 to mule",
)  # fmt: skip
FOR_ANSWER = replace(
    COMING, ref="hf:org/phi@1::p.gguf", model_id="org/phi-4-mini:Q4_K_M", bytes_done=2 * GB,
    bytes_total=int(2.5 * GB), hive="attic", jobs=["j-120"], eta_seconds=61.0, rate=8e6,
)  # fmt: skip
FAILED = JobInfo(
    job_id="j-128", operation="model_copy", state=JobState.FAILED, model="mistral-7b-v0.3",
    hive="pi-hive", error_code="INSUFFICIENT_DISK", created_at=NOW - 90, finished_at=NOW - 80,
    error_message="mistral-7b-v0.3 needs 7.4 GiB on the disk of pi-hive, 2.1 GiB is free",
)  # fmt: skip
TROUBLE = ErrorData(
    code="INSUFFICIENT_DISK",
    message="mistral-7b-v0.3 needs 7.4 GiB on the disk of pi-hive, 2.1 GiB is free",
    details={"suggested_action": "Free 5.3 GiB on pi-hive (`rbee model delete`)."},
)


def choice(repo: str, quant: str, gigabytes: float, **more: Any) -> Choice:
    """Of a repository of the hub."""
    size = int(gigabytes * GB)
    return Choice(
        ref=f"hf:{repo}:{quant}", quant=quant, size=size, files=more.pop("files", 1),
        need_bytes=int(size * 1.2), **more,
    )  # fmt: skip


HUB = [
    FoundModel(
        repo="Qwen/Qwen3-8B-GGUF", task="text-generation", downloads=181_000, likes=120,
        gated=False, updated_at=None, format="gguf", parameters=8_190_000_000,
        choices=[
            choice("Qwen/Qwen3-8B-GGUF", "Q8_0", 8.7, fits=["mule cuda:0"]),
            choice("Qwen/Qwen3-8B-GGUF", "Q4_K_M", 5.0, fits=["mule cuda:0", "attic cuda:0"]),
            choice("Qwen/Qwen3-8B-GGUF", "F16", 16.4, files=3),
        ],
    ),
    FoundModel(
        repo="someone/qwen3-235b-\x1b[31mGGUF", task=None, downloads=900, likes=1, gated=True,
        updated_at=None, format="gguf", parameters=235_000_000_000,
        choices=[choice("someone/qwen3-235b", "Q4_K_M", 140, too_big=["mule cuda:0"])],
    ),
]  # fmt: skip


def snapshot() -> Snapshot:
    """A colony with a library, a download, one for a question, and a copy that failed."""
    base = data.full()
    hives = [
        replace(hive, backends=[RUNS], disk_free=412 * GB, disk_total=960 * GB)
        for hive in base.hives
    ]
    return replace(
        base,
        hives=hives,
        jobs=[*base.jobs, FETCH, FAILED],
        models=[one.model for one in HELD],
        downloads=[COMING, FOR_ANSWER],
    )


def furnish(double: ColonyDouble) -> None:
    """Give the double all of it."""
    double.held = list(HELD)
    double.spots = {"qwen2.5-32b-q4": SPOTS}
    double.hub = list(HUB)
    double.stories = {"j-128": [("error", TROUBLE)]}


def ended(job_id: str, state: JobState, **more: Any) -> JobInfo:
    """Something that was done with a model, five seconds ago."""
    more = {"operation": "model_verify", "model": "bge-m3", "hive": "mule"} | more
    return JobInfo(job_id=job_id, state=state, finished_at=NOW - 5, **more)
