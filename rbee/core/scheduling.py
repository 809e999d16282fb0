"""The built-in policy: the smallest expected completion time (ECT) wins.

ECT(w) = wait(w) + load(w) + prefill + decode, in seconds. Rates are the worker's own moving average
once it has been measured, before that a prior from the memory bandwidth of its kind of device: each
generated token reads all weights once, so tokens/s ≈ bandwidth / bytes of weights.
"""

from __future__ import annotations

from dataclasses import dataclass

from rbee.core.feasibility import Place, Wish, places
from rbee.core.fleet import Fleet, Worker
from rbee.core.jobs import Job
from rbee.core.policy import Refuse, Run, Spawn, Verdict, Wait
from rbee.core.states import WORKER_READY
from rbee.errors import AllSlotsBusy, ContextLengthExceeded, NotFound, RbeeError
from rbee.protocol.operations import Embed, Infer, ModelWork

BANDWIDTH = {"cpu": 30e9, "metal": 200e9, "vulkan": 200e9, "cuda": 500e9}
"""Bytes per second, typical of a home machine's DDR4, an M-series chip, and an RTX 3060–4090."""
DISK_RATE = 1e9
"""Bytes per second when a model is loaded from an NVMe disk; with INIT seconds of start-up."""
INIT = 2.0
PREFILL_FACTOR = 10.0
"""Prompt tokens are about this much cheaper than generated ones (batched, compute-bound)."""
EXPECTED_TOKENS = 256


@dataclass(frozen=True)
class Ect:
    """The policy. `ctx`, `slots` and `kv_type` are those of the workers it starts; see Policy."""

    ctx: int
    slots: int | None = None
    kv_type: str = "f16"

    def route(self, job: Job, fleet: Fleet, now: float) -> Verdict:
        """Run where it is soonest done, else wait for a live worker, else start one."""
        request = job.request
        assert isinstance(request, ModelWork)
        demand = job.demand()
        live = [
            w for w in fleet.of_model(demand.model_id, demand.model_path) if _matches(w, request)
        ]
        if demand.worker_id is not None and not live:
            return Refuse(_pinned_away(demand.worker_id, demand.model_id, fleet))
        free = [w for w in live if w.free_slots > 0]
        if free:
            best = min(free, key=lambda w: (self.cost(job, w, now), w.id))
            return Run(best, f"{best.id} has a free slot and is soonest done")
        ready = [w for w in live if w.state in WORKER_READY]
        if ready and not request.wait:
            total = sum(w.slots_total for w in ready)
            return Refuse(
                AllSlotsBusy(
                    f"all {total} slot(s) of {len(ready)} worker(s) with"
                    f" {demand.model_id} are busy",
                    slots_total=total,
                    slots_busy=sum(len(w.jobs) for w in ready),
                )
            )
        if live:
            best = min(live, key=lambda w: (self.cost(job, w, now), w.id))
            return Wait(_waiting(best), best)
        return self._start(job, request, fleet)

    def cost(self, job: Job, worker: Worker, now: float) -> float:
        """Seconds; see the module."""
        kind = worker.spec.device.partition(":")[0]
        rate = worker.decode_rate or prior_rate(kind, worker.model.weights_bytes)
        wait = 0.0 if worker.free_slots else EXPECTED_TOKENS / rate
        load = 0.0 if worker.state in WORKER_READY else INIT + worker.model.size / DISK_RATE
        return wait + load + _prompt_tokens(job) / (rate * PREFILL_FACTOR) + _out_tokens(job) / rate

    def _start(self, job: Job, request: ModelWork, fleet: Fleet) -> Verdict:
        assert job.model is not None
        ctx = min(self.ctx, job.model.context or self.ctx)
        wish = Wish(
            model=job.model,
            ctx=ctx,
            slots=self.slots,
            clamp=True,
            kv_type=self.kv_type,
            hive=request.hive,
            device=request.device,
        )
        good, bad = places(wish, fleet)
        if not good:
            return Refuse(_choose_error(bad), bad)
        best = min(good, key=lambda p: self._start_cost(job, p))
        if best.leaving:
            names = ", ".join(w.id for w in best.leaving)
            return Wait(f"waiting for the memory of {names}, which is stopping")
        why = f"no worker has {job.model.id}; {best.hive.name} {best.device.name} is soonest ready"
        if best.evict:
            why += f" after stopping idle {', '.join(w.id for w in best.evict)}"
        return Spawn(best, why)

    def _start_cost(self, job: Job, place: Place) -> float:
        assert job.model is not None
        rate = prior_rate(place.device.kind, job.model.weights_bytes)
        reload_others = sum(INIT + w.model.size / DISK_RATE for w in place.evict)
        return INIT + job.model.size / DISK_RATE + reload_others + _out_tokens(job) / rate


