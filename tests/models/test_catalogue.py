"""The catalogue's rows and their names, in one process and in several, on a sound file and not."""

from __future__ import annotations

import sqlite3
import stat
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import pytest
from gguf_files import small
from hypothesis import given, settings
from hypothesis import strategies as st

from rbee.errors import InternalError, ModelNotFound, VersionMismatch
from rbee.models import catalogue as module
from rbee.models import reading, shelf
from rbee.models.catalogue import Catalogue, Row
from rbee.protocol.models import CatalogueEntry, CatalogueFile

COMMIT, OTHER = "ab12" * 10, "cd34" * 10
HASH = "5e" * 32


@pytest.fixture
def books(tmp_path: Path):
    catalogue = Catalogue.open(tmp_path / "data" / "catalogue.db")
    yield catalogue
    catalogue.close()


def put(
    books: Catalogue,
    path: Path,
    model_id: str = "org/tiny-GGUF:Q4_K_M",
    commit: str | None = COMMIT,
    **more: object,
) -> Row:
    """A model of the hub's, as a finished download puts it in."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        small(path)
    files = [CatalogueFile(name=path.name, size=path.stat().st_size, sha256=HASH)]
    ref = f"hf:org/tiny-GGUF@{commit}::{path.name}" if commit else f"file:{path}"
    given = {"id": model_id, "provider": "hf", "ref": ref, "asked": ["hf:org/tiny-GGUF"]}
    given |= {"revision": commit, "files": files, "downloaded_at": 1.5, "verified_at": 2.5, **more}
    entry, info = shelf.entry_of(reading.look(path), path=path, **given)
    return books.add(entry, info, shelf.stamps_of(path, files))


def test_a_row_is_complete_and_comes_back_as_it_was(books, tmp_path):
    row = put(books, tmp_path / "m.gguf")
    entry = row.entry
    assert (entry.id, entry.provider, entry.revision) == ("org/tiny-GGUF:Q4_K_M", "hf", COMMIT)
    assert (entry.size, entry.digest) == ((tmp_path / "m.gguf").stat().st_size, f"sha256:{HASH}")
    assert (entry.format, entry.architecture, entry.quant) == ("gguf", "llama", "Q8_0")
    assert (entry.context, entry.capabilities, entry.template) == (512, ["text-gen"], False)
    assert (entry.downloaded_at, entry.verified_at, entry.used_at) == (1.5, 2.5, None)
    assert row.info.digest == row.info.key == f"sha256:{HASH}"
    assert (row.info.id, row.info.ref) == (entry.id, entry.ref)
    assert books.rows() == [row]
    columns = {c[1] for c in sqlite3.connect(books.path).execute("PRAGMA table_info(models)")}
    assert columns >= {"id", "provider", "ref", "path", "size", "downloaded_at"}


def test_it_is_found_by_id_ref_and_what_was_asked(books, tmp_path):
    row = put(books, tmp_path / "m.gguf")
    for text in (row.entry.id, row.entry.ref, "hf:org/tiny-GGUF"):
        assert books.get(text) == row
    assert books.get("hf:org/other") is None
    books.remove(row.entry.id)
    assert books.get("hf:org/tiny-GGUF") is None
    with pytest.raises(ModelNotFound, match="tiny-GGUF:Q4_K_M"):
        books.named(row.entry.id)


def test_two_revisions_have_two_ids_and_the_newer_is_what_was_asked(books, tmp_path):
    first = put(books, tmp_path / "a" / "m.gguf")
    second = put(books, tmp_path / "b" / "m.gguf", commit=OTHER)
    assert second.entry.id == f"org/tiny-GGUF:Q4_K_M@{OTHER[:8]}"
    assert books.get("hf:org/tiny-GGUF") == second
    assert books.get(first.entry.id).entry.path == first.entry.path


def test_the_same_ref_again_keeps_its_id(books, tmp_path):
    put(books, tmp_path / "a" / "m.gguf")
    second = put(books, tmp_path / "b" / "m.gguf", commit=OTHER)
    again = put(books, tmp_path / "c" / "m.gguf", commit=OTHER)
    assert again.entry.id == second.entry.id
    assert [row.entry.path for row in books.rows()][1] == again.entry.path


def test_file_names_are_made_unique_also_against_names_that_mean_something(books, tmp_path):
    ids = []
    for folder in ("a", "b", "c"):
        path = small(tmp_path / f"{folder}.gguf")
        entry, info = shelf.entry_of(
            reading.look(path), id="m", provider="file", ref=f"file:{path}", path=path,
            files=shelf.files_of(path),
        )  # fmt: skip
        ids.append(books.add(entry, info, {}, reserved={"m-2"}).entry.id)
    assert ids == ["m", "m-3", "m-4"]


def test_a_model_that_is_gone_is_not_listed_and_makes_way(books, tmp_path):
    row = put(books, tmp_path / "a" / "m.gguf")
    books.lose(row.entry.id)
    assert books.rows() == []
    assert books.get(row.entry.ref) is None
    assert [r.gone for r in books.rows(gone=True)] == [True]
    fresh = put(books, tmp_path / "b" / "m.gguf", commit=OTHER)
    assert fresh.entry.id == row.entry.id
    assert len(books.rows(gone=True)) == 1


def test_use_and_check_are_remembered(books, tmp_path):
    row = put(books, tmp_path / "m.gguf")
    books.used(row.entry.id, 7.0)
    books.verified(row.entry.id, None, None)
    found = books.named(row.entry.id)
    assert (found.entry.used_at, found.entry.verified_at) == (7.0, None)
    assert found.entry.digest is None
    assert found.info.key == row.entry.path


def test_the_file_is_private_versioned_and_kept(tmp_path):
    path = tmp_path / "catalogue.db"
    books = Catalogue.open(path)
    put(books, tmp_path / "m.gguf")
    books.close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    again = Catalogue.open(path)
    assert len(again.rows()) == 1
    assert again.set_aside is None
    assert again.use(lambda db: db.execute("PRAGMA journal_mode").fetchone()[0]) == "wal"
    again.close()
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA user_version").fetchone()[0] == len(module.MIGRATIONS)
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(VersionMismatch, match="schema 99"):
        Catalogue.open(path)


def test_a_damaged_file_is_set_aside_not_deleted(tmp_path):
    path = tmp_path / "catalogue.db"
    path.write_bytes(b"no database at all " * 200)
    books = Catalogue.open(path)
    assert books.rows() == []
    assert books.set_aside is not None
    assert books.set_aside.read_bytes().startswith(b"no database")
    put(books, tmp_path / "m.gguf")
    books.close()


def test_a_row_that_cannot_be_read_does_not_hide_the_others(books, tmp_path, caplog):
    put(books, tmp_path / "a" / "m.gguf")
    put(books, tmp_path / "b" / "m.gguf", commit=OTHER)
    books.use(lambda db: db.execute("UPDATE models SET size = 'big' WHERE id LIKE '%@%'"))
    assert [row.entry.id for row in books.rows()] == ["org/tiny-GGUF:Q4_K_M"]
    assert "unreadable" in caplog.text


def test_statements_are_done_together_or_not_at_all(books, tmp_path):
    put(books, tmp_path / "m.gguf")

    def half(db: sqlite3.Connection) -> None:
        db.execute("DELETE FROM models")
        db.execute("DELETE FROM nothing")

    with pytest.raises(InternalError, match="nothing"):
        books.use(half)
    assert len(books.rows()) == 1


def test_many_threads_and_a_second_opening_at_once(tmp_path):
    path, small_file = tmp_path / "catalogue.db", small(tmp_path / "m.gguf")
    looked = reading.look(small_file)
    problems: list[BaseException] = []

    def work(number: int) -> None:
        try:
            mine = Catalogue.open(path)
            for turn in range(10):
                entry, info = shelf.entry_of(
                    looked, id="same", provider="file", ref=f"file:/{number}/{turn}",
                    path=small_file, files=[],
                )  # fmt: skip
                mine.add(entry, info, {})
            mine.close()
        except BaseException as exc:
            problems.append(exc)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    books = Catalogue.open(path)
    assert len({row.entry.id for row in books.rows()}) == 60
    books.close()


def test_two_processes_write_at_once(tmp_path):
    code = (
        "import sys; from pathlib import Path; from rbee.models.catalogue import Catalogue\n"
        "books = Catalogue.open(Path(sys.argv[1]))\n"
        "for n in range(50): books.use(lambda db: db.execute("
        "'INSERT INTO asked VALUES (?, ?)', (f'{sys.argv[2]}-{n}', 'm')))\n"
    )
    path = tmp_path / "catalogue.db"
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(path), name]) for name in ("a", "b")
    ]
    assert [process.wait(60) for process in running] == [0, 0]
    books = Catalogue.open(path)
    assert books.use(lambda db: db.execute("SELECT count(*) FROM asked").fetchone()[0]) == 100
    books.close()


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([None, COMMIT, OTHER])), max_size=8)
)
def test_whatever_is_added_ids_stay_distinct_and_refs_single(tmp_path_factory, steps):
    folder = tmp_path_factory.mktemp("books")
    path = small(folder / "m.gguf")
    looked = reading.look(path)
    books = Catalogue.open(folder / "c.db")
    for name, commit in steps:
        entry, info = shelf.entry_of(
            looked, id=name, provider="hf", ref=f"hf:o/{name}@{commit}", path=path, files=[],
            revision=commit, asked=[f"hf:o/{name}"],
        )  # fmt: skip
        books.add(entry, info, {})
        row = books.get(f"hf:o/{name}")
        assert row is not None
        assert row.entry.revision == commit
    rows = books.rows()
    assert len({row.entry.ref for row in rows}) == len(rows) == len(set(steps))
    books.close()


# ---- in step with the disk ---------------------------------------------------------------------


def test_a_deleted_file_is_noticed_and_one_that_comes_back(books, tmp_path):
    path = tmp_path / "m.gguf"
    row = put(books, path)
    assert shelf.keep_step(books, row).row == row
    kept = path.read_bytes()
    path.unlink()
    step = shelf.keep_step(books, row)
    assert step.row is None
    assert f"{row.entry.id} is gone: {path}" in step.news
    assert books.rows() == []
    gone = books.rows(gone=True)[0]
    assert shelf.keep_step(books, gone) == shelf.Step(None)
    path.write_bytes(kept)
    back = shelf.keep_step(books, gone)
    assert "there again" in back.news
    assert [r.entry.id for r in books.rows()] == [row.entry.id]


def test_a_changed_file_is_read_again_and_its_digest_not_believed(books, tmp_path):
    path = tmp_path / "m.gguf"
    row = put(books, path)
    small(path, llama__context_length=1024, general__name="another")
    step = shelf.keep_step(books, row)
    assert step.row is not None
    assert "changed by another program" in step.news
    entry = books.named(row.entry.id).entry
    assert (entry.context, entry.size) == (1024, path.stat().st_size)
    assert (entry.digest, entry.verified_at) == (None, None)
    assert entry.files[0].sha256 == HASH
    path.write_bytes(path.read_bytes()[:100])
    step = shelf.keep_step(books, books.named(row.entry.id))
    assert step.row is None
    assert "cannot be used any more" in step.news


def test_what_an_older_version_has_told_is_read_again(books, tmp_path):
    row = put(books, tmp_path / "m.gguf")
    books.use(lambda db: db.execute("UPDATE models SET info_by = '0.0.1'"))
    old = books.named(row.entry.id)
    stale = old._replace(info=msgspec.structs.replace(old.info, weights_bytes=1))
    assert not stale.fresh
    step = shelf.keep_step(books, stale)
    assert step.row is not None
    assert step.row.info == row.info
    assert step.news == ""
    assert books.named(row.entry.id).fresh


def test_digests(tmp_path):
    one = CatalogueFile(name="a", size=1, sha256="1" * 64)
    two = CatalogueFile(name="b", size=1, sha256="2" * 64)
    assert shelf.digest_of([one]) == f"sha256:{'1' * 64}"
    assert shelf.digest_of([one, two]) == shelf.digest_of([two, one]) != shelf.digest_of([one])
    assert shelf.digest_of([one, CatalogueFile(name="c", size=1)]) is None
    entry = CatalogueEntry(
        id="m", provider="hf", ref="r", path="/x", size=1, format="gguf", files=[one, two]
    )
    assert shelf.where(entry, "a") == Path("/x/a")
