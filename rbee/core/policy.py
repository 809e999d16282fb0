"""The interface between the brain and whatever decides where a job goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from rbee.core.feasibility import Place
from rbee.core.fleet import Fleet, Worker
from rbee.core.jobs import Job
from rbee.errors import RbeeError


@dataclass(frozen=True)
class Run:
    """Give it to this worker now."""

    worker: Worker
    reason: str


@dataclass(frozen=True)
class Wait:
    """Not now. `worker` is the one it waits for, when there is one."""

    reason: str
    worker: Worker | None = None


@dataclass(frozen=True)
class Spawn:
    """Start a worker there for it."""

    place: Place
    reason: str


@dataclass(frozen=True)
class Refuse:
    """It can never run as asked."""

    error: RbeeError
    reasons: Sequence[RbeeError] = field(default_factory=list[RbeeError])


Verdict = Run | Wait | Spawn | Refuse


class Policy(Protocol):
    """Decides for one job at a time; must be pure and must not change what it is shown."""

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

    def route(self, job: Job, fleet: Fleet, now: float) -> Verdict:
        """What to do with work that waits for a model."""
        ...

    def cost(self, job: Job, worker: Worker, now: float) -> float:
        """Expected seconds until the job would be complete on that worker."""
        ...
