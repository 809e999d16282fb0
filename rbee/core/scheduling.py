"""The built-in policy: the smallest expected completion time (ECT) wins.

Owns the order of the questions: may it run on a live worker, is a start cheaper than waiting, may
others be displaced, and if nothing of it, is that for now or for ever. The terms are in
rbee.core.costs, the filters in rbee.core.bars and rbee.core.feasibility.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from rbee.core import explaining, refusing
from rbee.core.bars import Bar, busy_sentence, check_context, unable
from rbee.core.choosing import Choice, choose
from rbee.core.costs import Facts, Terms, of_worker
from rbee.core.experience import INIT
from rbee.core.feasibility import Place, Wish
from rbee.core.fleet import Worker
from rbee.core.jobs import Job
from rbee.core.limits import Limits
from rbee.core.policy import Claim, Refuse, Run, Spawn, Verdict, View, Wait
from rbee.core.states import WORKER_READY
from rbee.core.surveying import Survey, survey
from rbee.core.swapping import swap
from rbee.errors import QueueFull, RbeeError
from rbee.protocol.decisions import Decision
from rbee.protocol.operations import Infer, ModelWork

MARGIN = 1.25
"""What is not there yet must be so much better than what is: estimates err, and a start is paid
at once."""
LOOKS = 64
"""Devices, of many hives, that are looked at while a live worker could be waited for."""


@dataclass(frozen=True)
class Ect:
    """The policy. `ctx`, `slots` and `kv_type` are those of the workers it starts; see Policy."""

    ctx: int
    slots: int | None = None
    kv_type: str = "f16"
    charge: bool = True
    """What others lose by an eviction is part of the cost, and has to be waited for."""

    @property
    def name(self) -> str:
        """As decisions call it."""
        return "ect" if self.charge else "own-load"

    def rules(self, limits: Limits) -> list[str]:
        """What it does, a sentence each, for people."""
        others = "what others lose by an eviction + " if self.charge else ""
        cannot = "a pin, the context, memory, the backend, a breaker, a place where it failed"
        terms = f"waiting for a slot + loading + waking the machine + {others}reading + writing"
        patience = f"and after {limits.swap_patience:g} s in any case"
        measured = "are measured as the colony works; before, reckoned from the memory bandwidth"
        swap = "A model that others use goes once a job has waited as long as that costs them"
        return [
            f"What cannot be is left out: {cannot}.",
            f"Of the rest the smallest expected completion time wins: {terms}, in seconds.",
            "A job is given to a worker only when a slot is free there.",
            f"A start must be {MARGIN:g} times better than what is there: it is paid at once.",
            *([f"{swap}, {patience}."] if self.charge else []),
            f"Speeds, load times and lengths {measured}.",
        ]

    def admit(self, job: Job, view: View) -> RbeeError | None:
        """Ability, context, deadline."""
        request, model = job.request, job.model
        assert isinstance(request, ModelWork)
        assert model is not None
        refused = unable(request, model)
        if refused is None and isinstance(request, Infer):
            refused = check_context(request, min(self.ctx, model.context or self.ctx))
        if refused is not None or request.deadline_ms is None:
            return refused
        if not view.fleet.of_model(model.id, model.key):
            return None  # refused at the door it would never be loaded, and Retry-After untrue
        first = self.first_token(job, view)
        if first is None or first * 1000 <= request.deadline_ms:
            return None
        return QueueFull(
            f"the first token is expected in {first:.1f} s,"
            f" the deadline is {request.deadline_ms / 1000:g} s",
            action="Allow more time, or send it again later.",
            retry_after=max(1, round(first)),
            predicted_ms=round(first * 1000),
            deadline_ms=request.deadline_ms,
        )

    def route(self, job: Job, view: View) -> Verdict:
        """See the module."""
        assert isinstance(job.request, ModelWork)
        assert job.model is not None
        lacking = unable(job.request, job.model)
        if lacking is not None:
            return Refuse(lacking)
        facts, choice = self._looked(job, view)
        if choice.free is not None:
            return self._run(facts, choice, choice.free, view)
        if choice.soon is not None:
            return self._wait_or_start(facts, choice, choice.soon, view)
        if facts.request.worker_id is not None:
            return refusing.pinned(facts, choice.bars, view)
        return self._start(facts, choice.bars, self.survey(facts, view), view)

    def explain(self, job: Job, view: View, verdict: Verdict, *, brief: bool = False) -> Decision:
        """The verdict with everything that was looked at."""
        facts, choice = self._looked(job, view)
        most = explaining.options_of(facts, view) if brief else explaining.MOST
        found = self.survey(facts, view, most)
        return explaining.explain(facts, verdict, view, found, self.name, most, choice.seen)

    def cost(self, job: Job, worker: Worker, view: View) -> float:
        """Seconds; see rbee.core.costs."""
        return of_worker(Facts(job, view.experience), worker, view).total

    def first_token(self, job: Job, view: View, position: int | None = None) -> float | None:
        """By the same terms, the jobs before it in the queue included."""
        facts, choice = self._looked(job, view)
        if choice.free is not None:
            return choice.free_terms.until_start + choice.free_terms.prefill
        if choice.soon is not None:
            terms = choice.soon_terms
            place = position or view.queue.position(job, view.now)
            before = min(place - 1, view.queue.waiting(facts.demand))
            turn = _backlog(facts, terms, before, view)
            return terms.until_start + turn + terms.prefill
        found = self.survey(facts, view).places
        if not found:
            return None
        _, place, terms = found[0]
        patience = 0.0 if place.ready else min(terms.ext, view.limits.swap_patience)
        return terms.until_start + patience + terms.prefill

    def _looked(self, job: Job, view: View) -> tuple[Facts, Choice]:
        """What is known of the job, and the best live worker; worked out once for one moment."""
        key = (job.job_id, view.fleet.changes)
        known = view.worked_out.get(key)
        if known is None:
            facts = Facts(job, view.experience)
            known = view.worked_out[key] = (facts, self.choose(facts, view))
        return cast("tuple[Facts, Choice]", known)

    def choose(self, facts: Facts, view: View) -> Choice:
        """The best live worker."""
        pool = view.fleet.pool(facts.demand.model_id, facts.demand.model_key)
        return choose(facts, pool, view)

    def survey(self, facts: Facts, view: View, looks: int | None = None) -> Survey:
        """The places for it, by the policy's settings; `looks`: see rbee.core.surveying."""
        model = facts.job.model
        assert model is not None
        wish = Wish(
            model=model,
            ctx=min(self.ctx, model.context or self.ctx),
            slots=self.slots,
            clamp=True,
            kv_type=self.kv_type,
            flash=view.limits.flash_attention != "off",
            hive=facts.request.hive,
            device=facts.request.device,
            backend=facts.request.backend,
        )
        return survey(facts, wish, view, charge=self.charge, looks=looks)

    def _run(self, facts: Facts, choice: Choice, free: Worker, view: View) -> Verdict:
        now, soon, later = choice.free_terms.total, choice.soon, choice.soon_terms
        if soon is not None and facts.request.wait and later.total * MARGIN < now:
            others = view.queue.waiting(facts.demand) - 1
            turn = later.total + _backlog(facts, later, others, view)
            if turn * MARGIN < now:
                # Amounts would change with every look; `rbee why` has them.
                return Wait(f"{soon.id} is soonest done, although {free.id} is free", soon)
        return Run(free, f"{free.id} has a free slot and is soonest done, in about {now:.1f} s")

    def _wait_or_start(self, facts: Facts, choice: Choice, soon: Worker, view: View) -> Verdict:
        if not facts.request.wait and soon.state in WORKER_READY:
            return refusing.busy(facts, view)
        wait = Wait(busy_sentence(soon), soon)
        demand, terms = facts.demand, choice.soon_terms
        if demand.worker_id is not None or not facts.request.wait:
            return wait
        waiting = max(1, view.queue.waiting(demand))
        turn = terms.until_start + _backlog(facts, terms, waiting - 1, view)
        if turn <= MARGIN * INIT or self._enough(facts, waiting, view):
            return wait
        for _, place, start in self.survey(facts, view, LOOKS).places:
            until = start.until_start + start.ext + start.prefill + start.decode
            if place.leaving or place.claim or place.until:
                continue
            if until * MARGIN >= turn + terms.prefill + terms.decode:
                break
            if place.evict and self.charge and not swap(facts, place.evict, view).allowed:
                continue
            where = f"{place.hive.name} {place.device.name}"
            return Spawn(
                place,
                f"{waiting} wait for {demand.model_id}, the last for about {turn:.0f} s;"
                f" {where} is ready in about {start.until_start + start.ext:.0f} s",
            )
        return wait

    def _enough(self, facts: Facts, waiting: int, view: View) -> bool:
        """Whether those that load will take all who wait, or no more workers may be started."""
        demand = facts.demand
        if view.fleet.live_count(demand.model_id) >= view.limits.most_workers(demand.model_id):
            return True
        pool = view.fleet.pool(demand.model_id, demand.model_key)
        coming = 0
        for worker in pool.loading.members if pool is not None else ():
            coming += worker.spec.slots
            if coming >= waiting:
                return True
        return False

    def _start(self, facts: Facts, bars: list[Bar], found: Survey, view: View) -> Verdict:
        demand, model_id = facts.demand, facts.demand.model_id
        if view.fleet.live_count(model_id) >= view.limits.most_workers(model_id):
            return refusing.later_or_never(facts, bars, Survey(never=found.never), view)
        if not found.places:
            return refusing.later_or_never(facts, bars, found, view)
        claimed = view.fleet.claimed_for(model_id)
        _, place, terms = found.places[0]
        if claimed:  # no second set
            ours = {w.id for w in claimed}
            for _, other, _ in found.places:
                if other.ready or (other.evict and ours & {w.id for w in other.evict}):
                    return Spawn(other, self._why(facts, other, view))
                if not ours < {w.id for w in other.claim}:
                    continue
                widened = swap(facts, other.claim, view)  # the room that was claimed has shrunk
                if widened.allowed or not self.charge:
                    why = f"{_ending(other.claim)} makes room for {model_id}: {widened.why}"
                    return Claim(other.claim, why)
            busy = [w for w in claimed if w.jobs] or claimed
            return Wait(f"waiting for {_ending(busy)}, which makes room for {model_id}")
        if place.ready:
            return Spawn(place, self._why(facts, place, view, terms))
        if place.evict or place.claim:
            return self._displace(facts, place, view)
        names = place.until or f"the memory of {_names(place.leaving)}, which is stopping"
        if not demand.worker_id and not facts.request.wait and place.until:
            return refusing.displaced(facts, names)
        return Wait(f"waiting for {names}")

    def _displace(self, facts: Facts, place: Place, view: View) -> Verdict:
        victims = place.evict or place.claim
        verdict = swap(facts, victims, view)
        if self.charge and not verdict.allowed:
            if not facts.request.wait:
                return refusing.displaced(facts, f"the place of {_names(victims)}", victims)
            return Wait(verdict.why)
        if place.evict and not self.charge:
            for worker in place.evict:
                if worker.free_slots and view.queue.wants(worker.spec.model_id):
                    return Wait(f"{worker.id} is about to be given work")
        if place.evict:
            why = f" ({verdict.why})" if self.charge else ""
            return Spawn(place, self._why(facts, place, view) + why)
        if not facts.request.wait:
            return refusing.displaced(facts, f"the place of {_names(victims)}", victims)
        model_id = facts.demand.model_id
        return Claim(victims, f"{_ending(victims)} makes room for {model_id}: {verdict.why}")

    def _why(self, facts: Facts, place: Place, view: View, terms: Terms | None = None) -> str:
        where = f"{place.hive.name} {place.device.name}"
        why = f"no worker has {facts.demand.model_id} to offer; {where} is soonest ready"
        if place.evict:
            return f"{why} after stopping idle {_names(place.evict)}"
        return f"{why}, in about {terms.until_start:.0f} s" if terms is not None else why


def _backlog(facts: Facts, terms: Terms, before: int, view: View) -> float:
    """Seconds until so many others of the same demand have been served, over all its slots."""
    if before <= 0:
        return 0.0
    pool = view.fleet.pool(facts.demand.model_id, facts.demand.model_key)
    slots = 1
    if pool is not None:
        slots = max(1, pool.slots + sum(w.spec.slots for w in pool.loading.around(0, 32)))
    return before * (terms.prefill + terms.decode) / slots


def _names(workers: Sequence[Worker]) -> str:
    return ", ".join(w.id for w in workers)


def _ending(workers: Sequence[Worker]) -> str:
    return ", ".join(f"{w.id} ({w.spec.model_id})" for w in workers)
