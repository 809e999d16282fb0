"""Hives: they come with what runs there, tell what happens, and go. Functions over a Colony."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rbee.core import supervising, telling
from rbee.core.effects import Publish
from rbee.core.events import HiveJoined, HiveLabelled, ModelLocated
from rbee.core.fleet import HiveState, Worker
from rbee.core.states import WORKER_LIVE, WORKER_READY
from rbee.errors import HiveOffline
from rbee.protocol.colony import HiveGone, Models, Telemetry
from rbee.protocol.hives import (
    AnyHiveEvent,
    HiveHeartbeat,
    HiveModels,
    HiveTelemetry,
    HiveWorker,
    HiveWorkerExited,
    HiveWorkerReady,
    HiveWorkers,
    ModelInfo,
)
from rbee.protocol.workers import WorkerSpec

if TYPE_CHECKING:
    from rbee.core.colony import Colony


def joined(colony: Colony, event: HiveJoined) -> None:
    """A hive said what it is."""
    hive = HiveState(
        name=event.name,
        kind=event.kind,
        url=event.url,
        capabilities=event.capabilities,
        seen_at=colony.utc,
        devices=list(event.capabilities.devices),
        labels={**event.capabilities.labels, **event.labels},
    )
    changed = colony.fleet.join(hive)
    colony.fleet.pulses.forget(event.name)
    what = ", ".join(f"{d.name} {d.label}" for d in hive.devices)
    colony.narrate(f"hive is up: {what}", source=hive.name)
    for known in event.workers:
        _adopt(colony, hive, known)
    colony.effects.append(Publish("hive", colony.fleet.hive_info(hive)))
    if changed:
        publish_models(colony)


def labelled(colony: Colony, event: HiveLabelled) -> None:
    """Heeded from the next choice on."""
    hive = colony.fleet.hives.get(event.name)
    if hive is not None:
        hive.labels = {**hive.capabilities.labels, **event.labels}
        colony.effects.append(Publish("hive", colony.fleet.hive_info(hive)))


def left(colony: Colony, name: str, reason: str) -> None:
    """A hive does not answer: its workers cannot be used and their jobs end."""
    hive = colony.fleet.hives.get(name)
    if hive is None or not hive.online:
        return
    hive.online, hive.left_mono = False, colony.now
    colony.fleet.pulses.forget(name)
    colony.setbacks.hive(name).forgotten()
    colony.narrate(f"hive is offline: {reason}", source=name, level="error")
    for worker in colony.fleet.on(name):
        if worker.state in WORKER_LIVE and not worker.draining:
            supervising.miss(colony, worker)
        supervising.remove(colony, worker, HiveOffline(f"hive {name} went offline: {reason}"))
    colony.effects.append(Publish("hive", colony.fleet.hive_info(hive)))
    if hive.kind == "http":
        colony.effects.append(Publish("hive_gone", HiveGone(name=name)))


def resting(colony: Colony, name: str, asked: bool) -> None:
    """It gets nothing more, and its workers go when what they run has ended."""
    hive = colony.fleet.hives.get(name)
    if hive is None or hive.resting == asked:
        return
    hive.resting = asked
    for worker in colony.fleet.on(name):
        if worker.state in WORKER_READY and not worker.draining and asked:
            worker.draining = True
            colony.fleet.touch(worker)
            telling.publish_worker(colony, worker)
    colony.narrate("takes no more work" if asked else "takes work again", source=name)


def forgotten(colony: Colony, name: str) -> None:
    """It was removed."""
    left(colony, name, "removed")
    if colony.fleet.forget(name):
        publish_models(colony)
    colony.effects.append(Publish("hive_gone", HiveGone(name=name)))


def said(colony: Colony, name: str, event: AnyHiveEvent) -> None:
    """One of a hive's own events."""
    hive = colony.fleet.hives.get(name)
    if hive is not None:
        hive.seen_at = colony.utc
    match event:
        case HiveWorkerReady(ready=ready, log_path=log_path):
            supervising.bound(colony, name, ready, log_path)
        case HiveHeartbeat(beat=beat):
            supervising.beat(colony, name, beat)
        case HiveWorkerExited():
            supervising.exited(colony, name, event)
        case HiveTelemetry():
            if event.measured:
                _measured(colony, name, event)
            supervising.heard(colony, name, event.within, event.heard, event.silent)
        case HiveModels(models=models, disk_free=disk_free):
            if hive is not None:
                colony.dirty = True
                if colony.fleet.holdings.listed(hive, models, disk_free):
                    publish_models(colony)
        case HiveWorkers():
            pass  # the first event of a stream, which came with HiveJoined


