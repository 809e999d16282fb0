"""What the colony has learnt: speeds, load times, lengths of answers, and who knows which prompt.

Plain state that the brain updates and policies read. Owns the ledger of what runs on each worker as
far as it is needed to foresee its end. Decides nothing; every table is bounded, the longest unused
entry goes first.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

from rbee.core.fleet import Worker
from rbee.core.heat import Heat
from rbee.core.jobs import Job
from rbee.core.prefixes import BLOCK, Prefixes, canonical, chain
from rbee.core.speeds import Speeds, averaged, prior_rate, prior_speeds
from rbee.core.value import value
from rbee.protocol.hives import ModelInfo
from rbee.protocol.operations import Embed, Infer, Operation
from rbee.protocol.workers import Usage

INIT = 2.0
"""Seconds until a worker's process has started and its model begins to load."""
DISK_RATE = 1e9
"""Bytes per second when a model is loaded from an NVMe disk, before it was measured."""
EXPECTED_TOKENS = 256.0
"""Of an answer, before any was seen."""
TOKENS_PER_CHARACTER = 0.25
TELLING_OUT, TELLING_IN, TELLING_TEXT = 8, 32, 400
"""Fewer tokens out or in, or characters of text, say nothing of a speed or a ratio."""
OVERRUN = 0.25
"""What lasts longer than expected is expected to take this share of its past once more."""
MOST = 10_000
MOST_SPEEDS = 200_000

V = TypeVar("V")


