"""The life of hives and workers: start, ready, beat, idle, gone. Functions over a Colony."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rbee.core import ending, telling
from rbee.core.events import HiveJoined, Publish, StartWorker, StopWorker
from rbee.core.eviction import overdue
from rbee.core.feasibility import Place
from rbee.core.fleet import HiveState, Worker
from rbee.core.states import WORKER_READY
from rbee.errors import (
    HiveOffline,
    LoadingTimeout,
    ModelLoadFailed,
    RbeeError,
    WorkerCrashed,
    WorkerStuck,
)
from rbee.protocol.colony import HiveGone, Telemetry, WorkerGone
from rbee.protocol.hives import (
    AnyHiveEvent,
    HiveHeartbeat,
    HiveTelemetry,
    HiveWorker,
    HiveWorkerExited,
    HiveWorkerReady,
    HiveWorkers,
    ModelInfo,
)
from rbee.protocol.workers import Heartbeat, WorkerReady, WorkerSpec, WorkerState

if TYPE_CHECKING:
    from rbee.core.colony import Colony


def hive_joined(colony: Colony, event: HiveJoined) -> None:
    """A hive said what it is."""
    hive = HiveState(
        name=event.name,
        kind=event.kind,
        url=event.url,
        capabilities=event.capabilities,
        seen_at=colony.utc,
        devices=list(event.capabilities.devices),
    )
    colony.fleet.hives[event.name] = hive
    what = ", ".join(f"{d.name} {d.label}" for d in hive.devices)
    colony.narrate(f"hive is up: {what}", source=hive.name)
    for known in event.workers:
        _adopt(colony, event.name, known)
    colony.effects.append(Publish("hive", colony.fleet.hive_info(hive)))


def hive_left(colony: Colony, name: str, reason: str) -> None:
    """A hive does not answer: its workers cannot be used and their jobs end."""
    hive = colony.fleet.hives.get(name)
    if hive is None or not hive.online:
        return
    hive.online = False
    colony.narrate(f"hive is offline: {reason}", source=name, level="error")
    for worker in [w for w in colony.fleet.workers.values() if w.hive == name]:
        _remove(colony, worker, HiveOffline(f"hive {name} went offline: {reason}"))
    colony.effects.append(Publish("hive", colony.fleet.hive_info(hive)))
    if hive.kind != "local":
        colony.effects.append(Publish("hive_gone", HiveGone(name=name)))


def hive_said(colony: Colony, name: str, event: AnyHiveEvent) -> None:
    """One of a hive's own events."""
    hive = colony.fleet.hives.get(name)
    if hive is not None:
        hive.seen_at = colony.utc
    match event:
        case HiveWorkerReady(ready=ready, log_path=log_path):
            _bound(colony, name, ready, log_path)
        case HiveHeartbeat(beat=beat):
            _beat(colony, name, beat)
        case HiveWorkerExited():
            _exited(colony, name, event)
        case HiveTelemetry(devices=devices, workers=loads):
            if hive is not None:
                hive.devices = devices
            for load in loads:
                worker = colony.fleet.workers.get(load.worker_id)
                if worker is not None:
                    worker.cpu_percent, worker.rss_bytes = load.cpu_percent, load.rss_bytes
                    telling.publish_worker(colony, worker)
            colony.effects.append(Publish("telemetry", Telemetry(hive=name, devices=devices)))
        case HiveWorkers():
            pass  # the first event of a stream, which came with HiveJoined


def start_worker(
    colony: Colony,
    place: Place,
    model: ModelInfo,
    *,
    ctx: int,
    pinned: bool,
    why: str,
) -> Worker:
    """Decide a worker's id and shape, and have its hive start it."""
    spec = WorkerSpec(
        worker_id=colony.fleet.new_worker_id(),
        model_id=model.id,
        model_path=model.path,
        format=model.format,
        backend=place.backend.name,
        device=place.device.name,
        slots=place.slots,
        ctx=ctx,
        load_timeout=colony.limits.load_timeout,
        kv_type=place.kv_type,
        flash_attention=colony.limits.flash_attention,
        max_gap_ms=colony.limits.max_gap_ms,
        prompt_cache_mb=colony.limits.prompt_cache_mb,
    )
    worker = Worker(
        spec=spec,
        hive=place.hive.name,
        model=model,
        pinned=pinned,
        need_bytes=place.need_bytes,
        started_at=colony.utc,
        started_mono=colony.now,
        beat_mono=colony.now,
        idle_since=colony.now,
    )
    colony.fleet.workers[worker.id] = worker
    colony.effects.append(StartWorker(place.hive.name, spec))
    where = f"{place.hive.name} {spec.device}"
    shape = f"{spec.slots} slot{'' if spec.slots == 1 else 's'} of {spec.ctx} tokens"
    colony.narrate(f"starting {worker.id} for {model.id} on {where} with {shape}: {why}")
    telling.publish_worker(colony, worker)
    return worker


