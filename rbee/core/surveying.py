"""Where a worker could be started for a job, what each place would cost, and what rules others out.

Owns the ranking of places. Of a colony with many hives it looks at some that have room, beginning
at one that depends on the job.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice

from rbee.core.bars import Bar, of_site
from rbee.core.costs import Facts, Terms, losing, of_place
from rbee.core.eviction import Room, spare_of
from rbee.core.feasibility import Place, Wish, fit, sites
from rbee.core.fleet import HiveState
from rbee.core.policy import View
from rbee.core.sizing import Spread, need_of
from rbee.errors import RbeeError

MANY = 32
"""Hives that are all looked at."""
ENOUGH = 16
"""Places found among more."""


@dataclass
class Survey:
    """What was found, the best place first."""

    places: list[tuple[float, Place, Terms]] = field(
        default_factory=list[tuple[float, Place, Terms]]
    )
    bars: list[tuple[str, str, Bar]] = field(default_factory=list[tuple[str, str, Bar]])
    """Hive, device, and what stands against it at present."""
    never: list[RbeeError] = field(default_factory=list[RbeeError])
    """What rules a place out for good."""
    unseen: int = 0
    """Hives that were not looked at."""


def survey(
    facts: Facts, wish: Wish, view: View, *, charge: bool = True, looks: int | None = None
) -> Survey:
    """All places, or enough of them.

    `charge`: what others would lose is part of the cost; `looks`: devices looked at, at most, in a
    colony with many hives.
    """
    found = Survey()
    fleet = view.fleet
    pool = fleet.pool(facts.demand.model_id, facts.demand.model_key)
    room = Room(
        losing=partial(losing, view=view),
        spare=spare_of(fleet, view.limits),
        later=True,
        model_id=facts.demand.model_id,
    )
    many = len(fleet.hives) > MANY and wish.hive is None
    looked = 0
    for site in sites(wish, fleet, _some(facts, wish, view) if many else None):
        if many and (looked == looks or len(found.places) >= ENOUGH):
            found.unseen = max(0, len(fleet.hives) - looked)
            break
        looked += 1
        if isinstance(site, RbeeError):
            found.never.append(site)
            continue
        bar = of_site(facts, site, pool, view)
        if bar is not None:
            found.bars.append((site[0].name, site[1].name, bar))
            if bar.error is not None:
                found.never.append(bar.error)
            continue
        place = fit(wish, fleet, site, room)
        if isinstance(place, RbeeError):
            found.never.append(place)
            continue
        terms = of_place(facts, place, view)
        if not charge:
            terms.ext = 0.0
        found.places.append((terms.total, place, terms))
    found.places.sort(key=lambda scored: (scored[0], len(scored[1].evict)))
    return found


def _some(facts: Facts, wish: Wish, view: View) -> Iterator[HiveState]:
    """Hives that have the model and room for one slot, idle workers' memory counted as room; some
    others if none."""
    hives = view.fleet.holdings.of(facts.demand.model_key) or view.fleet.hives
    start = facts.seed % len(hives)
    needs: dict[str, int] = {}
    any_room = False
    for hive in chain(islice(hives.values(), start, None), islice(hives.values(), start)):
        for device in hive.devices:
            if device.kind not in needs:
                spread = Spread(wish.kv_type, device.kind, wish.flash)
                needs[device.kind] = need_of(
                    wish.model, spread, ctx=wish.ctx, slots=wish.slots or 1
                )
            spot = view.fleet.spot(hive.name, device.name)
            if device.memory_free + (spot.idle_bytes if spot else 0) >= needs[device.kind]:
                any_room = True
                yield hive
                break
    if not any_room:
        yield from islice(hives.values(), MANY)
