"""What the workers did while the screens looked: states, speed, first tokens, and why they went.

Owns short histories, bounded per worker and in number; the store feeds them. It knows nothing of
what was before the first event, and says so by having no entry for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from rbee.protocol.jobs import JobInfo
from rbee.protocol.workers import WorkerInfo, WorkerState

STEPS = 16
SAMPLES = 60
ANSWERS = 60
GONE = 20


def _samples() -> deque[float]:
    return deque(maxlen=SAMPLES)


@dataclass
class WorkerPast:
    """One worker's. Times: UTC seconds."""

    last: WorkerInfo
    steps: deque[tuple[float, WorkerState]] = field(default_factory=lambda: deque(maxlen=STEPS))
    """When each state was first heard of, the oldest first."""
    speed: deque[float] = field(default_factory=_samples)
    """Tokens per second, a sample a second; 0 while nothing is asked of it."""
    busy: deque[float] = field(default_factory=_samples)
    """Slots in use, the same way."""
    first_tokens: dict[str, float] = field(default_factory=dict[str, float])
    """Job → milliseconds to its first token, the latest jobs."""
    speeds: dict[str, float] = field(default_factory=dict[str, float])
    """Job → tokens per second of its answer, the same jobs."""
    gone_at: float | None = None
    reason: str = ""
    """Why it is no more."""

    @property
    def failed(self) -> bool:
        """It went without having been asked to."""
        return self.last.state not in (WorkerState.STOPPING, WorkerState.STOPPED)


@dataclass
class Past:
    """Of all workers that are there, and of the last that went."""

    workers: dict[str, WorkerPast] = field(default_factory=dict[str, WorkerPast])

    def saw(self, worker: WorkerInfo, now: float) -> None:
        """A worker as it is now."""
        past = self.workers.get(worker.worker_id)
        if past is None or past.gone_at is not None:
            past = self.workers[worker.worker_id] = WorkerPast(worker)
        if not past.steps or past.steps[-1][1] is not worker.state:
            past.steps.append((now, worker.state))
        past.last = worker

    def snapshot(self, workers: Iterable[WorkerInfo], now: float) -> None:
        """All that are there; of others nobody told why they went."""
        there = {worker.worker_id for worker in workers}
        for worker in workers:
            self.saw(worker, now)
        for worker_id, past in list(self.workers.items()):
            if worker_id not in there and past.gone_at is None:
                self.gone(worker_id, "it went while the queen was away", now)

    def gone(self, worker_id: str, reason: str, now: float) -> None:
        """A worker is no more."""
        past = self.workers.get(worker_id)
        if past is not None and past.gone_at is None:
            past.gone_at, past.reason = now, reason
            for old in self.departed()[GONE:]:
                del self.workers[old.last.worker_id]

    def job(self, job: JobInfo) -> None:
        """A job's first token and speed count for the worker that it ran on."""
        past = self.workers.get(job.worker_id or "")
        if past is None:
            return
        found = ((past.first_tokens, job.ttft_ms), (past.speeds, job.tokens_per_second))
        for kept, value in found:
            if value:
                kept[job.job_id] = value
                if len(kept) > ANSWERS:
                    del kept[next(iter(kept))]

    def sample(self, workers: Iterable[WorkerInfo]) -> None:
        """Once a second."""
        for worker in workers:
            past = self.workers.get(worker.worker_id)
            if past is not None:
                busy = worker.state is WorkerState.BUSY
                past.speed.append((worker.tokens_per_second or 0.0) if busy else 0.0)
                past.busy.append(float(worker.slots_busy))

    def departed(self) -> list[WorkerPast]:
        """Those that went, the last first."""
        gone = [past for past in self.workers.values() if past.gone_at is not None]
        return sorted(gone, key=lambda past: past.gone_at or 0.0, reverse=True)

    def before(self, worker: WorkerInfo) -> list[WorkerPast]:
        """Workers with the same model on the same device that went, the last first."""
        return [
            past
            for past in self.departed()
            if past.last.worker_id != worker.worker_id
            and (past.last.model, past.last.hive, past.last.device)
            == (worker.model, worker.hive, worker.device)
        ]
