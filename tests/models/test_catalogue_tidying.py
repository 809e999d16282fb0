"""What is cleared away, and above all what is not; and checks of what is kept."""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path

import pytest
from gguf_files import small
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors_files import folder

from rbee.errors import Cancelled, Conflict, Forbidden
from rbee.models import packages, reading, shelf, tidying, verifying
from rbee.models.catalogue import Row
from rbee.models.hashing import sha256_of
from rbee.models.stock import Stock
from rbee.protocol.hives import ModelInfo
from rbee.protocol.models import CatalogueEntry, CatalogueFile, DownloadOrder, PlannedFile

COMMIT = "ab12" * 10


class World:
    def __init__(self, root: Path) -> None:
        self.models = root / "models"
        self.stock = Stock(folder=self.models, database=root / "c.db", aliases={}, backends=list)

    def fetched(self, name: str, **changes: object) -> Path:
        """As a finished download leaves it."""
        path = self.models / "hf" / "org" / name / COMMIT[:12] / f"{name}.gguf"
        path.parent.mkdir(parents=True)
        small(path, general__name=name * 50, **changes)
        size, sha256 = path.stat().st_size, sha256_of(path)
        file = PlannedFile(name=path.name, size=size, sha256=sha256)
        order = DownloadOrder(
            ref=f"hf:org/{name}@{COMMIT}::{path.name}", model_id=name, asked=f"hf:org/{name}",
            revision=COMMIT, format="gguf", files=[file],
        )  # fmt: skip
        kept = CatalogueFile(name=path.name, size=size, sha256=sha256)
        self.stock.publish(order, path, [kept], provider="hf")
        return path

    def begun(self, name: str, size: int) -> Path:
        partial = self.models / ".partial" / name
        (partial / "part").mkdir(parents=True)
        (partial / "part" / "m.gguf").write_bytes(b"x" * size)
        return partial

    def garbage(self, **more: object):
        given = {"quota": 0, "kept": (), "active": (), "dry_run": False, **more}
        return self.stock.garbage(**given)  # pyright: ignore[reportArgumentType]

    def check(self, model: str) -> verifying.Outcome:
        entry = self.stock.entry(model)
        outcome = verifying.verify(entry, lambda *_: None, threading.Event())
        self.stock.note(entry, outcome)
        return outcome


@pytest.fixture
def world(tmp_path: Path):
    made = World(tmp_path)
    yield made
    made.stock.close()


def test_a_model_is_removed_with_its_empty_folders_only(world):
    a, b = world.fetched("a"), world.fetched("b")
    beside = b.parent / "notes.txt"
    beside.write_text("mine")
    size = a.stat().st_size
    assert world.stock.remove(world.stock.row("a")) == size
    assert not (world.models / "hf" / "org" / "a").exists()
    world.stock.remove(world.stock.row("b"))
    assert beside.read_text() == "mine"
    assert world.stock.catalogue.rows() == []
    assert world.models.exists()


def test_what_lies_outside_the_models_folder_is_never_removed(world, tmp_path):
    path = world.fetched("a")
    outside = small(tmp_path / "outside.gguf")
    for target in (str(outside), str(world.models / "hf" / ".." / ".." / "outside.gguf")):
        world.stock.catalogue.use(
            lambda db, target=target: db.execute("UPDATE models SET path = ?", (target,))
        )
        row = world.stock.catalogue.rows()[0]
        assert tidying.remove(row, world.models) == 0
        assert outside.exists()
    assert path.exists()


def test_a_model_outside_the_models_folder_does_not_count_for_the_quota(world, tmp_path):
    world.fetched("a")
    world.models.rename(tmp_path / "former")
    world.stock.catalogue.use(
        lambda db: db.execute("UPDATE models SET path = replace(path, '/models/', '/former/')")
    )
    told = world.garbage(quota=1)
    assert (told.models, told.kept_for_quota) == ([], 0)
    assert len(world.stock.catalogue.rows()) == 1


