"""Simulations for tests: small worlds, and one that is watched at every effect."""

from __future__ import annotations

from collections import Counter

from rbee.core.effects import Append, Dispatch, Effect
from rbee.core.policy import Policy
from rbee.core.scheduling import Ect
from rbee.protocol.jobs import TERMINAL_EVENTS
from rbee.sim.fleets import DeviceSpec, FleetSpec, HiveSpec
from rbee.sim.simulation import Simulation
from rbee.sim.traces import ModelSpec, RequestSpec, TraceSpec


def hive(name: str = "home", *, memory: float = 23.0, **more: float) -> HiveSpec:
    card = DeviceSpec(name="cuda:0", label="card", memory=memory, bandwidth=900.0, tflops=60.0)
    return HiveSpec(name=name, device=[card], **more)  # type: ignore[arg-type]


def fleet(*hives: HiveSpec) -> FleetSpec:
    return FleetSpec(title="small", hive=list(hives) or [hive()])


def ask(at: float, model: str = "m", **more: object) -> RequestSpec:
    told = {"client": "me", "prompt": 100, "answer": 50} | more
    return RequestSpec(at=at, model=model, **told)  # type: ignore[arg-type]


def trace(*requests: RequestSpec, **more: object) -> TraceSpec:
    told: dict[str, object] = {
        "title": "small",
        "models": {"m": ModelSpec(size=5.0, parameters=8.0)},
        "ctx": 4096,
    }
    return TraceSpec(request=list(requests), **(told | more))  # type: ignore[arg-type]


class Watched:
    """A simulation whose bounds are looked at whenever the brain decides something."""

    def __init__(
        self, told: TraceSpec, on: FleetSpec, policy: Policy | None = None, seed: int | None = None
    ) -> None:
        self.ends: Counter[str] = Counter()
        self.dispatches: list[tuple[float, str, str]] = []
        self.least_free = min(card.memory for h in on.hive for card in h.device)
        self.most_over = 0
        self.simulation = Simulation(
            told, on, policy or Ect(ctx=told.ctx), seed=seed, watch=self._see
        )
        self.tally = self.simulation.run()

    def _see(self, effect: Effect, now: float) -> None:
        if isinstance(effect, Append) and effect.type in TERMINAL_EVENTS:
            self.ends[effect.job_id] += 1
        if isinstance(effect, Dispatch):
            self.dispatches.append((now, effect.job.job_id, effect.worker_id))
        for machine in self.simulation.hosts.machines.values():
            for card in machine.cards.values():
                assert card.promised <= card.total
                assert card.told().memory_used <= card.total
            for process in machine.workers.values():
                self.most_over = max(self.most_over, len(process.runs) - process.spec.slots)

    def holds(self) -> None:
        """What has to be true of every simulation in which nothing is given up."""
        records = self.tally.records
        assert self.ends.keys() >= {n for n, r in records.items() if r.code is None}
        assert {self.ends[name] for name in self.ends} <= {1}
        assert all(record.terminals == 1 for record in records.values())
        assert self.most_over <= 0
        assert self.tally.turned_away == 0
        assert self.tally.out_of_memory == 0
        still = [j for j in self.simulation.colony.jobs if not j.startswith("start-")]
        assert not still, "only workers that were to be there from the beginning may still load"
        assert len(self.simulation.colony.queue) == 0
