"""A backend for rbee in one file: it says your words back, louder. A token is a word."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path

from rbee.backend_api import (
    BackendInfo,
    Done,
    Embedded,
    Generation,
    LoadOptions,
    ModelFile,
    Piece,
    Prefill,
    Progress,
    Request,
    Support,
    ThreadedModel,
)
from rbee.errors import (
    BackendUnavailable,
    Cancelled,
    ContextLengthExceeded,
    ModelIncompatible,
    ValidationFailed,
)


class Shout:
    """Made inside the worker; a heavy library would be imported in `load`."""

    def load(
        self, model: ModelFile, options: LoadOptions, progress: Progress, cancelled: threading.Event
    ) -> ShoutModel:
        if options.device != "cpu":  # never something else than was asked for
            raise BackendUnavailable(f"shout runs on the cpu only, not on {options.device}")
        progress("clearing its throat", 0.0)
        if cancelled.is_set():
            raise Cancelled("loading was cancelled")
        progress("clearing its throat", 1.0)
        return ShoutModel(options)


class ShoutModel(ThreadedModel):
    """Answers in threads, one for each request that runs."""

    capabilities = ("text-gen",)
    memory_bytes = 1 << 20

    def __init__(self, options: LoadOptions) -> None:
        super().__init__(slots=options.slots)
        self.ctx = options.ctx

    def run(
        self, request: Request, cancelled: threading.Event
    ) -> Iterator[Piece | Prefill | Done | Embedded]:
        if not isinstance(request, Generation):
            raise ModelIncompatible("shout makes no vectors")
        for name in ("grammar", "json_schema", "must_call"):
            if getattr(request, name) not in (None, ()):
                raise ValidationFailed(f"{name}: shout heeds none", field=name, constraint="none")
        words = _prompt(request).split()
        if len(words) + 1 > self.ctx:
            raise ContextLengthExceeded(
                f"the prompt has {len(words)} words, the context holds {self.ctx}",
                required=len(words) + 1,
                available=self.ctx,
            )
        most = min(request.max_tokens or self.ctx, self.ctx - len(words))
        text, stopped = _until(" ".join(words).upper(), request.stop)
        pieces = re.findall(r"\s*\S+\s*$|\s*\S+|\s+", text)
        for said, piece in enumerate(pieces[:most]):
            if cancelled.is_set():
                yield Done("cancelled", len(words), said)
                return
            yield Piece(piece)
        said = min(len(pieces), most)
        whole = said == len(pieces) and (stopped or said < most)
        yield Done("stop" if whole else "length", len(words), said)


def _prompt(request: Generation) -> str:
    if request.prompt is not None:
        return request.prompt
    said = [str(one.get("content") or "") for one in request.messages if one.get("role") == "user"]
    return said[-1] if said else ""


def _until(text: str, stops: tuple[str, ...]) -> tuple[str, bool]:
    """The text before the first stop string, and whether there was one."""
    ends = [at for stop in stops if (at := text.find(stop)) >= 0]
    return (text[: min(ends)], True) if ends else (text, False)


INFO = BackendInfo(
    name="shout",
    formats=("shout",),
    capabilities=("text-gen",),
    probe=lambda: Support(True, ("cpu",)),
    create=Shout,
    max_slots=4,
    models=lambda: [ModelFile("loud", Path(__file__), "shout")],
)
