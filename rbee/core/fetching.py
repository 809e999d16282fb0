"""Jobs whose model no hive has yet: where it is to be fetched to, and their wait until it is there.

Owns the choice of the hive and the steps of those jobs up to the queue, where they go on like all
others. Never fetches anything and shares no transfer, that is the daemons' business. Functions over
a Colony; called by nobody else, but for `where_to_fetch`, `fits` and `everywhere`, which change
nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from rbee.core import ending, hives, telling
from rbee.core.costs import losing, usual
from rbee.core.effects import AbortFetch, FetchModel, SaveJob
from rbee.core.events import Fetched, FetchFailed, FetchProgress, ModelLocated
from rbee.core.eviction import Room, spare_of
from rbee.core.feasibility import Place, Wish, fit, sites
from rbee.core.fleet import HiveState
from rbee.core.jobs import Job
from rbee.core.policy import Policy, View
from rbee.core.refusing import choose_error
from rbee.errors import InsufficientDisk, InsufficientRam, InsufficientVram, RbeeError
from rbee.protocol.hives import Device, ModelInfo
from rbee.protocol.jobs import EventType, QueuedData, StatusData
from rbee.protocol.operations import (
    ModelDownload,
    ModelPreload,
    ModelWork,
    WorkerSpawn,
)

if TYPE_CHECKING:
    from rbee.core.colony import Colony

DISK_MARGIN = 256 << 20
"""Bytes that stay free on a disk beside a model that is fetched to it."""
_MEMORY = (InsufficientRam, InsufficientVram)


# ---- where to -----------------------------------------------------------------------------------


def where_to_fetch(
    model: ModelInfo,
    ask: ModelWork | WorkerSpawn | ModelPreload | ModelDownload,
    policy: Policy,
    view: View,
) -> str | RbeeError:
    """The hive that would have its answer soonest, or the most telling reason why none may.

    `model` is as the hub tells it. A hive must be there, able to run it (idle workers may have to
    go, and busy ones when they are done) and have room on its disk. One that a download names need
    not be able to run it: its disk is the user's.
    """
    if isinstance(ask, ModelDownload) and ask.hive is not None:
        hive = view.fleet.hives.get(ask.hive)
        if hive is not None and hive.online:
            return short_of_disk(model, hive) or hive.name
    best: tuple[float, str] | None = None
    bad: list[RbeeError] = []
    for found in _places(model, ask, policy, view):
        if isinstance(found, RbeeError):
            bad.append(found)
            continue
        short = short_of_disk(model, found.hive)
        if short is not None:
            bad.append(short)
            continue
        scored = (usual(model, found, view.experience), found.hive.name)
        best = min(best, scored) if best is not None else scored
    return best[1] if best is not None else choose_error(bad)


def fits(model: ModelInfo, policy: Policy, view: View) -> tuple[list[str], list[str]]:
    """Where it would run, now or after others have gone, and where its memory is too little, as
    `hive device` each; places that could not run it at all are in neither."""
    good: list[str] = []
    too_big: list[str] = []
    for hive, device, found in everywhere(model, policy, view):
        if device is None:
            continue
        name = f"{hive.name} {device.name}"
        if isinstance(found, Place):
            good.append(name)
        elif isinstance(found, _MEMORY):
            too_big.append(name)
    return good, too_big


def everywhere(
    model: ModelInfo, policy: Policy, view: View
) -> Iterator[tuple[HiveState, Device | None, Place | RbeeError]]:
    """Every device of every hive, or why it is none; whether a hive has the model does not count.
    Without a device it is said of the whole hive, or of one that no backend can use."""
    wish, room = _wish(model, None, policy, view), _room(model, view)
    for hive in view.fleet.hives.values():
        for site in sites(wish, view.fleet, (hive,)):
            if isinstance(site, RbeeError):
                yield hive, None, site
            else:
                yield hive, site[1], fit(wish, view.fleet, site, room)


def short_of_disk(model: ModelInfo, hive: HiveState) -> InsufficientDisk | None:
    """Why the model's files do not fit on the hive's disk; None: they do."""
    required, available = model.size + DISK_MARGIN, hive.capabilities.disk_free
    if required <= available:
        return None
    return InsufficientDisk(
        f"{model.id} needs {_amount(required)} on the disk of {hive.name}"
        f" ({_amount(DISK_MARGIN)} of it stay free), {_amount(available)} is free",
        action=f"Free {_amount(required - available)} on {hive.name}"
        " (`rbee model delete`, `rbee model gc`), or choose a smaller quantisation.",
        required=required,
        available=available,
    )


def _places(
    model: ModelInfo,
    ask: ModelWork | WorkerSpawn | ModelPreload | ModelDownload,
    policy: Policy,
    view: View,
) -> list[Place | RbeeError]:
    wish, room = _wish(model, ask, policy, view), _room(model, view)
    return [
        site if isinstance(site, RbeeError) else fit(wish, view.fleet, site, room)
        for site in sites(wish, view.fleet)
    ]


def _wish(
    model: ModelInfo,
    ask: ModelWork | WorkerSpawn | ModelPreload | ModelDownload | None,
    policy: Policy,
    view: View,
) -> Wish:
    ctx, slots, backend = min(policy.ctx, model.context or policy.ctx), policy.slots, None
    clamp, device = True, None
    if isinstance(ask, WorkerSpawn):
        ctx, backend = ask.ctx or ctx, ask.backend
        slots, clamp = ask.slots or slots, ask.slots is None
    if ask is not None and not isinstance(ask, ModelDownload):
        device = ask.device
    if isinstance(ask, ModelWork | ModelPreload):
        backend = ask.backend
    return Wish(
        model=model,
        ctx=ctx,
        slots=slots,
        clamp=clamp,
        kv_type=policy.kv_type,
        flash=view.limits.flash_attention != "off",
        hive=ask.hive if ask is not None else None,
        device=device,
        backend=backend,
        anywhere=True,
    )


def _room(model: ModelInfo, view: View) -> Room:
    return Room(
        losing=partial(losing, view=view),
        spare=spare_of(view.fleet, view.limits),
        later=True,
        model_id=model.id,
    )


def _amount(size: int) -> str:
    return f"{size / (1 << 30):.1f} GiB" if size >= 1 << 30 else f"{size / (1 << 20):.0f} MiB"


# ---- the wait -----------------------------------------------------------------------------------


def begin(colony: Colony, job: Job, *, recovered: bool) -> None:
    """It waits for its model, outside the queue: nobody waits behind it and no share is its."""
    assert job.fetch_on is not None
    assert job.model is not None
    colony.fetching[job.job_id] = job
    request = job.request
    if isinstance(request, ModelWork):
        if request.deadline_ms is not None:
            colony.urgent[job.job_id] = job
        if not recovered:
            position = colony.queue.position(job, colony.now)
            telling.append(colony, job, EventType.QUEUED, QueuedData(position=position))
    job.waiting_for = f"{job.model.id} is being fetched to {job.fetch_on}"
    status = StatusData(stage="downloading", message=job.waiting_for)
    telling.append(colony, job, EventType.STATUS, status)
    colony.narrate(f"fetching {job.model.id} to {job.fetch_on} for {job.job_id}")
    colony.effects += [SaveJob(job), FetchModel(job.job_id, job.fetch_on, job)]
    telling.publish_job(colony, job)


def progressed(colony: Colony, event: FetchProgress) -> None:
    """How far its model is."""
    job = colony.fetching.get(event.job_id)
    if job is None:
        return
    job.waiting_for = event.message
    status = StatusData(stage="downloading", message=event.message, progress=event.progress)
    telling.append(colony, job, EventType.STATUS, status)
    telling.publish_job(colony, job)


def fetched(colony: Colony, event: Fetched) -> Job | None:
    """Its model is there: the job that goes on with it, as if it came only now but in its turn."""
    hives.located(colony, ModelLocated(event.hive, event.model))
    job = colony.fetching.get(event.job_id)
    if job is None or colony.stopping:  # what is left then is the next queen's
        return None
    del colony.fetching[event.job_id]
    job.model, job.fetch_on, job.waiting_for = event.model, None, None
    done = StatusData(stage="downloaded", message=f"{event.model.id} is on {event.hive}")
    telling.append(colony, job, EventType.STATUS, done)
    return job


def failed(colony: Colony, event: FetchFailed) -> None:
    """Its model cannot be had."""
    job = colony.fetching.get(event.job_id)
    if job is None or colony.stopping:
        return
    del colony.fetching[event.job_id]
    ending.fail(colony, job, event.error)


def leave(colony: Colony, job: Job) -> bool:
    """It waits for its model no more; False: it did not."""
    if colony.fetching.pop(job.job_id, None) is None:
        return False
    colony.effects.append(AbortFetch(job.job_id))
    return True
