"""Wheels out of what is installed: the same files, the same bytes, nothing that was changed."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
import venv
import zipfile
from importlib.metadata import Distribution, PathDistribution
from pathlib import Path

import pytest
from packaging.tags import parse_tag

from rbee.errors import InstallFailed
from rbee.ssh.repack import is_editable, metadata_of, repack, rewritten, source_of, tags_of
from tests.support.wheels import wheel

SCRIPT = "#!python\nprint('of bees')\n"


def installed(place: Path, made: Path) -> Distribution:
    """The distribution of a wheel that a real pip put into a new environment."""
    venv.create(place, with_pip=False, symlinks=True)
    command = [sys.executable, "-m", "pip", "--python", str(place / "bin" / "python"), "install"]
    done = subprocess.run(
        [*command, "--no-deps", "--no-index", str(made)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (info,) = place.glob("lib/python*/site-packages/hexagon-*.dist-info")
    return PathDistribution(info)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original")
    made = wheel(folder, "hexagon", "1.2", code="def main(): print('six')", scripts=("hexagon",))
    with zipfile.ZipFile(made, "a") as archive:
        script = zipfile.ZipInfo("hexagon-1.2.data/scripts/swarm")
        script.external_attr = 0o100755 << 16
        archive.writestr(script, SCRIPT)
        archive.writestr("hexagon-1.2.data/data/share/hive.txt", "wax")
        for name in ("METADATA", "RECORD"):  # of a package that it brings along
            archive.writestr(f"hexagon_more/wax-0.1.dist-info/{name}", "")
    return rewritten(made, folder / "recorded" / made.name)


@pytest.fixture
def dist(tmp_path: Path, original: Path) -> Distribution:
    return installed(tmp_path / "env", original)


def content(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        own = "hexagon-1.2.dist-info/RECORD"
        return {name: archive.read(name) for name in archive.namelist() if name != own}


def test_what_was_installed_comes_back_and_installs_again(
    dist: Distribution, original: Path, tmp_path: Path
):
    packed = repack(dist, tmp_path / "cache")
    assert packed.name == original.name
    assert content(packed) == content(original)
    again = installed(tmp_path / "again", packed)
    ran = [
        subprocess.run([tmp_path / "again" / "bin" / name], capture_output=True, text=True,
                       timeout=30, check=True).stdout
        for name in ("hexagon", "swarm")
    ]  # fmt: skip
    assert ran == ["six\n", "of bees\n"]
    assert (tmp_path / "again" / "share" / "hive.txt").read_text("utf-8") == "wax"
    twice = repack(again, tmp_path / "other cache")
    assert twice.read_bytes() == packed.read_bytes(), "the same content gives the same bytes"


def test_it_is_packed_once(dist: Distribution, tmp_path: Path):
    packed = repack(dist, tmp_path / "cache")
    before = packed.stat().st_ino
    assert repack(dist, tmp_path / "cache") == packed
    assert packed.stat().st_ino == before


def test_every_file_is_recorded_with_its_hash(dist: Distribution, tmp_path: Path):
    packed = repack(dist, tmp_path / "cache")
    with zipfile.ZipFile(packed) as archive:
        assert archive.testzip() is None
        text = archive.read("hexagon-1.2.dist-info/RECORD").decode()
        names = archive.namelist()
    rows = list(csv.reader(io.StringIO(text)))
    assert [row[0] for row in rows] == names
    assert all(row[1].startswith("sha256=") for row in rows[:-1])


def test_what_was_changed_here_is_not_sent(dist: Distribution, tmp_path: Path):
    Path(str(dist.locate_file("hexagon.py"))).write_text("evil = 1", "utf-8")
    with pytest.raises(InstallFailed, match="not as it was installed"):
        repack(dist, tmp_path / "cache")
    assert list((tmp_path / "cache").rglob("*.whl")) == []
    assert list((tmp_path / "cache").rglob(".new-*")) == []


def test_what_is_gone_here_is_not_sent(dist: Distribution, tmp_path: Path):
    Path(str(dist.locate_file("hexagon.py"))).unlink()
    with pytest.raises(InstallFailed, match="No such file"):
        repack(dist, tmp_path / "cache")


def test_a_record_that_leads_outside_is_refused(dist: Distribution, tmp_path: Path):
    record = Path(str(dist.locate_file("hexagon-1.2.dist-info/RECORD")))
    record.write_text(record.read_text("utf-8") + "/etc/passwd,,\n", "utf-8")
    with pytest.raises(InstallFailed, match="outside"):
        repack(dist, tmp_path / "cache")


def test_a_link_to_sources_is_none(dist: Distribution, tmp_path: Path):
    info = Path(str(dist.locate_file("hexagon-1.2.dist-info")))
    link = {"url": f"file://{tmp_path}/my%20tree", "dir_info": {"editable": True}}
    (info / "direct_url.json").write_text(json.dumps(link), "utf-8")
    assert is_editable(dist)
    assert source_of(dist) == tmp_path / "my tree"
    with pytest.raises(InstallFailed, match="link to sources"):
        repack(dist, tmp_path / "cache")


def test_its_platform_is_told(dist: Distribution):
    assert tags_of(dist) == parse_tag("py3-none-any")


def test_a_wheel_is_rewritten_with_some_left_out_and_some_put_in(original: Path, tmp_path: Path):
    extra = tmp_path / "extra.so"
    extra.write_bytes(b"lib")
    first, second = (
        rewritten(original, tmp_path / n / original.name, lambda name: name.endswith("hive.txt"),
                  {"hexagon.libs/extra.so": extra})
        for n in ("one", "two")
    )  # fmt: skip
    assert first.read_bytes() == second.read_bytes()
    kept, before = content(first), content(original)
    assert set(before) - set(kept) == {"hexagon-1.2.data/data/share/hive.txt"}
    assert kept["hexagon.libs/extra.so"] == b"lib"
    assert "Name: hexagon" in metadata_of(first)


def test_no_wheel_is_told(tmp_path: Path):
    broken = tmp_path / "hexagon-1.2-py3-none-any.whl"
    broken.write_bytes(b"PK")
    with pytest.raises(InstallFailed, match="cannot be read"):
        metadata_of(broken)
