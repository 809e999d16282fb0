"""Asks a loaded model as a worker does, and collects what it answers.

Owns the wait for the end of an answer, which is limited, and the rules that hold for every answer
whatever was asked: one end, nothing after it, counts that agree.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from rbee.backend_api import (
    BackendInfo,
    Done,
    Item,
    Last,
    LoadedModel,
    LoadOptions,
    ModelFile,
    Piece,
    Prefill,
    Request,
)
from rbee.errors import RbeeError

SECONDS = 120.0
"""For an answer to end; one that is slower is taken for hung."""


class Broken(Exception):
    """The backend does not do what it must; the message says what it did."""


class Skip(Exception):
    """The clause is not for this backend or model; the message says why."""


def must(good: bool, words: str) -> None:
    """Raises Broken unless it is so."""
    if not good:
        raise Broken(words)


@dataclass
class Answer:
    """What came of one request."""

    pieces: list[Piece] = field(default_factory=list[Piece])
    last: Last | None = None

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(piece.text for piece in self.pieces)

    @property
    def ids(self) -> tuple[int, ...]:
        """All its tokens, where the backend tells them."""
        return tuple(token for piece in self.pieces for token in piece.ids)

    @property
    def tokens(self) -> int:
        """How many tokens this run made."""
        return sum(piece.tokens for piece in self.pieces)

    def done(self) -> Done:
        """The end of an answer that went well. Raises Broken."""
        if not isinstance(self.last, Done):
            raise Broken(f"the answer ended with {describe(self.last)}, not with Done")
        return self.last


@dataclass(frozen=True)
class Progressed:
    """One call of `progress`."""

    stage: str
    fraction: float


class Bench:
    """One loaded model. Use it from one thread."""

    def __init__(self, info: BackendInfo, file: ModelFile, options: LoadOptions) -> None:
        self.info = info
        self.options = options
        self.progress: list[Progressed] = []
        self._answers: dict[str, Answer] = {}
        self._changed = threading.Condition()
        self._numbers = itertools.count(1)
        self._broken: list[str] = []
        self.model: LoadedModel = load(info, file, options, told=self.progress)
        try:
            self.model.start(self._deliver)
        except BaseException:
            self.model.close()
            raise

    def begin(self, request: Request) -> str:
        """Hand a request over; its id. Raises what `submit` raises."""
        name = f"request-{next(self._numbers)}"
        with self._changed:
            self._answers[name] = Answer()
        try:
            self.model.submit(name, request)
        except RbeeError:
            del self._answers[name]
            raise
        return name

    def end(self, name: str) -> Answer:
        """The whole answer. Raises Broken when it does not end."""
        self._wait(lambda: self._answers[name].last is not None, "the answer did not end")
        return self._answers[name]

    def spoke(self, name: str) -> None:
        """Return when the first piece is there, or the end."""
        answer = self._answers[name]
        self._wait(lambda: bool(answer.pieces or answer.last), "no piece came")

    def ask(self, *requests: Request) -> list[Answer]:
        """All at once; their answers in the same order."""
        return [self.end(name) for name in [self.begin(request) for request in requests]]

    def fails(self, request: Request) -> RbeeError | None:
        """The error a request ends with, by `submit` or by its end; None: it was answered."""
        try:
            last = self.ask(request)[0].last
        except RbeeError as exc:
            return exc
        return last if isinstance(last, RbeeError) else None

    def close(self) -> None:
        """End the model. Raises Broken for rules that were broken meanwhile."""
        self.model.close()
        if self._broken:
            raise Broken(self._broken[0])

    def _wait(self, ready: Callable[[], bool], what: str) -> None:
        with self._changed:
            if not self._changed.wait_for(ready, SECONDS):
                raise Broken(f"{what} within {SECONDS:.0f} s")
        if self._broken:
            raise Broken(self._broken[0])

    def _deliver(self, items: Sequence[tuple[str, Item]]) -> None:
        with self._changed:
            for name, item in items:
                self._take(name, item)
            self._changed.notify_all()

    def _take(self, name: str, item: Item) -> None:
        answer = self._answers.get(name)
        if answer is None:
            self._broken.append(f"something came for {name}, which was refused or never asked")
        elif answer.last is not None:
            self._broken.append(f"{describe(item)} came after the end of {name}")
        elif isinstance(item, Piece):
            answer.pieces.append(item)
        elif not isinstance(item, Prefill):
            answer.last = item


def load(
    info: BackendInfo,
    file: ModelFile,
    options: LoadOptions,
    *,
    told: list[Progressed] | None = None,
    cancelled: bool = False,
) -> LoadedModel:
    """In a thread of its own, as a worker does. Raises what `load` raises, and Broken for one that
    does not end: it is told to give up, and what it makes all the same is closed."""
    give_up = threading.Event()
    if cancelled:
        give_up.set()
    heard: list[Progressed] = [] if told is None else told
    found: list[LoadedModel | BaseException] = []
    late = False
    judging = threading.Lock()

    def work() -> None:
        try:
            backend = info.create()
            made: LoadedModel | BaseException = backend.load(
                file, options, lambda stage, part: heard.append(Progressed(stage, part)), give_up
            )
        except BaseException as exc:
            made = exc
        with judging:
            if not late:
                found.append(made)
                return
        if not isinstance(made, BaseException):
            made.close()

    thread = threading.Thread(target=work, name="load", daemon=True)
    thread.start()
    thread.join(2 * SECONDS)
    with judging:
        late = not found
    if late:
        give_up.set()
        raise Broken(f"loading did not end within {2 * SECONDS:.0f} s")
    if isinstance(found[0], BaseException):
        raise found[0]
    return found[0]


@contextmanager
def bench(info: BackendInfo, file: ModelFile, options: LoadOptions) -> Generator[Bench, None, None]:
    """A model for as long as it is needed."""
    made = Bench(info, file, options)
    try:
        yield made
    finally:
        made.close()


def describe(item: object) -> str:
    """What was delivered, for people; nothing of a text."""
    if isinstance(item, RbeeError):
        return f"{item.code} ({item.message})"
    if isinstance(item, Done):
        return f"Done({item.finish_reason})"
    return type(item).__name__
