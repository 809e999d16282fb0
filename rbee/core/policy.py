"""The interface between the brain and whatever decides where a job goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from typing import Protocol

from rbee.core.experience import Experience
from rbee.core.feasibility import Place
from rbee.core.fleet import Fleet, Worker
from rbee.core.jobs import Job
from rbee.core.limits import Limits
from rbee.core.queue import JobQueue
from rbee.core.setbacks import Setbacks
from rbee.core.value import value
from rbee.errors import RbeeError
from rbee.protocol.decisions import Decision


@value()
class View:
    """What a policy is shown, and must not change. `now`: monotonic, `utc`: wall-clock seconds."""

    now: float
    utc: float
    fleet: Fleet
    queue: JobQueue
    experience: Experience
    setbacks: Setbacks
    limits: Limits
    worked_out: dict[tuple[str, int], object] = field(default_factory=dict[tuple[str, int], object])
    """The policy's own: what it found by job and `fleet.changes`, while this moment lasts."""


@value()
class Run:
    """Give it to this worker now."""

    worker: Worker
    reason: str


@value()
class Wait:
    """Not now. `worker` is the one it waits for, when there is one."""

    reason: str
    worker: Worker | None = None


@value()
class Spawn:
    """Start a worker there for it."""

    place: Place
    reason: str


@value()
class Claim:
    """These workers take no more work for others: once idle they make room for it."""

    victims: Sequence[Worker]
    reason: str


@value()
class Refuse:
    """It can never run as asked."""

    error: RbeeError
    reasons: Sequence[RbeeError] = field(default_factory=list[RbeeError])


Verdict = Run | Wait | Spawn | Claim | Refuse


class Policy(Protocol):
    """Decides for one job at a time; must be pure: the same view, the same verdict."""

    @property
    def name(self) -> str:
        """As `rbee sim --policy` and decisions call it."""
        ...

    @property
    def ctx(self) -> int:
        """Context per slot, tokens, of workers that are started without being told one."""
        ...

    @property
    def slots(self) -> int | None:
        """Slots of such workers; None: as many as the memory allows, up to the usual."""
        ...

    @property
    def kv_type(self) -> str:
        """How workers keep keys and values."""
        ...

    def rules(self, limits: Limits) -> list[str]:
        """What it does, a sentence each, for people."""
        ...

    def admit(self, job: Job, view: View) -> RbeeError | None:
        """Why a job is not taken at all; None: it is."""
        ...

    def route(self, job: Job, view: View) -> Verdict:
        """What to do with work that waits for a model."""
        ...

    def explain(self, job: Job, view: View, verdict: Verdict, *, brief: bool = False) -> Decision:
        """The verdict with everything that was looked at; called before it is carried out.

        `brief`: on the way of every job, so of a large colony the most important only.
        """
        ...

    def cost(self, job: Job, worker: Worker, view: View) -> float:
        """Expected seconds until the job would be complete on that live worker."""
        ...

    def first_token(self, job: Job, view: View, position: int | None = None) -> float | None:
        """Seconds until the job's first token is expected; None: nobody can say.

        `position`: its place in the queue, where that is known already.
        """
        ...
