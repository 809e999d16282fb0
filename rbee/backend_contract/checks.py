"""The clauses of the contract: each asks a backend for one thing and says what it did instead.

Owns what is checked and in which order. A clause says nothing of speed. What a backend does not
claim (vectors, going on with an answer) is skipped with the reason. Prompts are ordinary text for a
model; the directives in some make the echo backend take its time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rbee.backend_api import BackendInfo, Embedded, Embedding, Generation, LoadOptions, ModelFile
from rbee.backend_contract.harness import Answer, Bench, Broken, Skip, bench, describe, must
from rbee.backend_contract.loading import UNLOADED
from rbee.errors import (
    ContextLengthExceeded,
    RbeeError,
    ValidationFailed,
)

CTX = 512
SLOTS = 4
_TOKENS = 24
_PROMPT = "@repeat=8 Bees make honey and wax, and they dance to tell the others where."
_LONG = "@delay=5 @repeat=80 bees and honey"
_ACCENTS = "Grüße, naïve café — 蜂蜜 🐝 ありがとう. " * 3
_REASONS = frozenset({"stop", "length", "cancelled"})


@dataclass(frozen=True)
class Found:
    """What one clause found."""

    name: str
    state: str
    """`ok`, `failed` or `skipped`."""
    words: str = ""
    """Why it failed or was skipped."""


def run(
    info: BackendInfo,
    file: ModelFile,
    *,
    scratch: Path,
    device: str = "cpu",
    tell: Callable[[Found], None] = lambda _: None,
) -> list[Found]:
    """All clauses with this model on this device; `scratch`: a folder for damaged copies.

    Never raises for what the backend does. `tell` hears of each clause as it ends.
    """
    slots = max(1, min(SLOTS, info.max_slots))
    options = LoadOptions(device=device, slots=slots, ctx=CTX, threads=2)
    found: list[Found] = []

    def note(name: str, clause: Callable[[], None]) -> None:
        found.append(_judged(name, clause))
        tell(found[-1])

    for name, unloaded in UNLOADED:
        note(name, lambda unloaded=unloaded: unloaded(info, file, options, scratch))
    made: list[Bench] = []
    note("loads", lambda: made.append(_loads(info, file, options)))
    for name, clause in _LOADED:
        if made:
            note(name, lambda clause=clause: clause(made[0]))
        else:
            note(name, _not_loaded)
    note("closes and loads again", lambda: _again(made, info, file, options))
    return found


def _judged(name: str, clause: Callable[[], None]) -> Found:
    try:
        clause()
    except Skip as exc:
        return Found(name, "skipped", str(exc))
    except Broken as exc:
        return Found(name, "failed", str(exc))
    except RbeeError as exc:
        return Found(name, "failed", f"{exc.code}: {exc.message}")
    except (Exception, SystemExit) as exc:  # somebody's code: what it raises is wrong with it
        return Found(name, "failed", f"{type(exc).__name__}: {exc}")
    return Found(name, "ok")


def _not_loaded() -> None:
    raise Skip("the model did not load")


# --- with a model ---------------------------------------------------------------------------------


def _loads(info: BackendInfo, file: ModelFile, options: LoadOptions) -> Bench:
    made = Bench(info, file, options)
    try:
        _presents(made)
    except BaseException:
        made.model.close()
        raise
    return made


def _presents(made: Bench) -> None:
    """What the load told, and what the model says of itself."""
    must(bool(made.progress), "it told no progress")
    for one in made.progress:
        must(0 <= one.fraction <= 1, f"progress {one.fraction} of {one.stage!r}")
    model, asked = made.model, made.options.ctx
    must(0 < model.ctx <= asked, f"its ctx is {model.ctx}, asked for {asked}")
    must(model.memory_bytes > 0, f"its memory_bytes is {model.memory_bytes}")
    unknown = set(model.capabilities) - set(made.info.capabilities)
    must(not unknown, f"the model can {unknown}, of which the backend's info says nothing")


def _answers(here: Bench) -> None:
    answer = _greedy(here)
    done = answer.done()
    must(done.finish_reason in _REASONS, f"finish_reason {done.finish_reason!r}")
    must(done.prompt_tokens > 0, "it counts no token of the prompt")
    must(
        done.completion_tokens == answer.tokens,
        f"Done counts {done.completion_tokens} tokens, its pieces {answer.tokens}",
    )
    must(done.completion_tokens <= _TOKENS, f"{done.completion_tokens} tokens, {_TOKENS} allowed")
    must(0 <= done.cached_tokens <= done.prompt_tokens, f"{done.cached_tokens} tokens cached")


def _limits(here: Bench) -> None:
    answer = here.ask(_wants(max_tokens=3))[0]
    done = answer.done()
    must(done.completion_tokens <= 3, f"{done.completion_tokens} tokens, 3 allowed")
    if done.completion_tokens == 3 and done.finish_reason != "length":
        raise Broken(f"cut off at max_tokens its finish_reason is {done.finish_reason!r}")


def _repeats(here: Bench) -> None:
    for words, request in (
        ("greedy", _wants()),
        ("with a seed", _wants(temperature=0.8, seed=11)),
    ):
        first, second = here.ask(request)[0], here.ask(request)[0]
        must(
            (first.text, first.ids) == (second.text, second.ids),
            f"{words}, alone, the same request was answered in two ways",
        )


def _stops(here: Bench) -> None:
    text = _greedy(here).text
    middle = len(text) // 2
    for length in (1, 3, 7):
        stop = text[middle : middle + length]
        if not stop or "\ufffd" in stop:
            continue
        answer = here.ask(_wants(stop=(stop,)))[0]
        wanted = text[: text.index(stop)]
        must(answer.text == wanted, f"a stop string of {length} characters does not cut before it")
        reason = answer.done().finish_reason
        must(reason == "stop", f"ended by a stop string its finish_reason is {reason!r}")


def _characters(here: Bench) -> None:
    answer = here.ask(_wants(prompt=_ACCENTS))[0]
    answer.done()
    for piece in answer.pieces:
        try:
            piece.text.encode()
        except UnicodeEncodeError as exc:
            raise Broken("a piece has half a character") from exc


def _together(here: Bench) -> None:
    count = here.options.slots + 1
    requests = [_wants(prompt=f"{_PROMPT} {'more ' * n}", seed=n) for n in range(count)]
    for number, answer in enumerate(here.ask(*requests)):
        done = answer.done()
        must(
            done.completion_tokens == answer.tokens,
            f"answer {number} of {count} at once: Done counts {done.completion_tokens} tokens,"
            f" its pieces {answer.tokens}",
        )


def _cancels(here: Bench) -> None:
    here.model.cancel("nobody knows this one")
    most = CTX // 2
    name = here.begin(_wants(prompt=_LONG, max_tokens=most, ignore_eos=True))
    here.spoke(name)
    here.model.cancel(name)
    done = here.end(name).done()
    if done.completion_tokens >= most:
        raise Broken("cancelled at its first piece the answer went on to its end")
    if done.finish_reason == "stop":
        raise Skip("the answer had ended before it could be cancelled")
    reason = done.finish_reason
    must(reason == "cancelled", f"cancelled, its finish_reason is {reason!r}")


def _overflow(here: Bench) -> None:
    error = here.fails(_wants(prompt="bee " * (3 * CTX)))
    must(
        isinstance(error, ContextLengthExceeded),
        f"a prompt beyond the context ended with {describe(error)}, not CONTEXT_LENGTH_EXCEEDED",
    )
    assert error is not None
    for key in ("required", "available"):
        must(key in error.details, f"the error does not tell {key}")
    _greedy(here).done()


def _shapes(here: Bench) -> None:
    request = _wants(grammar='root ::= "bees"', temperature=0.0)
    error = here.fails(request)
    if error is None:
        text = here.ask(request)[0].text
        must(text == "bees", f"under a grammar of one word it said {len(text)} other characters")
        return
    must(
        isinstance(error, ValidationFailed) and error.details.get("field") == "grammar",
        f"a grammar that it does not heed ended with {describe(error)}, not VALIDATION_FAILED",
    )


def _goes_on(here: Bench) -> None:
    if not here.info.continues:
        raise Skip("it does not go on with answers (BackendInfo.continues)")
    request = _wants(deterministic=True, temperature=0.8, seed=5)
    whole = here.ask(request)[0]
    half = len(whole.pieces) // 2
    said = whole.pieces[:half]
    count = sum(piece.tokens for piece in said)
    if not count:
        raise Skip("the answer was too short to be cut in two")
    rest = here.ask(
        replace(
            request,
            emitted="".join(piece.text for piece in said),
            emitted_ids=tuple(token for piece in said for token in piece.ids),
            emitted_tokens=count,
        )
    )[0]
    together = "".join(piece.text for piece in said) + rest.text
    must(together == whole.text, "an answer that it goes on with is not the same in the end")
    counted, first = rest.done().completion_tokens, whole.done().completion_tokens
    must(counted == first, f"going on, Done counts {counted} tokens instead of all {first}")


def _vectors(here: Bench) -> None:
    if "embedding" not in here.model.capabilities:
        error = here.fails(Embedding(("bees",)))
        must(error is not None, "it made a vector, and its capabilities say nothing of that")
        raise Skip("the model makes no vectors")
    texts = ("bees make honey", "bees make wax", "a lorry on the motorway", "bees make honey")
    last = here.ask(Embedding(texts))[0].last
    if not isinstance(last, Embedded):
        raise Broken(f"texts ended with {describe(last)}, not with Embedded")
    vectors = [list(vector) for vector in last.vectors]
    must(len(vectors) == len(texts), f"{len(vectors)} vectors of {len(texts)} texts")
    must(len({len(vector) for vector in vectors}) == 1, "its vectors differ in length")
    for vector in vectors:
        length = math.sqrt(sum(x * x for x in vector))
        must(abs(length - 1) < 1e-3, f"a vector that was to be normalised has length {length:.4f}")
    must(_near(vectors[0], vectors[3]) > 0.999, "the same text has two vectors")
    must(last.prompt_tokens > 0, "it counts no token of the texts")


def _again(made: Sequence[Bench], info: BackendInfo, file: ModelFile, options: LoadOptions) -> None:
    if not made:
        _not_loaded()
    here = made[0]
    texts = "text-gen" in here.model.capabilities
    name = None
    try:
        if texts:
            name = here.begin(_wants(prompt=_LONG, max_tokens=CTX // 2, ignore_eos=True))
    finally:
        here.close()
    if name is not None:
        here.end(name)
    with bench(info, file, options) as fresh:
        if texts:
            _greedy(fresh).done()


def _near(one: Sequence[float], other: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


def _greedy(here: Bench) -> Answer:
    return here.ask(_wants())[0]


def _wants(**more: object) -> Generation:
    plain = Generation(prompt=_PROMPT, max_tokens=_TOKENS, temperature=0.0)
    return replace(plain, **more)  # pyright: ignore[reportArgumentType]


def _of_texts(clause: Callable[[Bench], None]) -> Callable[[Bench], None]:
    def checked(here: Bench) -> None:
        if "text-gen" not in here.model.capabilities:
            raise Skip("the model writes no text")
        clause(here)

    return checked


_LOADED = (
    ("answers", _of_texts(_answers)),
    ("keeps to max_tokens", _of_texts(_limits)),
    ("repeats itself by seed", _of_texts(_repeats)),
    ("stops at stop strings", _of_texts(_stops)),
    ("sends whole characters", _of_texts(_characters)),
    ("answers several at once", _of_texts(_together)),
    ("cancels between steps", _of_texts(_cancels)),
    ("refuses what does not fit", _of_texts(_overflow)),
    ("heeds or refuses a grammar", _of_texts(_shapes)),
    ("goes on with an answer", _of_texts(_goes_on)),
    ("makes vectors", _vectors),
)


def _names() -> Iterator[str]:
    yield from (name for name, _ in UNLOADED)
    yield "loads"
    yield from (name for name, _ in _LOADED)
    yield "closes and loads again"


NAMES = tuple(_names())
"""All clauses, in their order."""
