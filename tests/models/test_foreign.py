"""What other programs keep on this machine is found, told and taken over, and never changed."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from foreign_folders import COMMIT, hub_cache, lmstudio, manifest_of, ollama, sha256
from gguf_files import METADATA, TENSORS, build, small
from hypothesis import given, settings
from hypothesis import strategies as st
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
from rbee.models import foreign, importing
from rbee.models.foreign import Places
from rbee.models.stock import Stock
from rbee.protocol.models import CatalogueEntry, DownloadOrder, ImportBody, PlannedFile

GGUF = build(METADATA, TENSORS)
MANIFEST = b'{"layers": [{"mediaType": "application/vnd.ollama.image.model", "digest": "%s"}]}'
OTHER = build(METADATA | {"llama.context_length": 1024}, TENSORS)


class World:
    """A user's folders and a stock of models."""

    def __init__(self, root: Path) -> None:
        self.places = Places.of({}, root)
        self.models = root / "rbee" / "models"
        self.stock = Stock(
            folder=self.models, database=root / "rbee" / "catalogue.db", aliases={}, backends=list
        )

    def take(self, path: Path | str, **more: object) -> CatalogueEntry:
        body = ImportBody(path=str(path), **more)  # pyright: ignore[reportArgumentType]
        checked = importing.checked(body)
        return self.stock.import_(body, checked, lambda *_: None, threading.Event())[0]

    def named(self) -> dict[str, str]:
        return {found.name: found.problem for found in self.stock.foreign()}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in (
        "HF_HOME",
        "HF_HUB_CACHE",
        "HUGGINGFACE_HUB_CACHE",
        "XDG_CACHE_HOME",
        "OLLAMA_MODELS",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    made = World(tmp_path)
    yield made
    made.stock.close()


def order(files: dict[str, bytes], repo: str = "org/tiny", **more: object) -> DownloadOrder:
    planned = [
        PlannedFile(name=name, size=len(data), sha256=sha256(data)) for name, data in files.items()
    ]
    given = {"ref": f"hf:{repo}@{COMMIT}", "model_id": repo, "asked": f"hf:{repo}"}
    given |= {"revision": COMMIT, "format": "gguf", "files": planned, **more}
    return DownloadOrder(**given)  # pyright: ignore[reportArgumentType]


def test_where_the_programs_keep_their_models(tmp_path):
    plain = Places.of({}, tmp_path)
    assert plain.hub == tmp_path / ".cache/huggingface/hub"
    assert tmp_path / ".ollama/models" in plain.ollama
    assert plain.lmstudio == (tmp_path / ".lmstudio/models", tmp_path / ".cache/lm-studio/models")
    assert Places.of({"HF_HOME": "/hf"}, tmp_path).hub == Path("/hf/hub")
    assert Places.of({"HF_HOME": "/hf", "HF_HUB_CACHE": "~/c"}, tmp_path).hub == tmp_path / "c"
    assert Places.of({"XDG_CACHE_HOME": "/x"}, tmp_path).hub == Path("/x/huggingface/hub")
    assert Places.of({"OLLAMA_MODELS": "/o"}, tmp_path).ollama == (Path("/o"),)


def test_all_three_are_found_with_what_they_are(world):
    hub_cache(world.places.hub, "org/tiny-GGUF", {"tiny.Q8_0.gguf": GGUF, "README.md": b"# hi"})
    lmstudio(world.places.lmstudio[0], "pub/repo", "Chat-Q8_0.gguf", OTHER)
    ollama(world.places.ollama[0], "tiny:1b", GGUF + b"\0")
    found = {model.name: model for model in world.stock.foreign()}
    assert set(found) == {"org/tiny-GGUF:Q8_0", "Chat-Q8_0", "tiny:1b"}
    assert {m.provider for m in found.values()} == {"hf-cache", "lmstudio", "ollama"}
    for model in found.values():
        assert (model.format, model.quant, model.problem) == ("gguf", "Q8_0", "")
        assert model.size in (len(GGUF), len(GGUF) + 1, len(OTHER))
        assert model.known_as is None


def test_the_names_ollama_uses(world):
    for name in ("llama3.2:3b", "someone/mine:latest", "hf.co/org/repo:Q4_K_M"):
        ollama(world.places.ollama[0], name, GGUF)
    assert set(world.named()) == {"llama3.2:3b", "someone/mine:latest", "hf.co/org/repo:Q4_K_M"}


def test_a_safetensors_folder_of_the_cache(world, tmp_path):
    source = folder(tmp_path / "source", shards=2)
    files = {path.name: path.read_bytes() for path in source.iterdir()}
    snapshot = hub_cache(world.places.hub, "org/tiny", files)
    (model,) = world.stock.foreign()
    assert (model.name, model.format, model.path) == ("org/tiny", "safetensors", str(snapshot))
    assert model.problem == ""


def test_one_file_in_two_revisions_is_one_model(world):
    hub_cache(world.places.hub, "org/tiny", {"m.gguf": GGUF})
    hub_cache(world.places.hub, "org/tiny", {"m.gguf": GGUF}, commit="f" * 40)
    assert len(world.stock.foreign()) == 1


def test_what_cannot_be_used_says_why(world):
    root = world.places.lmstudio[0]
    lmstudio(root, "pub/a", "cut.gguf", GGUF[:300])
    lmstudio(root, "pub/b", "text.gguf", b"hello")
    lmstudio(root, "pub/c", "mmproj-x.gguf", GGUF)
    lmstudio(root, "pub/d", "big-00002-of-00003.gguf", GGUF)
    split = build(METADATA | {"split.count": 3}, TENSORS)
    lmstudio(root, "pub/d", "big-00001-of-00003.gguf", split)
    ollama(world.places.ollama[0], "tuned:latest", GGUF, adapter=True)
    told = world.named()
    assert set(told) == {"cut", "text", "big-00001-of-00003", "tuned:latest"}
    assert "ends inside" in told["cut"]
    assert "does not begin" in told["text"]
    assert "3 parts" in told["big-00001-of-00003"]
    assert "adapter" in told["tuned:latest"]


def test_a_blob_that_is_gone_is_told(world):
    ollama(world.places.ollama[0], "tiny:1b", GGUF).unlink()
    assert world.named() == {"tiny:1b": "cannot be read: No such file or directory"}


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"layers": 3}', b'{"layers": [3]}',
        MANIFEST % b"sha256:xx",
        MANIFEST % b"sha256:../../../../etc/passwd",
        b'{"layers": [{"mediaType": 3, "digest": null}]}',
        b"[" * 100_000,
        b'{"layers": [' + b"{}," * 400_000 + b"{}]}",
    ],
)  # fmt: skip
def test_hostile_manifests_are_passed_over(world, content):
    manifest_of(world.places.ollama[0], "bad:latest").write_bytes(content)
    ollama(world.places.ollama[0], "good:latest", GGUF)
    assert set(world.named()) == {"good:latest"}


