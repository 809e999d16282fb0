"""The best live worker for a job: all of a small pool are scored, of a large one its lanes.

In a large pool workers of a lane differ by nothing that a score sees (5 % of decode speed, 25 % of
prefill speed), so one member stands for all; workers expected to know the prompt are scored one by
one. Owns no filter and no term.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice

from rbee.core.bars import Bar, of_worker
from rbee.core.costs import Facts, Terms
from rbee.core.costs import of_worker as terms_of
from rbee.core.fleet import Worker
from rbee.core.index import Lane, Pool
from rbee.core.policy import View
from rbee.core.states import WORKER_LIVE

SMALL = 24
"""Workers of a pool that are all scored."""
NEAR = 1.05
"""Choices within 5 % are as good: which one is taken depends on the job."""
TRIES = 64
"""Members of a lane that are asked whether anything stands against them."""
SAMPLE = 12
"""Busy workers of a large pool whose end is foreseen."""
LANES = 8
"""Lanes that are tried, the fastest first, before all count as barred."""


@dataclass
class Choice:
    """What was found."""

    free: Worker | None = None
    """The best with a free slot."""
    free_terms: Terms = field(default_factory=Terms)
    soon: Worker | None = None
    """The best without one."""
    soon_terms: Terms = field(default_factory=Terms)
    bars: list[Bar] = field(default_factory=list[Bar])
    """Why others, if no worker at all may be used."""
    seen: dict[str, Bar | Terms] = field(default_factory=dict[str, "Bar | Terms"])
    """What was found of each worker that was looked at."""


def choose(facts: Facts, pool: Pool | None, view: View) -> Choice:
    """Among the model's live workers."""
    if pool is None:
        return Choice()
    request = facts.request
    if request.worker_id is not None:
        pinned = pool.workers.get(request.worker_id)
        return _exact(facts, (pinned,) if pinned is not None else (), view)
    if request.hive is not None:
        there = pool.hives.get(request.hive, {})
        return _exact(facts, islice(there.values(), TRIES), view)
    if request.backend is not None:  # lanes do not tell backends apart
        mine = (w for w in pool.workers.values() if w.spec.backend == request.backend)
        return _exact(facts, islice(mine, TRIES), view)
    if len(pool.workers) <= SMALL:
        return _exact(facts, pool.workers.values(), view)
    return _sorted(facts, pool, view)


def _exact(facts: Facts, workers: Iterable[Worker], view: View) -> Choice:
    choice = Choice()
    free: list[tuple[float, Worker, Terms]] = []
    soon: list[tuple[float, Worker, Terms]] = []
    for worker in workers:
        if worker.state not in WORKER_LIVE:
            continue
        bar = of_worker(facts, worker, view)
        if bar is not None:
            choice.bars.append(bar)
            choice.seen[worker.id] = bar
            continue
        terms = choice.seen[worker.id] = terms_of(facts, worker, view)
        (free if worker.free_slots else soon).append((terms.total, worker, terms))
    if free:
        choice.free, choice.free_terms = _pick(facts, free)
    if soon:
        choice.soon, choice.soon_terms = _pick(facts, soon)
    return choice


def _pick(facts: Facts, scored: list[tuple[float, Worker, Terms]]) -> tuple[Worker, Terms]:
    """The least, one of those near it; one that lost this job before only if all have."""
    avoid = facts.job.avoid
    if avoid:
        scored = [s for s in scored if s[1].id not in avoid] or scored
    if len(scored) == 1:
        return scored[0][1:]
    limit = min(s[0] for s in scored) * NEAR
    near = [s for s in scored if s[0] <= limit]
    if len(near) > 1:
        near.sort(key=lambda s: s[1].id)
    return near[facts.seed % len(near)][1:]


def _sorted(facts: Facts, pool: Pool, view: View) -> Choice:
    known = [w for w in map(pool.workers.get, facts.hits) if w is not None]
    sample: list[Worker] = []
    ready = _free(facts, pool, view)
    if ready is not None:
        sample.append(ready)
    else:
        sample += pool.loading.around(facts.seed, SAMPLE)
    full = list(pool.full.around(facts.seed, SAMPLE))
    choice = _exact(facts, {w.id: w for w in (*sample, *full, *known)}.values(), view)
    if choice.soon is not None and choice.soon_terms.wait:
        # From the first of a sample to end to the first of all: means of the least of n chances.
        sooner = choice.soon_terms.wait * (len(full) + 1) / (len(pool.full) + 1)
        choice.soon_terms = replace(choice.soon_terms, wait=sooner)
    if choice.free is None and choice.soon is None and not choice.bars:
        barred = pool.barred.around(facts.seed, SAMPLE)
        choice.bars = [bar for w in barred if (bar := of_worker(facts, w, view)) is not None]
    return choice


def _free(facts: Facts, pool: Pool, view: View) -> Worker | None:
    """A member of the fastest lane that has one who may be used; near ties by the job's seed."""
    lanes = [
        (facts.prompt / lane.prefill + facts.out / lane.decode, lane)
        for lane in _asked(facts.request.device, pool)
    ]
    if not lanes:
        return None
    lanes.sort(key=lambda scored: scored[0])
    limit = lanes[0][0] * NEAR
    near = [lane for seconds, lane in lanes if seconds <= limit]
    first, turn = 0, facts.seed % sum(map(len, near))
    while turn >= len(near[first]):
        turn -= len(near[first])
        first += 1
    further = [lane for _, lane in lanes[len(near) : len(near) + LANES]]
    last: Worker | None = None
    for lane in (*near[first:], *near[:first], *further):
        for worker in lane.around(facts.seed, TRIES):
            if of_worker(facts, worker, view) is not None:
                continue
            if worker.id not in facts.job.avoid:
                return worker
            last = last or worker
    return last


def _asked(device: str | None, pool: Pool) -> Iterator[Lane]:
    for key, lane in pool.free.items():
        if device is None or device in (key[0], key[0].partition(":")[0]):
            yield lane
