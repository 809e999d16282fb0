"""The terms of the expected completion time (ECT), in seconds, of a job on a worker or at a place.

    ECT = wait + load + wake + ext + prefill + decode

Owns the arithmetic; decides nothing and filters nothing.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from rbee.core.experience import EXPECTED_TOKENS, OVERRUN, Experience
from rbee.core.feasibility import Place
from rbee.core.fleet import Worker
from rbee.core.jobs import Demand, Job
from rbee.core.policy import View
from rbee.core.prefixes import canonical
from rbee.core.states import WORKER_READY
from rbee.protocol.decisions import Score
from rbee.protocol.hives import ModelInfo
from rbee.protocol.operations import Infer, ModelWork

LEAVING = 2.0
"""Seconds a worker that was told to stop takes to be gone."""
LEAST_OUT = 1.0


@dataclass(slots=True)
class Terms:
    """Seconds each; `hit` in tokens."""

    wait: float = 0.0
    load: float = 0.0
    wake: float = 0.0
    ext: float = 0.0
    prefill: float = 0.0
    decode: float = 0.0
    hit: float = 0.0

    @property
    def total(self) -> float:
        """Expected seconds until the job is complete."""
        return self.wait + self.load + self.wake + self.ext + self.prefill + self.decode

    @property
    def until_start(self) -> float:
        """Until the job is given to the worker."""
        return self.wait + self.load + self.wake

    def score(self) -> Score:
        """The wire form."""
        return Score(
            wait=round(self.wait, 3),
            load=round(self.load, 3),
            wake=round(self.wake, 3),
            ext=round(self.ext, 3),
            prefill=round(self.prefill, 3),
            decode=round(self.decode, 3),
            total=round(self.total, 3),
            hit_tokens=round(self.hit),
        )


class Facts:
    """What is known of a job before it is placed, worked out once for a decision."""

    __slots__ = ("demand", "hits", "job", "out", "prompt", "request", "seed")

    def __init__(self, job: Job, experience: Experience) -> None:
        request = job.request
        assert isinstance(request, ModelWork)
        self.job = job
        self.request: ModelWork = request
        self.demand: Demand = job.demand()
        estimate = job.prompt_estimate
        if not estimate:  # asked about before it was submitted
            estimate = len(canonical(request)) * experience.ratio(job.model)
        self.prompt = estimate + job.tokens_out
        """Tokens, those of an answer that is carried on included."""
        self.out = 0.0
        """Tokens still to come."""
        if isinstance(request, Infer):
            self.out = max(LEAST_OUT, experience.expected(job) - job.tokens_out)
        self.hits = experience.prefixes.holders(job.prefix) if job.prefix else {}
        """Worker → blocks of the prompt it is expected to know."""
        self.seed = zlib.crc32(job.job_id.encode())
        """Spreads near ties: another job, another choice; the same job, the same."""


def of_worker(facts: Facts, worker: Worker, view: View) -> Terms:
    """On a live worker."""
    experience, terms = view.experience, Terms()
    running = len(worker.jobs)
    if worker.state not in WORKER_READY:
        took = view.now - worker.started_mono
        terms.load = max(experience.reload(worker) - took, OVERRUN * took)
    elif running >= worker.slots_total:
        left = experience.remaining(worker, view.now)
        beyond = running - worker.slots_total
        if left:
            terms.wait = left[min(beyond, len(left) - 1)]
        running = worker.slots_total - 1
    speeds = worker.speeds or experience.speeds(worker)
    share = 1 + worker.sharers
    if facts.hits:
        blocks = facts.hits.get(worker.id, 0)
        terms.hit = experience.tokens_of(blocks, facts.job) if blocks else 0.0
    terms.prefill = max(0.0, facts.prompt - terms.hit) * share / speeds.prefill_at(running + 1)
    terms.decode = facts.out * share / speeds.decode_at(running + 1)
    hive = view.fleet.hives.get(worker.hive)
    if hive is not None and hive.asleep:
        terms.wake = hive.wake_seconds
    return terms


def of_place(facts: Facts, place: Place, view: View) -> Terms:
    """Of a worker that would be started there."""
    experience = view.experience
    model = facts.job.model
    assert model is not None
    hive, device, backend = place.hive.name, place.device.name, place.backend.name
    speeds = experience.speeds_at(model, hive, device, backend)
    victims = (*place.evict, *place.claim)
    spot = view.fleet.spot(hive, device)
    share = 1 + (max(0, spot.busy - sum(1 for v in victims if v.jobs)) if spot else 0)
    return Terms(
        wait=LEAVING if place.leaving or place.until else 0.0,
        load=experience.load_seconds(model, hive, device, backend),
        wake=place.hive.wake_seconds if place.hive.asleep else 0.0,
        ext=sum(losing(v, view) for v in victims) + drain(place, view),
        prefill=facts.prompt * share / speeds.prefill_at(1),
        decode=facts.out * share / speeds.decode_at(1),
    )


def usual(model: ModelInfo, place: Place, experience: Experience) -> float:
    """Seconds until the model was loaded there and a usual answer written, for whoever has no job
    to reckon with."""
    at = (place.hive.name, place.device.name, place.backend.name)
    wake = place.hive.wake_seconds if place.hive.asleep else 0.0
    decode = experience.speeds_at(model, *at).decode_at(1)
    return wake + experience.load_seconds(model, *at) + EXPECTED_TOKENS / decode


def losing(worker: Worker, view: View) -> float:
    """Seconds others lose with a worker: reloading its model, by the chance that it is wanted again
    within that time; a model that jobs wait for is wanted. Shared among the model's live workers.
    """
    reload = view.experience.reload(worker)
    name = worker.spec.model_id
    heat = 1.0
    if not view.queue.wants(name):
        heat = view.experience.heat.chance(name, reload, view.now)
    return heat * reload / max(1, view.fleet.live_count(name))


def drain(place: Place, view: View) -> float:
    """Seconds until those who have to go have ended what they do."""
    busy = [v for v in place.claim if v.jobs]
    return max((view.experience.remaining(v, view.now)[-1] for v in busy), default=0.0)