@settings(max_examples=150, deadline=None)
@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=9) | st.sampled_from(["layers", "digest"]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["layers", "mediaType", "digest"]), inner)
        ),
    )
)
def test_any_manifest_is_read_or_passed_over(told):
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        manifest_of(root, "m:1").write_text(json.dumps(told))
        places = Places(root / "no", (), (root,))
        for found in foreign.find(places):
            foreign.told(found, {})


def test_links_in_circles_pipes_and_odd_names_are_passed_over(world):
    root = world.places.lmstudio[0]
    good = lmstudio(root, "pub/repo", "good.gguf", GGUF)
    (root / "pub" / "repo" / "loop").symlink_to(root)
    (root / "pub" / "repo" / "self.gguf").symlink_to("self.gguf")
    os.mkfifo(root / "pub" / "repo" / "pipe.gguf")
    (root / "pub" / "repo" / "dir.gguf").mkdir()
    with contextlib.suppress(OSError):
        Path(os.fsdecode(os.fsencode(root / "pub" / "repo") + b"/\xff.gguf")).write_bytes(GGUF)
    (root / "pub" / "repo" / "new\nline.gguf").write_bytes(GGUF)
    (root / "file").write_text("not a publisher")
    hub_cache(world.places.hub, "org/tiny", {"m.gguf": OTHER})
    (world.places.hub / "models--org--tiny" / "snapshots" / "not-a-commit").mkdir()
    (world.places.hub / "datasets--org--data").mkdir()
    assert {model.path for model in world.stock.foreign() if model.provider == "lmstudio"} == {
        str(good)
    }
    assert len(world.stock.foreign()) == 2


