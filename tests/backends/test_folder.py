"""What is refused of a model's folder before any library reads it."""

from __future__ import annotations

import json
import os
import struct
import sys
from pathlib import Path

import pytest

pytest.importorskip("tokenizers", reason="neither of the extras torch and mlx is installed")
pytest.importorskip("safetensors")

from rbee.backends.shared.folder import check

from rbee.backend_contract import tiny
from rbee.errors import ModelCorrupted, ModelIncompatible


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.make(tmp_path / "tiny")


def say(folder: Path, **more: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | more))


def test_a_sound_folder_tells_how_many_numbers_it_has(folder: Path):
    found = check(folder)
    tables = 259 * tiny.WIDTH
    layer = tiny.WIDTH * (3 * tiny.WIDTH + 3 * tiny.INNER + 2)
    assert found.parameters == tables + tiny.LAYERS * layer + tiny.WIDTH
    assert (found.packed, found.config["model_type"]) == (False, "llama")
    say(folder, quantization={"bits": 4, "group_size": 64})
    assert check(folder).packed


@pytest.mark.parametrize(
    "figures",
    [
        {"num_hidden_layers": 10**9},
        {"text_config": {"num_hidden_layers": 21}},
        {"text_config": {"num_local_experts": 10**6}},
    ],
)
def test_more_layers_than_tensors_are_refused_with_both_numbers(folder: Path, figures):
    say(folder, **figures)
    with pytest.raises(ModelCorrupted, match="the files have 20 tensors"):
        check(folder)


def test_a_document_that_is_too_large_or_too_deep_is_not_read(folder: Path):
    config = folder / "config.json"
    config.write_text('{"a":' + "[" * 100_000)
    with pytest.raises(ModelCorrupted, match="no JSON document"):
        check(folder)
    os.truncate(config, 17 << 20)
    with pytest.raises(ModelCorrupted, match="17 MiB, at most 16 are read"):
        check(folder)
    config.write_text("[]")
    with pytest.raises(ModelCorrupted, match="no JSON object"):
        check(folder)
    config.write_text("{}")
    os.truncate(folder / "tokenizer.json", 300 << 20)
    with pytest.raises(ModelCorrupted, match=r"tokenizer\.json has 300 MiB"):
        check(folder)


@pytest.mark.skipif(sys.platform == "win32", reason="pipes with names are POSIX's")
@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "model.safetensors"])
def test_a_pipe_is_refused_and_not_waited_for(folder: Path, name: str):
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(ModelCorrupted, match="is no file"):
        check(folder)


def test_headers_are_believed_only_as_far_as_the_file_goes(folder: Path):
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    for bad in (b"", whole[:-1], struct.pack("<Q", 1 << 60) + b"{}", b"\xff" * 64):
        weights.write_bytes(bad)
        with pytest.raises(ModelCorrupted, match="its weights are damaged"):
            check(folder)
    weights.unlink()
    with pytest.raises(ModelIncompatible, match=r"no \*\.safetensors"):
        check(folder)


def test_links_are_followed_as_caches_of_models_have_them(folder: Path, tmp_path: Path):
    store = tmp_path / "blobs"
    store.mkdir()
    for path in list(folder.iterdir()):
        path.rename(store / path.name)
        path.symlink_to(store / path.name)
    assert check(folder).parameters > 0
