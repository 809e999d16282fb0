"""What other programs keep on this machine is found, told, and used where it lies."""

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
from gguf_files import METADATA, TENSORS, build
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import GGUF, order
from safetensors_files import folder

from rbee.models import foreign
from rbee.models.foreign import Places

MANIFEST = b'{"layers": [{"mediaType": "application/vnd.ollama.image.model", "digest": "%s"}]}'
OTHER = build(METADATA | {"llama.context_length": 1024}, TENSORS)


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