def test_packaged_models_and_plain_files_cannot_be_removed(world, tmp_path):
    path = small(tmp_path / "plain.gguf")
    with pytest.raises(Conflict, match="not in the catalogue"):
        world.stock.row(f"file:{path}")
    if packages.packaged("smollm2-135m") is not None:
        with pytest.raises(Conflict, match="not in the catalogue") as caught:
            world.stock.row("smollm2-135m")
        assert "package" in caught.value.action
        assert world.stock.entry("smollm2-135m").provider == "pkg"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may remove everything")
def test_rights_that_are_missing_are_told(world):
    path = world.fetched("a")
    path.parent.chmod(0o500)
    try:
        with pytest.raises(Forbidden, match="cannot be removed"):
            world.stock.remove(world.stock.row("a"))
    finally:
        path.parent.chmod(0o700)


def test_begun_transfers_go_unless_somebody_works_on_them(world):
    world.begun("idle", 1000)
    world.begun("active", 500)
    held = world.begun("held", 500)
    world.begun("import-young", 10)
    lock = os.open(held / "lock", os.O_CREAT | os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        told = world.garbage(active={"active"}, dry_run=True)
        assert (told.partial, told.freed, told.dry_run) == (["idle"], 1000, True)
        assert (world.models / ".partial" / "idle").exists()
        assert world.garbage(active={"active"}).freed == 1000
    finally:
        os.close(lock)
    left = sorted(path.name for path in (world.models / ".partial").iterdir())
    assert left == ["active", "held", "import-young"]
    os.utime(world.models / ".partial" / "import-young", (0, 0))
    assert world.garbage().partial == ["active", "held", "import-young"]


def test_one_that_is_taken_up_just_before_it_is_cleared_is_left(world):
    partial = world.begun("late", 500)
    lock = os.open(partial / "lock", os.O_CREAT | os.O_RDWR)
    (found,) = tidying.partials(world.models, ())
    fcntl.flock(lock, fcntl.LOCK_EX)
    assert tidying.clear(found) == 0
    assert (partial / "part" / "m.gguf").exists()
    os.close(lock)
    assert tidying.clear(found) == 500
    assert list((world.models / ".partial").iterdir()) == []


def test_files_that_belong_to_nothing_are_told_and_kept(world):
    world.fetched("a")
    stray = world.models / "hf" / "stray.bin"
    stray.write_bytes(b"?")
    assert world.garbage().orphans == [str(stray)]
    assert stray.exists()
    assert (world.models / "hf" / "org" / "a").exists()


def test_without_a_quota_no_model_goes(world):
    world.fetched("a")
    told = world.garbage()
    assert (told.models, told.quota) == ([], None)
    assert told.kept_for_quota == world.stock.entry("a").size


def test_the_least_recently_used_goes_first_and_what_is_kept_stays(world):
    paths = {name: world.fetched(name) for name in "abcd"}
    for at, name in enumerate("cadb", 1):
        world.stock.catalogue.used(name, 4e9 + at)
    size = paths["a"].stat().st_size
    going = world.stock.beyond(quota=3 * size + 100, need=size, kept={"a"})
    assert [row.entry.id for row in going] == ["c", "d"]
    told = world.garbage(quota=2 * size + 100, kept={"c"})
    assert told.models == ["a", "d"]
    assert told.freed == 2 * size
    assert {name for name, path in paths.items() if path.exists()} == {"b", "c"}
    assert told.kept_for_quota <= 2 * size + 100


def test_a_file_with_another_link_frees_nothing_and_is_left(world, tmp_path):
    path = world.fetched("a")
    os.link(path, tmp_path / "other.gguf")
    assert world.garbage(quota=1).models == []
    assert path.exists()


def test_rows_whose_files_are_gone_are_forgotten(world):
    world.fetched("a").unlink()
    assert world.stock.step()
    assert not world.stock.step()
    assert len(world.stock.catalogue.rows(gone=True)) == 1
    world.garbage(dry_run=True)
    assert len(world.stock.catalogue.rows(gone=True)) == 1
    world.garbage()
    assert world.stock.catalogue.rows(gone=True) == []


def row(name: str, used: float, linked: bool) -> Row:
    entry = CatalogueEntry(
        id=name,
        provider="hf",
        ref=name,
        path="/x",
        size=1,
        format="gguf",
        used_at=used,
        linked=linked,
    )
    return Row(entry, ModelInfo(id=name, ref=name, path="/x", format="gguf", size=1), {})


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 100), st.floats(0, 100), st.booleans()), max_size=9),
    st.integers(1, 300),
    st.integers(0, 100),
)
def test_the_quota_takes_no_more_than_it_must(models, quota, need):
    rows = [(row(f"m{n}", used, False), size) for n, (size, used, _) in enumerate(models)]
    kept = {f"m{n}" for n, (_, _, keep) in enumerate(models) if keep}
    sizes = {r.entry.id: size for r, size in rows}
    going = [r.entry.id for r in tidying.to_go(rows, quota=quota, need=need, kept=kept)]
    assert not kept & set(going)
    left = sum(sizes.values()) + need - sum(sizes[name] for name in going)
    if left > quota:
        assert all(name in kept or name in going or not size for name, size in sizes.items())
    if going:
        assert left + sizes[going[-1]] > quota


