"""Where a model could run, place by place, in the sentences in which the scheduler refuses.

Owns the words about places that would do; those about the others are the refusals' own. Pure, and
changes nothing.
"""

from __future__ import annotations

from collections.abc import Container

from rbee.core import fetching
from rbee.core.feasibility import Place
from rbee.core.fleet import Worker
from rbee.core.policy import Policy, View
from rbee.errors import RbeeError
from rbee.protocol.hives import ModelInfo
from rbee.protocol.models import Spot

GIB = 1 << 30


def spots(model: ModelInfo, holders: Container[str], policy: Policy, view: View) -> list[Spot]:
    """Every device of every hive, those that would do first. `holders`: hives that have it."""
    out: list[Spot] = []
    for hive, device, found in fetching.everywhere(model, policy, view):
        here = hive.name in holders
        short = None if here or not hive.online else fetching.short_of_disk(model, hive)
        fits = isinstance(found, Place)
        out.append(
            Spot(
                hive=hive.name,
                device=device.name if device is not None else "",
                memory_total=device.memory_total if device is not None else 0,
                fits=fits,
                here=here,
                words=_sentence(found, view) if isinstance(found, Place) else found.message,
                action=found.action if isinstance(found, RbeeError) else "",
                disk=short.message if short is not None else "",
            )
        )
    return sorted(out, key=lambda spot: not spot.fits)


def _sentence(place: Place, view: View) -> str:
    free = view.fleet.free_memory(place.hive, place.device)
    slots = f"{place.slots} slot{'s'[: place.slots > 1]}"
    words = f"needs {place.need_bytes / GIB:.1f} GiB with {slots}, {free / GIB:.1f} GiB is free"
    if place.claim:
        return f"{words}; {_ids(place.claim)} would have to end first"
    if place.evict:
        return f"{words}; {_ids(place.evict)}, idle, would be stopped for it"
    if place.leaving:
        return f"{words}; {_ids(place.leaving)} is about to be gone"
    return f"{words}; it waits for {place.until}" if place.until else words


def _ids(workers: list[Worker]) -> str:
    return ", ".join(worker.id for worker in workers)
