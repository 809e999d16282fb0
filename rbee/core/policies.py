"""Policies to compare the built-in one with: what simpler rules would have done."""

from __future__ import annotations

from dataclasses import dataclass

from rbee.core.bars import busy_sentence, of_worker
from rbee.core.choosing import Choice
from rbee.core.costs import Facts
from rbee.core.fleet import Worker
from rbee.core.limits import Limits
from rbee.core.policy import Run, Verdict, View, Wait
from rbee.core.scheduling import Ect
from rbee.core.states import WORKER_READY
from rbee.core.surveying import Survey


@dataclass(frozen=True)
class OwnLoad(Ect):
    """ECT that counts its own load only: what others lose by an eviction is free."""

    charge: bool = False


@dataclass(frozen=True)
class LeastConnections(Ect):
    """The worker with the fewest jobs, else the first place there is; nothing is foreseen."""

    charge: bool = False

    @property
    def name(self) -> str:
        """As decisions call it."""
        return "least-connections"

    def rules(self, limits: Limits) -> list[str]:
        """What it does, a sentence each, for people."""
        return [
            "The worker of the model with the fewest jobs wins.",
            "Where there is none, one is started at the first place that needs nobody to go.",
        ]

    def choose(self, facts: Facts, view: View) -> Choice:
        """Looks at every live worker of the model."""
        choice = Choice()
        pool = view.fleet.pool(facts.demand.model_id, facts.demand.model_key)
        free: list[Worker] = []
        soon: list[Worker] = []
        for worker in pool.workers.values() if pool is not None else ():
            bar = of_worker(facts, worker, view)
            if bar is not None:
                choice.bars.append(bar)
            else:
                (free if worker.free_slots else soon).append(worker)
        choice.free = min(free, key=_connections, default=None)
        choice.soon = min(soon, key=_connections, default=None)
        return choice

    def survey(self, facts: Facts, view: View, looks: int | None = None) -> Survey:
        """Places that need nobody to go come first, otherwise as the hives are listed."""
        found = super().survey(facts, view, looks)
        listed = {name: n for n, name in enumerate(view.fleet.hives)}
        found.places.sort(key=lambda s: (not s[1].ready, bool(s[1].claim), listed[s[1].hive.name]))
        return found

    def _run(self, facts: Facts, choice: Choice, free: Worker, view: View) -> Verdict:
        return Run(free, f"{free.id} has the fewest jobs: {len(free.jobs)}")

    def _wait_or_start(self, facts: Facts, choice: Choice, soon: Worker, view: View) -> Verdict:
        if not facts.request.wait and soon.state in WORKER_READY:
            return super()._wait_or_start(facts, choice, soon, view)
        return Wait(busy_sentence(soon), soon)


def _connections(worker: Worker) -> tuple[int, str]:
    return len(worker.jobs), worker.id
