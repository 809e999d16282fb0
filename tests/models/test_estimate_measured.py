"""What was measured is kept per model and shape, and is never in the way of anything."""

from __future__ import annotations

import os
import sqlite3

import msgspec
import pytest

from rbee.models.measured import Measurements
from rbee.protocol.hives import ModelInfo
from rbee.protocol.memory import MOST_MEASURED, Measured


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF")
    return ModelInfo(
        id="m", ref="file:/m", path=str(path), format="gguf", size=4, weights_bytes=100 << 20
    )


@pytest.fixture
def kept(tmp_path):
    times = iter(range(10_000))
    kept = Measurements(tmp_path / "data" / "catalogue.db", now=lambda: float(next(times)))
    yield kept
    kept.close()


def seen(size: int = 7, **more: object) -> Measured:
    shape = {"backend": "llamacpp", "device_kind": "cpu", "ctx": 4096, "slots": 1}
    return Measured(**({**shape, "kv_type": "f16", "flash": True} | more), bytes=size)  # type: ignore[arg-type]


def test_the_latest_of_each_shape_is_told(kept, model):
    assert kept.record(model, seen(5))
    assert kept.record(model, seen(6, slots=2))
    assert kept.record(model, seen(7))
    assert not kept.record(model, seen(7))
    assert not kept.record(model, seen(0))
    [told] = kept.attach([model])
    assert told.measured == [seen(7), seen(6, slots=2)]
    assert told.memory_used(ctx=4096, slots=2) == 6


def test_it_is_there_after_a_restart_and_readable_by_its_owner_only(kept, model, tmp_path):
    kept.record(model, seen())
    kept.close()
    path = tmp_path / "data" / "catalogue.db"
    assert path.stat().st_mode & 0o777 == 0o600
    again = Measurements(path)
    assert again.attach([model])[0].measured == [seen()]
    again.close()


def test_another_file_under_the_same_path_has_nothing_measured(kept, model):
    kept.record(model, seen())
    with open(model.path, "ab") as file:
        file.write(b"more")
    assert kept.attach([model])[0].measured == []
    kept.record(model, seen(9, slots=3))
    assert kept.attach([model])[0].measured == [seen(9, slots=3)]


def test_a_digest_tells_a_model_wherever_it_lies(kept, model):
    known = msgspec.structs.replace(model, digest="sha256:00", path="/gone")
    assert kept.record(known, seen())
    assert kept.attach([msgspec.structs.replace(known, path="/elsewhere")])[0].measured == [seen()]
    assert not kept.record(msgspec.structs.replace(model, path="/gone"), seen())


def test_no_more_travels_than_has_room(kept, model):
    for slots in range(1, MOST_MEASURED + 5):
        kept.record(model, seen(slots=slots))
    [told] = kept.attach([model])
    assert [one.slots for one in told.measured] == list(range(MOST_MEASURED + 4, 4, -1))


def test_a_damaged_file_costs_the_measurements_only(tmp_path, model, caplog):
    path = tmp_path / "catalogue.db"
    path.write_bytes(b"no database at all, " * 1000)
    kept = Measurements(path)
    assert not kept.record(model, seen())
    assert kept.attach([model]) == [model]
    assert "cannot be kept or read" in caplog.text
    path.unlink()
    assert kept.record(model, seen())
    kept.close()


def test_a_folder_that_cannot_be_written_costs_the_measurements_only(tmp_path, model):
    (tmp_path / "data").write_text("a file in its place")
    kept = Measurements(tmp_path / "data" / "catalogue.db")
    assert not kept.record(model, seen())
    assert kept.attach([model]) == [model]


def test_another_program_may_hold_the_file(kept, model, tmp_path):
    kept.record(model, seen())
    other = sqlite3.connect(tmp_path / "data" / "catalogue.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert not kept.record(model, seen(8))
    assert kept.attach([model])[0].measured == [seen()]
    other.execute("ROLLBACK")
    other.close()
    assert kept.record(model, seen(8))
    assert os.path.exists(model.path)
