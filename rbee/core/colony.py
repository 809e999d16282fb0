"""The colony's state and the one function that changes it: `handle(event, now) → effects`.

Owns every transition of every job and worker. Never does anything: effects are carried out by the
daemon, whose results come back as events.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from rbee.core import running, supervising, telling
from rbee.core.events import (
    Effect,
    Event,
    HiveJoined,
    HiveLeft,
    HiveSaid,
    JobCancelAsked,
    JobSubmitted,
    Narrate,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunStarted,
    SettingsChanged,
    ShutdownAsked,
    SpawnRefused,
    Tick,
)
from rbee.core.fleet import Fleet
from rbee.core.jobs import Job, JobQueue
from rbee.core.limits import Limits
from rbee.core.policy import Policy
from rbee.protocol.colony import Totals

RATE_WINDOW = 5
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
    jobs: dict[str, Job] = field(default_factory=dict[str, Job])
    """Jobs that have not ended."""
    stopping: bool = False
    token_counts: deque[tuple[float, int]] = field(
        default_factory=lambda: deque[tuple[float, int]](maxlen=RATE_WINDOW + 1)
    )
    tokens_done: int = 0
    effects: list[Effect] = field(default_factory=list[Effect])

    def handle(self, event: Event, *, now: float, utc: float) -> list[Effect]:
        """Apply one event and plan what follows. `now` is monotonic, `utc` wall-clock seconds."""
        self.now, self.utc, self.effects = now, utc, []
        self._apply(event)
        if not isinstance(event, RunStarted):
            running.plan(self)
        return self.effects

    def totals(self) -> Totals:
        """The top bar's figures."""
        rate = 0.0
        if len(self.token_counts) > 1:
            (t0, n0), (t1, n1) = self.token_counts[0], self.token_counts[-1]
            rate = max(0.0, (n1 - n0) / (t1 - t0)) if t1 > t0 else 0.0
        return Totals(
            hives_online=sum(1 for h in self.fleet.hives.values() if h.online),
            hives_total=len(self.fleet.hives),
            workers=sum(1 for _ in self.fleet.live()),
            jobs_running=sum(1 for j in self.jobs.values() if j.worker_id is not None),
            jobs_queued=len(self.queue),
            tokens_per_second=round(rate, 1),
            uptime_seconds=self.now - self.started_mono,
        )

    def narrate(self, message: str, *, source: str = "queen", level: str = "info") -> None:
        """Say something on the dashboards and in the log."""
        self.effects.append(Narrate(source, message, level))

    def _apply(self, event: Event) -> None:
        match event:
            case JobSubmitted(job):
                running.submit(self, job)
            case JobCancelAsked(job_id, reason):
                running.cancel(self, job_id, reason)
            case RunStarted():
                running.started(self, event)
            case RunCompleted():
                running.completed(self, event)
            case RunFailed():
                running.failed(self, event)
            case RunCancelled(job_id, tokens_out):
                running.cancelled(self, job_id, tokens_out)
            case HiveJoined():
                supervising.hive_joined(self, event)
            case HiveLeft(name, reason):
                supervising.hive_left(self, name, reason)
            case HiveSaid(hive, said):
                supervising.hive_said(self, hive, said)
            case SpawnRefused(worker_id, error):
                supervising.spawn_refused(self, worker_id, error)
            case Tick(tokens):
                self._tick(dict(tokens))
            case SettingsChanged(policy, limits):
                self.policy, self.limits = policy, limits
                self.narrate("settings read again")
            case ShutdownAsked(reason):
                self._shut_down(reason)

    def _tick(self, tokens: dict[str, int]) -> None:
        for job_id, count in tokens.items():
            job = self.jobs.get(job_id)
            if job is not None and job.tokens_out != count:
                job.tokens_out = count
                telling.publish_job(self, job)
        in_flight = sum(j.tokens_out for j in self.jobs.values())
        self.token_counts.append((self.now, self.tokens_done + in_flight))
        running.end_lost(self)
        running.end_overdue(self)
        supervising.tick(self)

    def _shut_down(self, reason: str) -> None:
        self.stopping = True
        self.narrate(f"shutting down: {reason}")
        running.shut_down(self)