def stop_worker(colony: Colony, worker: Worker, reason: str, *, force: bool = False) -> None:
    """Have its hive end it; what it runs ends with it."""
    if worker.state in (WorkerState.STOPPING, WorkerState.STOPPED):
        return
    worker.life.to(WorkerState.STOPPING, reason)
    worker.stop_reason, worker.stopping_mono = reason, colony.now
    colony.effects.append(StopWorker(worker.hive, worker.id, force))
    colony.narrate(f"stopping {worker.id} ({worker.spec.model_id}): {reason}")
    telling.publish_worker(colony, worker)


def spawn_refused(colony: Colony, worker_id: str, error: RbeeError) -> None:
    """The hive could not even start the process."""
    worker = colony.fleet.workers.get(worker_id)
    if worker is not None:
        worker.error = error.message
        ending.fail_waiting(colony, worker_id, error)
        _remove(colony, worker, error)


def tick(colony: Colony) -> None:
    """Once a second: loads that hang, workers that fell silent, workers nobody needs."""
    limits = colony.limits
    for worker in list(colony.fleet.workers.values()):
        if (
            worker.state is WorkerState.LOADING
            and colony.now - worker.started_mono > limits.load_timeout
        ):
            error = LoadingTimeout(
                f"{worker.id} did not load {worker.spec.model_id} in {limits.load_timeout:g} s;"
                f" it hung in stage {worker.stage!r}",
                stage=worker.stage,
            )
            worker.error = error.message
            ending.fail_waiting(colony, worker.id, error)
            stop_worker(colony, worker, f"load hung in stage {worker.stage!r}", force=True)
        elif worker.state in WORKER_READY:
            silent = colony.now - worker.beat_mono
            if silent > limits.remove_after:
                stop_worker(colony, worker, f"no heartbeat for {silent:.0f} s", force=True)
            elif silent > limits.stale_after and not worker.suspect:
                worker.suspect = True
                colony.narrate(f"{worker.id} is silent for {silent:.0f} s", level="warning")
        elif (
            worker.state is WorkerState.STOPPING
            and colony.now - worker.stopping_mono > limits.stop_limit
        ):
            error = WorkerStuck(
                f"{worker.id} (pid {worker.pid}) on {worker.hive} did not end within"
                f" {limits.stop_limit:g} s and may still hold its memory"
            )
            colony.narrate(error.message, source=worker.hive, level="error")
            _remove(colony, worker, error)
    for worker in overdue(colony.fleet.workers.values(), colony.now, limits.keep_alive):
        stop_worker(colony, worker, f"idle for {limits.keep_alive:g} s")
    colony.effects.append(Publish("totals", colony.totals()))


def _bound(colony: Colony, hive: str, ready: WorkerReady, log_path: str) -> None:
    worker = _of_hive(colony, hive, ready.worker_id)
    if worker is None:
        return
    worker.log_path = log_path or worker.log_path
    worker.url, worker.pid, worker.stage = ready.url, ready.pid, "loading"
    worker.beat_mono, worker.beat_at = colony.now, colony.utc
    colony.narrate(f"{worker.id} listens on {ready.url}, loading {ready.model}", source=worker.hive)
    telling.publish_worker(colony, worker)


def _of_hive(colony: Colony, hive: str, worker_id: str) -> Worker | None:
    """A hive speaks for its own workers only; one it should not have is to be ended there."""
    worker = colony.fleet.workers.get(worker_id)
    if worker is not None and worker.hive == hive:
        return worker
    if hive in colony.fleet.hives:
        colony.effects.append(StopWorker(hive, worker_id, force=True))
    return None


