"""Ten machines at once: added, used and left, while the queen answers everybody else."""

from __future__ import annotations

import shlex
from collections import Counter
from pathlib import Path

import pytest

from rbee.daemons.queen.queen import CASCADE_LIMIT
from tests.support.box import SHARED, Boxes
from tests.support.home import wait_for
from tests.support.told import follow

pytestmark = pytest.mark.lab

NAMES = [f"room-{number}" for number in range(10)]
APART = """
export HOME={home}
exec {real} "$@"
"""


def rooms(boxes: Boxes) -> None:
    """Ten places on one machine, each with rbee and a home of its own."""
    box = boxes.add("attic")
    box.has_rbee()
    real = Path(box.home / SHARED / "current" / "bin" / "rbee-hive").resolve()
    for name in NAMES:
        place = box.folder / name / "current" / "bin"
        place.mkdir(parents=True)
        command = place / "rbee-hive"
        home = box.home / name
        home.mkdir()
        text = APART.format(home=shlex.quote(str(home)), real=shlex.quote(str(real)))
        command.write_text(f"#!/bin/sh{text}", "utf-8")
        command.chmod(0o755)


def test_ten_at_once_do_not_keep_the_queen_from_anything(boxes: Boxes) -> None:
    rooms(boxes)
    box = boxes["attic"]
    adding = [
        boxes.home.start(
            "hive", "add", name, "attic", "--accept-new", "--path", str(box.folder / name)
        )
        for name in NAMES
    ]
    while any(command.poll() is None for command in adding):
        assert boxes.home.get("/health")["status"] == "healthy"  # in 10 s each, or it raises
        for command in adding:
            if command.poll() is None:
                command.wait(100)
                break
    for command in adding:
        assert command.returncode == 0, boxes.home.err(command)
    for name in NAMES:
        boxes.until(name, "online")
        assert boxes.info(name)["link"]["losses"] == 0
    jobs = [
        boxes.home.post(
            "/v1/jobs", {"operation": "infer", "model": "echo", "prompt": name, "hive": name}
        ).json()["job_id"]
        for name in NAMES
    ]
    for name, job in zip(NAMES, jobs, strict=True):
        assert follow(boxes.home.url, job).whole().text == name
    assert Counter(worker["hive"] for worker in boxes.home.workers()) == Counter(NAMES)
    wait_for(lambda: boxes.queen_busy() < 0.3, limit=30, what="a queen that rests")

    boxes.rbee("queen", "stop", timeout=CASCADE_LIMIT)
    box.until_empty(15)
