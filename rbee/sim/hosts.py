"""The machines at work: workers that start, load, answer and die, told to the brain as it happens.

Owns what a hive, a worker and the relay do in the product, on paper and in virtual time. Decides
nothing, and touches no clock, disk or network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import count

from rbee.core.effects import Dispatch
from rbee.core.events import (
    Event,
    HiveSaid,
    Loss,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunStarted,
    SpawnRefused,
)
from rbee.errors import AllSlotsBusy, HiveOffline, InsufficientVram, RbeeError, WorkerLost
from rbee.protocol.hives import (
    AnyHiveEvent,
    HiveHeartbeat,
    HiveTelemetry,
    HiveWorkerExited,
    HiveWorkerReady,
    WorkerLoad,
)
from rbee.protocol.workers import Heartbeat, Usage, WorkerReady, WorkerSpec, WorkerState
from rbee.sim.machines import Machine, Process, Run
from rbee.sim.speed import Part
from rbee.sim.tally import Tally
from rbee.sim.timeline import Timeline

STOPS_IN = 0.5
"""Seconds until a worker that is told to stop has gone."""


class Hosts:
    """All machines of a simulation. `tell` hands an event to the brain."""

    def __init__(
        self,
        machines: Iterable[Machine],
        time: Timeline,
        tally: Tally,
        tell: Callable[[Event], None],
    ) -> None:
        self.machines = {machine.spec.name: machine for machine in machines}
        self._time = time
        self._tally = tally
        self._tell = tell
        self._pids = count(1)
        self._runs: dict[str, tuple[Process, Run]] = {}

    def progress(self) -> dict[str, int]:
        """Tokens of each answer that is being written."""
        found: dict[str, int] = {}
        for process, run in self._runs.values():
            process.card.settle(self._time.now)
            if run.writing:
                found[run.job_id] = run.said()
        return found

    def stop(self, hive: str, worker_id: str) -> None:
        """Ends in a moment."""
        machine = self.machines[hive]
        self._time.after(STOPS_IN, lambda: self.exit(machine, worker_id, 0))

    def _soon(self, event: Event) -> None:
        """Tell the brain at this very moment, after what is being done."""
        self._time.after(0.0, lambda: self._tell(event))

    # ---- runs ----------------------------------------------------------------------------------

    def dispatch(self, sent: Dispatch) -> None:
        """Run the job on the worker; a broken connection if there is no such worker."""
        machine, job = self.machines[sent.hive], sent.job
        process = machine.workers.get(sent.worker_id)
        job_id, attempt, before = job.job_id, sent.attempt, job.tokens_out
        if process is None or process.state is not WorkerState.IDLE:
            self._soon(_broken(job_id, attempt, before, sent.worker_id))
            return
        if len(process.runs) >= process.spec.slots:
            self._tally.turned_away += 1
            error = AllSlotsBusy(f"all slots of {sent.worker_id} are busy")
            self._soon(
                RunFailed(
                    job_id=job_id, attempt=attempt, tokens_out=before, error=error, loss=Loss.BUSY
                )
            )
            return
        ask = self._tally.records[job_id].ask
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
            began=self._time.now,
        )
        process.card.settle(self._time.now)
        process.runs[job_id] = run
        self._runs[job_id] = (process, run)
        self._time.foresee(process.card)

    def _first(self, job_id: str, attempt: int) -> None:
        """Its prompt is read, and the first token is there with it."""
        process, run = self._runs[job_id]
        ask = run.ask
        assert ask is not None
        run.writing, run.wrote_from = True, self._time.now
        run.left = max(0.0, ask.answer[1] - run.before - 1)
        run.done = lambda: self._finish(job_id, attempt)
        process.memory.keep(ask.segments)
        self._tally.first_token(job_id, self._time.now)
        self._soon(
            RunStarted(
                job_id=job_id,
                attempt=attempt,
                tokens_out=run.said(),
                ttft_ms=(self._time.now - run.began) * 1000,
            )
        )

    def _finish(self, job_id: str, attempt: int) -> None:
        process, run = self._runs.pop(job_id)
        ask = run.ask
        assert ask is not None
        del process.runs[job_id]
        process.memory.keep((*ask.segments, ask.answer))
        cached = min(run.known, ask.prompt)
        self._tally.cached_tokens += cached
        usage = Usage(
            prompt_tokens=ask.prompt,
            completion_tokens=ask.answer[1],
            cached_tokens=cached,
            prefill_ms=(run.wrote_from - run.began) * 1000,
            decode_ms=(self._time.now - run.wrote_from) * 1000,
        )
        self._soon(
            RunCompleted(
                job_id=job_id,
                attempt=attempt,
                tokens_out=ask.answer[1],
                finish_reason="length" if ask.cut else "stop",
                duration_ms=(self._time.now - run.began) * 1000,
                usage=usage,
            )
        )

    def abort(self, job_id: str, attempt: int) -> None:
        """Drop the run, if it is that one."""
        there = self._runs.get(job_id)
        if there is None or there[1].attempt != attempt:
            return
        process, run = self._runs.pop(job_id)
        process.card.settle(self._time.now)
        said = run.said()
        del process.runs[job_id]
        self._time.foresee(process.card)
        self._soon(RunCancelled(job_id=job_id, attempt=attempt, tokens_out=said))

    # ---- workers -------------------------------------------------------------------------------

    def start(self, hive: str, spec: WorkerSpec) -> None:
        """A process for this worker."""
        machine = self.machines[hive]
        if not machine.up:
            error = HiveOffline(f"hive {machine.spec.name} is offline")
            self._soon(SpawnRefused(hive, spec.worker_id, error))
            return
        process = machine.start(spec)
        self._time.after(machine.spec.start, lambda: self._bind(machine, process))

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
            self._tally.out_of_memory += 1
            process.state = WorkerState.FAILED
            error = InsufficientVram(
                f"{spec.worker_id} needs {process.need} bytes,"
                f" {max(0, card.total - card.promised)} are free"
            )
            self.beat(machine, process, error)
            return
        machine.disk.settle(self._time.now)
        process.load = Part(
            left=float(process.model.size), done=lambda: self._loaded(machine, process)
        )
        machine.disk.loads[spec.worker_id] = process.load
        self._time.foresee(machine.disk)
        self.beat(machine, process)

    def _loaded(self, machine: Machine, process: Process) -> None:
        del machine.disk.loads[process.spec.worker_id]
        process.load = None
        process.state = WorkerState.IDLE
        self._tally.loads += 1
        self._tally.load_bytes += process.model.size
        self.beat(machine, process)

    def exit(self, machine: Machine, worker_id: str, code: int) -> None:
        """Its process ends; what it runs breaks."""
        process = machine.workers.get(worker_id)
        if process is None:
            return
        machine.disk.settle(self._time.now)
        process.card.settle(self._time.now)
        for run in process.runs.values():
            self._runs.pop(run.job_id, None)
            self._soon(_broken(run.job_id, run.attempt, run.said(), worker_id))
        machine.end(worker_id)
        self._time.foresee(machine.disk)
        self._time.foresee(process.card)
        self._say(
            machine,
            HiveWorkerExited(worker_id=worker_id, exit_code=code, expected=code == 0, log_tail=[]),
        )
        if machine.up:
            self.telemetry(machine)

    def _say(self, machine: Machine, event: AnyHiveEvent) -> None:
        if machine.up:
            self._soon(HiveSaid(machine.spec.name, event))

    def beat(self, machine: Machine, process: Process, error: RbeeError | None = None) -> None:
        """How the worker is; `error`: why its load failed."""
        spec = process.spec
        loading = process.state is WorkerState.LOADING
        machine.disk.settle(self._time.now)
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

    def telemetry(self, machine: Machine) -> None:
        """Its devices and workers, as every second."""
        machine.disk.settle(self._time.now)
        loads = [
            WorkerLoad(worker_id=worker_id, cpu_percent=0.0, rss_bytes=process.held)
            for worker_id, process in machine.workers.items()
        ]
        self._say(machine, HiveTelemetry(devices=machine.told(), workers=loads))


def _broken(job_id: str, attempt: int, said: int, worker_id: str) -> RunFailed:
    error = WorkerLost(f"the connection to {worker_id} broke", worker_id=worker_id)
    return RunFailed(job_id=job_id, attempt=attempt, tokens_out=said, error=error, loss=Loss.BROKEN)
