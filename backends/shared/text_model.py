"""A loaded model that writes text: from requests to an engine's tasks.

Owns what is done once per request before it gets a slot: the template, the tokens, the check that
they fit. All of that happens in the caller's thread; the engine only computes. Which shapes an
answer can be made to take, and how memory is given back, is each backend's own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rbee.backend_api import Deliver, Generation, Request
from rbee.errors import ModelIncompatible, ValidationFailed

from . import emitted
from .families import MARKERS
from .fitting import check_length
from .loop import Loop
from .prompt import Words, prompt_tokens
from .sampling import Sampler
from .task import Task
from .template import ChatTemplate
from .vocabulary import Vocabulary

Sampling: TypeAlias = Callable[[NDArray[np.int32]], Sampler]
"""Makes a request's sampler, once the tokens of its prompt are known."""


class Vocab(Vocabulary, Words, Protocol):
    """What of a vocabulary is needed to read prompts and to write answers."""

    def show(self, marker: str) -> None:
        """Make a control token's name part of answers."""
        ...


class TextModel(ABC):
    """See rbee.backend_api.LoadedModel."""

    capabilities: tuple[str, ...] = ("text-gen",)
    ctx: int
    memory_bytes: int

    def __init__(
        self, name: str, *, vocab: Vocab, template: ChatTemplate, engine: Loop, apart: bool = False
    ) -> None:
        """`apart`: what has a seed is computed by itself."""
        self._name = name
        self._vocab = vocab
        self._template = template
        self._engine = engine
        self._apart = apart
        if template.supports_tools:
            for marker in MARKERS:
                vocab.show(marker)

    def start(self, deliver: Deliver) -> None:
        """See LoadedModel."""
        self._engine.start(deliver)

    def submit(self, request_id: str, request: Request) -> None:
        """See LoadedModel. Raises ContextLengthExceeded, ModelIncompatible, ValidationFailed."""
        if not isinstance(request, Generation):
            raise ModelIncompatible(
                f"{self._name} writes text and makes no vectors", action="Use an embedding model."
            )
        sampling = self._sampling(request)
        prompt = prompt_tokens(request, self._vocab, self._template, self.ctx)
        said = emitted.tokens_of(request, self._vocab)
        check_length(len(prompt) + len(said), self.ctx, "the prompt with the answer so far")
        sampler = sampling(prompt)
        try:
            task = Task(
                request_id,
                request,
                prompt=prompt,
                emitted=said,
                sampler=sampler,
                stops=request.stop + (self._template.stops if request.messages else ()),
                size=self.ctx,
                vocab=self._vocab,
                apart=self._apart and request.seed is not None,
            )
        except ValidationFailed:
            sampler.close()
            raise
        self._engine.submit(task)

    def cancel(self, request_id: str) -> None:
        """See LoadedModel."""
        self._engine.cancel(request_id)

    def stats(self) -> Mapping[str, float]:
        """See LoadedModel."""
        return self._engine.stats.as_dict()

    @abstractmethod
    def close(self) -> None:
        """Free contexts and weights."""

    @abstractmethod
    def _sampling(self, request: Generation) -> Sampling:
        """Raises ValidationFailed for a shape that answers here cannot take."""
