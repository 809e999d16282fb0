"""The worker's contract and what a hive says of its workers."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from rbee.protocol.base import Whole, Wire


class WorkerState(StrEnum):
    """loading → idle ⇄ busy → stopping → stopped; failed from anywhere."""

    LOADING = "loading"
    IDLE = "idle"
    BUSY = "busy"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"


class WorkerSpec(Wire, frozen=True, kw_only=True):
    """What a hive needs to start a worker. `model_path` is on the hive's machine."""

    worker_id: str
    model_id: str
    model_path: str
    format: str
    backend: str
    device: str
    slots: Whole
    ctx: Whole
    load_timeout: float = 300.0
    kv_type: str = "f16"
    flash_attention: str = "auto"
    max_gap_ms: float = 200.0
    prompt_cache_mb: Whole = 256
    model_key: str = ""
    """The model's ModelInfo.key; the hive tells it to the next queen. Empty: the path is it."""
    pinned: bool = False
    """It stays when it is idle. The hive does nothing with it but tell it to the next queen."""


class WorkerReady(Wire, frozen=True, kw_only=True):
    """POST /v1/workers/ready, worker → hive: HTTP is bound; the model loads from now on."""

    worker_id: str
    url: str
    model: str
    backend: str
    device: str
    pid: Whole
    protocol: Whole


class Heartbeat(Wire, frozen=True, kw_only=True):
    """POST /v1/worker-heartbeat, every 2 s and at each change of state or load progress."""

    worker_id: str
    state: WorkerState
    stage: str = ""
    progress: float | None = None
    slots_total: Whole = 0
    slots_busy: Whole = 0
    ctx: Whole = 0
    memory_bytes: Whole = 0
    idle_seconds: float = 0.0
    error: dict[str, Any] | None = None
    """The `error` object of an RbeeError body when state is failed."""


class WorkerHealth(Wire, frozen=True, kw_only=True):
    """GET /v1/health of a worker; the only route without the internal token."""

    status: str
    model: str
    backend: str
    device: str
    state: WorkerState
    slots_total: int
    slots_busy: int
    memory_bytes: int
    idle_seconds: float
    capabilities: list[str]
    protocol: str
    """How results travel: `sse` for text."""
    worker_id: str = ""


class Execute(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """POST /v1/execute: text from `prompt` or `messages`, or vectors of the texts in `input`.

    What the fields mean is told in rbee.backend_api; bounds are checked by the worker.
    """

    request_id: str
    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    """Each with a role; what else a message holds is the model's template's business."""
    tools: list[dict[str, Any]] = []
    must_call: list[str] = []
    several_calls: bool = True
    max_tokens: int | None = None
    temperature: float = 0.7
    top_p: float = 0.95
    top_k: int = 40
    min_p: float = 0.05
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[str, float] = {}
    """Token ids are strings here, as keys in JSON are."""
    seed: int | None = None
    stop: list[str] = []
    ignore_eos: bool = False
    logprobs: int | None = None
    grammar: str | None = None
    json_schema: dict[str, Any] | None = None
    cache: bool = True
    deterministic: bool = False
    input: list[str] | None = None
    normalize: bool = True
    stream: bool = True
    may_wait: bool = False
    """True: take it although all slots are busy; one such request waits in the worker."""
    ids: bool = False
    """True: each text event tells the ids of its tokens, where the backend has any."""
    emitted: str = ""
    """Text of this answer that the caller has already, said by another run; this one goes on."""
    emitted_ids: list[int] = []
    """The ids that run told; they are used instead of tokens made of `emitted` again."""
    emitted_tokens: int = 0
    """How many tokens that was, of `max_tokens`; with ids it is their number."""


class Usage(Wire, frozen=True, kw_only=True):
    """Counts in tokens, times in milliseconds."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    prefill_ms: float = 0.0
    decode_ms: float = 0.0


class LikelyToken(Wire, frozen=True, kw_only=True):
    """A token that could stand at a place, its natural log-probability, and its bytes."""

    token: str
    bytes: list[int]
    logprob: float


class TokenLogprob(LikelyToken, frozen=True, kw_only=True):
    """The token that was chosen, and the likeliest at its place, the likeliest first."""

    top: list[LikelyToken] = []


class TextEvent(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """A worker's stream: `{token, index, logprob?, ids?}` …

    `ids`: all tokens since the event before. What they stand for is all the text that was sent, and
    perhaps the beginning of what comes: half a character, or what may become a stop string.
    """

    token: str
    index: int
    logprob: TokenLogprob | None = None
    ids: list[int] = []


class DoneEvent(Wire, frozen=True, kw_only=True, omit_defaults=True):
    """… `{done: true, …}`, then [DONE]. Failing in mid-stream: `{error: {…}}` in its place."""

    done: bool
    total_tokens: int
    finish_reason: str
    usage: Usage
    stop: str = ""
    """The stop string that ended it, if one did."""


class EmbeddingUsage(Wire, frozen=True, kw_only=True):
    """Counts in tokens."""

    prompt_tokens: int


class Vectors(Wire, frozen=True, kw_only=True):
    """A worker's reply to `input`: one vector per text, in order."""

    vectors: list[list[float]]
    usage: EmbeddingUsage


class CancelRequest(Wire, frozen=True, kw_only=True):
    """POST /v1/cancel"""

    request_id: str


class ShutdownRequest(Wire, frozen=True, kw_only=True):
    """POST /v1/admin/shutdown"""

    graceful: bool = True
    timeout_seconds: float = 5.0


class WorkerInfo(Wire, frozen=True, kw_only=True):
    """A worker as the queen lists it. Times are UTC seconds since the epoch."""

    worker_id: str
    hive: str
    model: str
    backend: str
    device: str
    state: WorkerState
    slots_total: int = 0
    slots_busy: int = 0
    ctx: int = 0
    url: str | None = None
    pid: int | None = None
    stage: str = ""
    progress: float | None = None
    memory_bytes: int = 0
    rss_bytes: int = 0
    cpu_percent: float = 0.0
    tokens_per_second: float | None = None
    started_at: float = 0.0
    last_beat_at: float | None = None
    idle_seconds: float = 0.0
    quant: str | None = None
    pinned: bool = False
    draining: bool = False
    """It takes no more work and stops when what it runs has ended."""
    log_path: str | None = None
    error: str | None = None
    """One sentence when state is failed."""
