"""From a reference to a model that the catalogue keeps."""

from __future__ import annotations

from pathlib import Path

import pytest
from gguf_files import small

from rbee import registry
from rbee.errors import ModelAmbiguous, ModelNotFound, RbeeError
from rbee.models import reading, shelf
from rbee.models.catalogue import Catalogue
from rbee.models.library import Library
from rbee.protocol.models import CatalogueFile

COMMIT, OTHER = "ab12" * 10, "cd34" * 10
Q8, Q4 = 7, 15  # llama.cpp's numbers of file types


class World:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.books = Catalogue.open(folder / "catalogue.db")
        self.library = Library({"mine": "hf:org/tiny:Q8_0"}, [registry.load("echo")], self.books)

    def fetched(
        self,
        quant: str,
        *,
        commit: str = COMMIT,
        repo: str = "org/tiny",
        asked: str = "",
        at: float = 1,
    ) -> str:
        name = f"tiny-{quant}.gguf"
        path = self.folder / repo / commit[:12] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        small(path, general__file_type=Q4 if "4" in quant else Q8, general__name=quant + commit)
        files = [
            CatalogueFile(
                name=name, size=path.stat().st_size, sha256=(quant.encode().hex() * 64)[:64]
            )
        ]
        entry, info = shelf.entry_of(
            reading.look(path), id=f"{repo}:{quant}", provider="hf", files=files, path=path,
            ref=f"hf:{repo}@{commit}::{name}", revision=commit, downloaded_at=at,
            asked=[asked] if asked else [],
        )  # fmt: skip
        return self.books.add(entry, info, shelf.stamps_of(path, files)).entry.id

    def id_of(self, text: str) -> str:
        return self.library.resolve(text).id


@pytest.fixture
def world(tmp_path: Path):
    made = World(tmp_path)
    yield made
    made.books.close()


def test_every_way_to_name_a_fetched_model(world):
    kept = world.fetched("Q8_0", asked="hf:org/tiny@main::tiny-Q8_0.gguf")
    for text in (
        "org/tiny:Q8_0",
        "hf:org/tiny",
        "hf:org/tiny:Q8_0",
        "hf:org/tiny:q8_0",
        f"hf:org/tiny@{COMMIT}",
        f"hf:org/tiny@{COMMIT[:8]}::tiny-Q8_0.gguf",
        "hf:org/tiny@main::tiny-Q8_0.gguf",
        "mine",
    ):
        assert world.id_of(text) == kept, text
    info = world.library.resolve("mine")
    assert info.digest is not None
    assert info.key == info.digest
    assert info in world.library.list()


@pytest.mark.parametrize(
    "text",
    [
        "hf:org/other",
        "hf:org/tiny:Q2_K",
        f"hf:org/tiny@{OTHER}",
        "hf:org/tiny@ab12",
        f"hf:org/tiny@{COMMIT}::other.gguf",
        "qwen3-4b",
    ],
)
def test_what_is_not_here_may_be_on_the_hub(world, text):
    world.fetched("Q8_0")
    with pytest.raises(ModelNotFound, match="not on this machine") as caught:
        world.library.resolve(text)
    assert caught.value.details["hub"] is True
    assert caught.value.action == f"Fetch it first: rbee model download {text}"


@pytest.mark.parametrize("text", ["nothing", "pkg:nothing", "file:/nowhere/m.gguf"])
def test_what_no_hub_has_is_not_looked_for_there(world, text):
    with pytest.raises(ModelNotFound) as caught:
        world.library.resolve(text)
    assert "hub" not in caught.value.details


def test_a_repository_alone_means_its_preferred_quantisation(world):
    world.fetched("Q8_0")
    world.fetched("Q4_K_M")
    world.fetched("Q2_K")
    assert world.id_of("hf:org/tiny") == "org/tiny:Q4_K_M"


def test_what_was_asked_once_keeps_its_meaning(world):
    world.fetched("Q8_0", asked="hf:org/tiny")
    world.fetched("Q4_K_M")
    assert world.id_of("hf:org/tiny") == "org/tiny:Q8_0"


def test_several_without_a_preferred_one_are_ambiguous(world):
    world.fetched("Q2_K")
    world.fetched("Q3_K_S")
    with pytest.raises(ModelAmbiguous, match="any of 2 models") as caught:
        world.library.resolve("hf:org/tiny")
    assert caught.value.details["files"] == ["org/tiny:Q2_K", "org/tiny:Q3_K_S"]


def test_of_two_revisions_the_later_one_is_meant(world):
    world.fetched("Q8_0", commit=OTHER, at=9)
    world.fetched("Q8_0", commit=COMMIT, at=2)
    assert world.library.resolve("hf:org/tiny:Q8_0").ref.startswith(f"hf:org/tiny@{OTHER}")
    assert world.library.resolve(f"hf:org/tiny@{COMMIT}").ref.startswith(f"hf:org/tiny@{COMMIT}")


def test_a_deleted_file_is_not_resolved_and_not_listed(world):
    kept = world.fetched("Q8_0")
    Path(world.library.resolve(kept).path).unlink()
    with pytest.raises(ModelNotFound):
        world.library.resolve(kept)
    assert all(info.id != kept for info in world.library.list())


def test_a_changed_file_is_told_as_it_is_now(world):
    kept = world.fetched("Q8_0")
    path = Path(world.library.resolve(kept).path)
    small(path, llama__context_length=64, general__name="changed by hand")
    info = world.library.resolve(kept)
    assert (info.context, info.digest, info.key) == (64, None, str(path))


def test_names_of_packages_and_aliases_come_first(world, tmp_path):
    assert {"echo", "mine", "smollm2-135m", "qwen3-4b"} <= world.library.names
    assert world.library.resolve("echo").format == "echo"


def test_a_file_at_its_path_comes_before_one_that_was_copied_from_such_a_path(world, tmp_path):
    there = small(tmp_path / "there.gguf")
    here = small(tmp_path / "here.gguf", llama__context_length=64)
    entry, info = shelf.entry_of(
        reading.look(here), id="there", provider="copy", ref=f"file:{there}", path=here,
        files=shelf.files_of(here),
    )  # fmt: skip
    world.books.add(entry, info, shelf.stamps_of(here))
    assert world.library.resolve(f"file:{there}").path == str(there)
    there.unlink()
    assert world.library.resolve(f"file:{there}").path == str(here)


def test_an_unknown_name_is_answered_with_names_of_the_catalogue(world):
    world.fetched("Q8_0")
    with pytest.raises(RbeeError) as caught:
        world.library.resolve("smollm2-136m")
    assert "smollm2-135m" in caught.value.action
