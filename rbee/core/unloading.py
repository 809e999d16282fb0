"""Taking a model out of memory: its workers end, each when what it runs has ended.

Owns which workers a model_unload job ends. Functions over a Colony; called by nobody else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rbee.core import ending, supervising, telling, workers
from rbee.core.states import WORKER_LIVE, WORKER_READY
from rbee.protocol.jobs import EventType, StatusData
from rbee.protocol.operations import ModelUnload
from rbee.protocol.workers import WorkerState

if TYPE_CHECKING:
    from rbee.core.colony import Colony
    from rbee.core.fleet import Worker
    from rbee.core.jobs import Job


def begin(colony: Colony, job: Job, wish: ModelUnload) -> None:
    """End its workers: those that load or are idle at once, others when they are done."""
    ending_ones = [w for w in colony.fleet.workers.values() if _meant(w, job, wish)]
    job.unloading = {worker.id: False for worker in ending_ones}
    busy = sum(1 for worker in ending_ones if worker.jobs)
    what = f"{len(ending_ones)} worker(s) with {wish.model} end"
    if not ending_ones:
        what = f"no worker has {wish.model} loaded"
    elif busy:
        what += f", {busy} of them when what they run has ended"
    telling.append(colony, job, EventType.STATUS, StatusData(stage="draining", message=what))
    if not ending_ones:
        telling.append(colony, job, EventType.RESULT, {"workers": []})
        ending.complete(colony, job, "stop")
        return
    job.waiting_for = what
    for worker in ending_ones:
        if worker.state is WorkerState.LOADING:
            supervising.stop_worker(colony, worker, f"unloaded by {job.job_id}", force=True)
        elif worker.state in WORKER_READY:
            worker.draining = True
            colony.fleet.touch(worker)
            telling.publish_worker(colony, worker)
    workers.end_drained(colony)


def cancel(colony: Colony, job: Job) -> None:
    """Those that still run something take work again, unless somebody else drains them too."""
    for worker_id, gone in job.unloading.items():
        worker = colony.fleet.workers.get(worker_id)
        if worker is None or gone or worker.state not in WORKER_READY:
            continue
        others = (j for j in colony.jobs.values() if j is not job)
        if any(worker_id in j.unloading or workers.drains(j, worker_id) for j in others):
            continue
        worker.draining = False
        colony.fleet.touch(worker)
        telling.publish_worker(colony, worker)


def _meant(worker: Worker, job: Job, wish: ModelUnload) -> bool:
    if worker.state not in WORKER_LIVE | {WorkerState.STOPPING}:
        return False
    model = job.model
    named = model is not None and (model.id, model.key) == (worker.spec.model_id, worker.model.key)
    return (
        (named or wish.model in (worker.spec.model_id, worker.model.ref))
        and wish.hive in (None, worker.hive)
        and wish.device in (None, worker.spec.device, worker.kind)
    )
