"""Hard filters: where a model could be started, and one sentence for each place that cannot.

Owns files, devices and memory; which backend it is, rbee.core.backends says. What failed lately and
what a job minds is added by the policy.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import field, replace
from itertools import islice

from rbee.core import backends
from rbee.core.eviction import Room, claim_for, could_ever, evict_for
from rbee.core.fleet import Fleet, HiveState, Worker
from rbee.core.sizing import USUAL_SLOTS, Spread, insufficient, need_of, slots_that_fit
from rbee.core.value import value
from rbee.errors import (
    BackendUnavailable,
    HiveNotFound,
    HiveOffline,
    ModelNotFound,
    NoWorkers,
    RbeeError,
    ValidationFailed,
)
from rbee.protocol.hives import BackendStatus, Device, ModelInfo
from rbee.protocol.workers import WorkerState

GIB = 1 << 30
_MOST_ASKED = 32
"""Hives that are looked at for another place to propose."""
_ENDING = frozenset({WorkerState.STOPPING, WorkerState.STOPPED, WorkerState.FAILED})


@value()
class Place:
    """A device a worker could be started on, and who would have to go first."""

    hive: HiveState
    device: Device
    backend: BackendStatus
    need_bytes: int
    slots: int
    kv_type: str
    evict: list[Worker] = field(default_factory=list[Worker])
    leaving: list[Worker] = field(default_factory=list[Worker])
    """Workers already stopping whose memory is needed: wait for them."""
    claim: list[Worker] = field(default_factory=list[Worker])
    """Workers, busy ones among them, that would have to end what they do and go."""
    until: str = ""
    """What else has to end before there is room; empty: nothing."""

    @property
    def ready(self) -> bool:
        """A worker may be started there at once."""
        return not (self.evict or self.leaving or self.claim or self.until)


@value()
class Wish:
    """What is to be started. None means: the scheduler's choice."""

    model: ModelInfo
    ctx: int
    slots: int | None = None
    """None: as many as fit, up to the usual."""
    kv_type: str = "f16"
    flash: bool = True
    """Attention in one pass; without it a long context needs far more working memory."""
    clamp: bool = False
    """`slots` is meant for all backends: one that runs fewer at a time gets its most."""
    hive: str | None = None
    device: str | None = None
    backend: str | None = None
    anywhere: bool = False
    """It is yet to be fetched: a hive need not have it."""


Site = tuple[HiveState, Device, BackendStatus]


def places(
    wish: Wish, fleet: Fleet, room: Room | None = None
) -> tuple[list[Place], list[RbeeError]]:
    """Every fitting place, and the reason for each one that does not fit (most specific last)."""
    good: list[Place] = []
    bad: list[RbeeError] = []
    for site in sites(wish, fleet):
        found = site if isinstance(site, RbeeError) else fit(wish, fleet, site, room)
        if isinstance(found, RbeeError):
            bad.append(found)
        else:
            good.append(found)
    return good, bad


def sites(
    wish: Wish, fleet: Fleet, hives: Iterable[HiveState] | None = None
) -> Iterator[Site | RbeeError]:
    """Every device with a backend for it, whatever its memory; an error for each that has none."""
    if wish.hive is not None and wish.hive not in fleet.hives:
        yield HiveNotFound.of(wish.hive, fleet.hives)
        return
    if wish.hive is not None:
        hives = (fleet.hives[wish.hive],)
    any_hive = False
    for hive in fleet.hives.values() if hives is None else hives:
        any_hive = True
        if hive.resting:
            yield HiveOffline(f"hive {hive.name} takes no work now: it is about to be started anew")
        elif hive.online or hive.asleep:
            yield from _in_hive(wish, hive)
        else:
            yield HiveOffline(f"hive {hive.name} is offline")
    if not any_hive:
        yield NoWorkers(
            "no hive is online", action="Wait for the hive to start, or see `rbee hive list`."
        )


def _in_hive(wish: Wish, hive: HiveState) -> Iterator[Site | RbeeError]:
    running = backends.able(wish.model, hive, wish.backend)
    if isinstance(running, RbeeError):
        yield running
        return
    if not wish.anywhere and wish.model.key not in hive.paths:
        yield not_there(wish.model, hive)
        return
    devices = hive.devices
    if wish.device is not None:
        device = hive.device(wish.device)
        if device is None:
            yield _no_device(wish.device, hive)
            return
        devices = [device]
    for device in devices:
        backend = backends.choose(wish.model, hive, device, running)
        yield backend if isinstance(backend, RbeeError) else (hive, device, backend)


def not_there(model: ModelInfo, hive: HiveState) -> ModelNotFound:
    """The hive would need the model's file first."""
    return ModelNotFound(
        f"{hive.name} does not have {model.id}",
        action=f"rbee model copy {model.id} --to {hive.name}",
    )


