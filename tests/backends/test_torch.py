"""The torch backend with tiny models: answering in slots."""

from __future__ import annotations

import pytest

from rbee import backend_contract, registry
from rbee.backend_api import Generation, ModelFile
from rbee.backend_contract import tiny
from rbee.errors import (
    ContextLengthExceeded,
    ValidationFailed,
)
from tests.support.backends import Driver
from tests.support.torch_folders import CTX, altered, load_folder

pytest.importorskip("transformers", reason="the extra torch is not installed")
torch = pytest.importorskip("torch", reason="the extra torch is not installed")
WORDS = "the bees fly over the hill and back again to the hive "


@pytest.fixture(scope="module")
def model(folder):
    seen: list[tuple[str, float]] = []
    loaded = load_folder(folder, ctx=CTX, slots=4, seen=seen)
    assert seen[0][0] == "loading torch"
    assert "reading weights in f32" in {stage for stage, _ in seen}
    assert [done for _, done in seen] == sorted(done for _, done in seen)
    assert seen[-1] == ("ready", 1.0)
    driver = Driver(loaded)
    yield driver
    driver.close()


def test_it_keeps_the_contract(folder, tmp_path):
    file = ModelFile("tiny", folder, "safetensors")
    found = backend_contract.run(registry.load("torch"), file, scratch=tmp_path)
    assert {one.name: one.words for one in found if one.state == "failed"} == {}
    assert [one.name for one in found if one.state == "skipped"] == ["makes vectors"]


# --- answers --------------------------------------------------------------------------------------


def test_what_is_computed_in_slots_is_what_transformers_computes(model, folder):
    """Greedy tokens and their log-probabilities, against plain calls without a cache."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokens = AutoTokenizer.from_pretrained(folder)(WORDS).input_ids
    requests = [
        Generation(prompt=WORDS + more, temperature=0, max_tokens=9, ignore_eos=True, logprobs=1)
        for more in ("", "soon", "and then")
    ]
    answers = [model.submit(request) for request in requests]
    for answer in answers:
        answer.done()
    said = answers[0].pieces[:9]
    for piece in said:
        with torch.inference_mode():
            row = plain(torch.tensor([tokens])).logits[0, -1].log_softmax(-1)
        assert piece.logprob.logprob == pytest.approx(float(row[piece.ids[0]]), abs=1e-4)
        tokens += piece.ids


def test_the_same_seed_gives_the_same_tokens_whatever_else_runs(model):
    def ask(seed):
        return Generation(
            prompt=WORDS * 3, seed=seed, temperature=1.3, max_tokens=24, ignore_eos=True
        )

    alone = model.submit(ask(5))
    alone.done()
    crowd = [
        model.submit(Generation(prompt=WORDS * n, temperature=1.0, max_tokens=40, ignore_eos=True))
        for n in (1, 2, 4)
    ]
    again = model.submit(ask(5))
    other = model.submit(ask(6))
    again.done()
    other.done()
    for answer in crowd:
        answer.done()
    ids = [[piece.ids for piece in answer.pieces] for answer in (alone, again, other)]
    assert ids[0] == ids[1]
    assert ids[0] != ids[2]


def test_answers_share_steps_and_prompts_are_reused(model):
    before = model.model.stats()
    requests = [
        Generation(prompt=f"{WORDS}{n} ", temperature=1.0, max_tokens=30, ignore_eos=True)
        for n in range(4)
    ]
    answers = [model.submit(request) for request in requests]
    done = [answer.done() for answer in answers]
    after = model.model.stats()
    assert sum(one.completion_tokens for one in done) == 120
    assert after["steps"] - before["steps"] < 60
    _, again = model.ask(prompt=f"{WORDS}2 more", max_tokens=1)
    assert again.cached_tokens >= again.prompt_tokens - 8
    _, never = model.ask(prompt=f"{WORDS}2 more", max_tokens=1, cache=False)
    assert never.cached_tokens == 0


def test_slots_are_taken_and_left_in_any_order(model):
    """More requests than slots, of all lengths: each ends with as many tokens as it asked for."""
    lengths = [3, 40, 5, 17, 29, 2, 11, 8, 33]
    answers = [
        model.submit(
            Generation(prompt=WORDS * (1 + n % 3), temperature=1.0, max_tokens=n, ignore_eos=True)
        )
        for n in lengths
    ]
    assert [answer.done().completion_tokens for answer in answers] == lengths


def test_a_cancel_leaves_the_others(model):
    other = model.submit(Generation(prompt="bees", max_tokens=100, ignore_eos=True))
    answer = model.submit(Generation(prompt=WORDS, max_tokens=200, ignore_eos=True))
    answer.wait_for_pieces(3)
    answer.cancel()
    assert answer.done().finish_reason == "cancelled"
    assert other.done().completion_tokens == 100


def test_a_prompt_that_does_not_fit_is_refused_with_both_numbers(model):
    with pytest.raises(ContextLengthExceeded) as caught:
        model.ask(prompt=WORDS * CTX)
    assert caught.value.details["available"] == CTX
    assert caught.value.details["required"] > CTX
    _, done = model.ask(prompt=WORDS, temperature=1.0, ignore_eos=True)
    assert done.finish_reason == "length"
    assert done.prompt_tokens + done.completion_tokens <= CTX


class FailingNetwork:
    """Stands in for a network on a device that fails; no such device is here."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __call__(self, **_):
        raise self._error


