"""What a backend is: everything the author of one needs to know.

A backend turns a model file into text (or vectors) inside one worker process. It is found by the
entry point group `rbee.backends` (name → module attribute holding a `BackendInfo`), the bundled
ones exactly like a third party's. It runs in a process of its own, one model per process, and never
touches HTTP: the worker daemon does that.

A loaded model takes requests with `submit` and answers through one `deliver` callback, for all
requests together, so that a backend that computes several answers in one step hands them over in
one call. A backend that computes one answer per thread derives from `ThreadedModel` and writes a
generator instead.

Silence means that nothing happens. While a request runs, every step of it should deliver something:
a piece, or a `Prefill` while its prompt is computed. The worker keeps the connection known alive
only while items come, and a request without any for `worker.stall_timeout` (60 s) is taken for hung
and given up. So a backend whose prompts take long must say `Prefill` on the way, and one whose
tokens take long a `Piece("", tokens=0)`.

A backend whose device computes no more, whatever is asked of it, ends a request with DeviceFailed:
the worker then tells its hive and ends, so that another takes its place. Any other error is that
request's alone.

Another worker may have died in the midst of an answer. Its `Generation` then comes again with what
was said (`emitted`), and the answer goes on behind that; see `BackendInfo.continues`.

Threads: `load`, `submit` and `close` are called in worker threads, never on the event loop;
`deliver` and `progress` may be called from any thread.
"""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from rbee.errors import InternalError, RbeeError

log = logging.getLogger("rbee.backend")
Progress = Callable[[str, float], None]
"""`progress(stage, fraction)`: stage is one or two words for people, fraction is 0..1."""


_WRITERS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
_EMBEDDERS = ("Model", "ForMaskedLM", "ForTextEmbedding")


def purpose(architectures: object) -> str | None:
    """`text-gen` or `embedding`: what a model is made for by `architectures` of its config.json.

    The first counts, by the end of its name as transformers names its classes; None: it does not
    tell.
    """
    names: list[object] = architectures if isinstance(architectures, list) else []
    name = names[0] if names and isinstance(names[0], str) else ""
    if name.endswith(_WRITERS):
        return "text-gen"
    return "embedding" if name.endswith(_EMBEDDERS) else None


@dataclass(frozen=True)
class ModelFile:
    """A model as it lies on this machine's disk."""

    id: str
    path: Path
    format: str
    """`gguf`, `safetensors`, or a format of the backend's own (`echo`)."""
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class LoadOptions:
    """How to load: fixed for the life of the worker."""

    device: str
    """`cpu`, `cuda:0`, `metal:0`, …; a device the backend cannot use raises BackendUnavailable."""
    slots: int
    ctx: int
    """Context per slot, tokens."""
    threads: int
    kv_type: str = "f16"
    """How keys and values are kept: `f16`, `f32`, `bf16`, `q8_0`, `q4_0`, …"""
    flash_attention: str = "auto"
    """`auto`, `on` or `off`. Off is slower; on a CPU no answer then depends on what else runs."""
    max_gap_ms: float = 200.0
    """How long the tokens of running answers may be held up by the prompt of another."""
    prompt_cache_bytes: int = 256 << 20
    """Host memory for prompts that were computed and lost their slot; 0 keeps none."""


