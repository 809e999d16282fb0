"""Policies side by side: the same requests, the same machines, one simulation for each.

Owns the names of the policies that can be simulated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rbee.core.policies import LeastConnections, OwnLoad
from rbee.core.policy import Policy
from rbee.core.scheduling import Ect
from rbee.errors import InvalidRequest
from rbee.sim.fleets import FleetSpec
from rbee.sim.simulation import simulate
from rbee.sim.tally import Outcome
from rbee.sim.traces import TraceSpec

POLICIES: dict[str, Callable[[int], Policy]] = {
    "ect": lambda ctx: Ect(ctx=ctx),
    "own-load": lambda ctx: OwnLoad(ctx=ctx),
    "least-connections": lambda ctx: LeastConnections(ctx=ctx),
}
"""Name → the policy, given the context of each slot."""
ABOUT = {
    "ect": "what the queen decides by: the smallest expected completion time, all terms",
    "own-load": "the same, but what others lose by an eviction is not counted",
    "least-connections": "the worker with the fewest jobs; room is made for whoever is next",
}


def chosen(names: Sequence[str]) -> list[str]:
    """Those that are named, each once; none or `all`: every one. Raises InvalidRequest."""
    for name in names:
        if name not in POLICIES and name != "all":
            raise InvalidRequest(
                f"no policy {name!r}", action=f"Use all, or some of: {', '.join(POLICIES)}."
            )
    if not names or "all" in names:
        return list(POLICIES)
    return list(dict.fromkeys(names))


def contest(
    trace: TraceSpec,
    fleet: FleetSpec,
    policies: Sequence[str],
    *,
    names: tuple[str, str],
    seed: int | None = None,
    progress: Callable[[str, float], None] | None = None,
) -> list[Outcome]:
    """Figures of each; `names`: of trace and fleet. `progress` is told a policy and 0..1 of all."""
    found: list[Outcome] = []
    for n, policy in enumerate(policies):

        def tell(part: float, n: int = n, policy: str = policy) -> None:
            if progress is not None:
                progress(policy, (n + part) / len(policies))

        found.append(
            simulate(
                trace, fleet, POLICIES[policy](trace.ctx), names=names, seed=seed, progress=tell
            )
        )
    return found
