"""What is the MLX backend's own: its batch, what it keeps of prompts, and what it refuses.

Run on MLX's CPU build with a tiny model of random weights; what every backend must do is in
test_contract.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

pytest.importorskip("mlx_lm", reason="the extra mlx is not installed: pip install 'rbee[mlx]'")

from rbee import registry
from rbee.backend_api import Embedding, Generation, LoadOptions, ModelFile
from rbee.backend_contract import Bench, tiny
from rbee.errors import (
    BackendUnavailable,
    DeviceFailed,
    InternalError,
    ModelCorrupted,
    ModelIncompatible,
    ModelLoadFailed,
    RbeeError,
    ValidationFailed,
)

OPTIONS = LoadOptions(device="cpu", slots=4, ctx=512, threads=2)
LONG = "Bees make honey and wax, and they dance to tell the others where the flowers are. " * 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny.make(tmp_path_factory.mktemp("tiny") / "tiny")


@pytest.fixture(scope="module")
def model(folder: Path) -> Iterator[Bench]:
    bench = Bench(registry.load("mlx"), ModelFile("tiny", folder, "safetensors"), OPTIONS)
    yield bench
    bench.close()


def ask(**more: object) -> Generation:
    return replace(Generation(prompt=LONG, max_tokens=24, temperature=0.0, ignore_eos=True), **more)


def test_many_at_once_say_what_each_says_alone(model: Bench):
    requests = [ask(prompt=f"{n} {LONG[: 40 * n + 5]}", cache=False) for n in range(7)]
    alone = [model.ask(request)[0] for request in requests]
    together = model.ask(*requests)
    assert [one.ids for one in together] == [one.ids for one in alone]
    steps = model.model.stats()
    assert steps["answer_tokens"] > steps["steps"] - 7


def test_a_prompt_that_was_computed_is_not_computed_again(model: Bench):
    prompt = f"once upon a time {LONG}"
    first = model.ask(ask(prompt=prompt))[0]
    again = model.ask(ask(prompt=prompt))[0]
    assert first.done().cached_tokens < len("once upon a time ") + 2
    assert again.done().cached_tokens > 300
    assert again.ids == first.ids
    longer = model.ask(ask(prompt=f"{prompt} and then some"))[0]
    assert longer.done().cached_tokens >= len(prompt)
    anew = model.ask(ask(prompt=prompt, cache=False))[0]
    assert anew.done().cached_tokens == 0


def test_a_seeded_answer_takes_only_what_was_computed_as_it_would_be(model: Bench):
    prompt = f"there was a hive {LONG}"
    model.ask(ask(prompt=prompt))
    seeded = ask(prompt=prompt, seed=4, temperature=0.9)
    first, again = model.ask(seeded)[0], model.ask(seeded)[0]
    assert first.done().cached_tokens == 0
    assert again.done().cached_tokens == 256  # whole portions of 128
    assert again.ids == first.ids


def test_what_is_to_be_deterministic_shares_nothing(model: Bench):
    lonely = ask(deterministic=True, seed=9, temperature=1.0)
    alone = model.ask(lonely)[0]
    crowd = model.ask(lonely, *(ask(prompt=f"{n} {LONG}") for n in range(3)))
    assert crowd[0].ids == alone.ids
    assert crowd[0].done().cached_tokens == 0


def test_an_answer_may_begin_while_another_runs_and_a_cancelled_one_leaves_the_rest(model: Bench):
    quiet = model.ask(ask(prompt="short", cache=False))[0]
    running = model.begin(ask(max_tokens=150, cache=False))
    model.spoke(running)
    late = model.begin(ask(prompt="short", cache=False))
    assert model.end(late).ids == quiet.ids
    model.model.cancel(running)
    assert model.end(running).done().finish_reason == "cancelled"
    assert model.ask(ask(prompt="short", cache=False))[0].ids == quiet.ids


def test_log_probabilities_bias_and_penalties_are_those_of_every_backend(model: Bench):
    answer = model.ask(ask(logprobs=3, max_tokens=4))[0]
    for piece in answer.pieces:
        assert piece.logprob is not None
        assert len(piece.logprob.top) == 3
        assert piece.logprob.token == piece.logprob.top[0].token
        assert piece.logprob.logprob <= 0
    banned = answer.ids[0]
    other = model.ask(ask(logit_bias={banned: -100.0}, max_tokens=4))[0]
    assert banned not in other.ids
    penalised = model.ask(ask(repetition_penalty=1.8, max_tokens=40))[0]
    plain = model.ask(ask(max_tokens=40))[0]
    assert len(set(penalised.ids)) > len(set(plain.ids))


def test_chats_go_through_the_models_template(model: Bench):
    said = ({"role": "user", "content": "hello"},)
    done = model.ask(ask(prompt=None, messages=said))[0].done()
    assert done.prompt_tokens == len("user\nhello\nassistant\n") + 3


@pytest.mark.parametrize(
    ("field", "asked"),
    [
        ("grammar", {"grammar": 'root ::= "a"'}),
        ("json_schema", {"json_schema": {}}),
        ("tool_choice", {"must_call": ("f",)}),
    ],
)
def test_a_shape_is_refused_by_name(model: Bench, field: str, asked: dict[str, object]):
    error = model.fails(ask(**asked))
    assert isinstance(error, ValidationFailed)
    assert error.details["field"] == field
    assert "llamacpp" in error.action


def test_it_makes_no_vectors(model: Bench):
    assert isinstance(model.fails(Embedding(("a",))), ModelIncompatible)


def load(folder: Path, **options: object) -> RbeeError:
    file = ModelFile("m", folder, "safetensors")
    with pytest.raises(RbeeError) as caught:
        Bench(registry.load("mlx"), file, replace(OPTIONS, **options))
    return caught.value


def test_a_device_that_is_not_here_is_never_replaced(folder: Path):
    import mlx.core as mx

    assert isinstance(load(folder, device="cuda:0"), BackendUnavailable)
    if not mx.metal.is_available():
        error = load(folder, device="metal:0")
        assert isinstance(error, DeviceFailed)
        assert "metal:0" in error.message


def test_keys_and_values_of_fewer_bits_are_refused(folder: Path):
    error = load(folder, kv_type="q8_0")
    assert isinstance(error, ModelLoadFailed)
    assert "worker.kv_type" in error.action


def test_what_mlx_lm_cannot_run_is_told_from_what_is_damaged(folder: Path, tmp_path: Path):
    other = shutil.copytree(folder, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"model_type": "abacus"}))
    error = load(other)
    assert isinstance(error, ModelIncompatible)
    assert "abacus" in error.message
    wider = shutil.copytree(folder, tmp_path / "wider")
    (wider / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    assert isinstance(load(wider), ModelCorrupted)
    headless = shutil.copytree(folder, tmp_path / "headless")
    (headless / "config.json").write_text(json.dumps(config | {"num_attention_heads": 0}))
    assert isinstance(load(headless), ModelIncompatible)
    wordless = shutil.copytree(folder, tmp_path / "wordless")
    (wordless / "tokenizer.json").unlink()
    assert isinstance(load(wordless), ModelIncompatible)


def test_code_in_a_models_folder_is_never_run(folder: Path, tmp_path: Path):
    evil = shutil.copytree(folder, tmp_path / "evil")
    (evil / "run.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    config = json.loads((evil / "config.json").read_text())
    config |= {"model_file": "run.py", "auto_map": {"AutoTokenizer": "run.T"}}
    (evil / "config.json").write_text(json.dumps(config))
    assert isinstance(load(evil), ModelIncompatible)
    assert not (tmp_path / "ran").exists()


def test_memory_comes_back(folder: Path):
    import mlx.core as mx

    before = mx.get_active_memory()
    bench = Bench(registry.load("mlx"), ModelFile("m", folder, "safetensors"), OPTIONS)
    bench.ask(ask())
    assert mx.get_active_memory() > before
    assert bench.model.memory_bytes > 300_000
    bench.close()
    assert mx.get_active_memory() <= before + (64 << 10)


def test_what_is_computed_apart_leaves_no_threads_behind(model: Bench):
    process = psutil.Process()
    model.ask(ask(deterministic=True, max_tokens=2))
    before = process.num_threads()
    for seed in range(8):
        model.ask(ask(deterministic=True, max_tokens=2, seed=seed))
    assert process.num_threads() <= before


def test_a_request_may_be_cancelled_while_its_prompt_is_computed(model: Bench):
    quiet = model.ask(ask(prompt="short", cache=False))[0]
    for _ in range(4):
        names = [model.begin(ask(prompt=f"{n}{LONG}", cache=False)) for n in range(6)]
        for name in names[1:]:
            model.model.cancel(name)
        reasons = [model.end(name).done().finish_reason for name in names]
        assert reasons == ["length", *["cancelled"] * 5]
    assert model.ask(ask(prompt="short", cache=False))[0].ids == quiet.ids


@pytest.mark.parametrize("where", ["insert", "remove"])
def test_a_request_that_mlx_lm_fails_at_has_an_end_and_the_next_is_answered(
    model: Bench, monkeypatch, where: str
):
    from mlx_lm.generate import BatchGenerator

    quiet = model.ask(ask(prompt="short", cache=False))[0]

    def fail(*_: object, **__: object) -> None:
        monkeypatch.undo()
        raise ValueError("a defect of the library")

    monkeypatch.setattr(BatchGenerator, where, fail)
    error = model.fails(ask(prompt="another", cache=False))
    assert isinstance(error, InternalError)
    assert model.ask(ask(prompt="short", cache=False))[0].ids == quiet.ids


def test_a_model_may_be_closed_twice(folder: Path):
    bench = Bench(registry.load("mlx"), ModelFile("m", folder, "safetensors"), OPTIONS)
    bench.close()
    bench.close()
