"""A job as the brain holds it: what was asked, where it is and how it ended.

Owns a job's facts and its wire form; never moves one, that is for whoever handles events.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from rbee.core.setbacks import Where
from rbee.core.states import JOB_STEPS, Lifecycle
from rbee.errors import RbeeError
from rbee.protocol.hives import ModelInfo
from rbee.protocol.jobs import JobInfo, JobState
from rbee.protocol.operations import Infer, ModelWork, Operation, Priority


@dataclass(frozen=True)
class Demand:
    """What a job needs of a worker; jobs with equal demands are interchangeable for placing."""

    model_id: str
    model_key: str
    hive: str | None
    worker_id: str | None
    device: str | None
    backend: str | None = None


@dataclass(kw_only=True, slots=True)
class Job:
    """One operation on its way. `*_at` fields are UTC seconds, `*_mono` fields monotonic ones."""

    job_id: str
    request: Operation
    created_at: float
    queued_mono: float
    model: ModelInfo | None = None
    client: str = ""
    durable: bool = True
    """True: accepted with 202, survives the queen. False: lives with the caller's connection."""
    fetch_on: str | None = None
    """The hive its model is to be fetched to before it can wait for a worker; None: it is there."""
    worker_id: str | None = None
    hive: str | None = None
    waiting_for: str | None = None
    """One sentence: why it does not run yet."""
    waits_on: str | None = None
    """The worker it counts on while that loads."""
    dispatched_mono: float | None = None
    started_at: float | None = None
    finished_at: float | None = None
    tokens_out: int = 0
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    ttft_ms: float | None = None
    tokens_per_second: float | None = None
    finish_reason: str | None = None
    error_code: str | None = None
    error_message: str | None = None
    cancel_reason: str | None = None
    correlation_id: str = ""
    retry_of: str | None = None
    overhead: float = 0.0
    """Seconds that the queen herself took for it: admission and hand-over, not its wait."""
    attempt: int = 0
    """Number of the present run, from 1; what an earlier one still says is not heard."""
    failures: int = 0
    """Runs that were lost."""
    resumes: int = 0
    tokens_before: int = 0
    """Of its answer, when the present run began."""
    tokens_charged: int = 0
    """Of its answer, to its client's share."""
    unloading: dict[str, bool] = field(default_factory=dict[str, bool])
    """Workers that it ends, each with whether that is done."""
    attached: bool = False
    """The worker that it waits for was started for others."""
    cancelled_mono: float | None = None
    """Monotonic: when its end was asked for."""
    dead: bool = False
    not_before: float = 0.0
    """Monotonic: it is not placed earlier than this, after a failure."""
    preempted: bool = False
    """Its run was broken off for one that matters more; it goes on later."""
    moved_mono: float = 0.0
    """When it last made progress, as the ticks tell."""
    avoid: set[str] = field(default_factory=set[str])
    """Workers it was lost on: used again only when there is no other."""
    failed_places: dict[Where, RbeeError] = field(default_factory=dict[Where, RbeeError])
    """Where its model did not load, while it waited for that."""
    prefix: tuple[int, ...] = ()
    """Hashes of the beginnings of its prompt, see rbee.core.experience."""
    prompt_estimate: float = 0.0
    """Tokens."""
    least_ctx: int = 0
    """Tokens of context that a worker must have: one with fewer has refused it."""
    expected_out: float = 0.0
    """Tokens."""
    life: Lifecycle[JobState] = field(init=False)
    _demand: Demand | None = field(init=False, default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.life = Lifecycle(self.job_id, JobState.QUEUED, JOB_STEPS)

    @property
    def state(self) -> JobState:
        """Where the job is."""
        return self.life.state

    @property
    def operation(self) -> str:
        """The operation's tag."""
        return str(self.request.__struct_config__.tag)

    @property
    def priority(self) -> Priority:
        """Of work for a model; everything else is interactive."""
        if isinstance(self.request, ModelWork):
            return self.request.priority
        return Priority.INTERACTIVE

    def demand(self) -> Demand:
        """What it needs of a worker. Only for work for a model that was resolved."""
        assert isinstance(self.request, ModelWork)
        assert self.model is not None
        known, model, r = self._demand, self.model, self.request
        if known is None or known.model_id != model.id or known.model_key != model.key:
            known = Demand(model.id, model.key, r.hive, r.worker_id, r.device, r.backend)
            self._demand = known
        return known

    @property
    def streams_text(self) -> bool:
        """Whether its result comes token by token, so that another worker can go on with it."""
        return isinstance(self.request, Infer)

    def info(self, position: int | None = None, eta: float | None = None) -> JobInfo:
        """The wire form; `eta` in seconds."""
        model = self.model.id if self.model else getattr(self.request, "model", None)
        return JobInfo(
            job_id=self.job_id,
            operation=self.operation,
            state=self.state,
            model=model,
            worker_id=self.worker_id,
            hive=self.hive,
            priority=self.priority,
            client=self.client,
            created_at=self.created_at,
            started_at=self.started_at,
            finished_at=self.finished_at,
            queue_position=position if self.state is JobState.QUEUED else None,
            waiting_for=self.waiting_for,
            tokens_out=self.tokens_out,
            prompt_tokens=self.prompt_tokens,
            cached_tokens=self.cached_tokens,
            ttft_ms=self.ttft_ms,
            tokens_per_second=self.tokens_per_second,
            finish_reason=self.finish_reason,
            error_code=self.error_code,
            error_message=self.error_message,
            attempts=self.attempt,
            resumes=self.resumes,
            dead=self.dead,
            retry_of=self.retry_of,
            correlation_id=self.correlation_id,
            eta_ms=round(eta * 1000) if eta is not None and self.state is JobState.QUEUED else None,
        )
