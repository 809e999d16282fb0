"""The engine: many requests at once must each get what they would get alone."""

from __future__ import annotations

import threading
from collections import deque
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rbee import registry
from rbee.backend_api import Done, Generation, Prefill
from rbee.errors import InternalError, ModelIncompatible, ValidationFailed
from tests.support.backends import Driver, load
from tests.support.tiny_gguf import learned, write_llama

pytestmark = pytest.mark.skipif(
    not registry.load("llamacpp").probe().available, reason="llama-cpp-python is not installed"
)
CTX = 512
WORDS = ("hello world ", "bees fly over the hill ", "one two three ", "0123456789", "ÄÖÜ ")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_llama(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@pytest.fixture(scope="module")
def model(path):
    """Without flash attention the library's results do not depend on what is computed together."""
    driver = Driver(load(path, slots=4, ctx=CTX, flash_attention="off"))
    yield driver
    driver.close()


@pytest.fixture(scope="module")
def flash(path):
    driver = Driver(load(path, slots=4, ctx=CTX, flash_attention="on"))
    yield driver
    driver.close()


def greedy(prompt: str, count: int, **options) -> Generation:
    options = {"temperature": 0.0, "ignore_eos": True} | options
    return Generation(prompt=prompt, max_tokens=count, **options)


PROMPTS = st.builds(
    lambda word, times, tail: word * times + tail,
    st.sampled_from(WORDS),
    st.integers(1, 12),
    st.sampled_from(["", "x", "what next"]),
)
REQUESTS = st.tuples(PROMPTS, st.integers(1, 24), st.booleans())
SCHEDULES = st.lists(
    st.tuples(REQUESTS, st.integers(0, 3), st.sampled_from(["stay", "stay", "cancel"])),
    min_size=1,
    max_size=9,
)


@settings(deadline=None, max_examples=15, suppress_health_check=list(HealthCheck))
@given(SCHEDULES)
def test_batched_answers_equal_unbatched_ones(model, schedule):
    alone = {
        (prompt, count): model.ask(prompt=prompt, max_tokens=count, temperature=0.0,
                                   ignore_eos=True, cache=False)[0]
        for (prompt, count, _), _, _ in schedule
    }  # fmt: skip
    running = []
    for (prompt, count, cache), pieces, fate in schedule:
        answer = model.submit(greedy(prompt, count, cache=cache))
        running.append((answer, prompt, count))
        running[len(running) // 2][0].wait_for_pieces(pieces)
        if fate == "cancel":
            answer.cancel()
    for answer, prompt, count in running:
        done = answer.done()
        expected = alone[prompt, count]
        if done.finish_reason == "cancelled":
            assert expected.startswith(answer.text.rstrip("\N{REPLACEMENT CHARACTER}"))
        else:
            assert answer.text == expected


@settings(deadline=None, max_examples=8, suppress_health_check=list(HealthCheck))
@given(st.lists(PROMPTS, min_size=2, max_size=4, unique=True), st.integers(0, 1000))
def test_deterministic_answers_do_not_depend_on_the_load(flash, prompts, seed):
    def request(prompt: str) -> Generation:
        return Generation(prompt=(prompt * 4)[:300], max_tokens=12, temperature=1.5, seed=seed,
                          ignore_eos=True, deterministic=True)  # fmt: skip

    alone = [flash.submit(request(prompt)) for prompt in prompts[:1]]
    alone[0].done()
    noise = [flash.submit(greedy(f"noise {n} " * 20, 60, cache=False)) for n in range(2)]
    again = [flash.submit(request(prompts[0])) for _ in range(2)]
    for answer in again:
        answer.done()
        assert answer.text == alone[0].text
    for answer in noise:
        answer.done()


def test_a_prefix_is_found_within_a_slot_across_slots_and_in_flight(model):
    shared = "the shared beginning of all these prompts, which is long enough. " * 4
    _, cold = model.ask(prompt=shared + "first", max_tokens=1, temperature=0.0)
    _, warm = model.ask(prompt=shared + "second", max_tokens=1, temperature=0.0)
    assert warm.cached_tokens >= cold.prompt_tokens - 8
    _, off = model.ask(prompt=shared + "second", max_tokens=1, cache=False)
    assert off.cached_tokens == 0
    holder = model.submit(greedy(shared + "third", 100))
    holder.wait_for_pieces(2)
    _, across = model.ask(prompt=shared + "fourth", max_tokens=1)
    assert across.cached_tokens >= cold.prompt_tokens - 8
    holder.cancel()
    new = "a new beginning which nobody has computed yet and all of these share. " * 4
    together = [model.submit(greedy(new + str(n), 2)) for n in range(4)]
    cached = sorted(answer.done().cached_tokens for answer in together)
    assert cached[0] == 0
    assert cached[1] > 100


def test_a_prefix_that_lost_its_slot_comes_back_from_host_memory(path):
    driver = Driver(load(path, slots=1, ctx=CTX, prompt_cache_bytes=8 << 20))
    try:
        talk = "what was said before in this long conversation of two people " * 4
        _, first = driver.ask(prompt=talk, max_tokens=1, temperature=0.0)
        driver.ask(prompt="0123456789" * 30, max_tokens=1)
        _, back = driver.ask(prompt=talk + " more", max_tokens=1, temperature=0.0)
        assert back.cached_tokens >= first.prompt_tokens - 1
    finally:
        driver.close()
    driver = Driver(load(path, slots=1, ctx=CTX, prompt_cache_bytes=0))
    try:
        driver.ask(prompt=talk, max_tokens=1)
        driver.ask(prompt="0123456789" * 30, max_tokens=1)
        assert driver.ask(prompt=talk, max_tokens=1)[1].cached_tokens < 8
    finally:
        driver.close()


def test_cancel_frees_the_slot_for_who_waits(model):
    running = [model.submit(greedy(f"{n} long", 400)) for n in range(4)]
    waiting = model.submit(greedy("I wait", 3))
    for answer in running:
        answer.wait_for_pieces(1)
    assert not waiting.items
    running[2].cancel()
    assert waiting.done().completion_tokens == 3
    assert running[2].done().finish_reason == "cancelled"
    unborn = model.submit(greedy("never runs", 3))
    unborn.cancel()
    assert isinstance(unborn.end(), Done)
    for answer in running:
        answer.cancel()
        answer.done()


def test_a_long_prompt_comes_in_portions_while_others_speak(path):
    driver = Driver(load(path, slots=2, ctx=4096, max_gap_ms=0.01))
    try:
        talking = driver.submit(greedy("talk", 2000))
        talking.wait_for_pieces(5)
        long = driver.submit(greedy("0123456789" * 100, 2))
        done = long.done()
        steps = [item.done for item in long.items if isinstance(item, Prefill)]
        assert len(steps) >= done.prompt_tokens // 17 - 1
        assert steps == sorted(steps)
        talking.cancel()
        talking.done()
    finally:
        driver.close()


def test_running_out_of_context_ends_with_length(model):
    _, done = model.ask(prompt="abc " * 100, max_tokens=None, temperature=0.0, ignore_eos=True)
    assert done.finish_reason == "length"
    assert done.prompt_tokens + done.completion_tokens == model.model.ctx


def test_logprobs_seeds_and_bias(model):
    options = {"max_tokens": 6, "temperature": 1.2, "seed": 5, "ignore_eos": True}
    answer = model.submit(Generation(prompt="hello", logprobs=3, **options))
    answer.done()
    for piece in answer.pieces:
        assert piece.logprob is not None
        assert piece.logprob.logprob <= 0
        assert len(piece.logprob.top) == 3
        assert piece.logprob.top[0].logprob >= piece.logprob.logprob
    assert answer.text == model.ask(prompt="hello", **options)[0]
    seen = {piece.logprob.token for piece in answer.pieces if piece.logprob is not None}
    banned = dict.fromkeys(seen, -100.0)
    other = model.submit(Generation(prompt="hello", logprobs=0, logit_bias=banned, **options))
    other.done()
    assert not seen & {piece.logprob.token for piece in other.pieces if piece.logprob is not None}


def test_a_grammar_shapes_the_answer_and_a_bad_one_is_refused_with_its_place(model):
    text, _ = model.ask(prompt="x", grammar='root ::= ("ab" | "cd"){3}', seed=1, max_tokens=40)
    assert len(text) == 6
    assert {text[n : n + 2] for n in range(0, 6, 2)} <= {"ab", "cd"}
    with pytest.raises(ValidationFailed, match="line 2"):
        model.ask(prompt="x", grammar='root ::= "a"\nother ::= (', max_tokens=1)


def test_a_text_model_makes_no_vectors(model):
    from rbee.backend_api import Embedding

    with pytest.raises(ModelIncompatible):
        model.submit(Embedding(("a",)))


def test_many_short_requests_leave_nothing_behind(path):
    driver = Driver(load(path, slots=4, ctx=CTX, prompt_cache_bytes=2 << 20))
    process = psutil.Process()

    def round_of(count: int) -> None:
        answers = []
        for n in range(count):
            answer = driver.submit(greedy(f"{WORDS[n % 5]}{n}" * (n % 7 + 1), n % 11 + 1))
            answers.append(answer)
            if n % 3 == 0:
                answer.cancel()
        for answer in answers:
            answer.done()

    try:
        round_of(150)
        before = process.memory_info().rss
        round_of(450)
        assert process.memory_info().rss - before < 24 << 20
        assert driver.ask(prompt="still here", max_tokens=2)[1].completion_tokens == 2
    finally:
        driver.close()


def test_idle_costs_no_cpu_and_close_ends_what_runs(path, flash):
    driver = Driver(load(path, slots=2, ctx=CTX))
    driver.ask(prompt="a", max_tokens=1)
    threads = {thread.id: thread for thread in psutil.Process().threads()}
    flash.ask(prompt="another engine works meanwhile", max_tokens=200, ignore_eos=True)
    after = {thread.id: thread for thread in psutil.Process().threads()}
    engine = driver.model._engine._thread
    assert engine.native_id is not None
    assert after[engine.native_id].user_time - threads[engine.native_id].user_time <= 0.01
    running = driver.submit(greedy("never ends", 400))
    running.wait_for_pieces(1)
    driver.close()
    assert running.done().finish_reason == "cancelled"


def test_a_full_kv_cache_costs_the_youngest_and_never_all(path, monkeypatch):
    from rbee.backends.llamacpp.context import Context
    from rbee.backends.shared.context import KvFull

    driver = Driver(load(path, slots=3, ctx=CTX))
    real, full = Context.decode, threading.Event()

    def decode(self: Context) -> None:
        if full.is_set() and self.batch.count > 2:
            raise KvFull
        real(self)

    try:
        driver.ask(prompt="an idle prefix", max_tokens=1)
        monkeypatch.setattr(Context, "decode", decode)
        older = [driver.submit(greedy(f"older {n}", 200)) for n in range(2)]
        for answer in older:
            answer.wait_for_pieces(2)
        full.set()
        with pytest.raises(InternalError, match="KV cache is full"):
            driver.submit(greedy("the youngest", 5)).done()
        for answer in older:
            answer.wait_for_pieces(len(answer.pieces) + 2)
            assert not answer.ended
        full.clear()
        assert driver.ask(prompt="after", max_tokens=1)[1].completion_tokens == 1
    finally:
        driver.close()


def test_a_failed_computation_fails_what_runs_and_nothing_after(path, monkeypatch):
    from rbee.backends.llamacpp.context import Context

    driver = Driver(load(path, slots=2, ctx=CTX))
    real, broken = Context.decode, threading.Event()

    def decode(self: Context) -> None:
        if broken.is_set():
            raise InternalError("llama.cpp failed to decode (code -3)")
        real(self)

    monkeypatch.setattr(Context, "decode", decode)
    try:
        answer = driver.submit(greedy("a", 300))
        answer.wait_for_pieces(1)
        broken.set()
        with pytest.raises(InternalError, match="code -3"):
            answer.done()
        broken.clear()
        assert driver.ask(prompt="a", max_tokens=2, temperature=0.0)[1].cached_tokens == 0
    finally:
        driver.close()


def test_a_cancel_that_comes_with_its_request_between_two_looks_is_not_lost(path):
    driver = Driver(load(path, slots=1, ctx=CTX))
    late = []

    class Inbox(deque):
        def __bool__(self) -> bool:  # asked by the engine: what comes now, it has just not seen
            if len(self) == 0 and not late:
                late.append(None)
                late[0] = driver.submit(greedy("late", 400))
                late[0].cancel()
                return False
            return len(self) > 0

    try:
        driver.ask(prompt="a", max_tokens=1)
        driver.model._engine._inbox = Inbox()
        driver.ask(prompt="b", max_tokens=1)
        assert late[0].done().finish_reason == "cancelled"
    finally:
        driver.close()


def test_close_ends_what_was_just_submitted(path):
    for _ in range(15):
        driver = Driver(load(path, slots=1, ctx=256))
        answers = [driver.submit(greedy("hardly begun", 5)) for _ in range(3)]
        driver.close()
        for answer in answers:
            answer.done()


def test_a_close_that_comes_just_before_the_engine_sleeps_is_heard(path):
    driver = Driver(load(path, slots=1, ctx=256))
    engine = driver.model._engine

    class Wake(threading.Event):
        def clear(self) -> None:  # as when close comes between this and the look before it
            engine._closing = True
            self.set()
            super().clear()

    driver.ask(prompt="a", max_tokens=1)
    slept_by, engine._wake = engine._wake, Wake()
    slept_by.set()
    engine._thread.join(10)
    assert not engine._thread.is_alive()
    driver.close()


def test_learned_positions_end_where_their_table_does(tmp_path):
    """Beyond it the library ends the process; it rounds the context up, here from 300 to 512."""
    driver = Driver(load(learned(ctx=300).save(tmp_path / "gpt2.gguf"), ctx=300))
    try:
        assert driver.model.ctx == 300
        _, done = driver.ask(prompt="0123456789" * 25, temperature=0.0, ignore_eos=True)
        assert done.prompt_tokens + done.completion_tokens == 300
    finally:
        driver.close()


def test_nobody_waits_for_a_prompt_whose_rest_could_not_be_used():
    import numpy as np
    from rbee.backends.shared.pace import CHUNK
    from rbee.backends.shared.prefixes import Prefixes
    from rbee.backends.shared.slots import Slots

    prompt = np.arange(2 * CHUNK - 8, dtype=np.int32)
    task: Any = SimpleNamespace(request=Generation(seed=1), repeatable=True, reusable=prompt[:-1])
    slots = Slots.of(2, CTX, adjacent=True)
    context: Any = None
    prefixes = Prefixes(context, slots, capacity=0, on_device=False)
    first = slots.slots[0]
    first.task, first.goal = task, len(prompt)
    first.tokens[: len(prompt)] = prompt
    assert prefixes.coming(task)
    first.past = first.exact = CHUNK  # the rest is no whole chunk
    assert not prefixes.coming(task)
    first.past, first.exact = 16, 0  # begun together with others
    assert not prefixes.coming(task)
    task.repeatable = False
    assert prefixes.coming(task)


def test_a_defect_of_the_engine_ends_what_waits_and_nothing_after(path, monkeypatch):
    from rbee.backends.shared.prefixes import Prefixes

    driver = Driver(load(path, slots=1, ctx=CTX))
    real, broken = Prefixes.give, threading.Event()

    def give(self: Prefixes, *arguments):
        if broken.is_set():
            broken.clear()
            raise ZeroDivisionError
        return real(self, *arguments)

    monkeypatch.setattr(Prefixes, "give", give)
    try:
        broken.set()
        with pytest.raises(InternalError, match="engine failed"):
            driver.submit(greedy("a", 3)).done()
        assert driver.ask(prompt="a", max_tokens=2)[1].completion_tokens == 2
    finally:
        driver.close()
