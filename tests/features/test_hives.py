"""Scenarios: machines reached over SSH, which here are real sshds with homes of their own."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from pytest_bdd import given, parsers, scenarios, then, when

from rbee import __version__
from tests.features.story import Story
from tests.support.box import OTHER_VERSION, SHARED, Boxes, boxes_of, other_rbee
from tests.support.home import wait_for
from tests.support.sshd import MISSING, fingerprint, free_port
from tests.support.told import Reader

scenarios("hives.feature")

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)
ANSWER = "@delay=100 @repeat=80 tick"
LONG = 8.0
"""Seconds of that answer, about."""


@pytest.fixture
def boxes(story: Story, tmp_path: Path) -> Iterator[Boxes]:
    with boxes_of(story.home, tmp_path) as boxes:
        yield boxes


# ---- given ---------------------------------------------------------------------------------------


@given(parsers.parse("a machine {name} with rbee on it"))
def with_rbee(boxes: Boxes, name: str) -> None:
    boxes.add(name).has_rbee()


@given(parsers.parse("a machine {name} with rbee on it whose lease is {seconds:d} seconds"))
def with_lease(boxes: Boxes, name: str, seconds: int) -> None:
    box = boxes.add(name)
    box.has_rbee()
    box.settings(f"[hive]\nlease = {seconds}\n")


@given(parsers.parse("a machine {name} with rbee on it that speaks another protocol"))
def with_other(boxes: Boxes, name: str) -> None:
    boxes.add(name).has_rbee(python=other_rbee(boxes.folder / "other"))


@given(parsers.parse("a machine {name} with rbee in another place"))
def with_place(boxes: Boxes, name: str) -> None:
    box = boxes.add(name)
    box.has_rbee(box.folder / "elsewhere")


@given(parsers.parse("an empty machine {name}"))
def empty(boxes: Boxes, name: str) -> None:
    boxes.add(name)


@given(parsers.parse("a machine {name} that knows none of my keys"))
def strangers(boxes: Boxes, name: str) -> None:
    boxes.add(name, knows_me=False)


@given(parsers.parse("a machine {name} that takes passwords only"))
def passwords(boxes: Boxes, name: str) -> None:
    box = boxes.add(name)
    box.sshd.stop()
    box.sshd.options = ["PubkeyAuthentication no", "PasswordAuthentication yes"]
    box.sshd.start()


@given(parsers.parse("an address {name} where nobody answers"))
def nobody(boxes: Boxes, name: str) -> None:
    boxes.configure(f"Host {name}\n  HostName 127.0.0.1\n  Port {free_port()}\n")


@given(parsers.parse("the machine {name} was added"))
def was_added(story: Story, name: str) -> None:
    done = story.home.rbee("hive", "add", name, name, "--accept-new")
    assert done.returncode == 0, done.stderr


@given(parsers.parse("a worker runs on {name}"))
def worker_runs(story: Story, name: str) -> None:
    done = story.home.rbee("infer", "--hive", name, "--model", "echo", "one")
    assert done.returncode == 0, done.stderr
    (worker,) = story.home.workers()
    assert worker["hive"] == name
    story.worker = worker["worker_id"]
    story.process = psutil.Process(worker["pid"])


# ---- when ----------------------------------------------------------------------------------------


@when(parsers.parse("I run rbee hive add {name} {target} with another fingerprint"))
def add_with_other(story: Story, boxes: Boxes, name: str, target: str) -> None:
    other = fingerprint(boxes.me.key)
    story.result = story.home.rbee("hive", "add", name, target, "--fingerprint", other)


@when(parsers.parse("I run rbee hive add {name} {target} with its fingerprint"))
def add_with_its(story: Story, boxes: Boxes, name: str, target: str) -> None:
    its = fingerprint(boxes[name].sshd.host_keys[0])
    story.result = story.home.rbee("hive", "add", name, target, "--fingerprint", its)


@when(parsers.parse("I add {name} with that place and its own folder for models"))
def add_with_paths(story: Story, boxes: Boxes, name: str) -> None:
    folder = boxes[name].folder
    paths = ("--path", str(folder / "elsewhere"), "--models-dir", str(folder / "big-disk"))
    story.result = story.home.rbee("hive", "add", name, name, "--accept-new", *paths)


@when(parsers.parse("{name} accepts connections and says nothing any more"))
def falls_silent(story: Story, boxes: Boxes, name: str) -> None:
    boxes[name].fall_silent()
    wait_for(lambda: story.home.get(f"/v1/hives/{name}")["state"] != "online", what="it is missed")


@when(parsers.parse("the host key of {name} is another"))
def other_key(story: Story, boxes: Boxes, name: str) -> None:
    story.text = fingerprint(boxes[name].sshd.host_keys[0])
    boxes[name].sshd.change_host_key()


@when(parsers.parse("a long answer streams from {name}"))
def long_answer(story: Story, name: str) -> None:
    body = {"operation": "infer", "model": "echo", "prompt": ANSWER, "hive": name}
    reply = story.home.post("/v1/jobs", body)
    assert reply.status_code == 202, reply.text
    story.reader = Reader(story.home.url, reply.json()["job_id"])
    wait_for(lambda: "tick" in story.reader.told.text, what="its first words")
    (worker,) = story.home.workers()
    story.worker, story.process = worker["worker_id"], psutil.Process(worker["pid"])


@when(parsers.parse("the link to {name} breaks"))
def link_breaks(boxes: Boxes, name: str) -> None:
    boxes[name].sshd.cut()


@when(parsers.parse("the link to {name} is dead for {seconds:d} seconds"))
def link_dead(story: Story, boxes: Boxes, name: str, seconds: int) -> None:
    sshd = boxes[name].sshd
    sshd.freeze(whole=True)
    try:
        wait_for(lambda: story.home.get(f"/v1/hives/{name}")["online"] is False, what="it is gone")
        threading.Event().wait(max(0, seconds - 6))  # so long had it to be silent to be missed
        assert story.process.is_running()
    finally:
        sshd.thaw()


@when(parsers.parse("the hive of {name} is killed with SIGKILL"))
def kill_hive(boxes: Boxes, name: str) -> None:
    boxes[name].hive().kill()


@when(parsers.parse("it gets {name}"))
def background_signal(story: Story, name: str) -> None:
    os.kill(story.background.pid, signal.Signals[name])


# ---- then ----------------------------------------------------------------------------------------


@then(parsers.parse("the registry has {name} with the time of its last connection"))
def registered(story: Story, name: str) -> None:
    with sqlite3.connect(story.home.path / "data" / "hives.db") as db:
        rows = db.execute("SELECT name, target, connected_at FROM hives").fetchall()
    assert [row[:2] for row in rows] == [(name, name)]
    assert rows[0][2] > 1e9


@then("nothing is saved")
def nothing_saved(story: Story) -> None:
    assert [hive["name"] for hive in story.home.get("/v1/hives")["hives"]] == ["home"]
    with sqlite3.connect(story.home.path / "data" / "hives.db") as db:
        assert db.execute("SELECT count(*) FROM hives").fetchone() == (0,)


@then(parsers.parse("the host key of {name} is pinned"))
def pinned(story: Story, boxes: Boxes, name: str) -> None:
    own = (story.home.path / "data" / "known_hosts").read_text("utf-8")
    server = boxes[name].sshd
    assert own.split("\n")[0] == server.known_line.strip()


@then(parsers.parse("stderr shows the fingerprint of {name}"))
def shows_fingerprint(story: Story, boxes: Boxes, name: str) -> None:
    assert fingerprint(boxes[name].sshd.host_keys[0]) in story.result.stderr


@then("stderr shows both fingerprints")
def shows_both(story: Story, boxes: Boxes) -> None:
    assert story.text in story.result.stderr
    assert fingerprint(boxes["attic"].sshd.host_keys[0]) in story.result.stderr


@then("stderr names both versions")
def both_versions(story: Story) -> None:
    assert __version__ in story.result.stderr
    assert OTHER_VERSION in story.result.stderr


@then(parsers.parse("hive {name} is online"))
def is_online(story: Story, name: str) -> None:
    wait_for(
        lambda: story.home.get(f"/v1/hives/{name}")["state"] == "online",
        limit=40.0,
        what=f"{name} is online",
    )


@then("stderr shows the steps of the installation")
def shows_steps(story: Story) -> None:
    for word in ("looking at", "step 1 of ", "switch", "starting rbee"):
        assert word in story.result.stderr, word


@then(parsers.parse("the version on {name} is this one"))
def version_there(story: Story, boxes: Boxes, name: str) -> None:
    current = (boxes[name].home / SHARED / "current").resolve()
    assert current.name.startswith(f"{__version__}-")
    assert not (current / ".incomplete").exists()
    assert story.home.get(f"/v1/hives/{name}")["version"] == __version__


@then(parsers.parse("nothing of rbee is left on {name} but its models"))
def nothing_left(boxes: Boxes, name: str) -> None:
    left = {path.name for path in (boxes[name].home / SHARED).iterdir()}
    assert not left & {"versions", "wheels", "current", "previous", "bin", "python"}, left


@then(parsers.parse("nothing runs on {name}"))
def nothing_runs_there(boxes: Boxes, name: str) -> None:
    boxes[name].until_empty(10)


@then(parsers.parse("nothing runs on {name} within {seconds:d} seconds"))
def nothing_runs_soon(boxes: Boxes, name: str, seconds: int) -> None:
    boxes[name].until_empty(seconds)


@then(parsers.parse("the list says {name} online with its address and version"))
def list_online(story: Story, name: str) -> None:
    (line,) = [x for x in story.result.stdout.splitlines() if x.startswith(f"{name} ")]
    assert " online " in line
    assert __version__ in line
    assert line.count(name) == 2  # its name and its target


@then(parsers.parse('the list says {name} "{state}"'))
def list_says(story: Story, name: str, state: str) -> None:
    (line,) = [x for x in story.result.stdout.splitlines() if x.startswith(f"{name} ")]
    assert state in line


@then(parsers.parse("it ran on {name}"))
def ran_on(story: Story, name: str) -> None:
    assert story.home.get("/v1/jobs?limit=1")["jobs"][0]["hive"] == name


@then(parsers.parse("hive {name} keeps its models in that folder"))
def models_there(story: Story, boxes: Boxes, name: str) -> None:
    folder = boxes[name].folder / "big-disk"
    story.result = story.home.rbee(*shlex.split(f"hive show {name} --json"))
    assert story.result.returncode == 0, story.result.stderr
    assert str(folder) in story.result.stdout
    assert json.loads(story.result.stdout)["models_dir"] == str(folder)


@then("its stdout tells that the hive listens")
def tells_listens(story: Story) -> None:
    wait_for(lambda: "listens on" in story.home.out(story.background), what="its first lines")


@then("its stdout tells of the worker that was started")
def tells_worker(story: Story) -> None:
    (worker,) = story.home.workers()
    name = worker["worker_id"]
    wait_for(lambda: name in story.home.out(story.background), what=f"{name} in the log")


@then("the answer is whole, without a word twice")
def answer_whole(story: Story) -> None:
    assert story.reader.whole().text.split() == ["tick"] * 80


@then("its worker is the one that was there")
def same_worker(story: Story) -> None:
    wait_for(lambda: story.home.workers(), what="its worker")
    (worker,) = story.home.workers()
    assert (worker["worker_id"], worker["pid"]) == (story.worker, story.process.pid)
    assert story.process.is_running()


@then("the worker's process is soon gone")
def worker_soon_gone(story: Story) -> None:
    wait_for(lambda: not story.process.is_running(), limit=5, what="its worker is gone")


@then(parsers.parse("the hive of {name} still runs"))
def hive_runs(story: Story, boxes: Boxes, name: str) -> None:
    assert story.home.state is None
    assert boxes[name].hive().is_running()
    assert story.process.is_running()