def _beat(colony: Colony, hive: str, beat: Heartbeat) -> None:
    worker = _of_hive(colony, hive, beat.worker_id)
    if worker is None or worker.state in (WorkerState.STOPPING, WorkerState.STOPPED):
        return
    worker.beat_mono, worker.beat_at, worker.suspect = colony.now, colony.utc, False
    worker.memory_bytes, worker.ctx = beat.memory_bytes, beat.ctx
    if worker.state is WorkerState.LOADING:
        _loading(colony, worker, beat)
    telling.publish_worker(colony, worker)


def _loading(colony: Colony, worker: Worker, beat: Heartbeat) -> None:
    worker.stage, worker.progress = beat.stage, beat.progress
    if beat.state is WorkerState.FAILED:
        error = (
            RbeeError.from_body({"error": beat.error})
            if beat.error
            else ModelLoadFailed(f"{worker.id} could not load {worker.spec.model_id}")
        )
        worker.error = error.message
        worker.life.to(WorkerState.FAILED, error.code)
        colony.narrate(f"{worker.id} failed: {error.message}", source=worker.hive, level="error")
        ending.fail_waiting(colony, worker.id, error)
    elif beat.state in WORKER_READY and worker.url is not None:
        took = colony.now - worker.started_mono
        worker.life.to(WorkerState.IDLE, f"loaded in {took:.1f} s")
        worker.slots_total, worker.idle_since = beat.slots_total, colony.now
        worker.stage, worker.progress = "", None
        colony.narrate(f"{worker.id} ready in {took:.1f} s", source=worker.hive)
        ending.worker_ready(colony, worker.id)
    else:
        percent = f" {beat.progress:.0%}" if beat.progress is not None else ""
        message = f"{worker.id} is loading {worker.spec.model_id}{percent}"
        ending.worker_progress(colony, worker.id, message, beat.progress)


def _exited(colony: Colony, hive: str, event: HiveWorkerExited) -> None:
    worker = colony.fleet.workers.get(event.worker_id)
    if worker is None or worker.hive != hive:
        return
    how = f"signal {-event.exit_code}" if event.exit_code < 0 else f"code {event.exit_code}"
    tail = f": {event.log_tail[-1]}" if event.log_tail else ""
    if worker.state is WorkerState.LOADING:
        error: RbeeError = ModelLoadFailed(
            f"{worker.id} ended with {how} while loading {worker.spec.model_id}{tail}",
            exit_code=event.exit_code,
            log=worker.log_path,
            log_tail=event.log_tail,
        )
        ending.fail_waiting(colony, worker.id, error)
    else:
        why = f" ({worker.stop_reason})" if worker.stop_reason else ""
        error = WorkerCrashed(
            f"{worker.id} with {worker.spec.model_id} on {worker.hive} ended with {how}{why}",
            exit_code=event.exit_code,
            worker_id=worker.id,
            log=worker.log_path,
        )
    if not event.expected and worker.state is not WorkerState.STOPPING:
        colony.narrate(f"{worker.id} exited with {how}{tail}", source=worker.hive, level="error")
    _remove(colony, worker, error)


def _remove(colony: Colony, worker: Worker, error: RbeeError) -> None:
    colony.fleet.workers.pop(worker.id, None)
    ending.worker_gone(colony, worker.id, error)
    reason = worker.stop_reason or error.message
    colony.effects.append(Publish("worker_gone", WorkerGone(worker_id=worker.id, reason=reason)))


def _adopt(colony: Colony, hive: str, known: HiveWorker) -> None:
    """A worker the hive already runs: after a queen's restart, or when the link came back."""
    spec = known.spec
    if spec.worker_id in colony.fleet.workers:
        return
    model = ModelInfo(
        id=spec.model_id, ref=spec.model_id, path=spec.model_path, format=spec.format, size=0
    )
    worker = Worker(
        spec=spec,
        hive=hive,
        model=model,
        need_bytes=0,
        started_at=known.started_at,
        started_mono=colony.now,
        beat_mono=colony.now,
        idle_since=colony.now,
        log_path=known.log_path,
    )
    colony.fleet.workers[worker.id] = worker
    colony.narrate(f"adopted {worker.id} with {spec.model_id}", source=hive)
    if known.ready is not None:
        _bound(colony, hive, known.ready, known.log_path)
    if known.beat is not None:
        _beat(colony, hive, known.beat)
