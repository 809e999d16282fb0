"""How long one decision takes by the number of workers (P8), in this process, without any I/O.

The colony is filled through its own events: hives join with their workers, jobs come and end, so
that whatever the core keeps to find a worker quickly is as it would be.
"""

from __future__ import annotations

import random
import time

import anyio.to_thread

from bench.fake_hive import CTX, capabilities
from bench.figures import percentile
from bench.queen.book import QUEEN
from bench.queen.context import Context
from rbee.protocol.hives import HiveWorker, ModelInfo
from rbee.protocol.operations import Infer
from rbee.protocol.workers import Heartbeat, Usage, WorkerReady, WorkerSpec, WorkerState

PER_HIVE = 100
MODELS, SLOTS = 20, 8
FILLED = 0.7
"""Share of the slots that are busy while decisions are timed, as far as JOBS_MOST allows."""
JOBS_MOST = 2000
DECISIONS = 500
ROUNDS = 3
"""At most: filling a large colony takes much longer than what is timed in it."""
GIB = 1 << 30


async def decision(context: Context) -> None:
    """p95 of the policy's verdict, and of all that follows a submission."""
    for _ in range(min(context.rounds, ROUNDS)):
        for count in context.size.fleets:
            found = await anyio.to_thread.run_sync(timed, count)
            context.book.add("decision", QUEEN, {
                f"p95_{count}": percentile(found[0], 0.95) * 1000,
                f"whole_{count}": percentile(found[1], 0.95) * 1000,
            })  # fmt: skip


def timed(count: int, decisions: int = DECISIONS) -> tuple[list[float], list[float]]:
    """Seconds of each verdict, and of handling each submission, among so many workers."""
    from rbee.core.colony import Colony
    from rbee.core.events import HiveJoined, JobSubmitted, RunCompleted
    from rbee.core.jobs import Job
    from rbee.core.states import JOB_ACTIVE
    from rbee.daemons.queen.deciding import decide_by
    from rbee.settings import Settings

    policy, limits = decide_by(Settings())
    colony = Colony(policy=policy, limits=limits)
    draw = random.Random(count)
    models = [model(number) for number in range(MODELS)]
    hives = max(1, count // PER_HIVE)
    for number in range(hives):
        name = f"hive-{number:04d}"
        there = [worker(name, n, models[draw.randrange(MODELS)]) for n in range(count // hives)]
        joined = HiveJoined(name, "http", "http://127.0.0.1:1", capabilities(name, SLOTS), there)
        colony.handle(joined, now=0.0, utc=0.0)
    now, running = 1.0, list[Job]()
    wanted = min(JOBS_MOST, round(count * SLOTS * FILLED))
    verdicts: list[float] = []
    wholes: list[float] = []
    for number in range(wanted + decisions):
        now += 0.001
        job = Job(
            job_id=f"j-{number}", request=Infer(model="m", prompt=words(draw), max_tokens=64),
            created_at=now, queued_mono=now, model=models[draw.randrange(MODELS)],
            client=f"c-{draw.randrange(16)}",
        )  # fmt: skip
        began = time.perf_counter()
        policy.route(job, colony.view(now=now))
        between = time.perf_counter()
        colony.handle(JobSubmitted(job), now=now, utc=now)
        ended = time.perf_counter()
        running.append(job)
        if number >= wanted:
            verdicts.append(between - began)
            wholes.append(ended - between)
            done = running.pop(draw.randrange(len(running)))
            if done.state in JOB_ACTIVE:
                usage = Usage(prompt_tokens=40, completion_tokens=64)
                over = RunCompleted(
                    job_id=done.job_id, attempt=done.attempt, tokens_out=64, finish_reason="length",
                    duration_ms=900.0, usage=usage,
                )  # fmt: skip
                colony.handle(over, now=now, utc=now)
    return verdicts, wholes


def model(number: int) -> ModelInfo:
    """One of those that the workers have."""
    name = f"model-{number}"
    return ModelInfo(id=name, ref=name, path=f"/{name}", format="fake", size=GIB, context=CTX,
                     weights_bytes=GIB, capabilities=["text-gen"])  # fmt: skip


def worker(hive: str, number: int, info: ModelInfo) -> HiveWorker:
    """One that is ready."""
    worker_id = f"{hive}-w{number:03d}"
    return HiveWorker(
        spec=WorkerSpec(worker_id=worker_id, model_id=info.id, model_path=info.path, format="fake",
                        backend="fake", device="cpu", slots=SLOTS, ctx=CTX),
        pid=1,
        log_path="",
        started_at=0.0,
        ready=WorkerReady(worker_id=worker_id, url="http://127.0.0.1:1", model=info.id,
                          backend="fake", device="cpu", pid=1, protocol=1),
        beat=Heartbeat(worker_id=worker_id, state=WorkerState.IDLE, slots_total=SLOTS, ctx=CTX,
                       memory_bytes=GIB),
    )  # fmt: skip


def words(draw: random.Random) -> str:
    """A prompt: one of some beginnings, and words of its own."""
    return f"You are helper {draw.randrange(50)}. " * 10 + f"Say {draw.random()}."