class Table(Generic[V]):
    """Recently used entries, at most so many."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._entries: OrderedDict[tuple[str, ...], V] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, *key: str) -> V | None:
        """The entry; reading does not keep it."""
        return self._entries.get(key)

    def put(self, value: V, *key: str) -> None:
        """Set and keep it."""
        self._entries[key] = value
        self._entries.move_to_end(key)
        if len(self._entries) > self._most:
            self._entries.popitem(last=False)


@value()
class Running:
    """A job on a worker, as it was sent there."""

    job: Job
    since: float
    unknown: float
    """Tokens of its prompt the worker was not expected to know."""
    expected_hit: float
    sharers: int


def place_of(worker: Worker) -> tuple[str, str, str, str, str]:
    """What a speed or a load time belongs to: model, file, hive, device, backend."""
    spec = worker.spec
    return (spec.model_id, worker.model.key, worker.hive, spec.device, spec.backend)


class Experience:
    """All of it."""

    def __init__(self) -> None:
        self.heat = Heat()
        self.prefixes = Prefixes()
        self._speeds: Table[Speeds] = Table(MOST_SPEEDS)
        self._loads: Table[float] = Table()
        self._disks: Table[float] = Table()
        self._lengths: Table[float] = Table()
        self._ratios: Table[float] = Table()
        self._running: dict[str, dict[str, Running]] = {}

    # what the brain tells

    def submitted(self, job: Job, now: float) -> None:
        """Work for a model came in."""
        if job.model is not None:
            self.heat.arrived(job.model.id, now)
            self.measure(job)

    def measure(self, job: Job) -> None:
        """Work out a job's `prefix` and `prompt_estimate`, in tokens."""
        text = canonical(job.request)
        job.prompt_estimate = len(text) * self.ratio(job.model)
        job.prefix = chain(text) if _cached(job.request) else ()

    def dispatched(self, job: Job, worker: Worker, now: float) -> None:
        """A job was sent to a worker, which will know its prompt from now on."""
        hit = self.hit(worker, job)
        job.expected_out = self.expected(job)
        self.attach(worker)
        ledger = self._running.setdefault(worker.id, {})
        for ended in [job_id for job_id in ledger if job_id not in worker.jobs]:
            del ledger[ended]
        unknown = max(0.0, job.prompt_estimate + job.tokens_out - hit)
        ledger[job.job_id] = Running(job, now, unknown, hit, worker.sharers)
        self.prefixes.learn(worker.id, job.prefix)

    def completed(
        self, job: Job, worker: Worker, usage: Usage, concurrency: int, now: float
    ) -> None:
        """A run ended well; `concurrency`: streams on the worker meanwhile, this one included."""
        run = self._running.get(worker.id, {}).pop(job.job_id, None)
        # Both ends of the run are looked at because neighbours come and go while it lasts.
        others = (worker.sharers + (run.sharers if run is not None else worker.sharers)) / 2
        decode = prefill = None
        made = usage.completion_tokens - job.tokens_before
        if made >= TELLING_OUT and usage.decode_ms > 0:
            decode = made * 1000 / usage.decode_ms * (1 + others)
        computed = usage.prompt_tokens + job.tokens_before - usage.cached_tokens
        if computed >= TELLING_IN and usage.prefill_ms > 0:
            prefill = computed * 1000 / usage.prefill_ms * (1 + others)
        if decode is not None or prefill is not None:
            self.attach(worker).measured(concurrency, decode=decode, prefill=prefill)
        if isinstance(job.request, Infer) and job.model is not None:
            self._learn_length(job, job.model.id)
        if run is not None and job.model is not None and not job.tokens_before:
            self._learn_prompt(job, job.model, worker, run, usage)

    def loaded(self, worker: Worker, seconds: float, now: float) -> None:
        """A worker came up in so many seconds."""
        key = place_of(worker)
        self._loads.put(averaged(self._loads.get(*key), seconds), *key)
        reading = seconds - INIT
        # Seconds of less than that are start-up, not reading.
        if reading > 0.5 and worker.model.size > 256 << 20:
            rate = averaged(self._disks.get(worker.hive), worker.model.size / reading)
            self._disks.put(rate, worker.hive)
        self.attach(worker)

    def gone(self, worker_id: str) -> None:
        """A worker is no more."""
        self.prefixes.gone(worker_id)
        self._running.pop(worker_id, None)

    # what policies ask

    def speeds(self, worker: Worker) -> Speeds:
        """Of a live worker."""
        if worker.speeds is not None:
            return worker.speeds
        known = self._speeds.get(*place_of(worker))
        return known or prior_speeds(worker.kind, worker.model.weights_bytes)

    def speeds_at(self, model: ModelInfo, hive: str, device: str, backend: str) -> Speeds:
        """Of a worker that could be started there."""
        known = self._speeds.get(model.id, model.key, hive, device, backend)
        return known or prior_speeds(device.partition(":")[0], model.weights_bytes)

    def attach(self, worker: Worker) -> Speeds:
        """The worker's own record, kept from now on."""
        key = place_of(worker)
        speeds = worker.speeds or self._speeds.get(*key)
        if speeds is None:
            speeds = Speeds(prior_rate(worker.kind, worker.model.weights_bytes))
        self._speeds.put(speeds, *key)
        worker.speeds = speeds
        return speeds

    def load_seconds(self, model: ModelInfo, hive: str, device: str, backend: str) -> float:
        """Measured, else from the file's size and the measured or usual disk rate."""
        known = self._loads.get(model.id, model.key, hive, device, backend)
        if known is not None:
            return known
        return INIT + model.size / (self._disks.get(hive) or DISK_RATE)

    def reload(self, worker: Worker) -> float:
        """Seconds to load again what the worker has."""
        spec = worker.spec
        return self.load_seconds(worker.model, worker.hive, spec.device, spec.backend)

    def ratio(self, model: ModelInfo | None) -> float:
        """Tokens per character."""
        known = self._ratios.get(model.id) if model is not None else None
        return known or TOKENS_PER_CHARACTER

    def expected(self, job: Job) -> float:
        """Tokens its whole answer is expected to have."""
        request = job.request
        if not isinstance(request, Infer) or job.model is None:
            return 0.0
        known = self._lengths.get(job.client, job.model.id) or self._lengths.get(job.model.id)
        return min(known or EXPECTED_TOKENS, request.max_tokens or 1e9)

    def hit(self, worker: Worker, job: Job) -> float:
        """Tokens of the prompt that the worker is expected to know."""
        return self.tokens_of(self.prefixes.blocks(worker.id, job.prefix), job)

    def tokens_of(self, blocks: int, job: Job) -> float:
        """Tokens in so many blocks of the job's prompt."""
        return min(job.prompt_estimate, blocks * BLOCK * self.ratio(job.model)) if blocks else 0.0

    def remaining(self, worker: Worker, now: float) -> list[float]:
        """Seconds each job of the worker is expected to go on, the shortest first."""
        speeds, share = self.speeds(worker), 1 + worker.sharers
        k = len(worker.jobs)
        decode, prefill = speeds.decode_at(k) / share, speeds.prefill_at(k) / share
        ledger = self._running.get(worker.id, {})
        left: list[float] = []
        for job_id in worker.jobs:
            run = ledger.get(job_id)
            if run is None:  # it was there before this brain was
                left.append(EXPECTED_TOKENS / 2 / decode)
                continue
            age, job = now - run.since, run.job
            done = job.tokens_out - job.tokens_before
            reading = 0.0 if done else run.unknown / prefill
            if isinstance(job.request, Embed):
                left.append(max(reading - age, OVERRUN * age))
                continue
            writing = max(job.expected_out - job.tokens_out, OVERRUN * job.tokens_out) / decode
            left.append(max(reading - age, 0.0) + max(writing, OVERRUN * age if not done else 0.0))
        return sorted(left)

    def _learn_length(self, job: Job, model_id: str) -> None:
        tokens = float(max(1, job.tokens_out))
        for key in ((job.client, model_id), (model_id,)):
            self._lengths.put(averaged(self._lengths.get(*key), tokens), *key)

    def _learn_prompt(
        self, job: Job, model: ModelInfo, worker: Worker, run: Running, usage: Usage
    ) -> None:
        characters = job.prompt_estimate / self.ratio(model)
        if characters >= TELLING_TEXT and usage.prompt_tokens:
            seen = min(2.0, max(0.02, usage.prompt_tokens / characters))
            self._ratios.put(averaged(self._ratios.get(model.id), seen), model.id)
        if run.expected_hit and usage.cached_tokens < run.expected_hit / 2:
            # It has let go of what it was thought to know, so of older prompts as well.
            kept = set(job.prefix)
            for other in self._running.get(worker.id, {}).values():
                kept.update(other.job.prefix)
            self.prefixes.keep_only(worker.id, kept)


def _cached(request: Operation) -> bool:
    return isinstance(request, Infer) and request.cache and not request.deterministic
