"""The colony's state and the one function that changes it: `handle(event, now) → effects`.

Owns every transition of every job and worker. Never does anything: effects are carried out by the
daemon, whose results come back as events.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from rbee.core import fetching, hives, moving, performing, placing, running, supervising, workers
from rbee.core.effects import Count, Effect, Narrate
from rbee.core.events import (
    Counted,
    Event,
    Fetched,
    FetchFailed,
    FetchProgress,
    HiveForgotten,
    HiveJoined,
    HiveLabelled,
    HiveLeft,
    HiveResting,
    HiveSaid,
    JobCancelAsked,
    JobSubmitted,
    ModelLocated,
    PerformCancelled,
    Performed,
    PerformFailed,
    PerformProgress,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunStarted,
    SettingsChanged,
    ShutdownAsked,
    SpawnRefused,
    Tick,
)
from rbee.core.experience import Experience
from rbee.core.fleet import Fleet
from rbee.core.jobs import Demand, Job
from rbee.core.limits import Limits
from rbee.core.policy import Policy, View
from rbee.core.queue import JobQueue
from rbee.core.setbacks import Setbacks
from rbee.core.states import JOB_ACTIVE
from rbee.protocol.colony import Totals
from rbee.protocol.hives import ModelInfo
from rbee.protocol.jobs import StatusData
from rbee.protocol.operations import ModelWork, WorkerSpawn

TICK = 0.5
"""Seconds between ticks."""
_QUIET = (RunStarted, HiveSaid, Counted, FetchProgress, PerformProgress)
"""Events that by themselves give no waiting job its place."""
RATE_WINDOW = 5.0
"""Seconds over which the colony's tokens per second are averaged."""


