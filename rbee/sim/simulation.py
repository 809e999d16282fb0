"""One trace on one fleet under one policy: the brain's own `handle`, with machines on paper.

Owns virtual time and the order of things; carries out the brain's effects on the machines and tells
it what they would have told. Decides nothing, and touches no clock, disk or network.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count

from rbee.core.colony import Colony
from rbee.core.events import (
    AbortRun,
    Append,
    Count,
    Dispatch,
    Effect,
    Event,
    HiveJoined,
    HiveLeft,
    HiveSaid,
    JobSubmitted,
    Loss,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunStarted,
    SpawnRefused,
    StartWorker,
    StopWorker,
    Tick,
)
from rbee.core.jobs import Job
from rbee.core.limits import Limits
from rbee.core.policy import Policy
from rbee.errors import AllSlotsBusy, HiveOffline, InsufficientVram, RbeeError, WorkerLost
from rbee.protocol.base import Wire
from rbee.protocol.hives import (
    AnyHiveEvent,
    HiveHeartbeat,
    HiveTelemetry,
    HiveWorkerExited,
    HiveWorkerReady,
    WorkerLoad,
)
from rbee.protocol.jobs import TERMINAL_EVENTS, ErrorData, EventType
from rbee.protocol.workers import Heartbeat, Usage, WorkerReady, WorkerSpec, WorkerState
from rbee.sim.asks import Conversation, Turn, conversations
from rbee.sim.fleets import FleetSpec
from rbee.sim.machines import Card, Disk, Machine, Process, Run
from rbee.sim.speed import Fluid, Part
from rbee.sim.tally import Outcome, Tally
from rbee.sim.traces import FailureSpec, TraceSpec

START = 1000.0
"""The monotonic second at which every simulation begins."""
UTC = 1.75e9
STOPS_IN = 0.5
"""Seconds until a worker that is told to stop has gone."""
NOTICED = 3.0
"""Seconds until it is known that a hive does not answer."""
BEAT = 2.0
PATIENCE = 3600.0
"""Virtual seconds without any progress after which a simulation is given up."""

Step = Callable[[], None]


class Simulation:
    """Run once."""

    def __init__(
        self,
        trace: TraceSpec,
        fleet: FleetSpec,
        policy: Policy,
        *,
        seed: int | None = None,
        limits: Limits | None = None,
        watch: Callable[[Effect, float], None] | None = None,
    ) -> None:
        """`watch` sees every effect with its time, in seconds from the beginning."""
        self.tally = Tally()
        self._trace = trace
        self._seed = trace.seed if seed is None else seed
        self._watch = watch
        self._now = START
        self._heap: list[tuple[float, int, Step]] = []
        self._order = count()
        self._pids = count(1)
        self._models = {name: spec.info(name) for name, spec in trace.models.items()}
        self.machines = {
            spec.name: Machine(spec, list(self._models.values())) for spec in fleet.hive
        }
        self.colony = Colony(
            policy=policy, limits=limits or Limits(), now=START, utc=UTC, started_mono=START
        )
        self._talks: dict[str, deque[Turn]] = {}
        self._runs: dict[str, tuple[Machine, Process, Run]] = {}
        self._asks = 0
        self._moved = START

    def run(self, progress: Callable[[float], None] | None = None) -> Tally:
        """To the end of the last request; `progress` is told 0..1 now and then."""
        for machine in self.machines.values():
            self._tell(HiveJoined(machine.spec.name, "http", None, machine.capabilities()))
        for talk in conversations(self._trace, self._seed):
            self._asks += len(talk)
            self._expect(talk)
        for failure in self._trace.failure:
            self._at(START + failure.at, lambda failure=failure: self._fail(failure))
        self._at(START + 1.0, lambda: self._second(1, progress))
        while self._heap:
            self._now, _, step = heappop(self._heap)
            step()
        return self.tally

    @property
    def seconds(self) -> float:
        """Virtual seconds up to now."""
        return self._now - START

    # ---- time ----------------------------------------------------------------------------------

    def _at(self, when: float, step: Step) -> None:
        heappush(self._heap, (when, next(self._order), step))

    def _after(self, seconds: float, step: Step) -> None:
        self._at(self._now + seconds, step)

    def _soon(self, event: Event) -> None:
        """Tell the brain at this very moment, after what is being done."""
        self._after(0.0, lambda: self._tell(event))

    def _foresee(self, fluid: Fluid) -> None:
        """After a change of a settled fluid."""
        end = fluid.next_end()
        if end is not None:
            version = fluid.version
            self._after(end, lambda: self._due(fluid, version))

    def _due(self, fluid: Fluid, version: int) -> None:
        if version != fluid.version:
            return
        fluid.settle(self._now)
        for part in fluid.ended():
            part.done()
        self._foresee(fluid)

    def _second(self, number: int, progress: Callable[[float], None] | None) -> None:
        """What happens every second: hives tell of themselves, then the brain's tick."""
        for machine in self.machines.values():
            if machine.up:
                self._telemetry(machine)
                for process in machine.workers.values() if number % BEAT == 0 else ():
                    if process.bound:
                        self._beat(machine, process)
        tokens: dict[str, int] = {}
        for machine, process, run in self._runs.values():
            process.card.settle(self._now)
            if run.writing:
                tokens[run.job_id] = run.said()
            del machine
        if tokens:
            self._moved = self._now
        self._tell(Tick(tokens))
        done = len(self.tally.records) - self.tally.open
        if progress is not None and number % 10 == 0:
            progress(done / max(1, self._asks))
        if done < self._asks and self._now - self._moved < PATIENCE:
            self._after(1.0, lambda: self._second(number + 1, progress))
        else:
            self._heap.clear()

    # ---- the brain -----------------------------------------------------------------------------

    def _tell(self, event: Event) -> None:
        for effect in self.colony.handle(event, now=self._now, utc=UTC + self._now - START):
            if self._watch is not None:
                self._watch(effect, self._now - START)
            self._carry_out(effect)

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Append(job_id, kind, data) if kind in TERMINAL_EVENTS:
                self._ended(job_id, kind, data)
            case Dispatch():
                self._dispatch(effect)
            case AbortRun(job_id, attempt):
                self._abort(job_id, attempt)
            case StartWorker(hive, spec):
                self._start(self.machines[hive], spec)
            case StopWorker(hive, worker_id):
                self._after(STOPS_IN, lambda: self._exit(self.machines[hive], worker_id, 0))
            case Count(name, amount):
                self.tally.counts[name] = self.tally.counts.get(name, 0.0) + amount
            case _:
                pass

    # ---- requests ------------------------------------------------------------------------------

    def _expect(self, talk: Conversation) -> None:
        first = talk[0]
        self._talks[first.ask.ask_id] = deque(talk)
        self._at(START + first.after, lambda: self._submit(first.ask.ask_id))

    def _submit(self, ask_id: str) -> None:
        turn = self._talks[ask_id][0]
        ask = turn.ask
        job = Job(
            job_id=ask.ask_id,
            request=ask.operation(),
            created_at=UTC + self._now - START,
            queued_mono=self._now,
            model=self._models[ask.model],
            client=ask.client,
        )
        self._moved = self._now
        self.tally.begun(ask, self._now)
        refused = self.colony.policy.admit(job, self.colony.view(now=self._now))
        if refused is not None:
            self.tally.refused += 1
            self._ended(ask.ask_id, EventType.ERROR, refused)
            return
        self._tell(JobSubmitted(job))

    def _ended(self, ask_id: str, kind: EventType, data: object) -> None:
        code = data.code if isinstance(data, ErrorData | RbeeError) else None
        self.tally.ended(ask_id, kind, self._now, code)
        self._moved = self._now
        talk = self._talks.pop(ask_id, None)
        if talk is None:
            return
        talk.popleft()
        if talk:
            following = talk[0].ask.ask_id
            self._talks[following] = talk
            self._after(talk[0].after, lambda: self._submit(following))

    # ---- runs ----------------------------------------------------------------------------------

    def _dispatch(self, sent: Dispatch) -> None:
        machine, job = self.machines[sent.hive], sent.job
        process = machine.workers.get(sent.worker_id)
        job_id, attempt, before = job.job_id, sent.attempt, job.tokens_out
        if process is None or process.state is not WorkerState.IDLE:
            self._soon(_broken(job_id, attempt, before, sent.worker_id))
            return
        if len(process.runs) >= process.spec.slots:
            self.tally.turned_away += 1
            error = AllSlotsBusy(f"all slots of {sent.worker_id} are busy")
            self._soon(
                RunFailed(
                    job_id=job_id, attempt=attempt, tokens_out=before, error=error, loss=Loss.BUSY
                )
            )
            return
        ask = self.tally.records[job_id].ask
        prompt = (*ask.segments, (ask.answer[0], before)) if before else ask.segments
        known = process.memory.known(prompt)
        run = Run(
            left=float(ask.prompt + before - known),
            done=lambda: self._first(job_id, attempt),
            job_id=job_id,
            attempt=attempt,
            ask=ask,
            known=known,
            before=before,
            began=self._now,
        )
        process.card.settle(self._now)
        process.runs[job_id] = run
        self._runs[job_id] = (machine, process, run)
        self._foresee(process.card)

    def _first(self, job_id: str, attempt: int) -> None:
        """Its prompt is read, and the first token is there with it."""
        _, process, run = self._runs[job_id]
        ask = run.ask
        assert ask is not None
        run.writing, run.wrote_from = True, self._now
        run.left = max(0.0, ask.answer[1] - run.before - 1)
        run.done = lambda: self._finish(job_id, attempt)
        process.memory.keep(ask.segments)
        self.tally.first_token(job_id, self._now)
        self._soon(
            RunStarted(
                job_id=job_id,
                attempt=attempt,
                tokens_out=run.said(),
                ttft_ms=(self._now - run.began) * 1000,
            )
        )

    def _finish(self, job_id: str, attempt: int) -> None:
        _, process, run = self._runs.pop(job_id)
        ask = run.ask
        assert ask is not None
        del process.runs[job_id]
        process.memory.keep((*ask.segments, ask.answer))
        cached = min(run.known, ask.prompt)
        self.tally.cached_tokens += cached
        usage = Usage(
            prompt_tokens=ask.prompt,
            completion_tokens=ask.answer[1],
            cached_tokens=cached,
            prefill_ms=(run.wrote_from - run.began) * 1000,
            decode_ms=(self._now - run.wrote_from) * 1000,
        )
        self._soon(
            RunCompleted(
                job_id=job_id,
                attempt=attempt,
                tokens_out=ask.answer[1],
                finish_reason="length" if ask.cut else "stop",
                duration_ms=(self._now - run.began) * 1000,
                usage=usage,
            )
        )

    def _abort(self, job_id: str, attempt: int) -> None:
        there = self._runs.get(job_id)
        if there is None or there[2].attempt != attempt:
            return
        _, process, run = self._runs.pop(job_id)
        process.card.settle(self._now)
        said = run.said()
        del process.runs[job_id]
        self._foresee(process.card)
        self._soon(RunCancelled(job_id=job_id, attempt=attempt, tokens_out=said))

    # ---- workers -------------------------------------------------------------------------------

    def _start(self, machine: Machine, spec: WorkerSpec) -> None:
        if not machine.up:
            error = HiveOffline(f"hive {machine.spec.name} is offline")
            self._soon(SpawnRefused(spec.worker_id, error))
            return
        process = machine.start(spec)
        self._after(machine.spec.start, lambda: self._bind(machine, process))

    def _bind(self, machine: Machine, process: Process) -> None:
        """Its process listens and begins to load."""
        spec = process.spec
        if machine.workers.get(spec.worker_id) is not process:
            return
        process.bound = True
        ready = WorkerReady(
            worker_id=spec.worker_id,
            url=f"http://{machine.spec.name}/{spec.worker_id}",
            model=spec.model_id,
            backend=spec.backend,
            device=spec.device,
            pid=next(self._pids),
            protocol=1,
        )
        self._say(machine, HiveWorkerReady(ready=ready))
        card = process.card
        if card.promised + process.need > card.total:
            self.tally.out_of_memory += 1
            process.state = WorkerState.FAILED
            error = InsufficientVram(
                f"{spec.worker_id} needs {process.need} bytes,"
                f" {max(0, card.total - card.promised)} are free"
            )
            self._beat(machine, process, error)
            return
        machine.disk.settle(self._now)
        process.load = Part(
            left=float(process.model.size), done=lambda: self._loaded(machine, process)
        )
        machine.disk.loads[spec.worker_id] = process.load
        self._foresee(machine.disk)
        self._beat(machine, process)

    def _loaded(self, machine: Machine, process: Process) -> None:
        del machine.disk.loads[process.spec.worker_id]
        process.load = None
        process.state = WorkerState.IDLE
        self.tally.loads += 1
        self.tally.load_bytes += process.model.size
        self._beat(machine, process)

    def _exit(self, machine: Machine, worker_id: str, code: int) -> None:
        """Its process ends; what it runs breaks."""
        process = machine.workers.get(worker_id)
        if process is None:
            return
        machine.disk.settle(self._now)
        process.card.settle(self._now)
        for run in process.runs.values():
            self._runs.pop(run.job_id, None)
            self._soon(_broken(run.job_id, run.attempt, run.said(), worker_id))
        machine.end(worker_id)
        self._foresee(machine.disk)
        self._foresee(process.card)
        self._say(
            machine,
            HiveWorkerExited(
                worker_id=worker_id, exit_code=code, expected=code == 0, log_tail=[]
            ),
        )
        if machine.up:
            self._telemetry(machine)

    def _say(self, machine: Machine, event: AnyHiveEvent) -> None:
        if machine.up:
            self._soon(HiveSaid(machine.spec.name, event))

    def _beat(self, machine: Machine, process: Process, error: RbeeError | None = None) -> None:
        spec = process.spec
        loading = process.state is WorkerState.LOADING
        machine.disk.settle(self._now)
        beat = Heartbeat(
            worker_id=spec.worker_id,
            state=WorkerState.BUSY if process.runs else process.state,
            stage="weights" if loading else "",
            progress=process.progress if loading else None,
            slots_total=0 if loading else spec.slots,
            slots_busy=len(process.runs),
            ctx=spec.ctx,
            memory_bytes=process.held,
            error=error.body()["error"] if error is not None else None,
        )
        self._say(machine, HiveHeartbeat(beat=beat))

    def _telemetry(self, machine: Machine) -> None:
        machine.disk.settle(self._now)
        loads = [
            WorkerLoad(worker_id=worker_id, cpu_percent=0.0, rss_bytes=process.held)
            for worker_id, process in machine.workers.items()
        ]
        self._say(machine, HiveTelemetry(devices=machine.told(), workers=loads))

    # ---- what breaks ---------------------------------------------------------------------------

    def _fail(self, failure: FailureSpec) -> None:
        if failure.hive is not None:
            self._lose(self.machines[failure.hive], failure.back)
            return
        for machine, process in self._targets(failure.worker or ""):
            self._exit(machine, process.spec.worker_id, -9)

    def _targets(self, name: str) -> list[tuple[Machine, Process]]:
        there = [(m, p) for m in self.machines.values() for p in m.workers.values()]
        if name != "busiest":
            return [(m, p) for m, p in there if p.spec.worker_id == name]
        there.sort(key=lambda pair: (-len(pair[1].runs), pair[1].spec.worker_id))
        return there[:1]

    def _lose(self, machine: Machine, back: float | None) -> None:
        name = machine.spec.name
        machine.up = False
        for worker_id in list(machine.workers):
            self._exit(machine, worker_id, -9)
        self._after(NOTICED, lambda: self._tell(HiveLeft(name, "it does not answer")))
        if back is not None:
            self._at(START + back, lambda: self._return(machine))

    def _return(self, machine: Machine) -> None:
        machine.up = True
        self._tell(HiveJoined(machine.spec.name, "http", None, machine.capabilities()))


def _broken(job_id: str, attempt: int, said: int, worker_id: str) -> RunFailed:
    error = WorkerLost(f"the connection to {worker_id} broke", worker_id=worker_id)
    return RunFailed(
        job_id=job_id, attempt=attempt, tokens_out=said, error=error, loss=Loss.BROKEN
    )


def simulate(
    trace: TraceSpec,
    fleet: FleetSpec,
    policy: Policy,
    *,
    names: tuple[str, str],
    seed: int | None = None,
    progress: Callable[[float], None] | None = None,
) -> Outcome:
    """The figures of one simulation; `names`: of the trace and the fleet."""
    simulation = Simulation(trace, fleet, policy, seed=seed)
    tally = simulation.run(progress)
    return tally.outcome(
        trace=names[0],
        fleet=names[1],
        policy=policy.name,
        seed=trace.seed if seed is None else seed,
        seconds=simulation.seconds,
    )
