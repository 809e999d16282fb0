"""Which steps a job and a worker may take, as tables; an illegal step raises with its story."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, TypeVar

from rbee.protocol.jobs import JobState
from rbee.protocol.workers import WorkerState

S = TypeVar("S", JobState, WorkerState)

JOB_ACTIVE = frozenset({JobState.DISPATCHED, JobState.RUNNING})
JOB_TERMINAL = frozenset({JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED})
WORKER_READY = frozenset({WorkerState.IDLE, WorkerState.BUSY})
WORKER_LIVE = WORKER_READY | {WorkerState.LOADING}

JOB_STEPS: frozenset[tuple[JobState, JobState]] = frozenset(
    {
        (JobState.QUEUED, JobState.DISPATCHED),
        (JobState.QUEUED, JobState.FAILED),
        (JobState.QUEUED, JobState.CANCELLED),
        (JobState.DISPATCHED, JobState.RUNNING),
        (JobState.DISPATCHED, JobState.QUEUED),
        (JobState.DISPATCHED, JobState.COMPLETED),
        (JobState.DISPATCHED, JobState.FAILED),
        (JobState.DISPATCHED, JobState.CANCELLED),
        (JobState.RUNNING, JobState.QUEUED),
        (JobState.RUNNING, JobState.COMPLETED),
        (JobState.RUNNING, JobState.FAILED),
        (JobState.RUNNING, JobState.CANCELLED),
    }
)
WORKER_STEPS: frozenset[tuple[WorkerState, WorkerState]] = frozenset(
    {
        (WorkerState.LOADING, WorkerState.IDLE),
        (WorkerState.LOADING, WorkerState.FAILED),
        (WorkerState.LOADING, WorkerState.STOPPING),
        (WorkerState.IDLE, WorkerState.BUSY),
        (WorkerState.IDLE, WorkerState.FAILED),
        (WorkerState.IDLE, WorkerState.STOPPING),
        (WorkerState.BUSY, WorkerState.IDLE),
        (WorkerState.BUSY, WorkerState.FAILED),
        (WorkerState.BUSY, WorkerState.STOPPING),
        (WorkerState.STOPPING, WorkerState.STOPPED),
        (WorkerState.STOPPING, WorkerState.FAILED),
        (WorkerState.FAILED, WorkerState.STOPPING),
        (WorkerState.FAILED, WorkerState.STOPPED),
    }
)


STEPS_KEPT = 12
"""Of an object's story. A list: an empty deque takes 0.7 kB, and there is one for each job."""


class InvalidTransition(Exception):
    """A step that is not in the table: a defect, reported with what happened before it."""

    def __init__(self, name: str, source: str, target: str, story: Iterable[str]) -> None:
        told = "; ".join(story)
        super().__init__(f"{name}: {source} → {target} is not allowed. Story: {told}")


class Lifecycle(Generic[S]):
    """The state of one object and the last steps that led to it."""

    def __init__(self, name: str, start: S, steps: frozenset[tuple[S, S]]) -> None:
        self._name = name
        self._steps = steps
        self.state: S = start
        self.story = [str(start)]

    def to(self, target: S, why: str = "") -> bool:
        """Take the step; False when already there. Raises InvalidTransition."""
        if target == self.state:
            return False
        if (self.state, target) not in self._steps:
            raise InvalidTransition(self._name, self.state, target, self.story)
        self.state = target
        self.story.append(f"{target} ({why})" if why else str(target))
        del self.story[:-STEPS_KEPT]
        return True