@pytest.mark.parametrize(
    "error, code",
    [
        (torch.AcceleratorError("CUDA error: an illegal memory access"), "DEVICE_FAILED"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED"), "DEVICE_FAILED"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "INTERNAL_ERROR"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"), "INTERNAL_ERROR"),
        (torch.AcceleratorError("CUDA error: out of memory"), "INTERNAL_ERROR"),
        (RuntimeError("shapes cannot be multiplied"), "INTERNAL_ERROR"),
    ],
)
def test_a_device_that_fails_is_told_from_a_step_that_fails(model, monkeypatch, error, code):
    """The first ends the worker (see test_worker_slots), the second the requests of that step."""
    with monkeypatch.context() as patch:
        patch.setattr(model.model._context, "_network", FailingNetwork(error))
        asked = [model.submit(Generation(prompt=WORDS, max_tokens=4)) for _ in range(6)]
        ends = [answer.end() for answer in asked]
    assert {end.code for end in ends} == {code}
    assert str(error) in ends[0].message
    _, done = model.ask(prompt=WORDS, max_tokens=2, ignore_eos=True)
    assert done.completion_tokens == 2


@pytest.mark.parametrize(
    "field, asked",
    [
        ("grammar", {"grammar": 'root ::= "bees"'}),
        ("json_schema", {"json_schema": {"type": "object"}}),
        ("tool_choice", {"must_call": ("find",)}),
    ],
)
def test_shapes_are_refused_by_name(model, field, asked):
    with pytest.raises(ValidationFailed, match="torch cannot") as caught:
        model.submit(Generation(prompt="bees", **asked))
    assert caught.value.details["field"] == field


def test_bias_and_penalties_are_heeded(model):
    only = 17
    answer = model.submit(
        Generation(prompt=WORDS, temperature=0, max_tokens=4, logit_bias={only: 1e6})
    )
    answer.done()
    assert {piece.ids for piece in answer.pieces} == {(only,)}
    answer = model.submit(
        Generation(
            prompt=WORDS, temperature=0, max_tokens=20, frequency_penalty=1e4, ignore_eos=True
        )
    )
    answer.done()
    assert len({piece.ids for piece in answer.pieces}) == 20


def test_memory_counts_weights_and_context(model, folder):
    weights = (folder / "model.safetensors").stat().st_size
    per_token = 2 * tiny.LAYERS * (tiny.WIDTH // 2) * 4
    assert model.model.memory_bytes >= weights * 0.9 + 4 * CTX * per_token


def test_a_window_is_kept_to(folder, tmp_path):
    """A model whose layers look back over 5 tokens answers by the last of them alone."""
    changed = altered(
        folder, tmp_path / "mistral", model_type="mistral", sliding_window=5,
        architectures=["MistralLMHeadModel"],
    )  # fmt: skip
    driver = Driver(load_folder(changed, slots=2, ctx=CTX))
    assert driver.model.capabilities == ("text-gen",), "GPT-2's end of a name is no embedder's"
    reach = 5 * tiny.LAYERS
    texts = [
        driver.ask(prompt=f"{first} {'bees ' * (2 * reach)}", temperature=0, max_tokens=8)[0]
        for first in ("hive", "over the hill")
    ]
    driver.close()
    assert texts[0] == texts[1]
