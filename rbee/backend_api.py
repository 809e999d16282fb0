"""What a backend is: everything the author of one needs to know.

A backend turns a model file into text (or vectors) inside one worker process. It is found by the
entry point group `rbee.backends` (name → module attribute holding a `BackendInfo`), the bundled
ones exactly like a third party's. It runs in a process of its own, one model per process, and never
touches HTTP: the worker daemon does that.

Threads: `load`, `run` and `close` are called in worker threads, never on the event loop; `run` is
called for at most `slots` requests at a time. Everything a backend reports goes through callbacks
that are safe to call from any thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

Progress = Callable[[str, float], None]
"""`progress(stage, fraction)`: stage is one or two words for people, fraction is 0..1."""


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


@dataclass(frozen=True)
class Generation:
    """One request: either `messages` (rendered with the model's template) or `prompt` (raw)."""

    prompt: str | None = None
    messages: tuple[Mapping[str, Any], ...] = ()
    max_tokens: int | None = None
    """None: until the model stops or the context is full."""
    temperature: float = 0.7
    top_p: float = 0.95
    top_k: int = 40
    min_p: float = 0.05
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Piece:
    """One step of the answer; empty text is a token that completes no character."""

    text: str
    tokens: int = 1


@dataclass(frozen=True)
class Done:
    """The last thing a generator yields. Times in milliseconds, counts in tokens."""

    finish_reason: str
    """`stop`, `length` or `cancelled`."""
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    prefill_ms: float = 0.0
    decode_ms: float = 0.0


class LoadedModel(Protocol):
    """A model in memory, ready to run."""

    ctx: int
    """Context per slot really available, tokens."""
    memory_bytes: int
    """Weights, KV and buffers, as far as the backend knows."""

    def run(self, request: Generation, cancelled: threading.Event) -> Iterator[Piece | Done]:
        """Yield pieces as they are made, then exactly one Done.

        Looks at `cancelled` between steps (one decode step or prefill chunk) and then yields
        `Done("cancelled", …)`. Raises ContextLengthExceeded before the first piece when the prompt
        does not fit, and any RbeeError when it fails.
        """
        ...

    def close(self) -> None:
        """Give the memory back. Not called when the process is about to end anyway."""
        ...


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
    """How many requests it can run at a time."""
    models: Callable[[], list[ModelFile]] = list
    """Models the backend brings along itself (echo does; most bring none)."""
