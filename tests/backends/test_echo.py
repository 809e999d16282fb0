"""The echo backend: its answers, directives and ways of loading."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from rbee import registry
from rbee.backend_api import (
    Done,
    Generation,
    LoadedModel,
    LoadOptions,
    ModelFile,
    Piece,
    Prefill,
)
from rbee.errors import (
    BackendUnavailable,
    Cancelled,
    ContextLengthExceeded,
    InternalError,
    ModelLoadFailed,
    ValidationFailed,
)
from tests.support.backends import Driver

OPTIONS = LoadOptions(device="cpu", slots=1, ctx=4096, threads=1)


def load(name="echo", *, ctx=4096, cancelled=None, seen=None, **metadata) -> LoadedModel:
    backend = registry.load("echo").create()
    return backend.load(
        ModelFile(name, Path("/nowhere"), "echo", metadata),
        LoadOptions(device="cpu", slots=1, ctx=ctx, threads=1),
        lambda stage, done: seen.append((stage, done)) if seen is not None else None,
        cancelled or threading.Event(),
    )


def answer(text, *, ctx=4096, **options) -> tuple[list[str], Done]:
    items = list(load(ctx=ctx).run(Generation(prompt=text, **options), threading.Event()))
    assert isinstance(items[-1], Done)
    return [item.text for item in items[:-1] if isinstance(item, Piece)], items[-1]


def test_it_says_the_words_back():
    pieces, done = answer("one  two\nthree")
    assert pieces == ["one ", "two ", "three"]
    assert (done.finish_reason, done.prompt_tokens, done.completion_tokens) == ("stop", 3, 3)


def test_the_last_user_message_is_answered():
    messages = (
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "first"},
        {"role": "user", "content": "second one"},
    )
    items = list(load().run(Generation(messages=messages), threading.Event()))
    assert [item.text for item in items[:-1]] == ["second ", "one"]
    assert items[-1].prompt_tokens == 6


@pytest.mark.parametrize(
    ("limit", "count", "reason"), [(2, 2, "length"), (3, 3, "length"), (9, 3, "stop")]
)
def test_max_tokens(limit, count, reason):
    pieces, done = answer("a b c", max_tokens=limit)
    assert (len(pieces), done.finish_reason) == (count, reason)


def test_stop_strings_cut_across_words():
    pieces, done = answer("alpha beta gamma", stop=("ta ga",))
    assert "".join(pieces) == "alpha be"
    assert done.finish_reason == "stop"


def test_the_context_ends_the_answer_or_refuses_the_prompt():
    pieces, done = answer("@repeat=10 a b", ctx=10)
    assert (len(pieces), done.finish_reason) == (7, "length")
    with pytest.raises(ContextLengthExceeded) as caught:
        answer("a b c d", ctx=4)
    assert (caught.value.details["required"], caught.value.details["available"]) == (5, 4)


def test_repeat_and_fail():
    assert len(answer("@repeat=100 ping pong")[0]) == 200
    with pytest.raises(InternalError):
        answer("@fail_after=2 a b c")
    assert answer("mail me@delay=5 @delay=x")[0] == ["mail ", "me@delay=5 ", "@delay=x"]


@pytest.mark.parametrize("text", ["@hang_after=2 a b c", "@hang_after=3 a b c", "@delay=60000 a"])
def test_waiting_ends_at_once_when_cancelled(text):
    cancelled = threading.Event()
    timer = threading.Timer(0.05, cancelled.set)
    timer.start()
    items = list(load().run(Generation(prompt=text), cancelled))
    timer.join()
    assert items[-1].finish_reason == "cancelled"


@pytest.mark.parametrize("by_text", [True, False])
def test_an_answer_goes_on_behind_what_was_said(by_text):
    options = {"max_tokens": 5, "stop": ("f",)}
    text = "a bb c d e f g"
    pieces, whole = answer(text, **options)
    for at in range(1, len(pieces) + 1):
        said = "".join(pieces[:at])
        rest, done = answer(text, **options, emitted=said, emitted_tokens=0 if by_text else at)
        assert pieces[:at] + rest == pieces
        assert (done.finish_reason, done.completion_tokens) == ("length", 5)
        assert done.prompt_tokens == whole.prompt_tokens
    assert answer(text, emitted="a b")[0] == ["b ", "c ", "d ", "e ", "f ", "g"]
    with pytest.raises(ValidationFailed, match="something else"):
        answer(text, emitted="b")
    with pytest.raises(ContextLengthExceeded):
        answer("@repeat=9 a", ctx=8, emitted_tokens=7)


@pytest.mark.parametrize("order", ["fail", "hang", "exit"])
def test_what_happened_in_one_run_does_not_happen_again_in_the_next(order):
    text = f"@{order}_after=2 a b c d"
    for begin in (2, 3):
        assert answer(text, emitted_tokens=begin)[0] == ["a ", "b ", "c ", "d"][begin:]
    with pytest.raises(InternalError):
        answer("@fail_after=2 a b c d", emitted_tokens=1)


def test_a_slow_answer_tells_that_it_lives_and_one_that_hangs_does_not():
    items = list(load().run(Generation(prompt="@delay=1200 a b"), threading.Event()))
    assert items[:-1] == [Prefill(0, 0), Piece("a "), Piece("", tokens=0), Piece("b")]
    driver = Driver(load())
    waiting = driver.submit(Generation(prompt="@hang_after=1 a b"))
    waiting.wait_for_pieces(1)
    waiting.cancel()
    assert waiting.done().finish_reason == "cancelled"
    assert waiting.items[:-1] == [Prefill(0, 0), Piece("a ")]  # the first: its turn has come
    driver.close()


def test_loading_slowly_shows_progress():
    seen: list[tuple[str, float]] = []
    load("echo-slow", seen=seen, load_seconds=0.02)
    fractions = [done for _, done in seen]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0.0, 1.0)


def test_loading_that_hangs_is_cancellable():
    cancelled, seen = threading.Event(), []
    timer = threading.Timer(0.05, cancelled.set)
    timer.start()
    with pytest.raises(Cancelled):
        load("echo-stuck", cancelled=cancelled, seen=seen)
    timer.join()
    assert seen[-1][1] == 0.4


def test_loading_that_fails():
    with pytest.raises(ModelLoadFailed):
        load("echo-broken")
    backend = registry.load("echo").create()
    model = ModelFile("echo", Path("/nowhere"), "echo")
    options = LoadOptions(device="cuda:0", slots=1, ctx=64, threads=1)
    with pytest.raises(BackendUnavailable):
        backend.load(model, options, lambda *_: None, threading.Event())
