"""One trace on one fleet under one policy: the brain's own `handle`, with machines on paper.

Owns what is asked when, what breaks when, and the way of the brain's effects to the machines.
Decides nothing, and touches no clock, disk or network.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from rbee.core.colony import Colony
from rbee.core.effects import AbortRun, Append, Count, Dispatch, Effect, StartWorker, StopWorker
from rbee.core.events import Event, HiveJoined, HiveLeft, JobSubmitted, Tick
from rbee.core.jobs import Job
from rbee.core.limits import Limits
from rbee.core.policy import Policy
from rbee.errors import InvalidRequest, RbeeError
from rbee.protocol.jobs import TERMINAL_EVENTS, ErrorData, EventType
from rbee.protocol.operations import WorkerSpawn
from rbee.sim.asks import Conversation, Turn, conversations
from rbee.sim.fleets import FleetSpec
from rbee.sim.hosts import Hosts
from rbee.sim.machines import Machine, Process
from rbee.sim.tally import Outcome, Tally
from rbee.sim.timeline import Timeline
from rbee.sim.traces import FailureSpec, TraceSpec

START = 1000.0
"""The monotonic second at which every simulation begins."""
UTC = 1.75e9
NOTICED = 3.0
"""Seconds until it is known that a hive does not answer."""
BEAT = 2.0
PATIENCE = 3600.0
"""Virtual seconds without any progress after which a simulation is given up."""


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
        """`watch` sees every effect with its time, in seconds from the beginning.

        Raises InvalidRequest for a failure of a hive that the fleet does not have.
        """
        _check(trace, fleet)
        self.tally = Tally()
        self._trace = trace
        self._seed = trace.seed if seed is None else seed
        self._watch = watch
        self._time = Timeline(START)
        self._models = {name: spec.info(name) for name, spec in trace.models.items()}
        machines = [Machine(spec, list(self._models.values())) for spec in fleet.hive]
        self.hosts = Hosts(machines, self._time, self.tally, self._tell)
        self.colony = Colony(
            policy=policy, limits=limits or Limits(), now=START, utc=UTC, started_mono=START
        )
        self._talks: dict[str, deque[Turn]] = {}
        self._asks = 0
        self._moved = START

    def run(self, progress: Callable[[float], None] | None = None) -> Tally:
        """To the end of the last request; `progress` is told 0..1 now and then."""
        for machine in self.hosts.machines.values():
            self._tell(HiveJoined(machine.spec.name, "http", None, machine.capabilities()))
        self._preload()
        for talk in conversations(self._trace, self._seed):
            self._asks += len(talk)
            self._expect(talk)
        for failure in self._trace.failure:
            self._time.at(START + failure.at, lambda failure=failure: self._fail(failure))
        self._time.at(START + 1.0, lambda: self._second(1, progress))
        self._time.run()
        return self.tally

    @property
    def seconds(self) -> float:
        """Virtual seconds up to now."""
        return self._time.now - START

    # ---- time ----------------------------------------------------------------------------------

    def _second(self, number: int, progress: Callable[[float], None] | None) -> None:
        """What happens every second: hives tell of themselves, then the brain's tick."""
        for machine in self.hosts.machines.values():
            if machine.up:
                self.hosts.telemetry(machine)
                for process in machine.workers.values() if number % BEAT == 0 else ():
                    if process.bound:
                        self.hosts.beat(machine, process)
        tokens = self.hosts.progress()
        if tokens or not self.tally.open:
            self._moved = self._time.now
        self._tell(Tick(tokens))
        done = len(self.tally.records) - self.tally.open
        if progress is not None and number % 10 == 0:
            progress(done / max(1, self._asks))
        if done < self._asks and self._time.now - self._moved < PATIENCE:
            self._time.after(1.0, lambda: self._second(number + 1, progress))
        else:
            self._time.stop()

    # ---- the brain -----------------------------------------------------------------------------

    def _tell(self, event: Event) -> None:
        now = self._time.now
        for effect in self.colony.handle(event, now=now, utc=UTC + now - START):
            if self._watch is not None:
                self._watch(effect, now - START)
            self._carry_out(effect)

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Append(job_id, kind, data) if kind in TERMINAL_EVENTS:
                self._ended(job_id, kind, data)
            case Dispatch():
                self.hosts.dispatch(effect)
            case AbortRun(job_id, attempt):
                self.hosts.abort(job_id, attempt)
            case StartWorker(hive, spec):
                self.hosts.start(hive, spec)
            case StopWorker(hive, worker_id):
                self.hosts.stop(hive, worker_id)
            case Count(name, amount):
                self.tally.counts[name] = self.tally.counts.get(name, 0.0) + amount
            case _:
                pass

    # ---- requests ------------------------------------------------------------------------------

    def _preload(self) -> None:
        for name in self._trace.preload:
            for hive in self.hosts.machines:
                job = Job(
                    job_id=f"start-{name}-{hive}",
                    request=WorkerSpawn(model=name, hive=hive, pin=True),
                    created_at=UTC,
                    queued_mono=START,
                    model=self._models[name],
                )
                self._tell(JobSubmitted(job))

    def _expect(self, talk: Conversation) -> None:
        first = talk[0]
        self._talks[first.ask.ask_id] = deque(talk)
        self._time.at(START + first.after, lambda: self._submit(first.ask.ask_id))

    def _submit(self, ask_id: str) -> None:
        turn = self._talks[ask_id][0]
        ask = turn.ask
        job = Job(
            job_id=ask.ask_id,
            request=ask.operation(),
            created_at=UTC + self._time.now - START,
            queued_mono=self._time.now,
            model=self._models[ask.model],
            client=ask.client,
        )
        self._moved = self._time.now
        self.tally.begun(ask, self._time.now)
        refused = self.colony.policy.admit(job, self.colony.view(now=self._time.now))
        if refused is not None:
            self.tally.refused += 1
            self._ended(ask.ask_id, EventType.ERROR, refused)
            return
        self._tell(JobSubmitted(job))

    def _ended(self, ask_id: str, kind: EventType, data: object) -> None:
        if ask_id not in self.tally.records:  # a worker that was to be there from the beginning
            return
        code = data.code if isinstance(data, ErrorData | RbeeError) else None
        self.tally.ended(ask_id, kind, self._time.now, code)
        self._moved = self._time.now
        talk = self._talks.pop(ask_id, None)
        if talk is None:
            return
        talk.popleft()
        if talk:
            following = talk[0].ask.ask_id
            self._talks[following] = talk
            self._time.after(talk[0].after, lambda: self._submit(following))

    # ---- what breaks ---------------------------------------------------------------------------

    def _fail(self, failure: FailureSpec) -> None:
        if failure.hive is not None:
            self._lose(self.hosts.machines[failure.hive], failure.back)
            return
        for machine, process in self._targets(failure.worker or ""):
            self.hosts.exit(machine, process.spec.worker_id, -9)

    def _targets(self, name: str) -> list[tuple[Machine, Process]]:
        there = [(m, p) for m in self.hosts.machines.values() for p in m.workers.values()]
        if name != "busiest":
            return [(m, p) for m, p in there if p.spec.worker_id == name]
        there.sort(key=lambda pair: (-len(pair[1].runs), pair[1].spec.worker_id))
        return there[:1]

    def _lose(self, machine: Machine, back: float | None) -> None:
        machine.up = False
        for worker_id in list(machine.workers):
            self.hosts.exit(machine, worker_id, -9)
        self._time.after(NOTICED, lambda: self._leave(machine))
        if back is not None:
            self._time.at(START + back, lambda: self._return(machine))

    def _leave(self, machine: Machine) -> None:
        if not machine.up:
            self._tell(HiveLeft(machine.spec.name, "it does not answer"))

    def _return(self, machine: Machine) -> None:
        self._leave(machine)
        machine.up = True
        self._tell(HiveJoined(machine.spec.name, "http", None, machine.capabilities()))


def _check(trace: TraceSpec, fleet: FleetSpec) -> None:
    names = [hive.name for hive in fleet.hive]
    for failure in trace.failure:
        if failure.hive is not None and failure.hive not in names:
            raise InvalidRequest(
                f"the trace has hive {failure.hive!r} fail, the fleet has {', '.join(names)}",
                action="Choose a fleet with that hive, or change the trace.",
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
