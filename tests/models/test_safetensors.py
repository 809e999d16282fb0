"""The safetensors reader against right files, cut files and hostile ones."""

from __future__ import annotations

import contextlib
import json
import os
import struct
import tempfile
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors_files import CONFIG, TENSORS, build, folder, header, raw_file

from rbee.errors import ModelCorrupted, ModelIncompatible
from rbee.models import reading, safetensors, safetensors_folder

VALID = build(format="pt")


def one(dtype: str = "U8", shape: object = (4,), offsets: object = (0, 4)) -> dict[str, object]:
    return {"t": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


def test_a_right_file(tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(VALID)
    read = safetensors.read(path)
    assert {t.name: (t.dtype, list(t.shape)) for t in read.tensors} == TENSORS
    assert read.metadata == {"format": "pt"}
    assert read.data_start + read.data_size == path.stat().st_size
    assert read.data_size == (100 * 64 + 2 * 64 * 64) * 2 + 64 * 4


def test_types_that_are_narrower_than_a_byte(tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(build({"a": ("F4", [2, 4]), "b": ("F6_E2M3", [4]), "empty": ("F32", [0])}))
    assert [t.size for t in safetensors.read(path).tensors] == [4, 3, 0]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "0 bytes"),
        (b"\x10\0\0\0", "4 bytes"),
        (struct.pack("<Q", 0) + b"{}", "promises a header of 0"),
        (struct.pack("<Q", 3) + b"{}", "promises"),
        (struct.pack("<Q", 1 << 63) + b"{}", "promises"),
        (struct.pack("<Q", (1 << 64) - 1) + b"{}", "promises"),
        (raw_file(b"[]"), "not a JSON object"),
        (raw_file(b"{" * 5000), "cannot be read"),
        (raw_file(b'{"a":' * 3000), "cannot be read"),
        (raw_file(b"{\xff\xfe}"), "cannot be read"),
        (raw_file(b'{"t": 3}'), "cannot be read"),
        (raw_file({"__metadata__": {"a": 1}}), "cannot be read"),
        (raw_file({"t": {"dtype": "U8", "shape": [4]}}, 4), "cannot be read"),
        (raw_file(one("U9"), 4), "unknown type 'U9'"),
        (raw_file(one(shape=[-4]), 4), "cannot be read"),
        (raw_file(one(shape=[4.5]), 4), "cannot be read"),
        (raw_file(one(shape=[1 << 40, 1 << 40]), 4), "impossible shape"),
        (raw_file(one(shape=[1 << 200]), 4), "impossible shape|cannot be read"),
        (raw_file(one(offsets=[0, 5]), 5), "take 4 bytes"),
        (raw_file(one(offsets=[4, 0]), 4), "take 4 bytes"),
        (raw_file(one(offsets=[0]), 4), "cannot be read"),
        (raw_file(one(offsets=[1, 5]), 5), "it should at 0"),
        (raw_file(one(), 3), "has only 3"),
        (raw_file(one(), 5), "has 5 for them"),
        (raw_file(one("F4", [3], [0, 1]), 1), "take 1.5 bytes"),
        (raw_file({**one(), "u": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}, 4), "u"),
    ],
)
def test_what_cannot_be_is_corrupted(tmp_path, data, words):
    path = tmp_path / "m.safetensors"
    path.write_bytes(data)
    with pytest.raises(ModelCorrupted, match=words):
        safetensors.read(path)


@pytest.mark.parametrize(
    "claim", [1 << 20, safetensors.MAX_HEADER, safetensors.MAX_HEADER + 1, 1 << 40, (1 << 64) - 1]
)
def test_a_claimed_length_is_never_allocated(tmp_path, claim):
    path = tmp_path / "m.safetensors"
    path.write_bytes(struct.pack("<Q", claim) + b'{"a":1}')
    tracemalloc.start()
    with pytest.raises(ModelCorrupted):
        safetensors.read(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 18


def test_a_header_beyond_the_formats_limit_is_not_read(tmp_path):
    path = tmp_path / "m.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", safetensors.MAX_HEADER + 1))
        os.truncate(file.fileno(), safetensors.MAX_HEADER + (1 << 20))
    with pytest.raises(ModelCorrupted, match="the format allows"):
        safetensors.read(path)


@pytest.mark.parametrize("mark", [b"{", b","])
def test_a_header_of_millions_of_entries_is_not_taken_apart(mark):
    data = b'{"t":[' + mark * 5_000_000 + b"]}"
    tracemalloc.start()
    with pytest.raises(ModelCorrupted, match="more entries"):
        safetensors.parse(data, len(data) + 8, "m")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


def test_every_truncation_is_corrupted(tmp_path):
    path = tmp_path / "cut.safetensors"
    for length in range(0, len(VALID), 7):
        path.write_bytes(VALID[:length])
        with pytest.raises(ModelCorrupted, match=r"cut\.safetensors"):
            safetensors.read(path)


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, len(VALID) - 1), st.integers(0, 255)), max_size=6),
    st.integers(0, len(VALID)),
)
def test_changed_bytes_are_read_or_refused_but_never_crash(changes, length):
    data = bytearray(VALID)
    for index, value in changes:
        data[index % (len(header(TENSORS)) + 60)] = value
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "m.safetensors")
        path.write_bytes(data[:length] if length % 3 == 0 else data)
        with contextlib.suppress(ModelCorrupted):
            read = safetensors.read(path)
            assert read.data_start + read.data_size == path.stat().st_size


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(["t", "__metadata__", "dtype", "u"]), anything))
def test_any_json_is_refused_or_read(told):
    data = raw_file(told)
    with contextlib.suppress(ModelCorrupted):
        assert safetensors.parse(data[8:], len(data), "m").data_size == 0


