"""The machines that were added, where their file or folder is not as it was left."""

from __future__ import annotations

import sqlite3
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from rbee.daemons.queen import machines
from rbee.daemons.queen.registry import Registry
from rbee.errors import InternalError
from rbee.paths import Paths
from rbee.protocol.machines import HiveRecord


def record(name: str) -> HiveRecord:
    return HiveRecord(name=name, target=f"{name}.lan", added_at=1.0)


def test_rows_that_cannot_be_read_cost_no_other_machine(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "hives.db")
    for name in ("attic", "bench", "cellar", "desk"):
        registry.add(record(name))
    registry.close()
    with sqlite3.connect(tmp_path / "hives.db") as db:
        for name, body in (
            ("bench", b'{"name": 7'),
            ("cellar", b'{"name": "cellar"}'),
            ("desk", 5),
        ):
            db.execute("UPDATE hives SET record = ? WHERE name = ?", (body, name))
    db.close()
    again = Registry(tmp_path / "hives.db")
    assert [found.name for found in again.all()] == ["attic"]
    assert again.unread == ["bench", "cellar", "desk"]
    again.add(record("bench"))
    again.close()
    third = Registry(tmp_path / "hives.db")
    assert sorted(found.name for found in third.all()) == ["attic", "bench"]
    third.close()


def test_a_locked_file_is_told_of_and_changes_nothing(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "hives.db")
    registry.add(record("attic"))
    other = sqlite3.connect(tmp_path / "hives.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(InternalError, match=r"hives\.db"):
        registry.remove("attic")
    other.execute("ROLLBACK")
    other.close()
    assert registry.get("attic") is not None
    registry.close()


@pytest.fixture
def far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    """A runtime folder whose path is too long for sockets, and a folder for temporary files."""
    temp = tmp_path / "tmp"
    temp.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temp))
    paths = Paths.user({"RBEE_HOME": str(tmp_path / "rbee")})
    return replace(paths, runtime=tmp_path / ("long" * 20))


def test_a_trap_in_the_folder_for_temporary_files_is_not_stepped_into(
    far: Paths, tmp_path: Path
) -> None:
    sockets = machines.socket_folder(far)
    assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
    assert machines.socket_folder(far) == sockets
    sockets.rmdir()
    mine = tmp_path / "photos"
    mine.mkdir(mode=0o700)
    (mine / "one.jpg").write_bytes(b"precious")
    sockets.symlink_to(mine)
    other = machines.socket_folder(far)
    assert (mine / "one.jpg").exists()
    assert other != sockets
    assert other.resolve().parent == sockets.parent.resolve()
    assert stat.S_IMODE(other.stat().st_mode) == 0o700
    sockets.unlink()
    sockets.mkdir()
    sockets.chmod(0o777)  # whoever made it could put another socket in the place of one of ours
    assert machines.socket_folder(far) not in (sockets, other)


def test_only_what_a_queen_left_is_taken_away(tmp_path: Path) -> None:
    paths = Paths.user({"RBEE_HOME": str(tmp_path)})
    folder = machines.socket_folder(paths)
    (folder / "ssh-1.conf").touch()
    (folder / "kept").mkdir()
    assert machines.socket_folder(paths) == folder
    assert [left.name for left in folder.iterdir()] == ["kept"]
