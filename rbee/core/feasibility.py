"""Hard filters: where a model could be started, and one sentence for each place that cannot."""

from __future__ import annotations

from dataclasses import dataclass, field

from rbee.core.eviction import evict_for
from rbee.core.fleet import Fleet, HiveState, Worker
from rbee.core.sizing import USUAL_SLOTS, slots_that_fit, ways_out
from rbee.errors import (
    BackendUnavailable,
    HiveNotFound,
    HiveOffline,
    InsufficientRam,
    InsufficientVram,
    ModelIncompatible,
    NoWorkers,
    RbeeError,
    ValidationFailed,
)
from rbee.protocol.hives import BackendStatus, Device, ModelInfo
from rbee.protocol.workers import WorkerState

GIB = 1 << 30


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class Wish:
    """What is to be started. None means: the scheduler's choice."""

    model: ModelInfo
    ctx: int
    slots: int | None = None
    """None: as many as fit, up to the usual."""
    kv_type: str = "f16"
    clamp: bool = False
    """`slots` is meant for all backends: one that runs fewer at a time gets its most."""
    hive: str | None = None
    device: str | None = None
    backend: str | None = None


def places(wish: Wish, fleet: Fleet) -> tuple[list[Place], list[RbeeError]]:
    """Every fitting place, and the reason for each one that does not fit (most specific last)."""
    if wish.hive is not None and wish.hive not in fleet.hives:
        known = ", ".join(fleet.hives) or "none"
        return [], [
            HiveNotFound(
                f"no hive named {wish.hive!r} was added (known: {known})",
                action=f"Use one of: {known}, or leave the hive out.",
            )
        ]
    good: list[Place] = []
    bad: list[RbeeError] = []
    for hive in fleet.hives.values():
        if wish.hive not in (None, hive.name):
            continue
        if not hive.online:
            bad.append(HiveOffline(f"hive {hive.name} is offline"))
            continue
        _in_hive(wish, fleet, hive, good, bad)
    if not good and not bad:
        bad.append(
            NoWorkers(
                "no hive is online", action="Wait for the hive to start, or see `rbee hive list`."
            )
        )
    return good, bad


def _in_hive(
    wish: Wish, fleet: Fleet, hive: HiveState, good: list[Place], bad: list[RbeeError]
) -> None:
    backend = _backend(wish, hive)
    if isinstance(backend, RbeeError):
        bad.append(backend)
        return
    devices = hive.devices
    if wish.device is not None:
        device = hive.device(wish.device)
        if device is None:
            bad.append(_no_device(wish.device, hive))
            return
        devices = [device]
    for device in devices:
        if not {device.name, device.kind} & set(backend.devices):
            bad.append(
                BackendUnavailable(
                    f"{hive.name}: the installed {backend.name} cannot use {device.name}"
                    f" (it can use {', '.join(backend.devices) or 'nothing'})",
                    action=f"Install a build of {backend.name} for {device.kind}."
                    " `rbee hive list --json` shows what is there.",
                )
            )
            continue
        place = _fits(wish, fleet, hive, device, backend)
        if isinstance(place, RbeeError):
            bad.append(place)
        else:
            good.append(place)


def _backend(wish: Wish, hive: HiveState) -> BackendStatus | RbeeError:
    caps = hive.capabilities
    if wish.backend is not None:
        for backend in caps.backends:
            if backend.name == wish.backend:
                if wish.model.format in backend.formats:
                    return backend
                return ModelIncompatible(
                    f"{hive.name}: backend {backend.name} runs {', '.join(backend.formats)},"
                    f" {wish.model.id} is {wish.model.format}"
                )
    for backend in caps.backends:
        if wish.backend is None and wish.model.format in backend.formats:
            return backend
    for absent in caps.absent_backends:
        if wish.backend in (None, absent.name):
            return BackendUnavailable(
                f"{hive.name}: backend {absent.name} is not usable: {absent.reason}",
                action=absent.action or None,
            )
    wanted = wish.backend or f"one for {wish.model.format} files"
    return BackendUnavailable(f"{hive.name}: no backend ({wanted}) is installed")


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


def _fits(
    wish: Wish, fleet: Fleet, hive: HiveState, device: Device, backend: BackendStatus
) -> Place | RbeeError:
    if wish.slots is not None and wish.slots > backend.max_slots and not wish.clamp:
        return _too_many(wish.slots, hive, backend)
    free = fleet.free_memory(hive, device)
    model, ctx, kv_type = wish.model, wish.ctx, wish.kv_type
    if wish.slots is not None:
        slots = min(wish.slots, backend.max_slots)
    else:
        most = min(USUAL_SLOTS, backend.max_slots)
        slots = slots_that_fit(model, ctx=ctx, kv_type=kv_type, free=free, most=most) or 1
    need = model.memory_needed(ctx=ctx, slots=slots, kv_type=kv_type)
    there = [
        w for w in fleet.workers.values() if w.hive == hive.name and w.spec.device == device.name
    ]
    leaving = [w for w in there if w.state is WorkerState.STOPPING]
    if free < need <= free + sum(w.rss_bytes for w in leaving):
        return Place(hive, device, backend, need, slots, kv_type, leaving=leaving)
    evict = evict_for(need - free, there)
    if evict is not None:
        return Place(hive, device, backend, need, slots, kv_type, evict)
    kind = InsufficientRam if device.kind == "cpu" else InsufficientVram
    return kind(
        f"{model.id} needs {need / GIB:.1f} GiB on {hive.name} {device.name}"
        f" ({slots} × {ctx} tokens of context in {kv_type}), {free / GIB:.1f} GiB is free",
        action=ways_out(model, ctx=ctx, slots=slots, kv_type=kv_type, free=free),
        required=need,
        available=free,
    )


def _too_many(slots: int, hive: HiveState, backend: BackendStatus) -> RbeeError:
    return ValidationFailed(
        f"slots: {backend.name} on {hive.name} runs at most {backend.max_slots} requests at a time,"
        f" not {slots}",
        action=f"Ask for {backend.max_slots} slots or fewer, or leave the number out.",
        field="slots",
        constraint=f"<= {backend.max_slots}",
    )
