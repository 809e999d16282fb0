"""What other programs keep here is taken over, and never changed."""

from __future__ import annotations

import os
import tempfile
import threading
from pathlib import Path

import pytest
from foreign_folders import COMMIT, hub_cache, ollama, sha256
from gguf_files import small
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import GGUF
from safetensors_files import folder

from rbee.errors import (
    Cancelled,
    Conflict,
    Forbidden,
    InsufficientDisk,
    ModelCorrupted,
    ModelIncompatible,
    ModelNotFound,
    RbeeError,
    ValidationFailed,
)
from rbee.models import importing
from rbee.models.stock import Stock
from rbee.protocol.models import ImportBody


def test_a_hard_link_where_the_disk_allows_it(world):
    blob = ollama(world.places.ollama[0], "tiny:1b", GGUF)
    entry = world.take(blob)
    assert (entry.id, entry.provider, entry.linked) == ("tiny:1b", "ollama", False)
    path = Path(entry.path)
    assert path.is_relative_to(world.models / "imported")
    assert path.samefile(blob)
    assert entry.digest == f"sha256:{sha256(GGUF)}"
    assert entry.verified_at is None
    (told,) = world.stock.foreign()
    assert told.known_as == "tiny:1b"
    assert world.stock.library.resolve("tiny:1b").key == entry.digest
    assert world.take(blob) == world.stock.entry("tiny:1b")
    assert world.stock.remove(world.stock.row("tiny:1b")) == 0
    assert blob.read_bytes() == GGUF
    assert not path.parent.exists()
    assert list((world.models / ".partial").iterdir()) == []


def test_a_model_of_the_cache_gets_the_hubs_names(world):
    snapshot = hub_cache(world.places.hub, "org/tiny-GGUF", {"tiny.gguf": GGUF})
    entry = world.take(snapshot / "tiny.gguf")
    assert (entry.id, entry.revision) == ("org/tiny-GGUF:Q8_0", COMMIT)
    assert entry.ref == f"hf:org/tiny-GGUF@{COMMIT}::tiny.gguf"
    for text in ("hf:org/tiny-GGUF", "hf:org/tiny-GGUF:q8_0", entry.ref, entry.id):
        assert world.stock.library.resolve(text).id == entry.id


def test_a_folder_is_taken_as_a_whole(world, tmp_path):
    source = folder(tmp_path / "Tiny-Instruct", shards=2)
    (source / "pytorch_model.bin").write_bytes(b"never")
    entry = world.take(source)
    assert (entry.id, entry.format, entry.linked) == ("Tiny-Instruct", "safetensors", False)
    kept = {path.name for path in Path(entry.path).iterdir()}
    assert kept == {p.name for p in source.iterdir()} - {"README.md", "pytorch_model.bin"}
    assert world.stock.library.resolve("Tiny-Instruct").format == "safetensors"


def test_a_reference_where_links_are_not_possible(world, tmp_path, monkeypatch):
    path = small(tmp_path / "elsewhere.gguf")

    def refused(*_: object, **__: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refused)
    entry = world.take(path)
    assert (entry.linked, entry.path, entry.digest) == (True, str(path), None)
    assert world.stock.remove(world.stock.row("elsewhere")) == 0
    assert path.exists()


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no second file system")
def test_a_reference_to_another_disk(world):
    with tempfile.TemporaryDirectory(dir="/dev/shm") as other:
        path = small(Path(other, "far.gguf"))
        if path.stat().st_dev == world.models.parent.parent.stat().st_dev:
            pytest.skip("/dev/shm is the same file system")
        entry = world.take(path)
        assert (entry.linked, entry.path) == (True, str(path))
        copied = world.take(small(Path(other, "near.gguf"), llama__context_length=64), copy=True)
        assert not copied.linked


def test_a_copy_only_when_asked(world, tmp_path):
    path = small(tmp_path / "m.gguf")
    seen: list[tuple[int, int, str]] = []
    body = ImportBody(path=str(path), copy=True, name="Mine")
    entry, fresh = world.stock.import_(body, path, lambda *a: seen.append(a), threading.Event())
    assert fresh
    assert entry.id == "Mine"
    assert entry.digest == f"sha256:{sha256(path.read_bytes())}"
    assert entry.verified_at is not None
    assert not Path(entry.path).samefile(path)
    assert seen[-1] == (path.stat().st_size, path.stat().st_size, "m.gguf")


