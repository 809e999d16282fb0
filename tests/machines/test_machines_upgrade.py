"""Machines with another rbee are brought to this one: drained, exchanged, or back again."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Generator
from pathlib import Path

import pytest

from rbee import __version__
from tests.support.box import OTHER_VERSION, SHARED, Box, Boxes, other_rbee
from tests.support.home import wait_for

OLD = f"{OTHER_VERSION}-test"


def in_use(box: Box) -> str:
    """The folder of the version that is in use there."""
    return (box.home / SHARED / "current").resolve().name


def line_of(boxes: Boxes, name: str) -> str:
    """What the list says of it."""
    lines = boxes.rbee("hive", "list").splitlines()
    return next(line for line in lines if line.startswith(f"{name} "))


@pytest.mark.lab
def test_other_versions_are_shown_and_all_brought_to_this_one(boxes: Boxes) -> None:
    box = boxes.add("attic")
    box.has_rbee(python=other_rbee(boxes.folder / "other"))
    boxes.add("cellar")
    for name in ("attic", "cellar"):
        boxes.join(name)
    reason = boxes.until("attic", "other version")["link"]["reason"]
    assert OTHER_VERSION in reason
    assert __version__ in reason
    assert "rbee hive upgrade attic" in boxes.rbee("hive", "list")
    assert OTHER_VERSION in line_of(boxes, "attic")

    done = boxes.home.rbee("hive", "upgrade", "--all")
    assert done.returncode == 0, done.stderr
    assert "attic" in done.stdout
    assert "cellar has no rbee: rbee hive install cellar" in done.stderr
    assert boxes.info("attic")["state"] == "online"
    assert boxes.info("attic")["version"] == __version__
    assert in_use(box).startswith(f"{__version__}-")
    assert (box.home / SHARED / "previous").resolve().name == OLD
    assert __version__ in line_of(boxes, "attic")
    assert boxes.rbee("infer", "--hive", "attic", "--model", "echo", "one two") == "one two\n"


def older(boxes: Boxes) -> Box:
    """attic runs another version, which speaks to this one."""
    box = boxes.add("attic")
    box.has_rbee(python=other_rbee(boxes.folder / "other", protocol=1))
    box.settings("[hive]\nmotto = 'never change'\n")  # which this version refuses
    boxes.join("attic")
    boxes.until("attic", "online")
    assert boxes.info("attic")["version"] == OTHER_VERSION
    return box


@pytest.mark.lab
def test_what_streams_is_drained_before_an_upgrade_that_can_still_be_called_off(
    boxes: Boxes,
) -> None:
    box = older(boxes)
    old = box.hive().pid
    reader = boxes.ask("@delay=100 @repeat=2000 tick", "attic")
    wait_for(lambda: "tick" in reader.told.text, what="the first word")
    upgrading = boxes.home.start("hive", "upgrade", "attic")
    wait_for(lambda: "waiting for 1 job" in boxes.home.err(upgrading), limit=60, what="it drains")
    assert box.hive().pid == old
    later = boxes.ask("after that", "attic")
    elsewhere = boxes.ask("not there")
    assert elsewhere.whole().text == "not there"
    assert boxes.home.get(f"/v1/jobs/{elsewhere.job_id}")["hive"] == "home"

    upgrading.send_signal(signal.SIGINT)
    assert upgrading.wait(30) == 130
    assert in_use(box) == OLD
    boxes.rbee("job", "cancel", reader.job_id)
    assert later.whole().text == "after that"
    assert box.hive().pid == old
    assert boxes.info("attic")["version"] == OTHER_VERSION


@pytest.mark.lab
def test_a_version_that_does_not_get_healthy_gives_way_to_the_old(boxes: Boxes) -> None:
    box = older(boxes)
    told = boxes.rbee("hive", "upgrade", "attic", code=1)
    assert "INSTALL_FAILED" in told
    for word in (__version__, OTHER_VERSION, "motto"):
        assert word in told, told
    assert in_use(box) == OLD
    assert boxes.until("attic", "online")["version"] == OTHER_VERSION

    (box.home / ".config" / "rbee" / "config.toml").unlink()
    reader = boxes.ask("@delay=50 @repeat=600 tick", "attic")
    wait_for(lambda: "tick" in reader.told.text, what="the first word")
    done = boxes.home.rbee("hive", "upgrade", "attic")  # what was sent is there: this is quick
    assert done.returncode == 0, done.stderr
    assert "waiting for 1 job" in done.stderr
    assert reader.whole().text.split() == ["tick"] * 600
    assert boxes.info("attic")["version"] == __version__
    assert in_use(box).startswith(f"{__version__}-")


def wheels(root: Path) -> set[str]:
    """Names of the files that were sent."""
    return {path.name for path in (root / "wheels").rglob("*") if path.is_file()}


class Disk:
    """A small one, mounted at `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()

    def size(self, mib: int, *, again: bool = True) -> None:
        """It has so many MiB."""
        option = f"{'remount,' if again else ''}size={mib}m"
        words = ["mount", "-t", "tmpfs", "-o", option, "tmpfs", str(self.path)]
        subprocess.run(words, check=True, capture_output=True, timeout=30)

    @property
    def used(self) -> int:
        """MiB."""
        about = os.statvfs(self.path)
        return (about.f_blocks - about.f_bfree) * about.f_frsize >> 20


@pytest.fixture
def disk(tmp_path: Path) -> Generator[Disk]:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    disk = Disk(tmp_path / "disk")
    try:
        disk.size(20, again=False)
    except (OSError, subprocess.CalledProcessError) as exc:
        pytest.skip(f"no small disk can be mounted here: {exc}")
    yield disk
    subprocess.run(["umount", "-l", str(disk.path)], check=True, timeout=30)


@pytest.mark.lab
def test_a_disk_that_is_too_small_or_becomes_full(disk: Disk, boxes: Boxes) -> None:
    boxes.add("attic")
    boxes.join("attic")
    root = disk.path / "rbee"
    install = ("hive", "install", "attic", "--path", str(root))
    told = boxes.rbee(*install, code=1)
    assert "INSUFFICIENT_DISK" in told
    assert "MiB are free there" in told
    assert boxes.info("attic")["record"]["path"] is None
    assert not root.exists()

    disk.size(1000)
    installing = boxes.home.start(*install)
    wait_for(lambda: "send " in boxes.home.err(installing), limit=60, what="files are sent")
    disk.size(disk.used + 2)
    assert installing.wait(60) == 1
    told = boxes.home.err(installing)
    assert "INSTALL_FAILED" in told
    assert "No space left on device" in told
    assert not list((root / "versions").iterdir())
    assert not (root / "current").exists()
    assert boxes.info("attic")["record"]["path"] is None


@pytest.mark.lab
def test_a_step_that_fails_shows_the_last_lines_of_its_command(boxes: Boxes) -> None:
    box = boxes.add("attic")
    boxes.join("attic")
    root = box.home / SHARED
    root.mkdir(parents=True)
    (root / "wheels").write_text("in the way", "utf-8")
    told = boxes.rbee("hive", "install", "attic", code=1)
    assert "INSTALL_FAILED" in told
    for word in ("prepare", "mkdir", "Not a directory"):
        assert word in told, told
    assert boxes.info("attic")["state"] == "not installed"


@pytest.mark.lab
def test_an_installation_that_is_broken_off_leaves_what_was_and_goes_on(boxes: Boxes) -> None:
    box = boxes.add("attic")
    boxes.join("attic")
    root = box.home / SHARED

    # Ctrl+C while files are sent
    installing = boxes.home.start("hive", "install", "attic")
    wait_for(lambda: "send " in boxes.home.err(installing), limit=60, what="files are sent")
    installing.send_signal(signal.SIGINT)
    assert installing.wait(30) == 130
    wait_for(lambda: not any((root / "versions").iterdir()), what="nothing half installed is left")
    assert not (root / "current").exists()
    sent = {name.partition(".part-")[0] for name in wheels(root)}

    # the link breaks while it is installed
    installing = boxes.home.start("hive", "install", "attic")
    wait_for(lambda: "make the env" in boxes.home.err(installing), limit=60, what="it is sent")
    box.sshd.cut()
    assert installing.wait(60) != 0
    assert "the link to" in boxes.home.err(installing)
    assert not (root / "current").exists()
    assert sent <= wheels(root)

    # the next one goes on
    boxes.until("attic", "not installed")
    boxes.rbee("hive", "install", "attic")
    assert boxes.info("attic")["state"] == "online"
    assert not list((root / "versions").rglob(".incomplete"))
