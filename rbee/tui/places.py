"""Where a model could be started, as a person is asked: each device, and why it would not do.

Pure, from what the screens know of the hives. It is a forecast that shows the same amounts as the
scheduler's refusals; the queen decides, and she also knows what she could stop to make room.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from rbee.protocol.hives import Device, HiveInfo, ModelInfo
from rbee.protocol.workers import WorkerInfo, WorkerState
from rbee.tui.glyphs import gib
from rbee.tui.store import ColonyStore

CTX = 4096
"""Tokens of a slot that the forecast reckons with: what `worker.ctx` is unless it was changed."""


@dataclass(frozen=True)
class PlaceView:
    """A device of a hive. `words`: what is free there, or one sentence why it would not do."""

    hive: str
    device: str
    fits: bool
    words: str


def place_views(
    model: ModelInfo, store: ColonyStore, holders: Collection[str] | None
) -> list[PlaceView]:
    """Every device of every hive, those that fit first. `holders`: hives that have the model;
    None: that is not known."""
    views = [
        _view(model, hive, device, store, has=holders is None or name in holders)
        for name, hive in sorted(store.hives.items())
        for device in hive.devices
    ]
    return sorted(views, key=lambda view: not view.fits)


def _view(
    model: ModelInfo, hive: HiveInfo, device: Device, store: ColonyStore, *, has: bool
) -> PlaceView:
    why = _barred(model, hive, device, has=has)
    if why:
        return PlaceView(hive.name, device.name, fits=False, words=why)
    need = model.memory_needed(ctx=min(CTX, model.context or CTX), slots=1, device_kind=device.kind)
    fits = need <= device.memory_free
    words = f"needs {gib(need)} GiB with one slot, {gib(device.memory_free)} GiB is free"
    return PlaceView(
        hive.name, device.name, fits, words if fits else words + _idle(hive, device, store)
    )


def _barred(model: ModelInfo, hive: HiveInfo, device: Device, *, has: bool) -> str:
    """Why it cannot run there whatever the memory; empty: it can."""
    if not hive.online:
        return f"{hive.name} is offline"
    running = [backend for backend in hive.backends if model.format in backend.formats]
    if not running:
        return f"no installed backend of {hive.name} runs {model.format} files"
    if not any({device.name, device.kind} & set(backend.devices) for backend in running):
        return f"the installed {running[0].name} cannot use {device.name}"
    return "" if has else f"{hive.name} does not have {model.id}"


def _idle(hive: HiveInfo, device: Device, store: ColonyStore) -> str:
    """Idle workers there, which the scheduler may stop."""
    idle = [
        worker
        for worker in store.worker_list()
        if (worker.hive, worker.device) == (hive.name, device.name) and _may_go(worker)
    ]
    if not idle:
        return ""
    size = sum(worker.memory_bytes for worker in idle)
    names = ", ".join(worker.worker_id for worker in idle)
    return f"; idle there: {names}" + (f" with {gib(size)} GiB" if size else "")


def _may_go(worker: WorkerInfo) -> bool:
    return worker.state is WorkerState.IDLE and not worker.pinned