def test_a_copy_can_be_cancelled_and_leaves_nothing(world, tmp_path):
    stop = threading.Event()
    stop.set()
    path = small(tmp_path / "m.gguf")
    with pytest.raises(Cancelled):
        world.stock.import_(ImportBody(path=str(path), copy=True), path, lambda *_: None, stop)
    assert [p for p in world.models.rglob("*") if p.is_file()] == []
    assert world.stock.catalogue.rows() == []


def test_a_copy_that_the_disk_cannot_hold_is_refused(world, tmp_path):
    path = small(tmp_path / "m.gguf")
    os.truncate(path, 1 << 42)
    with pytest.raises(InsufficientDisk, match="takes 4398047 MB") as caught:
        world.take(path, copy=True)
    assert "without --copy" in caught.value.action
    assert caught.value.details["required"] > caught.value.details["available"]


def test_a_file_in_the_models_folder_stays_where_it_is(world):
    (world.models / "mine").mkdir(parents=True)
    path = small(world.models / "mine" / "own.gguf")
    (told,) = world.stock.foreign()
    assert (told.provider, told.name, told.path) == ("file", "own", str(path))
    entry = world.take(path)
    assert (entry.path, entry.linked) == (str(path), True)
    assert world.stock.foreign() == []
    assert world.stock.remove(world.stock.row("own")) == 0
    assert path.exists()


def test_names(world, tmp_path):
    first = world.take(small(tmp_path / "qwen3-4b.gguf"))
    assert first.id == "qwen3-4b-2"  # the name itself is an alias for another model
    with pytest.raises(Conflict, match="another model is called"):
        world.take(small(tmp_path / "b.gguf"), name="qwen3-4b-2")
    with pytest.raises(Conflict, match="another model is called"):
        world.take(tmp_path / "b.gguf", name="smollm2-135m")
    assert world.take(tmp_path / "b.gguf", name="Org/My-Model:v1").id == "Org/My-Model:v1"
    assert Path(world.stock.entry("Org/My-Model:v1").path).parent.name == "Org-My-Model-v1"


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"path": "relative.gguf"}, ValidationFailed),
        ({"path": ""}, ValidationFailed),
        ({"path": "/x\n"}, ValidationFailed),
        ({"path": "/\0"}, ValidationFailed),
        ({"path": "/" + "x" * 5000}, ValidationFailed),
        ({"path": "/nowhere/at/all.gguf"}, ModelNotFound),
        ({"path": "/etc/passwd"}, ModelIncompatible),
        ({"path": "/dev/null"}, ModelIncompatible),
        ({"path": "/etc"}, ModelIncompatible),
        ({"path": "/tmp", "name": "../x"}, ValidationFailed),
        ({"path": "/tmp", "name": ""}, ValidationFailed),
        ({"path": "/tmp", "name": "a\nb"}, ValidationFailed),
        ({"path": "/tmp", "name": "x" * 200}, ValidationFailed),
    ],
)
def test_bad_requests_are_refused_and_leave_nothing(world, body, error):
    with pytest.raises(error):
        world.take(**body)
    assert world.stock.catalogue.rows() == []


def test_a_damaged_file_is_not_taken(world, tmp_path):
    path = tmp_path / "cut.gguf"
    path.write_bytes(GGUF[:400])
    with pytest.raises(ModelCorrupted):
        world.take(path)


def test_a_models_folder_that_cannot_be_made_is_told(tmp_path, world):
    (tmp_path / "file").write_text("in the way")
    stock = Stock(
        folder=tmp_path / "file" / "models", database=tmp_path / "c.db", aliases={}, backends=list
    )
    path = small(tmp_path / "m.gguf")
    with pytest.raises(Forbidden, match="cannot be"):
        stock.import_(ImportBody(path=str(path)), path, lambda *_: None, threading.Event())
    stock.close()


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60))
def test_any_path_and_name_is_refused_or_confined(text):
    for body in (ImportBody(path="/" + text), ImportBody(path="/tmp", name=text)):
        try:
            importing.checked(body)
        except RbeeError:
            continue
        assert body.name is None or ".." not in body.name
