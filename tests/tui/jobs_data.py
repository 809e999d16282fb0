"""Jobs of all kinds with their streams and decisions, for tests and pictures of the Jobs screen."""

from __future__ import annotations

import threading

from colony_data import NOW, tokens
from colony_double import ColonyDouble

from rbee.protocol.decisions import Decision, Option, Score, Why
from rbee.protocol.jobs import (
    EndData,
    ErrorData,
    JobInfo,
    JobState,
    MetricsData,
    QueuedData,
    StartedData,
    StatusData,
)

EARLIER = [
    JobInfo(
        job_id="j-116",
        operation="infer",
        state=JobState.FAILED,
        model="mistral-7b-q8",
        worker_id="w-04",
        client="cli",
        attempts=5,
        dead=True,
        error_code="WORKER_LOST",
        error_message="w-04 exited with signal 9",
        created_at=NOW - 90,
        finished_at=NOW - 80,
    ),
    JobInfo(
        job_id="j-115",
        operation="infer",
        state=JobState.CANCELLED,
        model="qwen2.5-32b-q4",
        worker_id="w-01",
        client="openai",
        tokens_out=44,
        ttft_ms=900.0,
        tokens_per_second=60.1,
        created_at=NOW - 120,
        started_at=NOW - 118.9,
        finished_at=NOW - 110,
    ),
    JobInfo(
        job_id="j-114",
        operation="embed",
        state=JobState.COMPLETED,
        model="bge-m3",
        worker_id="w-02",
        client="openai",
        created_at=NOW - 130,
        started_at=NOW - 129.9,
        finished_at=NOW - 129.5,
    ),
]
WAITS = "needs 19.8G, mule:0 has 2.7G free"
STARTED = StartedData(
    worker_id="w-03",
    hive="mule",
    model="llama-3.2-3b",
    device="cuda:1",
    quant="Q4_K_M",
    queued_ms=20,
)


def place(hive: str, device: str, why: str) -> Option:
    return Option(kind="start", hive=hive, device=device, passed=False, why=why)


def why_waiting() -> Why:
    """Of j-120."""
    options = [
        Option(
            kind="worker",
            worker_id="w-01",
            hive="mule",
            device="cuda:0",
            passed=True,
            why="a slot in about 3.1 s",
            score=Score(wait=3.1, prefill=0.4, decode=6.2, total=9.7, hit_tokens=128),
        ),
        Option(
            kind="start",
            hive="mule",
            device="cuda:1",
            passed=True,
            why="1 idle worker would have to go",
            score=Score(load=14.2, ext=2.5, prefill=0.4, decode=6.2, total=23.3),
            evicts=["w-02"],
        ),
        place("attic", "cuda:0", "attic cuda:0: needs 19.8 GiB, 0.6 GiB is free"),
        place("pi-hive", "cpu", "pi-hive does not have qwen2.5-32b-q4"),
    ]
    decision = Decision(
        job_id="j-120",
        at=NOW,
        policy="expected_time",
        model="qwen2.5-32b-q4",
        verdict="wait",
        chosen="w-01",
        reason="all 4 slots of w-01 are busy, and nothing is sooner",
        waited_ms=2000,
        options=options,
    )
    return Why(job_id="j-120", state="queued", decisions=[decision])


def why_given() -> Why:
    """Of j-118."""
    decision = Decision(
        job_id="j-118",
        at=NOW - 9,
        policy="expected_time",
        model="llama-3.2-3b",
        verdict="run",
        chosen="w-03",
        reason="it is the only worker with the model and has a free slot",
        waited_ms=20,
        options=[
            Option(
                kind="worker",
                worker_id="w-03",
                hive="mule",
                device="cuda:1",
                passed=True,
                score=Score(prefill=0.1, decode=1.2, total=1.3),
            )
        ],
    )
    return Why(job_id="j-118", state="running", decisions=[decision])


def furnish(double: ColonyDouble) -> None:
    """Give the double all of it."""
    double.older = list(EARLIER)
    double.why = {"j-118": why_given(), "j-120": why_waiting()}
    double.stories = {
        "j-117": [
            ("queued", QueuedData(position=1, eta_ms=300)),
            ("started", STARTED),
            *tokens("Bees dance to tell the others where the flowers are.\n\x1b[31mNot red.", 4),
            (
                "metrics",
                MetricsData(
                    tokens_per_second=84.0, ttft_ms=120.0, prompt_tokens=12, cached_tokens=0
                ),
            ),
            ("end", EndData(finish_reason="stop", tokens_out=212, duration_ms=19_980)),
        ],
        "j-118": [
            ("queued", QueuedData(position=1, eta_ms=300)),
            ("started", STARTED),
            *tokens("The waggle dance encodes two numbers: an angle and a duration.", 3),
            threading.Event(),
        ],
        "j-120": [
            ("queued", QueuedData(position=1, eta_ms=3100)),
            ("status", StatusData(stage="waiting", message=WAITS)),
            threading.Event(),
        ],
        "j-116": [
            ("queued", QueuedData(position=1)),
            (
                "error",
                ErrorData(code="WORKER_LOST", message="w-04 exited with signal 9", details={}),
            ),
        ],
    }
