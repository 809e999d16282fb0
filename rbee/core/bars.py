"""Hard filters that depend on the job and on what happened lately, each with its one sentence.

What is about memory, devices and backends is in rbee.core.feasibility.
"""

from __future__ import annotations

from rbee.core.costs import Facts
from rbee.core.feasibility import Site
from rbee.core.fleet import Worker
from rbee.core.index import Pool
from rbee.core.policy import View
from rbee.core.setbacks import Where, times
from rbee.core.states import WORKER_READY
from rbee.core.value import value
from rbee.errors import ContextLengthExceeded, ModelIncompatible, RbeeError
from rbee.protocol.hives import ModelInfo
from rbee.protocol.operations import Embed, Infer, ModelWork

STEPS = (1, 2, 5, 10, 15, 20, 30, 45, 60, 90, 120, 180, 300, 600)
"""Seconds as told to somebody who waits: a sentence that changed with every second would be sent
to everyone who waits with every second."""


@value()
class Bar:
    """Why not. With an `error` it stays so; with `until` for so many seconds."""

    reason: str
    until: float | None = None
    error: RbeeError | None = None
    worker: Worker | None = None
    breaker: bool = False


def about(seconds: float) -> str:
    """An amount of time that changes rarely: rounded up to a step."""
    for step in STEPS:
        if seconds <= step:
            return f"{step} s"
    return f"{seconds / 60:.0f} min"


def unable(request: ModelWork, model: ModelInfo) -> RbeeError | None:
    """What the model cannot do at all; one that does not say what it can may be tried."""
    wanted = "embedding" if isinstance(request, Embed) else "text-gen"
    if not model.capabilities or wanted in model.capabilities:
        return None
    does = {"embedding": "makes embeddings", "text-gen": "generates text"}
    has = " and ".join(does.get(c, c) for c in model.capabilities)
    verb = "embed" if isinstance(request, Embed) else "generate text"
    return ModelIncompatible(
        f"{model.id} {has}; it cannot {verb}",
        action="Choose another model: `rbee model list` shows what each can do.",
    )


def check_context(request: Infer, ctx: int) -> RbeeError | None:
    """A cheap early refusal: max_tokens alone exceeds the context. The worker counts exactly."""
    if request.max_tokens is not None and request.max_tokens > ctx:
        return ContextLengthExceeded(
            f"max_tokens {request.max_tokens} does not fit the context of {ctx} tokens",
            required=request.max_tokens,
            available=ctx,
        )
    return None


def pinned_elsewhere(worker: Worker, request: ModelWork) -> bool:
    """Whether the request names another worker, hive, device or backend."""
    return (
        request.worker_id not in (None, worker.id)
        or request.hive not in (None, worker.hive)
        or request.device not in (None, worker.spec.device, worker.kind)
        or request.backend not in (None, worker.spec.backend)
    )


def of_worker(facts: Facts, worker: Worker, view: View) -> Bar | None:
    """Why a live worker of the model may not be given the job now or soon; None: it may."""
    request = facts.request
    if request.backend not in (None, worker.spec.backend):
        return Bar(f"{worker.id} is run by {worker.spec.backend}, not {request.backend} as asked")
    if pinned_elsewhere(worker, request):
        where = request.worker_id or " ".join(filter(None, (request.hive, request.device)))
        return Bar(f"{worker.id} is on {worker.hive} {worker.spec.device}, not {where} as asked")
    if isinstance(request, Infer) and worker.ctx and (request.max_tokens or 0) > worker.ctx:
        error = check_context(request, worker.ctx)
        assert error is not None
        return Bar(f"{worker.id}: {error.message}", error=error)
    if worker.ctx and worker.ctx < facts.job.least_ctx:
        why = f"{worker.id}: {facts.job.least_ctx} tokens do not fit its context of {worker.ctx}"
        return Bar(why, error=ContextLengthExceeded(why, required=facts.job.least_ctx,
                                                    available=worker.ctx))  # fmt: skip
    if worker.suspect:
        return Bar(f"{worker.id} does not answer", worker=worker)
    if worker.draining:
        return Bar(f"{worker.id} is draining: it takes no more work", worker=worker)
    if worker.claimed_for:
        return Bar(f"{worker.id} makes room for {worker.claimed_for}", worker=worker)
    left = view.setbacks.worker_refuses(worker.id, view.now)
    if left is not None:
        what = f"{worker.id} failed {view.setbacks.worker(worker.id).failures} times in a row"
        return Bar(_when(what, left), until=left, worker=worker, breaker=True)
    left = view.setbacks.hive_refuses(worker.hive, view.now)
    if left is not None:
        what = (
            f"hive {worker.hive} failed {view.setbacks.hive(worker.hive).failures} times in a row"
        )
        return Bar(_when(what, left), until=left, worker=worker, breaker=True)
    return None


def of_site(facts: Facts, site: Site, pool: Pool | None, view: View) -> Bar | None:
    """Why no worker is started there for the job; None: nothing but memory could be in the way."""
    hive, device, _ = site
    demand = facts.demand
    here = f"{hive.name} {device.name}"
    for worker in pool.hives.get(hive.name, {}).values() if pool is not None else ():
        asked = facts.request.backend in (None, worker.spec.backend)
        if worker.spec.device == device.name and asked:
            barred = of_worker(facts, worker, view)
            if barred is None or barred.error is None:
                what = f"{here} already has {worker.id} with {demand.model_id}"
                return Bar(what, worker=worker)
    where: Where = (demand.model_id, demand.model_key, hive.name, device.name)
    error = facts.job.failed_places.get(where)
    if error is not None:
        return Bar(f"{here}: {error.message}", error=error)
    setback = view.setbacks.place(where, view.now)
    if setback is not None:
        failed = f"{demand.model_id} failed {times(setback.failures)} on {here}"
        if setback.given_up:
            return Bar(f"{failed}: {setback.error.message}", error=_given_up(setback.error, failed))
        left = setback.until - view.now
        return Bar(_when(failed, left), until=left)
    left = view.setbacks.hive_refuses(hive.name, view.now)
    if left is not None:
        what = f"hive {hive.name} failed {view.setbacks.hive(hive.name).failures} times in a row"
        return Bar(_when(what, left), until=left, breaker=True)
    return None


def busy_sentence(worker: Worker) -> str:
    """Why one waits for a live worker that may be used."""
    if worker.state not in WORKER_READY:
        percent = f" {worker.progress:.0%}" if worker.progress is not None else ""
        return f"{worker.id} is loading {worker.spec.model_id}{percent}"
    return f"all {worker.slots_total} slot(s) of {worker.id} are busy"


def _when(what: str, left: float) -> str:
    return f"{what}; next try within {about(left)}" if left > 0 else f"{what}; it is being tried"


def _given_up(error: RbeeError, failed: str) -> RbeeError:
    told = type(error)(f"{failed} and is given up there: {error.message}", action=error.action)
    told.details = error.details | {"suggested_action": error.action}
    return told
