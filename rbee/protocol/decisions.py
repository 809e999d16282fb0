"""Why a job went where it went: what was looked at, what each choice would have cost."""

from __future__ import annotations

from rbee.protocol.base import Wire


class Score(Wire, frozen=True, kw_only=True):
    """Expected seconds until the job would be complete there, term by term."""

    wait: float = 0.0
    """Until a slot is free: what still runs there."""
    load: float = 0.0
    """Until the model is loaded; 0 when it is."""
    wake: float = 0.0
    """Until the machine is awake; 0 when it is."""
    ext: float = 0.0
    """What others lose: reloading each model that would be evicted, by how much it is wanted."""
    prefill: float = 0.0
    """The part of the prompt that is not known there."""
    decode: float = 0.0
    """The answer, at the concurrency it will see."""
    total: float = 0.0
    hit_tokens: int = 0
    """Tokens of the prompt expected to be known there."""


class Option(Wire, frozen=True, kw_only=True):
    """A worker that could take the job, or a place where one could be started."""

    kind: str
    """`worker` or `start`."""
    worker_id: str | None = None
    hive: str
    device: str | None = None
    backend: str | None = None
    """Which one runs it, or would; `why` of a `start` says why that one."""
    passed: bool
    why: str = ""
    """One sentence: why it cannot, or what it would take."""
    score: Score | None = None
    evicts: list[str] = []


class Decision(Wire, frozen=True, kw_only=True):
    """One decision about one job. `at`: UTC seconds."""

    job_id: str
    at: float
    attempt: int = 0
    policy: str
    model: str
    verdict: str
    """`run`, `start`, `claim`, `wait` or `refuse`."""
    chosen: str | None = None
    """The worker, or `hive device` of a start."""
    reason: str
    waited_ms: int = 0
    options: list[Option] = []
    """The best first, then those that cannot; at most 32."""
    left_out: int = 0
    """How many more there were."""
    evicted: list[str] = []


class PolicyInfo(Wire, frozen=True, kw_only=True):
    """GET /v1/policy: what decides where work goes."""

    name: str
    """As decisions call it."""
    rules: list[str]
    """What it does, a sentence each, in the order in which it is asked."""
    figures: dict[str, str]
    """What it reckons with, in words: `context of a slot` → `4096 tokens`."""


class Decisions(Wire, frozen=True, kw_only=True):
    """GET /v1/decisions: the latest, the newest first."""

    decisions: list[Decision]


class Why(Wire, frozen=True, kw_only=True):
    """GET /v1/jobs/{id}/decision: all recorded, the oldest first; of a waiting job also the present
    one."""

    job_id: str
    state: str
    decisions: list[Decision]
    fetching: str | None = None
    """Of a job whose model is on its way: where to, and how far it is."""