@dataclass(frozen=True)
class Generation:
    """One answer: either `messages` (rendered with the model's template) or `prompt` (raw).

    Names and meanings are those of OpenAI's and llama.cpp's APIs.
    """

    prompt: str | None = None
    messages: tuple[Mapping[str, Any], ...] = ()
    tools: tuple[Mapping[str, Any], ...] = ()
    """Functions in OpenAI's form; only with `messages`."""
    must_call: tuple[str, ...] = ()
    """Names of tools: the answer is a call of one of them, in the form the model was trained to say
    it in. With `tools` alone it says what it likes; `json_schema` binds only what is no call."""
    several_calls: bool = True
    """Whether that may be several calls, for a model that makes several."""
    max_tokens: int | None = None
    """None: until the model stops or the context is full."""
    temperature: float = 0.7
    """0 takes the most likely token always."""
    top_p: float = 0.95
    top_k: int = 40
    min_p: float = 0.05
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """Token id → what is added to its logit; -100 and less bans it."""
    seed: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    """Never end by itself."""
    logprobs: int | None = None
    """None: none. n: each token's log-probability and those of the n most likely at its place."""
    grammar: str | None = None
    """GBNF; the answer is a sentence of its rule `root`."""
    json_schema: Mapping[str, Any] | None = None
    """The answer is a JSON text valid under it; `{}` means any JSON object."""
    cache: bool = True
    """False: compute the whole prompt anew."""
    deterministic: bool = False
    """Compute this answer apart from all others, so that nothing else can change its numbers."""
    emitted: str = ""
    """The beginning of this answer, said before by another run: go on behind it, do not say it
    again. It is the tail of the prompt, without anything between; only `max_tokens`, the penalties
    of the answer, a grammar and the draws by `seed` count it as part of the answer."""
    emitted_ids: tuple[int, ...] = ()
    """The tokens of it, as `Piece.ids` told them; empty where they are not known. They may make
    somewhat more than `emitted`: what that run held back."""
    emitted_tokens: int = 0
    """How many tokens it was; 0 where only the text is known."""

    @property
    def continued(self) -> bool:
        """Whether this goes on with an answer."""
        return bool(self.emitted or self.emitted_ids or self.emitted_tokens)


@dataclass(frozen=True)
class Embedding:
    """Turn texts into vectors."""

    inputs: tuple[str, ...]
    normalize: bool = True
    """Vectors of length 1."""


Request: TypeAlias = Generation | Embedding


@dataclass(frozen=True)
class Likely:
    """A token and its log-probability (natural logarithm) before temperature and filters."""

    token: int
    text: str
    """U+FFFD where the token's bytes are no whole characters."""
    data: bytes
    logprob: float


@dataclass(frozen=True)
class Logprob(Likely):
    """The chosen token, and the most likely ones at its place, the likeliest first."""

    top: tuple[Likely, ...] = ()


@dataclass(frozen=True)
class Piece:
    """One step of the answer; empty text is a token that completes no character."""

    text: str
    tokens: int = 1
    logprob: Logprob | None = None
    ids: tuple[int, ...] = ()
    """The tokens, for a backend whose answers another worker can continue by them. All ids of the
    answer so far must make all its text so far, and perhaps some that is held back."""


@dataclass(frozen=True)
class Prefill:
    """How much of the prompt is computed, for requests whose prompt takes more than one step.

    The first item of a request says that its turn has come; until then it waits for others.
    """

    done: int
    total: int


@dataclass(frozen=True)
class Done:
    """The last thing of an answer. Times in milliseconds, counts in tokens.

    Of an answer that was continued: `completion_tokens` counts all of it, `prompt_tokens` the
    prompt without it, `cached_tokens` no more than that.
    """

    finish_reason: str
    """`stop`, `length` or `cancelled`."""
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    prefill_ms: float = 0.0
    decode_ms: float = 0.0
    stop: str = ""
    """The stop string that ended it; empty when something else did."""


@dataclass(frozen=True)
class Embedded:
    """The last and only thing of an Embedding: one vector per input, in order."""

    vectors: Sequence[Sequence[float]]
    prompt_tokens: int


Last: TypeAlias = Done | Embedded | RbeeError
Item: TypeAlias = Piece | Prefill | Last
"""What comes of a request: pieces (and prefills before the first), then exactly one Last."""
Deliver = Callable[[Sequence[tuple[str, Item]]], None]
"""`deliver([(request id, item), …])`: what one step of the backend made, never blocking."""


class LoadedModel(Protocol):
    """A model in memory, ready to run."""

    ctx: int
    """Context per slot really available, tokens."""
    memory_bytes: int
    """Weights, KV and buffers on its device, as far as the backend knows."""
    capabilities: tuple[str, ...]
    """What this model can do, of the words in BackendInfo.capabilities."""

    def start(self, deliver: Deliver) -> None:
        """Called once, before the first request."""
        ...

    def submit(self, request_id: str, request: Request) -> None:
        """Take a request; it runs when a slot is free, in the order of the calls.

        May block some milliseconds (templates, tokens). Raises, and then delivers nothing:
        ContextLengthExceeded when the prompt does not fit, ValidationFailed naming the field.
        """
        ...

    def cancel(self, request_id: str) -> None:
        """End a request at its next step with `Done("cancelled", …)`; unknown ids are ignored.

        Never blocks; called on the event loop.
        """
        ...

    def stats(self) -> Mapping[str, float]:
        """Counters since the start, for measurements; names end in their unit."""
        ...

    def close(self) -> None:
        """Give the memory back. Not called when the process is about to end anyway."""
        ...


