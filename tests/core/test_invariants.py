"""Any order of events keeps what the brain promises: one end a job, none lost, no slot twice."""

from __future__ import annotations

from hypothesis import settings
from hypothesis.stateful import invariant

from rbee.core.effects import (
    AbortFetch,
    AbortPerform,
    AbortRun,
    Append,
    Dispatch,
    Effect,
    FetchModel,
    Perform,
    StartWorker,
    StopWorker,
)
from rbee.core.events import Fetched, HiveSaid, Performed, Tick
from rbee.core.states import JOB_ACTIVE, JOB_TERMINAL, WORKER_READY
from rbee.protocol.hives import HiveTelemetry
from rbee.protocol.jobs import TERMINAL_EVENTS, JobState
from rbee.protocol.operations import ModelWork
from rbee.protocol.workers import WorkerState
from tests.core.any_order import HIVES, MODELS, SIZES, Process, World
from tests.core.builders import device, done, let_go


class Brain(World):
    """Checks each effect, and the whole after each step."""

    def check(self, effect: Effect) -> None:
        match effect:
            case Append(job_id, kind):
                assert not self.ends.get(job_id), f"{kind} after the end of {job_id}"
                self.ends[job_id] = self.ends.get(job_id, 0) + (kind in TERMINAL_EVENTS)
            case Dispatch(job, attempt, hive, worker_id):
                assert self.attempts.get(job.job_id, 0) < attempt
                self.attempts[job.job_id] = attempt
                assert hive in self.up
                process = self.processes[worker_id]
                assert process.loaded
                assert process.hive == hive
                process.runs.add((job.job_id, attempt))
            case StartWorker(hive, spec):
                assert spec.worker_id not in self.processes
                assert hive in self.up
                self.processes[spec.worker_id] = Process(spec, hive)
            case StopWorker(_, worker_id) if worker_id in self.processes:
                worker = self.colony.fleet.workers.get(worker_id)
                assert worker is None or worker.state is WorkerState.STOPPING
            case FetchModel(job_id, hive, job):
                assert job.state is JobState.QUEUED
                assert job_id not in self.fetches
                self.fetches[job_id] = hive
            case AbortFetch(job_id):
                del self.fetches[job_id]
            case Perform(job_id, job):
                assert job.state is JobState.RUNNING
                assert job_id not in self.tasks
                self.tasks[job_id] = False
            case AbortPerform(job_id):
                assert self.tasks.get(job_id) is not True
                if job_id in self.tasks:
                    self.tasks[job_id] = True
            case AbortRun(job_id, attempt):
                assert attempt <= self.attempts.get(job_id, 0)
            case _:
                pass

    @invariant()
    def one_end_each(self) -> None:
        for job_id, job in self.known.items():
            ended = job.state in JOB_TERMINAL
            assert self.ends.get(job_id, 0) == ended, f"{job_id} {job.life.story}"
            assert (job_id in self.colony.jobs) != ended
            assert ended == (job.finished_at is not None)

    @invariant()
    def whoever_waits_is_in_line(self) -> None:
        queue = {job.job_id for job in self.colony.queue}
        assert not queue & set(self.colony.later)
        for job in self.colony.jobs.values():
            if isinstance(job.request, ModelWork):
                assert not (job.job_id in queue and job.job_id in self.colony.fetching)
                waits = job.job_id in queue or job.job_id in self.colony.later
                waits = waits or job.job_id in self.colony.fetching
                assert waits == (job.state is JobState.QUEUED), job.life.story
        assert queue <= set(self.colony.jobs)
        assert set(self.colony.later) <= set(self.colony.jobs)

    @invariant()
    def whoever_waits_for_a_model_or_a_hive_will_hear(self) -> None:
        """Each fetch and operation that the brain counts on is under way, and no other fetch."""
        assert set(self.colony.fetching) == set(self.fetches)
        assert set(self.colony.performing) <= set(self.colony.jobs)
        for job_id, job in self.colony.performing.items():
            assert job.state is JobState.RUNNING
            assert job_id in self.tasks or job.cancel_reason is not None
        shares = self.colony.queue.shares
        for client in "xyz":
            assert (client in shares.active) == any(
                isinstance(j.request, ModelWork) and j.client == client
                and j.job_id not in self.fetches
                for j in self.colony.jobs.values()
            )  # fmt: skip

    @invariant()
    def slots_are_taken_once(self) -> None:
        held: dict[str, str] = {}
        for worker in self.colony.fleet.workers.values():
            assert worker.free_slots >= 0
            if worker.state in WORKER_READY:
                assert len(worker.jobs) <= worker.slots_total
                assert (worker.state is WorkerState.BUSY) == bool(worker.jobs)
            for job_id in worker.jobs:
                assert job_id not in held, f"{job_id} on {held[job_id]} and {worker.id}"
                held[job_id] = worker.id
                job = self.colony.jobs[job_id]
                assert job.worker_id == worker.id
                assert job.state in JOB_ACTIVE
        for job in self.colony.jobs.values():
            if isinstance(job.request, ModelWork) and job.state in JOB_ACTIVE:
                assert job.job_id in held

    @invariant()
    def claims_have_someone_waiting(self) -> None:
        waiting = {job.demand().model_id for job in self.colony.queue}
        for worker in self.colony.fleet.claimed():
            assert worker.claimed_for in waiting

    @invariant()
    def work_moves(self) -> None:
        """What waits while a worker with the model has a free slot is told why, or it runs."""
        for job in self.colony.queue:
            assert job.waiting_for, job.life.story

    def teardown(self) -> None:
        """When the world is well again everything comes to an end."""
        for name in HIVES:
            if name not in self.up:
                self.join(name)
            self.on_disk(name, MODELS)
        for _ in range(900):
            if not self.colony.jobs:
                return
            while self.fetches:
                job_id, hive = self.fetches.popitem()
                known = self.known[job_id].model
                assert known is not None
                self.tell(Fetched(job_id, hive, known))
            while self.tasks:
                self.tell(Performed(self.tasks.popitem()[0], {}))
            for name, process in list(self.processes.items()):
                worker = self.colony.fleet.workers.get(name)
                if worker is None or worker.state is WorkerState.STOPPING:
                    self.end(name, 0)
                elif process.loaded:
                    self.beat(name, WorkerState.IDLE)
                else:
                    self.bring_up(name)
            for job_id, attempt in self.open_runs():
                for process in self.processes.values():
                    process.runs.discard((job_id, attempt))
                job = self.known[job_id]
                if job.attempt == attempt and (job.cancel_reason or job.preempted):
                    self.tell(let_go(job_id, attempt, tokens=job.tokens_out))
                else:
                    self.tell(done(job_id, attempt, tokens=job.tokens_out + 1))
            for name in HIVES:
                self.measure_well(name)
            self.tell(Tick(), after=1.0)
        left = [(j.job_id, j.state, j.waiting_for) for j in self.colony.jobs.values()]
        raise AssertionError(f"never ended: {left}")

    def measure_well(self, name: str) -> None:
        held = {"cuda:0": 0.0, "cpu": 0.0}
        for process in self.processes.values():
            if process.hive == name:
                held[process.spec.device] += SIZES[process.spec.model_id]
        devices = [
            device("cuda:0", free_gib=10.0 - held["cuda:0"]),
            device("cpu", free_gib=12.0 - held["cpu"]),
        ]
        self.tell(HiveSaid(name, HiveTelemetry(devices=devices, workers=[])))


TestBrain = Brain.TestCase
TestBrain.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
