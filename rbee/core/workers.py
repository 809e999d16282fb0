"""What a person asks of workers: start one, stop one, let one finish; and those that must be there.

Functions over a Colony; called by nobody else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rbee.core import ending, supervising, telling
from rbee.core.bars import busy_sentence
from rbee.core.costs import usual
from rbee.core.feasibility import Place, Wish, places
from rbee.core.jobs import Job
from rbee.core.refusing import choose_error
from rbee.core.states import WORKER_LIVE, WORKER_READY
from rbee.errors import NotFound, RbeeError, WorkerNotReady
from rbee.protocol.hives import ModelInfo
from rbee.protocol.jobs import EventType, StatusData
from rbee.protocol.operations import ModelPreload, WorkerDrain, WorkerSpawn
from rbee.protocol.workers import WorkerState

if TYPE_CHECKING:
    from rbee.core.colony import Colony
    from rbee.core.fleet import Worker


def load(colony: Colony, job: Job) -> None:
    """A worker is asked for with a model, or a model without saying where."""
    match job.request:
        case WorkerSpawn() as wish:
            spawn(colony, job, wish)
        case ModelPreload() as wish:
            preload(colony, job, wish)
        case _:
            raise AssertionError(job.operation)


def spawn(colony: Colony, job: Job, wish: WorkerSpawn) -> None:
    """Start a worker as asked; when others must go first, once they are gone."""
    assert job.model is not None
    found = _place(colony, job.model, wish)
    if isinstance(found, RbeeError):
        ending.fail(colony, job, found)
        return
    if not found.ready:
        for victim in found.evict:
            colony.count("evictions", model=victim.spec.model_id)
            supervising.stop_worker(colony, victim, f"made room for {job.model.id}")
        names = ", ".join(w.id for w in (*found.evict, *found.leaving))
        what = f"the memory of {names}, which is stopping" if names else found.until
        if job.waiting_for != what:
            job.waiting_for = what
            status = StatusData(stage="waiting", message=f"waiting for {what}")
            telling.append(colony, job, EventType.STATUS, status)
        colony.waiting_spawns[job.job_id] = job
        return
    where = (job.model.id, job.model.key, found.hive.name, found.device.name)
    colony.setbacks.forget(where)
    worker = supervising.start_worker(
        colony,
        found,
        job.model,
        ctx=_ctx(colony, job.model, wish),
        pinned=wish.pin,
        why=f"asked by {job.job_id}",
    )
    job.worker_id, job.hive, job.waiting_for = worker.id, worker.hive, None
    status = f"starting {worker.id} on {worker.hive} {worker.spec.device}"
    telling.append(colony, job, EventType.STATUS, StatusData(stage="starting", message=status))
    telling.publish_job(colony, job)


def preload(colony: Colony, job: Job, wish: ModelPreload) -> None:
    """Have a worker with the model: one that is there or comes up already, else a new one."""
    assert job.model is not None
    there = [
        worker
        for worker in colony.fleet.of_model(job.model.id, job.model.key)
        if wish.hive in (None, worker.hive)
        and wish.device in (None, worker.spec.device, worker.kind)
        and wish.backend in (None, worker.spec.backend)
        and not (worker.draining or worker.suspect or worker.claimed_for)
    ]
    worker = min(there, key=lambda w: (w.state not in WORKER_READY, w.started_mono), default=None)
    if worker is None:
        ask = WorkerSpawn(
            model=wish.model, hive=wish.hive, device=wish.device, backend=wish.backend
        )
        spawn(colony, job, ask)
        return
    job.worker_id, job.hive, job.waiting_for, job.attached = worker.id, worker.hive, None, True
    if worker.state in WORKER_READY:
        what = f"{worker.id} on {worker.hive} {worker.spec.device} has {job.model.id} already"
        telling.append(colony, job, EventType.STATUS, StatusData(stage="ready", message=what))
        ending.worker_ready(colony, worker.id)
        return
    what = busy_sentence(worker)
    status = StatusData(stage="loading", message=what, progress=worker.progress)
    job.waiting_for = what
    telling.append(colony, job, EventType.STATUS, status)
    telling.publish_job(colony, job)


def spawn_waiting(colony: Colony) -> None:
    """Starts whose room may be there by now."""
    for job in list(colony.waiting_spawns.values()):
        del colony.waiting_spawns[job.job_id]
        if job.job_id in colony.jobs:
            load(colony, job)


def stop(colony: Colony, job: Job, worker_id: str) -> None:
    """Stop it at once; the job ends when it is gone."""
    worker = _running(colony, job, worker_id)
    if worker is not None:
        supervising.stop_worker(colony, worker, f"asked by {job.job_id}")


def drain(colony: Colony, job: Job, worker_id: str) -> None:
    """Nothing more for it; the job ends when it is gone."""
    worker = _running(colony, job, worker_id)
    if worker is None:
        return
    if worker.state is WorkerState.LOADING:
        error = WorkerNotReady(f"{worker_id} is still loading {worker.spec.model_id}")
        ending.fail(colony, job, error)
        return
    worker.draining = True
    colony.fleet.touch(worker)
    running = f"{len(worker.jobs)} job(s) run there"
    colony.narrate(f"{worker_id} takes no more work: {running}", source=worker.hive)
    status = StatusData(stage="draining", message=f"{worker_id} takes no more work; {running}")
    telling.append(colony, job, EventType.STATUS, status)
    telling.publish_worker(colony, worker)
    end_drained(colony)


def end_drained(colony: Colony) -> None:
    """Stop those that are drained and have nothing left to do."""
    for worker in colony.fleet.draining():
        if not worker.jobs and worker.state in WORKER_READY:
            supervising.stop_worker(colony, worker, "drained")


def drains(job: Job, worker_id: str) -> bool:
    """Whether the job is one that drains this worker."""
    return isinstance(job.request, WorkerDrain) and job.worker_id == worker_id


def keep_up(colony: Colony) -> None:
    """Start what must be there and is not: pinned workers that died, `models.min_workers`."""
    if colony.stopping:
        return
    for wish, model in list(colony.missing):
        where = _try(colony, model, wish)
        if where is None:
            colony.count("worker_restarts", model=model.id)
        if where is None or where == "given up":
            colony.missing.remove((wish, model))
        if where == "given up":
            colony.narrate(f"the pinned worker with {model.id} is given up", level="error")
    for model_id, least in colony.limits.min_workers.items():
        model = _known(colony, model_id)
        if model is None:
            continue
        there = len(colony.fleet.of_model(model.id, model.key))
        if there < least:
            _try(colony, model, WorkerSpawn(model=model_id))


def _try(colony: Colony, model: ModelInfo, wish: WorkerSpawn) -> str | None:
    """Start it where nothing stands against it; why not, in a word."""
    found = _place(colony, model, wish, patient=True)
    if isinstance(found, RbeeError):
        gone = [s for s in colony.setbacks.places.items() if s[0][:2] == (model.id, model.key)]
        return "given up" if gone and all(s.given_up for _, s in gone) else "later"
    if not found.ready:
        return "later"
    supervising.start_worker(
        colony, found, model, ctx=_ctx(colony, model, wish), pinned=wish.pin, why="kept up"
    )
    return None


def _place(
    colony: Colony, model: ModelInfo, wish: WorkerSpawn, *, patient: bool = False
) -> Place | RbeeError:
    """The best one; `patient`: none that failed a moment ago."""
    good, bad = places(
        Wish(
            model=model,
            ctx=_ctx(colony, model, wish),
            slots=wish.slots or colony.policy.slots,
            clamp=wish.slots is None,
            kv_type=colony.policy.kv_type,
            flash=colony.limits.flash_attention != "off",
            hive=wish.hive,
            device=wish.device,
            backend=wish.backend,
        ),
        colony.fleet,
    )
    if patient:
        for place in list(good):
            where = (model.id, model.key, place.hive.name, place.device.name)
            setback = colony.setbacks.place(where, colony.now)
            if setback is not None:
                good.remove(place)
                bad.append(setback.error)
    if not good:
        return choose_error(bad)
    experience = colony.experience
    return min(good, key=lambda p: (not p.ready, bool(p.evict), usual(model, p, experience)))


def _ctx(colony: Colony, model: ModelInfo, wish: WorkerSpawn) -> int:
    default = colony.policy.ctx
    return wish.ctx or min(default, model.context or default)


def _running(colony: Colony, job: Job, worker_id: str) -> Worker | None:
    worker = colony.fleet.workers.get(worker_id)
    if worker is None or worker.state not in WORKER_LIVE | {WorkerState.STOPPING}:
        action = "rbee worker list shows the workers."
        ending.fail(colony, job, NotFound(f"no running worker {worker_id}", action=action))
        return None
    job.worker_id, job.hive = worker_id, worker.hive
    return worker


def _known(colony: Colony, model_id: str) -> ModelInfo | None:
    for hive in colony.fleet.hives.values():
        for model in hive.capabilities.models:
            if model_id == model.id:
                return model
    return None
