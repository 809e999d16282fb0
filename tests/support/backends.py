"""Drives a loaded model as the worker does: collects what it delivers, request by request."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from rbee import registry
from rbee.backend_api import (
    Done,
    Embedded,
    Generation,
    Item,
    LoadedModel,
    LoadOptions,
    ModelFile,
    Piece,
    Prefill,
    Request,
)
from rbee.errors import RbeeError

LIMIT = 110.0


def load(
    path: Path | str,
    *,
    backend: str = "llamacpp",
    name: str = "m",
    form: str = "gguf",
    cancelled: threading.Event | None = None,
    seen: list[tuple[str, float]] | None = None,
    **options,
) -> LoadedModel:
    """Load a model; options are those of LoadOptions."""
    chosen = {"device": "cpu", "slots": 1, "ctx": 1024, "threads": 2} | options
    return (
        registry.load(backend)
        .create()
        .load(
            ModelFile(name, Path(path), form),
            LoadOptions(**chosen),
            lambda stage, done: seen.append((stage, done)) if seen is not None else None,
            cancelled or threading.Event(),
        )
    )


class Answer:
    """What was delivered for one request so far."""

    def __init__(self, model: LoadedModel, name: str, before: int = 0) -> None:
        """`before`: how many tokens of the answer another run has said."""
        self.name = name
        self._before = before
        self.items: list[Item] = []
        self._model = model
        self._changed = threading.Condition()

    def put(self, item: Item) -> None:
        with self._changed:
            self.items.append(item)
            self._changed.notify_all()

    def cancel(self) -> None:
        self._model.cancel(self.name)

    def wait_for_pieces(self, least: int) -> None:
        """Until so many pieces have come, or the end."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.pieces) >= least or self.ended, LIMIT), (
                f"{self.name}: only {self.items}"
            )

    def end(self) -> Done | Embedded | RbeeError:
        """Wait for the last item; there is exactly one."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.ended, LIMIT), f"{self.name}: {self.items}"
        last = self.items[-1]
        assert isinstance(last, Done | Embedded | RbeeError)
        return last

    def done(self) -> Done:
        """The end, which must be a regular one; counts must add up."""
        last = self.end()
        if isinstance(last, RbeeError):
            raise last
        assert isinstance(last, Done)
        made = sum(piece.tokens for piece in self.pieces)
        assert self._before + made == last.completion_tokens
        return last

    @property
    def ended(self) -> bool:
        return bool(self.items) and not isinstance(self.items[-1], Piece | Prefill)

    @property
    def pieces(self) -> list[Piece]:
        return [item for item in self.items if isinstance(item, Piece)]

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces)


class Driver:
    """A loaded model that was started; several requests may run at a time."""

    def __init__(self, model: LoadedModel) -> None:
        self.model = model
        self._answers: dict[str, Answer] = {}
        self._names = count()
        model.start(self._deliver)

    def submit(self, request: Request) -> Answer:
        """Hand a request over; raises what the model raises."""
        before = request.emitted_tokens if isinstance(request, Generation) else 0
        answer = Answer(self.model, f"r{next(self._names)}", before)
        self._answers[answer.name] = answer
        self.model.submit(answer.name, request)
        return answer

    def ask(self, text: str | None = None, **options) -> tuple[str, Done]:
        """One question (or `prompt=`) to its end."""
        if text is not None:
            options["messages"] = ({"role": "user", "content": text},)
        answer = self.submit(Generation(**options))
        done = answer.done()
        return answer.text, done

    def close(self) -> None:
        self.model.close()

    def _deliver(self, items: Sequence[tuple[str, Item]]) -> None:
        for name, item in items:
            answer = self._answers[name]
            assert not answer.ended, f"{name}: {item} after the end"
            answer.put(item)
