"""Machines that are hard to live with: stingy servers, noisy shells, a hive that talks nonsense."""

from __future__ import annotations

import json
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.box import Boxes, other_rbee
from tests.support.home import Home, wait_for

LONG = "@delay=50 @repeat=40 tick"
DASH = 'ForceCommand exec /bin/dash -c "$SSH_ORIGINAL_COMMAND"'
"""What a user's login shell gets from sshd, handed on to another one."""


@pytest.mark.lab
def test_a_server_of_few_sessions_and_logins_is_enough_for_all_at_once(boxes: Boxes) -> None:
    boxes.add("attic", options=["MaxSessions 2", "MaxStartups 3"]).has_rbee()
    boxes.join("attic")
    following = boxes.home.start("logs", "--hive", "attic", "--follow")
    also = boxes.home.start("hive", "logs", "attic", "--follow")
    readers = [boxes.ask(LONG, "attic") for _ in range(6)]
    with ThreadPoolExecutor(4) as pool:
        checks = [pool.submit(boxes.rbee, "hive", "check", "attic") for _ in range(4)]
    assert all("the link to" in check.result() for check in checks)
    for reader in readers:
        assert reader.whole().text.split() == ["tick"] * 40
    for command in (following, also):
        wait_for(lambda c=command: "listens on" in boxes.home.out(c), what="the log")
    assert boxes.info("attic")["state"] == "online"
    assert boxes.info("attic")["link"]["losses"] == 0


def test_a_login_shell_that_prints_much_is_passed_over(boxes: Boxes) -> None:
    box = boxes.add("attic")
    box.has_rbee()
    (box.home / ".bashrc").write_text(
        "echo 'rbee-hive {\"name\": 1}'; echo Welcome to attic; echo and to stderr >&2\n", "utf-8"
    )
    boxes.join("attic")
    boxes.until("attic", "online")
    assert boxes.rbee("infer", "--hive", "attic", "--model", "echo", "one two") == "one two\n"
    assert "listens on" in boxes.rbee("logs", "--hive", "attic")


def test_a_login_shell_need_not_be_bash(boxes: Boxes) -> None:
    boxes.add("attic", options=[DASH]).has_rbee()
    boxes.join("attic")
    boxes.until("attic", "online")
    assert boxes.rbee("infer", "--hive", "attic", "--model", "echo", "one two") == "one two\n"


def stand_in(root: Path, script: str) -> None:
    """A stand-in for `rbee-hive`, which is no hive at all."""
    place = root / "current" / "bin"
    place.mkdir(parents=True)
    command = place / "rbee-hive"
    command.write_text(f"#!/bin/sh\n{script}\n", "utf-8")
    command.chmod(command.stat().st_mode | stat.S_IXUSR)


def up(name: str, url: str = "http://127.0.0.1:9") -> str:
    told = {"name": name, "url": url, "token": "t", "version": "0.1.0", "protocol": 1}
    return f"echo 'rbee-hive {json.dumps(told | {'pid': 1, 'started_at': 1.0})}'"


NONSENSE = {
    "silent": ("exit 0", "it said nothing"),
    "words": ("echo what do you want", "what do you want"),
    "json": ("echo 'rbee-hive {\"name\": '", "JSON"),
    "fields": ("echo 'rbee-hive {\"name\": 7}'", "name"),
    "other": (up("home"), "calls itself 'home'"),
    "port": (up("port", "http://127.0.0.1:99999"), "99999"),
    "text": (up("text", "nowhere [at all"), "nowhere"),
    "nobody": (up("nobody"), "was lost"),
    "sshd": (up("sshd", "http://127.0.0.1:PORT"), "was lost"),
    "dies": ("echo out of luck >&2; exit 7", "out of luck"),
    "killed": ("kill -9 $$", "failed"),
    "endless": ("exec yes nonsense", "more than"),
    "error": ("printf 'error NO_SUCH_CODE: odd\\n  → try\\n' >&2; exit 1", "odd"),
}
"""Programs that stand in for `rbee-hive`, and a word of what is said of each."""


@pytest.mark.lab
def test_a_hive_that_talks_nonsense_is_told_of_and_costs_nothing(boxes: Boxes) -> None:
    box = boxes.add("attic")
    for name, (script, _) in NONSENSE.items():
        root = box.folder / name
        stand_in(root, script.replace("PORT", str(box.sshd.port)))
        body = {"name": name, "target": "attic", "path": str(root), "accept_new": True}
        reply = boxes.home.post("/v1/hives", body)
        assert reply.status_code == 201, reply.text
    for name, (_, says) in NONSENSE.items():
        info = boxes.until(name, "offline")
        assert says in info["link"]["reason"], (name, info["link"])
        assert info["link"]["code"] not in ("", "INTERNAL_ERROR"), (name, info["link"])
        assert info["link"]["action"], (name, info["link"])
    # each is tried again ever more rarely
    wait_for(lambda: boxes.queen_busy() < 0.05, limit=60, what="a queen at rest")


@pytest.mark.lab
def test_machines_that_cannot_be_used_cost_nothing(boxes: Boxes) -> None:
    boxes.add("older").has_rbee(python=other_rbee(boxes.folder / "other"))
    boxes.add("empty")
    gone = boxes.add("gone")
    gone.has_rbee()
    for name in ("older", "empty", "gone"):
        boxes.join(name)
    gone.sshd.stop()
    boxes.until("older", "other version")
    boxes.until("empty", "not installed")
    boxes.until("gone", "offline")
    wait_for(lambda: boxes.queen_busy() < 0.05, limit=40, what="a queen at rest")


def test_two_queens_do_not_take_a_hive_from_each_other(boxes: Boxes, tmp_path: Path) -> None:
    boxes.add("attic").has_rbee()
    boxes.join("attic")
    boxes.until("attic", "online")
    reader = boxes.ask(LONG, "attic")
    wait_for(lambda: boxes.workers_on("attic"), what="a worker")
    other = Home(tmp_path / "other", HOME=str(boxes.home.path))
    try:
        assert other.rbee("queen", "start").returncode == 0
        body = {"name": "attic", "target": "attic", "accept_new": True}
        added = other.post("/v1/hives", body)
        assert added.status_code == 201, added.text
        assert "another queen" in added.json()["link"]["reason"]
        assert reader.whole().text.split() == ["tick"] * 40
        assert other.post("/v1/hives", body).status_code == 409
        done = other.rbee("queen", "stop")
        assert done.returncode == 0, done.stderr
    finally:
        other.close()
    assert boxes.info("attic")["state"] == "online"
    assert boxes.info("attic")["link"]["losses"] == 0
