"""Users, hives and workers that do anything in any order, and the brain in the middle of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import hypothesis.strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    multiple,
    precondition,
    rule,
)

from rbee.core.colony import Colony
from rbee.core.effects import Effect
from rbee.core.events import (
    Event,
    Fetched,
    FetchFailed,
    FetchProgress,
    HiveJoined,
    HiveLeft,
    HiveSaid,
    JobCancelAsked,
    JobSubmitted,
    Loss,
    PerformCancelled,
    Performed,
    PerformFailed,
    PerformProgress,
    SpawnRefused,
    Tick,
)
from rbee.core.jobs import Job
from rbee.core.limits import Limits
from rbee.core.scheduling import Ect
from rbee.errors import (
    AllSlotsBusy,
    DownloadFailed,
    HiveOffline,
    InferenceTimeout,
    ModelCorrupted,
    ValidationFailed,
    WorkerCrashed,
)
from rbee.protocol.hives import (
    HiveHeartbeat,
    HiveModels,
    HiveTelemetry,
    HiveWorkerExited,
    HiveWorkerReady,
)
from rbee.protocol.operations import (
    Embed,
    Infer,
    ModelCopy,
    ModelDelete,
    ModelDownload,
    ModelPreload,
    ModelUnload,
    ModelWork,
    Operation,
    Priority,
    WorkerDrain,
    WorkerSpawn,
    WorkerStop,
)
from rbee.protocol.workers import Heartbeat, WorkerReady, WorkerSpec, WorkerState
from tests.core.builders import capabilities, device, done, failed, let_go, model, started

SLOTS = 2
HIVES = ("home", "attic")
MODELS = ("tiny", "large", "vast")
SIZES = {"tiny": 1.0, "large": 6.0, "vast": 9.0}
TASKS = (
    ModelDownload(model="tiny"), ModelDelete(model="tiny"), ModelCopy(model="tiny", to_hive="home"),
)  # fmt: skip


@dataclass
class Process:
    """A worker as the world has it, whatever the brain thinks."""

    spec: WorkerSpec
    hive: str
    loaded: bool = False
    runs: set[tuple[str, int]] = field(default_factory=set[tuple[str, int]])


class World(RuleBasedStateMachine):
    """Plays users, hives and workers; what it is told is carried out in `check`."""

    jobs = Bundle("jobs")

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.colony = Colony(
            policy=Ect(ctx=4096, slots=SLOTS), limits=Limits(), started_mono=self.now
        )
        self.known: dict[str, Job] = {}
        self.ends: dict[str, int] = {}
        self.attempts: dict[str, int] = {}
        self.processes: dict[str, Process] = {}
        self.up: set[str] = set()
        self.fetches: dict[str, str] = {}
        """Job → hive, of those that are under way."""
        self.tasks: dict[str, bool] = {}
        """Operations under way, each with whether it is to be broken off."""

    # ---- the world -----------------------------------------------------------------------------

    def tell(self, event: Event, *, after: float = 0.0) -> None:
        self.now += after
        for effect in self.colony.handle(event, now=self.now, utc=1e9 + self.now):
            self.check(effect)

    def check(self, effect: Effect) -> None:
        """Carry it out, or find that it must not be."""
        raise NotImplementedError

    def choose(self, data: st.DataObject, of: list[str]) -> str:
        return data.draw(st.sampled_from(sorted(of)))

    @initialize()
    def begin(self) -> None:
        self.join("home")

    def join(self, name: str) -> None:
        self.up.add(name)
        devices = (device("cuda:0", free_gib=10.0), device("cpu", free_gib=12.0))
        caps = capabilities(*devices)
        self.tell(HiveJoined(name, "http", f"http://{name}", caps))

    # ---- users ---------------------------------------------------------------------------------

    @rule(
        target=jobs,
        name=st.sampled_from(MODELS),
        client=st.sampled_from("xyz"),
        priority=st.sampled_from(list(Priority)),
        more=st.fixed_dictionaries(
            {},
            optional={
                "wait": st.just(False),
                "deadline_ms": st.sampled_from([500, 60_000]),
                "device": st.sampled_from(["cpu", "cuda"]),
                "hive": st.sampled_from([*HIVES, "nowhere"]),
                "max_tokens": st.sampled_from([1, 50]),
            },
        ),
        texts=st.booleans(),
        durable=st.booleans(),
        fetch_on=st.sampled_from([None, None, *HIVES]),
    )
    def submit(
        self, name: str, client: str, priority: Priority, more: dict[str, object], texts: bool,
        durable: bool, fetch_on: str | None,
    ) -> str:  # fmt: skip
        operation: ModelWork = (
            Embed(model=name, input="x", priority=priority)
            if texts
            else Infer(model=name, prompt="x" * 3000, priority=priority, **more)  # type: ignore[arg-type]
        )
        job_id = f"j{len(self.known)}"
        job = Job(
            job_id=job_id, request=operation, created_at=0.0, queued_mono=self.now, client=client,
            model=model(name, gib=SIZES[name]), durable=durable, fetch_on=fetch_on,
        )  # fmt: skip
        self.known[job_id] = job
        self.tell(JobSubmitted(job))
        return job_id

    @rule(
        target=jobs,
        data=st.data(),
        what=st.sampled_from(["spawn", "preload", "unload", "task", "stop", "drain"]),
    )
    def operate(self, data: st.DataObject, what: str) -> object:
        operation: Operation
        fetch_on = None
        if what in ("spawn", "preload", "unload"):
            name = data.draw(st.sampled_from(MODELS))
            operation = {
                "spawn": WorkerSpawn(model=name, pin=data.draw(st.booleans())),
                "preload": ModelPreload(model=name),
                "unload": ModelUnload(model=name),
            }[what]
            if what != "unload":
                fetch_on = data.draw(st.sampled_from([None, None, *HIVES]))
        elif what == "task":
            operation = data.draw(st.sampled_from(TASKS))
        elif not self.processes:
            return multiple()
        else:
            kind = WorkerStop if what == "stop" else WorkerDrain
            operation = kind(worker_id=self.choose(data, list(self.processes)))
        job_id = f"j{len(self.known)}"
        job = Job(
            job_id=job_id, request=operation, created_at=0.0, queued_mono=self.now,
            model=model(operation.model, gib=SIZES[operation.model])
            if isinstance(operation, WorkerSpawn | ModelPreload | ModelUnload) else None,
            fetch_on=fetch_on,
        )  # fmt: skip
        self.known[job_id] = job
        self.tell(JobSubmitted(job))
        return job_id

    @rule(job_id=jobs)
    def cancel(self, job_id: str) -> None:
        self.tell(JobCancelAsked(job_id, "enough"))

    @precondition(lambda self: self.fetches)
    @rule(data=st.data(), how=st.sampled_from(["more", "good", "good", "bad"]))
    def fetch(self, data: st.DataObject, how: str) -> None:
        job_id = self.choose(data, list(self.fetches))
        if how == "more":
            self.tell(FetchProgress(job_id, "some of it", 0.5))
            return
        hive, known = self.fetches.pop(job_id), self.known[job_id].model
        assert known is not None
        if how == "good":
            self.tell(Fetched(job_id, hive, known))
        else:
            self.tell(FetchFailed(job_id, DownloadFailed("the hub is gone")))

    @precondition(lambda self: self.tasks)
    @rule(data=st.data(), how=st.sampled_from(["more", "good", "bad", "broken off", "silent"]))
    def perform(self, data: st.DataObject, how: str) -> None:
        job_id = self.choose(data, list(self.tasks))
        if how == "more":
            self.tell(PerformProgress(job_id, "copying", "some of it", 0.5))
            return
        del self.tasks[job_id]
        if how == "good":
            self.tell(Performed(job_id, {"hive": "home"}))
        elif how == "bad":
            self.tell(PerformFailed(job_id, HiveOffline("home is gone")))
        elif how == "broken off":
            self.tell(PerformCancelled(job_id))
        else:  # a hive that says nothing any more, to what is then cancelled
            self.tell(JobCancelAsked(job_id, "silence"))

    @rule(name=st.sampled_from(HIVES), names=st.sets(st.sampled_from(MODELS)))
    def hold(self, name: str, names: set[str]) -> None:
        """Other models are on the hive's disk than before."""
        if name in self.up:
            self.on_disk(name, sorted(names))

    def on_disk(self, name: str, names: Sequence[str]) -> None:
        models = [model(n, gib=SIZES[n]) for n in names]
        self.tell(HiveSaid(name, HiveModels(models=models, disk_free=0)))

    # ---- workers and hives ---------------------------------------------------------------------

    @precondition(lambda self: any(not p.loaded for p in self.processes.values()))
    @rule(data=st.data(), how=st.sampled_from(["good", "good", "good", "bad", "refused", "dies"]))
    def load(self, data: st.DataObject, how: str) -> None:
        name = self.choose(data, [w for w, p in self.processes.items() if not p.loaded])
        process = self.processes[name]
        if how == "good":
            self.bring_up(name)
        elif how == "bad":
            error = ModelCorrupted("bad magic").body()["error"]
            self.beat(name, WorkerState.FAILED, error=error)
        elif how == "refused":
            del self.processes[name]
            error = HiveOffline(f"{process.hive} is not connected")
            self.tell(SpawnRefused(process.hive, name, error))
        else:
            self.end(name, 1)

    def bring_up(self, name: str) -> None:
        process = self.processes[name]
        process.loaded = True
        spec = process.spec
        ready = WorkerReady(
            worker_id=name, url="http://x", model=spec.model_id, backend=spec.backend,
            device=spec.device, pid=1, protocol=1,
        )  # fmt: skip
        self.tell(HiveSaid(process.hive, HiveWorkerReady(ready=ready)))
        self.beat(name, WorkerState.IDLE)

    def beat(self, name: str, state: WorkerState, **more: object) -> None:
        process = self.processes[name]
        beat = Heartbeat(worker_id=name, state=state, slots_total=process.spec.slots, **more)  # type: ignore[arg-type]
        self.tell(HiveSaid(process.hive, HiveHeartbeat(beat=beat)))

    def end(self, name: str, code: int) -> None:
        process = self.processes.pop(name)
        gone = HiveWorkerExited(worker_id=name, exit_code=code, expected=False, log_tail=[])
        self.tell(HiveSaid(process.hive, gone))

    @precondition(lambda self: self.processes)
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        self.end(self.choose(data, list(self.processes)), -9)

    @precondition(lambda self: any(p.loaded for p in self.processes.values()))
    @rule(data=st.data())
    def live(self, data: st.DataObject) -> None:
        name = self.choose(data, [w for w, p in self.processes.items() if p.loaded])
        self.beat(name, WorkerState.IDLE)

    @rule(name=st.sampled_from(HIVES))
    def hive(self, name: str) -> None:
        if name not in self.up:
            self.join(name)
            return
        self.up.discard(name)
        self.processes = {w: p for w, p in self.processes.items() if p.hive != name}
        self.tell(HiveLeft(name, "silent"))

    # ---- runs ----------------------------------------------------------------------------------

    def open_runs(self) -> list[tuple[str, int]]:
        return sorted(run for p in self.processes.values() for run in p.runs)

    @precondition(lambda self: self.open_runs())
    @rule(
        data=st.data(),
        how=st.sampled_from(
            ["first", "done", "done", "done", "broke", "busy", "stalled", "refused", "let go"]
        ),
        tokens=st.integers(0, 40),
    )
    def run(self, data: st.DataObject, how: str, tokens: int) -> None:
        job_id, attempt = data.draw(st.sampled_from(self.open_runs()))
        event: Event
        if how == "first":
            self.tell(started(job_id, attempt))
            return
        if how == "done":
            event = done(job_id, attempt, tokens=max(tokens, self.known[job_id].tokens_out))
        elif how == "let go":
            event = let_go(job_id, attempt, tokens=self.known[job_id].tokens_out, wasted=tokens)
        else:
            error, loss = {
                "broke": (WorkerCrashed("broke"), Loss.BROKEN),
                "busy": (AllSlotsBusy("full"), Loss.BUSY),
                "stalled": (InferenceTimeout("still"), Loss.STALLED),
                "refused": (ValidationFailed("bad"), None),
            }[how]
            event = failed(job_id, error, attempt, tokens=tokens, loss=loss)
        for process in self.processes.values():
            process.runs.discard((job_id, attempt))
        self.tell(event)

    @rule(seconds=st.sampled_from([0.2, 1.0, 1.0, 5.0, 31.0, 301.0]), more=st.integers(0, 5))
    def tick(self, seconds: float, more: int) -> None:
        counts = {
            job_id: self.known[job_id].tokens_out + more
            for job_id, attempt in self.open_runs()
            if self.known[job_id].attempt == attempt
        }
        self.tell(Tick(counts), after=seconds)

    @rule(name=st.sampled_from(HIVES), free=st.sampled_from([0.5, 4.0, 10.0]))
    def measure(self, name: str, free: float) -> None:
        if name in self.up:
            devices = [device("cuda:0", free_gib=free), device("cpu", free_gib=12.0)]
            self.tell(HiveSaid(name, HiveTelemetry(devices=devices, workers=[])))