# ---- folders -----------------------------------------------------------------------------------


@pytest.mark.parametrize("shards", [1, 2, 3])
def test_a_folder(tmp_path, shards):
    path = folder(tmp_path / "Tiny-Instruct", shards=shards)
    info, template = reading.look(path)
    assert (info.id, info.format, info.path) == ("Tiny-Instruct", "safetensors", str(path))
    assert (info.architecture, info.quant, info.context) == ("llama", "BF16", 2048)
    assert info.parameters == 100 * 64 + 2 * 64 * 64 + 64
    assert info.weights_bytes == (100 * 64 + 2 * 64 * 64) * 2 + 64 * 4
    assert info.size == sum(p.stat().st_size for p in path.glob("*.safetensors"))
    assert info.kv_bytes_per_token == 2 * 2 * (64 // 4) * 2 * 2
    assert info.capabilities == ["text-gen"]
    assert template


def test_the_figures_of_a_model_with_a_text_part(tmp_path):
    inner = {"num_hidden_layers": 3, "num_key_value_heads": 1, "head_dim": 8}
    info = safetensors_folder.read(folder(tmp_path / "m", text_config=inner))
    assert info.kv_bytes_per_token == 3 * 1 * 8 * 2 * 2


@pytest.mark.parametrize(
    ("config", "quant"),
    [
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, "AWQ-4bit"),
        ({"quantization_config": {"quant_method": "fp8"}}, "FP8"),
        ({"quantization": {"group_size": 64, "bits": 8}}, "8bit"),
        ({"quantization_config": {"load_in_4bit": True}}, "4bit"),
        ({"quantization_config": {"bits": 1 << 80}}, "BF16"),
        ({"quantization_config": ["x"]}, "BF16"),
    ],
)
def test_quantisations(tmp_path, config, quant):
    assert safetensors_folder.read(folder(tmp_path / "m", **config)).quant == quant


@pytest.mark.parametrize(
    ("architecture", "capabilities"),
    [
        ("Qwen2ForCausalLM", ["text-gen"]),
        ("GPT2LMHeadModel", ["text-gen"]),
        ("BertModel", ["embedding"]),
        ("BertForSequenceClassification", []),
        (None, []),
    ],
)
def test_what_a_model_can_do(tmp_path, architecture, capabilities):
    told = [architecture] if architecture else None
    assert (
        safetensors_folder.read(folder(tmp_path / "m", architectures=told)).capabilities
        == capabilities
    )


def test_a_sentence_embedder_is_told_by_its_modules(tmp_path):
    path = folder(tmp_path / "m")
    (path / "modules.json").write_text("[]")
    assert safetensors_folder.read(path).capabilities == ["embedding"]


def test_figures_that_nobody_can_have_are_none(tmp_path):
    hostile = {"num_hidden_layers": 1 << 90, "head_dim": -3, "hidden_size": True}
    info = safetensors_folder.read(folder(tmp_path / "m", **hostile, max_position_embeddings="x"))
    assert (info.kv_bytes_per_token, info.context) == (0, None)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("config.json", b"[1]", "config.json cannot be read"),
        ("config.json", b"{", "config.json cannot be read"),
        ("model.safetensors.index.json", b"{}", "no weight_map"),
        ("model.safetensors.index.json", b'{"weight_map": {"a": 1}}', "puts 'a' into '1'"),
        ("model.safetensors.index.json", b'{"weight_map": {"a": "../x"}}', "puts 'a' into"),
        ("model.safetensors.index.json", b'{"weight_map": {"a": "/etc/passwd"}}', "puts 'a'"),
        ("model.safetensors.index.json", b'{"weight_map": {"a": "gone.safetensors"}}', "missing"),
    ],
)
def test_a_damaged_folder_is_corrupted(tmp_path, name, content, words):
    path = folder(tmp_path / "m", shards=2)
    (path / name).write_bytes(content)
    with pytest.raises(ModelCorrupted, match=words):
        safetensors_folder.read(path)


def test_an_index_that_names_what_no_shard_has(tmp_path):
    path = folder(tmp_path / "m", shards=2)
    index = path / "model.safetensors.index.json"
    told = json.loads(index.read_text())
    told["weight_map"]["model.extra"] = "model-00001-of-00002.safetensors"
    index.write_text(json.dumps(told))
    with pytest.raises(ModelCorrupted, match=r"no tensor 'model\.extra'"):
        safetensors_folder.read(path)


def test_a_missing_or_cut_shard(tmp_path):
    path = folder(tmp_path / "m", shards=2)
    shard = path / "model-00002-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(ModelCorrupted, match="has only"):
        safetensors_folder.read(path)
    shard.unlink()
    with pytest.raises(ModelCorrupted, match="is missing"):
        safetensors_folder.read(path)
    shard.mkdir()
    with pytest.raises(ModelCorrupted, match="not a file"):
        safetensors_folder.read(path)


def test_what_is_no_model_is_incompatible(tmp_path):
    with pytest.raises(ModelIncompatible, match="without config"):
        reading.look(tmp_path)
    fifo = tmp_path / "pipe.gguf"
    os.mkfifo(fifo)
    with pytest.raises(ModelIncompatible, match="not a regular file"):
        reading.look(fifo)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from([*CONFIG, "quantization_config", "text_config"]), anything))
def test_any_config_gives_figures_that_can_be_sent(config):
    weights = safetensors_folder.Weights(10, {"U32": 5, "BF16": 3})
    info = safetensors_folder.describe(config, weights, name="m", path="/m", size=10)
    assert info.kv_bytes_per_token >= 0
    assert info.memory_needed(ctx=4096, slots=2) < 1 << 63