class ThreadedModel(ABC):
    """A LoadedModel for backends that compute one answer at a time: `run` is all they write."""

    capabilities: tuple[str, ...] = ("text-gen",)

    def __init__(self, *, slots: int) -> None:
        self._threads = ThreadPoolExecutor(slots, thread_name_prefix="backend")
        self._flags: dict[str, threading.Event] = {}
        self._deliver: Deliver | None = None

    @abstractmethod
    def run(
        self, request: Request, cancelled: threading.Event
    ) -> Iterator[Piece | Prefill | Done | Embedded]:
        """Yield pieces as they are made, then exactly one Done; of an Embedding one Embedded.

        Looks at `cancelled` between steps and then yields `Done("cancelled", …)`. Raises any
        RbeeError when it fails. Called in threads, for at most `slots` requests at a time.
        """

    def start(self, deliver: Deliver) -> None:
        """See LoadedModel."""
        self._deliver = deliver

    def submit(self, request_id: str, request: Request) -> None:
        """See LoadedModel."""
        self._flags[request_id] = flag = threading.Event()
        self._threads.submit(self._work, request_id, request, flag)

    def cancel(self, request_id: str) -> None:
        """See LoadedModel."""
        if (flag := self._flags.get(request_id)) is not None:
            flag.set()

    def stats(self) -> Mapping[str, float]:
        """See LoadedModel."""
        return {}

    def close(self) -> None:
        """See LoadedModel."""
        for flag in list(self._flags.values()):
            flag.set()
        self._threads.shutdown(wait=True)

    def _work(self, request_id: str, request: Request, cancelled: threading.Event) -> None:
        assert self._deliver is not None
        last: Last | None = None
        self._deliver([(request_id, Prefill(0, 0))])  # its turn has come
        try:
            for item in self.run(request, cancelled):
                if isinstance(item, Done | Embedded):
                    last = item
                elif last is None:
                    self._deliver([(request_id, item)])
        except RbeeError as exc:
            last = exc
        except Exception as exc:  # a defect of the backend: one request fails, not the worker
            log.exception("request %s: the backend failed", request_id)
            last = InternalError(f"the backend failed: {type(exc).__name__}")
        del self._flags[request_id]
        missing = InternalError("the backend ended the answer without saying how")
        self._deliver([(request_id, last or missing)])


@dataclass(frozen=True)
class Support:
    """Whether the backend can run here, and when it cannot, why and what would make it."""

    available: bool
    devices: tuple[str, ...] = ()
    """Device names this installed build can use, e.g. `("cpu",)`."""
    reason: str = ""
    action: str = ""


class Backend(Protocol):
    """A backend's own code; constructed without arguments inside the worker."""

    def load(
        self, model: ModelFile, options: LoadOptions, progress: Progress, cancelled: threading.Event
    ) -> LoadedModel:
        """Raises ModelCorrupted, ModelIncompatible, ModelLoadFailed, BackendUnavailable."""
        ...


@dataclass(frozen=True)
class BackendInfo:
    """What an entry point of group `rbee.backends` points at; importing it must be cheap."""

    name: str
    formats: tuple[str, ...]
    capabilities: tuple[str, ...]
    """Of `text-gen`, `embedding`, `image-gen`, `audio-gen`."""
    probe: Callable[[], Support]
    """Say whether it can run here, without loading the heavy library into this process."""
    create: Callable[[], Backend]
    """Import the heavy parts and make the backend; called in the worker only."""
    max_slots: int = 1
    """How many requests it can run at a time; a worker is given less where memory is short."""
    continues: bool = False
    """Whether it heeds `Generation.emitted`. One that does not gets no such request: the worker
    refuses it, and the answer ends where its first worker died."""
    models: Callable[[], list[ModelFile]] = list
    """Models the backend brings along itself (echo does; most bring none)."""
    report: str = ""
    """A module for `rbee doctor`: run with `-m` it loads the library and prints a JSON object with
    `version`, `kinds`, `features`, `devices` (name, label, memory_free, memory_total) and `missing`
    (kind of device → how to build for it)."""
