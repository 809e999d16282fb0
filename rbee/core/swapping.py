"""When a model may take another's place: the cost to others against the waiting that it ends.

Jobs wait until together they have waited as long as the swap costs others (the rule of ski rental:
never more than twice what foresight would pay), but the first of them never longer than
`swap_patience` (batch work ten times that). Waiting counts from when the model that would go had
come up, and a model that is wanted stays for at least as long as it took to load, so that two
models that compete cannot spend all their time loading.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rbee.core.bars import about
from rbee.core.costs import Facts, losing
from rbee.core.fleet import Worker
from rbee.core.policy import View
from rbee.protocol.operations import Priority

CHEAP = 1.0
"""Seconds: a swap that costs others less is made at once."""
BATCH_PATIENCE = 10.0
"""Times as long as interactive work."""


@dataclass(frozen=True)
class Swap:
    """Whether, and the amounts."""

    allowed: bool
    cost: float
    waited: float
    why: str


def swap(facts: Facts, victims: Sequence[Worker], view: View) -> Swap:
    """Whether these may be displaced by the job now."""
    cost = sum(losing(v, view) for v in victims)
    up = max((v.ready_mono or 0.0 for v in victims), default=0.0)
    head = max(0.0, view.now - max(facts.job.queued_mono, up))
    if cost < CHEAP:
        return Swap(True, cost, head, f"that costs others {cost:.1f} s")
    patience = view.limits.swap_patience
    if facts.request.priority is Priority.BATCH:
        patience *= BATCH_PATIENCE
    names = ", ".join(f"{v.id} ({v.spec.model_id})" for v in victims)
    told = f"evicting {names} would cost others {cost:.0f} s"
    if head >= patience:
        return Swap(True, cost, head, f"it has waited {head:.0f} s, the most is {patience:.0f} s")
    settled = max((view.experience.reload(v) for v in victims), default=0.0)
    if view.now - up < settled:
        why = f"waiting: {told}, and it has only just come up"
        return Swap(False, cost, head, why)
    waited = _waited(facts, up, cost, view)
    if waited >= cost:
        return Swap(
            True, cost, waited, f"that costs others {cost:.0f} s, as long as it was waited for"
        )
    sofar = f"less than {about(waited)}" if waited else "0 s"
    return Swap(False, cost, waited, f"waiting: {told}; {sofar} waited so far")


def _waited(facts: Facts, since: float, enough: float, view: View) -> float:
    """Seconds all jobs of this demand have waited since then, together; no more than is enough."""
    total = 0.0
    for job in view.queue.members(facts.demand):
        total += max(0.0, view.now - max(job.queued_mono, since))
        if total >= enough:
            break
    return total
