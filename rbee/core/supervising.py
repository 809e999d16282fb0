"""The life of workers: start, ready, beat, idle, hung, gone. Functions over a Colony."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from rbee.core import ending, moving, telling
from rbee.core.effects import Publish, StartWorker, StopWorker
from rbee.core.eviction import overdue
from rbee.core.feasibility import Place
from rbee.core.fleet import Worker
from rbee.core.setbacks import STABLE
from rbee.core.states import JOB_ACTIVE, WORKER_READY
from rbee.errors import (
    LoadingTimeout,
    ModelLoadFailed,
    RbeeError,
    WorkerCrashed,
    WorkerLost,
    WorkerStuck,
)
from rbee.protocol.colony import WorkerGone
from rbee.protocol.hives import HiveWorkerExited, ModelInfo
from rbee.protocol.operations import ModelPreload, WorkerSpawn
from rbee.protocol.workers import Heartbeat, WorkerReady, WorkerSpec, WorkerState

if TYPE_CHECKING:
    from rbee.core.colony import Colony

MOST_STRANGERS = 64
"""Workers that a hive should not have which are ended there at a time; it says how many it has."""


def start_worker(
    colony: Colony,
    place: Place,
    model: ModelInfo,
    *,
    ctx: int,
    pinned: bool = False,
    why: str,
) -> Worker:
    """Decide a worker's id and shape, and have its hive start it."""
    spec = WorkerSpec(
        worker_id=colony.fleet.new_worker_id(),
        model_id=model.id,
        model_path=place.hive.paths.get(model.key, model.path),
        model_key=model.key,
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
        pinned=pinned,
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
    colony.fleet.add(worker)
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
    colony.fleet.touch(worker)
    colony.effects.append(StopWorker(worker.hive, worker.id, force))
    colony.narrate(f"stopping {worker.id} ({worker.spec.model_id}): {reason}")
    telling.publish_worker(colony, worker)


def spawn_refused(colony: Colony, hive: str, worker_id: str, error: RbeeError) -> None:
    """The hive could not even start the process; of another hive's worker it says nothing."""
    worker = colony.fleet.workers.get(worker_id)
    if worker is not None and worker.hive == hive:
        worker.error = error.message
        if worker.state is WorkerState.LOADING:
            _load_failed(colony, worker, error)
        remove(colony, worker, error)


def hung(colony: Colony, worker: Worker, what: str) -> None:
    """It does nothing any more though its process lives: its jobs go on elsewhere, it is killed."""
    colony.narrate(f"{worker.id} hangs: {what}", source=worker.hive, level="error")
    _set_back(colony, worker, WorkerCrashed(f"{worker.id} hung: {what}", worker_id=worker.id))
    stop_worker(colony, worker, f"hung: {what}", force=True)
    error = WorkerLost(f"{worker.id} hung: {what}", worker_id=worker.id)
    for job in [j for j in colony.jobs.values() if j.job_id in worker.jobs]:
        if job.state in JOB_ACTIVE:
            moving.lose(colony, job, error)


def tick(colony: Colony) -> None:
    """Once a second: loads that hang, workers that fell silent, workers nobody needs."""
    limits = colony.limits
    for worker in colony.fleet.unready():
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
            _load_failed(colony, worker, error)
            stop_worker(colony, worker, f"load hung in stage {worker.stage!r}", force=True)
        elif (
            worker.state is WorkerState.STOPPING
            and colony.now - worker.stopping_mono > limits.stop_limit
        ):
            error = WorkerStuck(
                f"{worker.id} (pid {worker.pid}) on {worker.hive} did not end within"
                f" {limits.stop_limit:g} s and may still hold its memory"
            )
            colony.narrate(error.message, source=worker.hive, level="error")
            remove(colony, worker, error)
    for worker in colony.fleet.pulses.quiet(colony.now - limits.stale_after):
        if worker.state in WORKER_READY:
            _watch(colony, worker)
    _calm(colony)
    for worker in overdue(colony.fleet, colony.now, limits):
        stop_worker(colony, worker, f"idle for {limits.keep_alive_of(worker.spec.model_id):g} s")
    colony.setbacks.tidy(colony.now, colony.fleet.workers)
    if colony.watched:
        colony.effects.append(Publish("totals", colony.totals()))


def _calm(colony: Colony) -> None:
    """Places that have gone wrong, and where one has been ready for so long that it is over."""
    for where in list(colony.setbacks.places):
        model_id, key, hive, device = where
        pool = colony.fleet.pool(model_id, key)
        for worker in pool.hives.get(hive, {}).values() if pool is not None else ():
            lives = worker.state in WORKER_READY and worker.spec.device == device
            if lives and colony.now - (worker.ready_mono or colony.now) > STABLE:
                colony.setbacks.stable(where)


def heard(
    colony: Colony, hive: str, within: float, names: list[str] | None, silent: Mapping[str, float]
) -> None:
    """A hive hears the workers of these names, each within so many seconds; None: those it heard
    before. `silent`: of which others it has not heard for how many seconds."""
    heard = None if names is None else [_own(colony, hive, name) or name for name in names]
    since = colony.now - within
    pulse = colony.fleet.pulses.beat(hive, since, colony.utc - within, heard)
    if hive in colony.fleet.hives:
        for name in pulse.strangers[:MOST_STRANGERS]:
            colony.effects.append(StopWorker(hive, name, force=True))
    for name, age in silent.items():
        worker = _own(colony, hive, name)
        if worker is not None:
            worker.beat_mono = max(worker.beat_mono, colony.now - age)
            worker.beat_at = max(worker.beat_at or 0.0, colony.utc - age)
    for worker in colony.fleet.suspects():
        if worker.hive == hive and worker.heard_mono > worker.suspect_mono:
            worker.suspect = worker.blamed = False
            colony.fleet.touch(worker)
            colony.dirty = True
            telling.publish_worker(colony, worker)


def doubt(colony: Colony, worker: Worker, *, dying: bool = False) -> None:
    """Nothing more is sent to it until it gives a sign of life; while `dying` that is none."""
    if not worker.suspect:
        worker.suspect, worker.suspect_mono = True, colony.now
    if dying:
        worker.suspect_mono = math.inf
    colony.fleet.touch(worker)


def _own(colony: Colony, hive: str, worker_id: str) -> Worker | None:
    worker = colony.fleet.workers.get(worker_id)
    return worker if worker is not None and worker.hive == hive else None


def _watch(colony: Colony, worker: Worker) -> None:
    """A ready worker that is silent: without tokens either it hangs."""
    limits, silent = colony.limits, colony.now - max(worker.heard_mono, colony.awake_since)
    if silent <= limits.stale_after:
        return
    if not worker.suspect:
        doubt(colony, worker)
        colony.narrate(f"{worker.id} is silent for {silent:.0f} s", level="warning")
    moved = max((colony.jobs[j].moved_mono for j in worker.jobs if j in colony.jobs), default=None)
    still = silent if moved is None else min(silent, colony.now - moved)
    if silent > limits.remove_after:
        hung(colony, worker, f"no heartbeat for {silent:.0f} s")
    elif moved is not None and still > limits.stale_after:
        hung(colony, worker, f"no token and no heartbeat for {still:.0f} s")


def bound(colony: Colony, hive: str, ready: WorkerReady, log_path: str) -> None:
    """Its HTTP is up."""
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
    worker = _own(colony, hive, worker_id)
    if worker is not None:
        return worker
    if hive in colony.fleet.hives:
        colony.effects.append(StopWorker(hive, worker_id, force=True))
    return None


def beat(colony: Colony, hive: str, beat: Heartbeat) -> None:
    """It lives, and says how it is."""
    worker = _of_hive(colony, hive, beat.worker_id)
    if worker is None or worker.state in (WorkerState.STOPPING, WorkerState.STOPPED):
        return
    worker.beat_mono, worker.beat_at = colony.now, colony.utc
    dying = beat.state is WorkerState.FAILED  # its process is about to end
    changed = worker.suspect != dying or worker.memory_bytes != beat.memory_bytes
    worker.suspect, worker.memory_bytes, worker.ctx = dying, beat.memory_bytes, beat.ctx
    if dying:
        worker.suspect_mono = math.inf
    else:
        worker.blamed = False
    if changed:
        colony.fleet.touch(worker)
        colony.dirty = True
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
        _load_failed(colony, worker, error)
        stop_worker(colony, worker, f"its load failed: {error.code}")
    elif beat.state in WORKER_READY and worker.url is not None:
        took = colony.now - worker.started_mono
        worker.life.to(WorkerState.IDLE, f"loaded in {took:.1f} s")
        worker.slots_total, worker.idle_since = beat.slots_total, colony.now
        worker.ready_mono = colony.now
        colony.fleet.touch(worker)
        colony.experience.loaded(worker, took, colony.now)
        colony.dirty = True
        worker.stage, worker.progress = "", None
        colony.narrate(f"{worker.id} ready in {took:.1f} s", source=worker.hive)
        ending.worker_ready(colony, worker.id)
    else:
        colony.dirty = True  # those who wait for it are told how far it is
        percent = f" {beat.progress:.0%}" if beat.progress is not None else ""
        message = f"{worker.id} is loading {worker.spec.model_id}{percent}"
        ending.worker_progress(colony, worker.id, message, beat.progress)


def exited(colony: Colony, hive: str, event: HiveWorkerExited) -> None:
    """Its process has ended."""
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
        _load_failed(colony, worker, error)
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
        if worker.state in WORKER_READY:
            _set_back(colony, worker, error)
    remove(colony, worker, error)


def remove(colony: Colony, worker: Worker, error: RbeeError) -> None:
    """It is gone, and `error` says why to what still counted on it."""
    colony.fleet.remove(worker.id)
    colony.dirty = True
    colony.experience.gone(worker.id)
    ending.worker_gone(colony, worker.id, error)
    reason = worker.stop_reason or error.message
    colony.effects.append(Publish("worker_gone", WorkerGone(worker_id=worker.id, reason=reason)))


def _load_failed(colony: Colony, worker: Worker, error: RbeeError) -> None:
    colony.dirty = True
    _set_back(colony, worker, error)
    if isinstance(error, moving.TRANSIENT):
        ending.fail_spawns(colony, worker.id, error)
    else:
        ending.load_failed(colony, worker, error)


def _set_back(colony: Colony, worker: Worker, error: RbeeError) -> None:
    """Its place is left alone for a while; a pinned worker is to be started again."""
    loaded = worker.ready_mono is not None
    lived = colony.now - worker.ready_mono if worker.ready_mono is not None else 0.0
    setback = colony.setbacks.ended_badly(
        worker.where, error, colony.now, lived=lived, loaded=loaded
    )
    colony.count("worker_failures", model=worker.spec.model_id)
    if setback.given_up:
        colony.narrate(
            f"{worker.spec.model_id} on {worker.spec.device} failed {len(setback.recent)} times"
            " in a minute: it is not started there any more",
            source=worker.hive,
            level="error",
        )
    miss(colony, worker)


def miss(colony: Colony, worker: Worker) -> None:
    """A worker that is lost: a pinned one is to be there again, in the same place and shape."""
    if worker.pinned and not any(  # whoever asks for one that does not load hears of it
        isinstance(job.request, WorkerSpawn | ModelPreload) and job.worker_id == worker.id
        for job in colony.jobs.values()
    ):
        colony.missing.append((_wish(worker), worker.model))


def found(colony: Colony, worker: Worker) -> None:
    """A pinned worker that was missing while its hive was away need not be started again."""
    for wish, model in colony.missing if worker.pinned else ():
        if wish == _wish(worker) and model.key == worker.model.key:
            colony.missing.remove((wish, model))
            return


def _wish(worker: Worker) -> WorkerSpawn:
    spec = worker.spec
    return WorkerSpawn(
        model=spec.model_id, hive=worker.hive, backend=spec.backend, device=spec.device,
        slots=spec.slots, ctx=spec.ctx, pin=True,
    )  # fmt: skip