def test_folders_that_nobody_may_read_are_passed_over(world, monkeypatch):
    lmstudio(world.places.lmstudio[0], "pub/repo", "m.gguf", GGUF)
    real: Callable[..., object] = os.scandir

    def refusing(path: object) -> object:
        if str(path).endswith("repo"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", refusing)
    assert world.stock.foreign() == []


def test_thousands_of_files_are_bounded(world):
    many = world.places.lmstudio[0] / "pub" / "repo"
    many.mkdir(parents=True)
    for number in range(foreign.MAX_MODELS + 20):
        (many / f"{number}.gguf").write_bytes(b"GGUF")
    assert len(world.stock.foreign()) == foreign.MAX_MODELS


# ---- the hub's cache for a download ------------------------------------------------------------


def test_files_of_an_order_are_found_in_the_cache(world):
    snapshot = hub_cache(world.places.hub, "org/tiny", {"sub/m.gguf": GGUF, "config.json": b"{}"})
    found = foreign.cached(world.places, order({"sub/m.gguf": GGUF, "gone.gguf": OTHER}))
    assert found == {"sub/m.gguf": (snapshot / "sub/m.gguf").resolve()}
    assert found["sub/m.gguf"].name == sha256(GGUF)
    assert foreign.cached(world.places, order({"sub/m.gguf": GGUF + b"x"})) is None
    assert foreign.cached(world.places, order({"../m.gguf": GGUF})) is None
    assert foreign.cached(world.places, order({"sub/m.gguf": GGUF}, revision="main")) is None
    assert foreign.cached(world.places, order({"sub/m.gguf": GGUF}, ref="file:/x")) is None
    assert (
        foreign.cached(world.places, order({"m": GGUF}, ref="hf:../..@x", revision=COMMIT)) is None
    )


def test_a_model_of_the_cache_can_be_used_where_it_is(world):
    snapshot = hub_cache(world.places.hub, "org/tiny", {"m.gguf": GGUF})
    info = world.stock.refer(order({"m.gguf": GGUF}), threading.Event())
    assert info is not None
    assert (info.path, info.digest) == (str(snapshot / "m.gguf"), f"sha256:{sha256(GGUF)}")
    entry = world.stock.entry("hf:org/tiny")
    assert (entry.linked, entry.provider) == (True, "hf-cache")
    assert world.stock.remove(world.stock.row("org/tiny")) == 0
    assert (snapshot / "m.gguf").read_bytes() == GGUF


def test_a_wrong_file_of_the_cache_is_not_used(world):
    snapshot = hub_cache(world.places.hub, "org/tiny", {"m.gguf": GGUF})
    wrong = bytearray(GGUF)
    wrong[-1] ^= 1
    (snapshot / "m.gguf").resolve().write_bytes(wrong)
    assert world.stock.refer(order({"m.gguf": GGUF}), threading.Event()) is None
    assert world.stock.refer(order({"n.gguf": GGUF}), threading.Event()) is None
    assert world.stock.catalogue.rows() == []


# ---- taking over -------------------------------------------------------------------------------


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
