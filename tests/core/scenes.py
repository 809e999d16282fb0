"""What a policy is shown, put together by hand: hives, workers in any state, jobs that wait."""

from __future__ import annotations

from typing import Any

import msgspec

from rbee.core.experience import Experience
from rbee.core.fleet import Fleet, HiveState, Worker
from rbee.core.jobs import Job
from rbee.core.limits import Limits
from rbee.core.policy import Policy, Refuse, Verdict, View
from rbee.core.queue import JobQueue
from rbee.core.scheduling import Ect
from rbee.core.setbacks import Setbacks
from rbee.protocol.hives import Device, ModelInfo
from rbee.protocol.operations import Infer, ModelWork
from rbee.protocol.workers import Usage, WorkerSpec, WorkerState
from tests.core.builders import GIB, capabilities, device, model

ECT = Ect(ctx=4096)


class Scene:
    """State, and the few steps that change it the way the brain does."""

    def __init__(self, limits: Limits | None = None, **hives: list[Device]) -> None:
        self.now = 1000.0
        self.fleet, self.queue = Fleet(), JobQueue()
        self.experience, self.setbacks = Experience(), Setbacks()
        self.limits = limits or Limits()
        self.jobs: dict[str, Job] = {}
        for name, devices in (hives or {"home": [device()]}).items():
            self.hive(name, *devices)

    def hive(self, name: str, *devices: Device, most: int = 8) -> HiveState:
        told = capabilities(*devices)
        backend = msgspec.structs.replace(told.backends[0], max_slots=most)
        told = msgspec.structs.replace(told, backends=[backend])
        state = HiveState(
            name=name, kind="http", url=None, capabilities=told, devices=list(told.devices)
        )
        self.fleet.join(state)
        return state

    def view(self) -> View:
        return View(
            now=self.now, utc=1e9 + self.now, fleet=self.fleet, queue=self.queue,
            experience=self.experience, setbacks=self.setbacks, limits=self.limits,
        )  # fmt: skip

    def worker(
        self,
        worker_id: str,
        name: str = "tiny",
        *,
        hive: str = "home",
        on: str = "cpu",
        slots: int = 1,
        gib: float = 1.0,
        up: bool = True,
        busy: int = 0,
        since: float = 0.0,
        **more: Any,
    ) -> Worker:
        known = model(name, gib=gib)
        spec = WorkerSpec(
            worker_id=worker_id, model_id=name, model_path=known.path, format="gguf",
            backend="llamacpp", device=on, slots=slots, ctx=4096,
        )  # fmt: skip
        worker = Worker(
            spec=spec, hive=hive, model=known, started_at=0.0, started_mono=since,
            need_bytes=int(gib * GIB), url="http://127.0.0.1:1", idle_since=since, ctx=4096,
        )  # fmt: skip
        worker.rss_bytes = int(gib * GIB) if up else 0
        for key, value in more.items():
            setattr(worker, key, value)
        if up:
            worker.life.to(WorkerState.IDLE)
            worker.slots_total, worker.ready_mono = slots, since
        self.fleet.add(worker)
        for n in range(busy):
            self.give(self.make(f"{worker_id}-{n}", name), worker)
        return worker

    def make(
        self, job_id: str, name: str = "tiny", *, gib: float = 1.0, client: str = "", **more: Any
    ) -> Job:
        request: ModelWork = more.pop("request", None) or Infer(
            model=name, prompt=more.pop("prompt", "hi"), **more
        )
        job = Job(
            job_id=job_id, request=request, created_at=0.0, queued_mono=self.now,
            model=model(name, gib=gib), client=client,
        )  # fmt: skip
        self.jobs[job_id] = job
        self.experience.submitted(job, self.now)
        return job

    def wait(self, job_id: str, name: str = "tiny", **more: Any) -> Job:
        job = self.make(job_id, name, **more)
        self.queue.push(job)
        return job

    def give(self, job: Job, worker: Worker) -> None:
        if job in self.queue:
            self.queue.remove(job)
        self.experience.dispatched(job, worker, self.now)
        worker.jobs.add(job.job_id)
        worker.life.to(WorkerState.BUSY)
        self.fleet.touch(worker)

    def end(self, job: Job, worker: Worker, usage: Usage | None = None) -> None:
        concurrency = len(worker.jobs)
        worker.jobs.discard(job.job_id)
        if not worker.jobs:
            worker.idle_since = self.now
            worker.life.to(WorkerState.IDLE)
        if usage is not None:
            job.tokens_out = usage.completion_tokens
            self.experience.completed(job, worker, usage, concurrency, self.now)
        self.fleet.touch(worker)

    def measured(self, worker: Worker, *, decode: float, prefill: float = 1000.0) -> None:
        self.experience.attach(worker).measured(1, decode=decode, prefill=prefill)
        self.fleet.touch(worker)

    def used(self, name: str, times: int = 200) -> None:
        """A model that is asked for all the time."""
        for _ in range(times):
            self.experience.heat.arrived(name, self.now)


def with_capabilities(known: ModelInfo, *names: str) -> ModelInfo:
    return msgspec.structs.replace(known, capabilities=list(names))


def route(scene: Scene, job: Job, policy: Policy = ECT) -> Verdict:
    return policy.route(job, scene.view())


def refused(verdict: Verdict) -> tuple[str, str]:
    """Code and message."""
    assert isinstance(verdict, Refuse), verdict
    return verdict.error.code, verdict.error.message