# ---- checks ------------------------------------------------------------------------------------


def test_a_right_model_is_verified(world):
    path = world.fetched("a")
    seen: list[tuple[int, int, str]] = []
    outcome = verifying.verify(
        world.stock.entry("a"), lambda *told: seen.append(told), threading.Event()
    )
    size = path.stat().st_size
    assert outcome == (size, 1, [], {})
    assert seen[0] == (0, size, path.name)
    assert seen[-1] == (size, size, "")


def test_wrong_bytes_are_found_and_the_model_counts_as_unverified(world):
    path = world.fetched("a")
    before = world.stock.library.resolve("a")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    status = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # as a failing disk would
    assert world.stock.library.resolve("a") == before
    outcome = world.check("a")
    assert len(outcome.problems) == 1
    assert "has the SHA-256" in outcome.problems[0]
    entry = world.stock.entry("a")
    assert (entry.verified_at, entry.digest) == (None, None)
    data[-1] ^= 1
    path.write_bytes(data)
    assert world.check("a").problems == []
    entry = world.stock.entry("a")
    assert entry.digest == before.digest
    assert entry.verified_at is not None


def test_a_file_of_another_size_or_none(world):
    path = world.fetched("a")
    entry = world.stock.entry("a")
    path.write_bytes(path.read_bytes() + b"x")
    outcome = verifying.verify(entry, lambda *_: None, threading.Event())
    assert f"it should have {entry.size}" in outcome.problems[0]
    path.unlink()
    outcome = verifying.verify(entry, lambda *_: None, threading.Event())
    assert "No such file" in outcome.problems[0]


def test_files_without_a_known_hash_are_read_by_their_headers(world, tmp_path):
    source = folder(tmp_path / "m", shards=2)
    entry, _ = shelf.entry_of(
        reading.look(source), id="m", provider="file", ref=f"file:{source}", path=source,
        files=shelf.files_of(source),
    )  # fmt: skip
    outcome = verifying.verify(entry, lambda *_: None, threading.Event())
    assert (outcome.hashed, outcome.problems) == (0, [])
    assert sorted(outcome.found) == sorted(file.name for file in entry.files)
    shard = source / "model-00001-of-00002.safetensors"
    data = bytearray(shard.read_bytes())
    data[20] ^= 255
    shard.write_bytes(data)
    assert verifying.verify(entry, lambda *_: None, threading.Event()).problems


def test_a_check_can_be_cancelled(world):
    world.fetched("a")
    stop = threading.Event()
    stop.set()
    with pytest.raises(Cancelled):
        verifying.verify(world.stock.entry("a"), lambda *_: None, stop)