def _measured(colony: Colony, name: str, said: HiveTelemetry) -> None:
    """What has changed on its devices and of its workers' loads; all else was measured as well."""
    hive = colony.fleet.hives.get(name)
    for load in said.workers:
        worker = colony.fleet.workers.get(load.worker_id)
        if worker is not None and worker.hive == name:
            worker.cpu_percent, worker.metered = load.cpu_percent, True
            if load.rss_bytes != worker.rss_bytes:
                worker.rss_bytes = load.rss_bytes
                colony.fleet.index.weigh(worker)
            telling.publish_worker(colony, worker)
    if hive is None:
        return
    # A list of its own also where nothing changed: what has gone since was measured as gone.
    hive.devices = list(said.devices if said.devices is not None else hive.devices)
    colony.dirty = True
    for device in hive.devices:
        spot = colony.fleet.spot(name, device.name)
        for worker in list(spot.loading.values()) if spot is not None else ():
            worker.counted_bytes = worker.loading_bytes
            if worker.metered and worker.state in WORKER_READY:
                worker.settled = True
                colony.fleet.touch(worker)
    if colony.watched:
        colony.effects.append(Publish("telemetry", Telemetry(hive=name, devices=hive.devices)))


def _adopt(colony: Colony, hive: HiveState, known: HiveWorker) -> None:
    """A worker the hive already runs: after a queen's restart, or when the link came back."""
    spec = known.spec
    if spec.worker_id in colony.fleet.workers:
        return
    model = _model(hive, spec)
    colony.fleet.holdings.locate(hive, model)
    worker = Worker(
        spec=spec,
        hive=hive.name,
        model=model,
        pinned=spec.pinned,
        need_bytes=0,
        started_at=known.started_at,
        started_mono=colony.now,
        beat_mono=colony.now,
        idle_since=colony.now,
        log_path=known.log_path,
    )
    colony.fleet.add(worker)
    colony.narrate(f"adopted {worker.id} with {spec.model_id}", source=hive.name)
    supervising.found(colony, worker)
    if known.ready is not None:
        supervising.bound(colony, hive.name, known.ready, known.log_path)
    if known.beat is not None:
        supervising.beat(colony, hive.name, known.beat)


def _model(hive: HiveState, spec: WorkerSpec) -> ModelInfo:
    """What the hive says of the worker's model; no more than the name where it is not listed."""
    for model in (*hive.capabilities.models, *hive.located.values()):
        same = spec.model_key in ("", model.key) and model.path == spec.model_path
        if model.id == spec.model_id and (same or spec.model_key == model.key):
            return model
    digest = spec.model_key if spec.model_key != spec.model_path else ""
    return ModelInfo(
        id=spec.model_id,
        ref=spec.model_id,
        path=spec.model_path,
        format=spec.format,
        size=0,
        digest=digest or None,
    )


def located(colony: Colony, event: ModelLocated) -> None:
    """A model was found on a hive that does not list it."""
    hive = colony.fleet.hives.get(event.hive)
    if hive is not None and colony.fleet.holdings.locate(hive, event.model):
        publish_models(colony)


def publish_models(colony: Colony) -> None:
    """The colony's models to the dashboards, if there are any."""
    if colony.watched:
        models = [model for model, _, _ in colony.fleet.held_models()]
        colony.effects.append(Publish("models", Models(models=models)))