def prior_rate(kind: str, weights_bytes: int) -> float:
    """Tokens per second expected of a device kind before anything was measured."""
    return BANDWIDTH.get(kind, BANDWIDTH["cpu"]) / max(weights_bytes, 1 << 26)


def check_context(request: Infer, ctx: int) -> RbeeError | None:
    """A cheap early refusal: max_tokens alone exceeds the context. The worker counts exactly."""
    if request.max_tokens is not None and request.max_tokens > ctx:
        return ContextLengthExceeded(
            f"max_tokens {request.max_tokens} does not fit the context of {ctx} tokens",
            required=request.max_tokens,
            available=ctx,
        )
    return None


def _matches(worker: Worker, request: ModelWork) -> bool:
    device = worker.spec.device
    return (
        request.hive in (None, worker.hive)
        and request.worker_id in (None, worker.id)
        and request.device in (None, device, device.partition(":")[0])
    )


def _prompt_tokens(job: Job) -> float:
    request = job.request
    if isinstance(request, Embed):
        return sum(map(len, request.texts())) / 4
    assert isinstance(request, Infer)
    chars = len(request.prompt or "") + sum(len(m.text()) for m in request.messages or ())
    return chars / 4


def _out_tokens(job: Job) -> int:
    request = job.request
    if isinstance(request, Embed):
        return 0
    assert isinstance(request, Infer)
    return min(request.max_tokens or EXPECTED_TOKENS, EXPECTED_TOKENS)


def _waiting(worker: Worker) -> str:
    if worker.state not in WORKER_READY:
        percent = f" {worker.progress:.0%}" if worker.progress is not None else ""
        return f"{worker.id} is loading {worker.spec.model_id}{percent}"
    if worker.suspect:
        return f"{worker.id} does not answer"
    return f"all {worker.slots_total} slot(s) of {worker.id} are busy"


def _pinned_away(worker_id: str, model_id: str, fleet: Fleet) -> RbeeError:
    worker = fleet.workers.get(worker_id)
    if worker is None:
        return NotFound(f"no worker {worker_id}", action="rbee worker list shows the workers.")
    if worker.spec.model_id == model_id:
        where = f"{worker.hive} {worker.spec.device}"
        return NotFound(
            f"worker {worker_id} is {worker.state} on {where}, which is not what was asked for",
            action="Leave out the worker, the hive or the device.",
        )
    return NotFound(
        f"worker {worker_id} has {worker.spec.model_id}, not {model_id}",
        action="Leave the worker out, or name one that has the model.",
    )


def _choose_error(errors: list[RbeeError]) -> RbeeError:
    """The most telling one; among amounts, those of the place that was nearest to fitting."""
    order = {"INSUFFICIENT_VRAM": 0, "INSUFFICIENT_RAM": 0, "HIVE_NOT_FOUND": 0, "HIVE_OFFLINE": 2}
    return min(
        errors,
        key=lambda e: (
            order.get(e.code, 1),
            e.details.get("required", 0) - e.details.get("available", 0),
        ),
    )