def _no_device(name: str, hive: HiveState) -> RbeeError:
    have = ", ".join(d.name for d in hive.devices)
    kind = name.partition(":")[0]
    for absent in hive.capabilities.absent_devices:
        if absent.name == kind:
            return BackendUnavailable(
                f"{hive.name} has no {name}: {absent.reason} (it has {have})",
                action=absent.action or f"Use one of: {have}.",
            )
    return BackendUnavailable(
        f"{hive.name} has no {name} (it has {have})", action=f"Use one of: {have}."
    )


def fit(wish: Wish, fleet: Fleet, site: Site, room: Room | None = None) -> Place | RbeeError:
    """Whether the model fits there, and who would have to go."""
    hive, device, backend = site
    room = room or Room()
    if wish.slots is not None and wish.slots > backend.max_slots and not wish.clamp:
        return _too_many(wish.slots, hive, backend)
    free = fleet.free_memory(hive, device)
    model, ctx = wish.model, wish.ctx
    spread = Spread(wish.kv_type, device.kind, wish.flash, backend.name)
    if wish.slots is not None:
        slots = min(wish.slots, backend.max_slots)
    else:
        most = min(USUAL_SLOTS, backend.max_slots)
        slots = slots_that_fit(model, spread, ctx=ctx, free=free, most=most) or 1
    need = need_of(model, spread, ctx=ctx, slots=slots)

    def place(
        evict: list[Worker] | None = None,
        leaving: list[Worker] | None = None,
        claim: list[Worker] | None = None,
        until: str = "",
    ) -> Place:
        return Place(
            hive,
            device,
            backend,
            need,
            slots,
            wish.kv_type,
            evict or [],
            leaving or [],
            claim or [],
            until,
        )

    if need <= free:
        return place()
    spot = fleet.spot(hive.name, device.name)
    if spot is not None:
        there = spot.workers.values()
        leaving = [w for w in there if w.state in _ENDING]
        settling = spot.settling if spot.settles_with is hive.devices else 0
        missing = need - free - settling - sum(w.held_bytes for w in leaving)
        if missing <= 0:
            until = "" if leaving else f"the memory of what has just stopped on {hive.name}"
            return place(leaving=leaving, until=until)
        evict = evict_for(missing, there, room)
        if evict is not None:
            return place(evict=evict, leaving=leaving)
        if room.later:
            claim = claim_for(missing, there, room)
            if claim is not None:
                return place(claim=claim, leaving=leaving)
            # What loads is counted generously: refusing for good waits until its figures settle.
            loading = [w for w in spot.loading.values() if w.state is WorkerState.LOADING]
            coming = sum(w.need_bytes for w in loading if not w.pinned)
            if device.kind != "cpu":  # how much of it the device counts already is not told
                coming += sum(max(0, w.need_bytes - w.held_bytes) for w in loading if not w.pinned)
            fresh = [w for w in spot.loading.values() if w.state is not WorkerState.LOADING]
            coming += sum(max(0, w.need_bytes - w.taken_bytes) for w in fresh)
            staying = [w for w in there if w.state not in _ENDING]
            if could_ever(missing - coming, staying, room):
                loads = [*loading, *fresh]
                others = [w.id for w in there if w in loads or w.claimed_for]
                return place(until=f"the memory of {', '.join(others)}")
    return insufficient(
        model,
        spread,
        where=f"{hive.name} {device.name}",
        ctx=ctx,
        slots=slots,
        free=free,
        elsewhere=_elsewhere(wish, fleet, site, slots),
    )


def _elsewhere(wish: Wish, fleet: Fleet, site: Site, slots: int) -> str:
    """A place that was ruled out by name only and has room now; empty: there is none."""
    if wish.hive is None and wish.device is None:
        return ""
    free_wish = replace(wish, hive=None, device=None)
    for found in sites(free_wish, fleet, islice(fleet.hives.values(), _MOST_ASKED)):
        if isinstance(found, RbeeError) or found[:2] == site[:2]:
            continue
        hive, device, backend = found
        spread = Spread(wish.kv_type, device.kind, wish.flash, backend.name)
        need = need_of(wish.model, spread, ctx=wish.ctx, slots=min(slots, backend.max_slots))
        free = fleet.free_memory(hive, device)
        if hive.online and need <= free:
            return f"{hive.name} {device.name}, which has {free / GIB:.1f} GiB free"
    return ""


def _too_many(slots: int, hive: HiveState, backend: BackendStatus) -> RbeeError:
    return ValidationFailed(
        f"slots: {backend.name} on {hive.name} runs at most {backend.max_slots} requests at a time,"
        f" not {slots}",
        action=f"Ask for {backend.max_slots} slots or fewer, or leave the number out.",
        field="slots",
        constraint=f"<= {backend.max_slots}",
    )