@dataclass(kw_only=True)
class Colony:
    """Everything the brain knows."""

    policy: Policy
    limits: Limits
    now: float = 0.0
    """Monotonic seconds of the event being handled."""
    utc: float = 0.0
    """The same moment as UTC seconds."""
    started_mono: float = 0.0
    fleet: Fleet = field(default_factory=Fleet)
    queue: JobQueue = field(default_factory=JobQueue)
    later: dict[str, Job] = field(default_factory=dict[str, Job])
    """Queued jobs that are not placed before a pause is over."""
    fetching: dict[str, Job] = field(default_factory=dict[str, Job])
    """Queued jobs whose model is on its way to a hive."""
    performing: dict[str, Job] = field(default_factory=dict[str, Job])
    """Operations on models that hives carry out."""
    experience: Experience = field(default_factory=Experience)
    setbacks: Setbacks = field(default_factory=Setbacks)
    urgent: dict[str, Job] = field(default_factory=dict[str, Job])
    """Jobs with a deadline that have not begun."""
    told: dict[Demand, tuple[StatusData, str | None]] = field(
        default_factory=dict[Demand, tuple[StatusData, str | None]]
    )
    """Why those with a demand wait, and for which worker."""
    awake_since: float = 0.0
    """Monotonic: nobody's silence before this counts, since she did not listen herself."""
    waiting_spawns: dict[str, Job] = field(default_factory=dict[str, Job])
    """Starts that were asked for and wait for room."""
    missing: list[tuple[WorkerSpawn, ModelInfo]] = field(
        default_factory=list[tuple[WorkerSpawn, ModelInfo]]
    )
    """Pinned workers that died or went with their hive and are to be started again."""
    dirty: bool = True
    """Whether anything has changed that could give a waiting job its place."""
    unmoved: bool = False
    """Whether the event at hand added no more than one job to the end of a long line."""
    jobs: dict[str, Job] = field(default_factory=dict[str, Job])
    """Jobs that have not ended."""
    stopping: bool = False
    watched: bool = True
    """Whether there are dashboards: without any, nothing is made for them."""
    token_counts: deque[tuple[float, int]] = field(
        default_factory=lambda: deque[tuple[float, int]](maxlen=round(RATE_WINDOW / TICK) + 1)
    )
    tokens_done: int = 0
    effects: list[Effect] = field(default_factory=list[Effect])
    _worked_out: dict[tuple[str, int], object] = field(
        default_factory=dict[tuple[str, int], object]
    )
    """By the policy, while one event is handled."""

    def handle(self, event: Event, *, now: float, utc: float) -> list[Effect]:
        """Apply one event and plan what follows. `now` is monotonic, `utc` wall-clock seconds."""
        self.now, self.utc, self.effects, self.unmoved = now, utc, [], False
        self._worked_out = {}
        self._apply(event)
        if not self.unmoved and not isinstance(event, _QUIET):
            self.dirty = True
        comes_back = isinstance(event, JobSubmitted) and event.recovered  # with thousands of others
        if self.dirty and not comes_back:
            self.dirty = False
            workers.end_drained(self)
            workers.spawn_waiting(self)
            placing.plan(self)
        return self.effects

    def view(self, *, now: float | None = None) -> View:
        """What a policy is shown, at the event being handled or at a monotonic time after it."""
        at = self.now if now is None else now
        return View(
            now=at,
            utc=self.utc + at - self.now,
            fleet=self.fleet,
            queue=self.queue,
            experience=self.experience,
            setbacks=self.setbacks,
            limits=self.limits,
            worked_out=self._worked_out if now is None else {},
        )

    def count(self, metric: str, amount: float = 1.0, **labels: str) -> None:
        """Add to a metric."""
        self.effects.append(Count(metric, amount, labels))

    def watch(self, watched: bool) -> None:
        """Say whether there are dashboards; a new one has a snapshot, so this is no event."""
        self.watched = watched

    @property
    def waiting(self) -> int:
        """How many jobs wait: in the queue, for a pause to be over, for their model."""
        return len(self.queue) + len(self.later) + len(self.fetching)

    def totals(self) -> Totals:
        """The top bar's figures."""
        rate = 0.0
        if len(self.token_counts) > 1:
            (t0, n0), (t1, n1) = self.token_counts[0], self.token_counts[-1]
            rate = max(0.0, (n1 - n0) / (t1 - t0)) if t1 > t0 else 0.0
        return Totals(
            hives_online=sum(1 for h in self.fleet.hives.values() if h.online),
            hives_total=len(self.fleet.hives),
            workers=self.fleet.live_total(),
            jobs_running=sum(1 for j in self.jobs.values() if j.worker_id is not None)
            + len(self.performing),
            jobs_queued=self.waiting,
            tokens_per_second=round(rate, 1),
            uptime_seconds=self.now - self.started_mono,
        )

    def narrate(self, message: str, *, source: str = "queen", level: str = "info") -> None:
        """Say something on the dashboards and in the log."""
        self.effects.append(Narrate(source, message, level))

    def _apply(self, event: Event) -> None:
        match event:
            case JobSubmitted():
                running.submit(self, event)
            case JobCancelAsked(job_id, reason):
                running.cancel(self, job_id, reason)
            case RunStarted():
                running.started(self, event)
            case RunCompleted():
                running.completed(self, event)
            case RunFailed():
                running.failed(self, event)
            case RunCancelled():
                running.cancelled(self, event)
            case HiveJoined():
                hives.joined(self, event)
            case HiveLeft(name, reason):
                hives.left(self, name, reason)
                self.dirty = True
            case HiveForgotten(name):
                hives.forgotten(self, name)
                self.dirty = True
            case HiveLabelled():
                hives.labelled(self, event)
                self.dirty = True
            case HiveResting(name, resting):
                hives.resting(self, name, resting)
                self.dirty = True
            case HiveSaid(hive, said):
                hives.said(self, hive, said)
            case ModelLocated():
                hives.located(self, event)
            case FetchProgress():
                fetching.progressed(self, event)
            case Fetched():
                running.fetched(self, event)
            case FetchFailed():
                fetching.failed(self, event)
            case PerformProgress():
                performing.progressed(self, event)
            case Performed():
                performing.done(self, event)
            case PerformFailed():
                performing.failed(self, event)
            case PerformCancelled(job_id):
                performing.cancelled(self, job_id)
            case SpawnRefused(hive, worker_id, error):
                supervising.spawn_refused(self, hive, worker_id, error)
            case Tick(tokens, late):
                if late:
                    self.awake_since = self.now
                self._tick(tokens)
            case Counted(tokens):
                self._count_tokens(tokens)
            case SettingsChanged(policy, limits):
                self.policy, self.limits = policy, limits
                self.narrate("settings read again")
            case ShutdownAsked(reason):
                self._shut_down(reason)

    def _count_tokens(self, tokens: Mapping[str, int]) -> None:
        for job_id, count in tokens.items():
            job = self.jobs.get(job_id)
            if job is not None and job.state in JOB_ACTIVE and isinstance(job.request, ModelWork):
                running.progressed(self, job, count)

    def _tick(self, tokens: Mapping[str, int]) -> None:
        self._count_tokens(tokens)
        in_flight = sum(j.tokens_out for j in self.jobs.values())
        self.token_counts.append((self.now, self.tokens_done + in_flight))
        moving.bring_back(self)
        running.end_overdue(self)
        performing.end_cancelled(self)
        supervising.tick(self)
        workers.keep_up(self)

    def _shut_down(self, reason: str) -> None:
        self.stopping = True
        self.narrate(f"shutting down: {reason}")
        running.shut_down(self)
