"""Machines with networks of their own: the cable is cut, mended, slow, or leads through another."""

from __future__ import annotations

from collections.abc import Generator

import psutil
import pytest

from tests.support import netns
from tests.support.box import Box, Boxes
from tests.support.home import wait_for
from tests.support.netns import MISSING, SLOW_MISSING, Host

pytestmark = [pytest.mark.skipif(bool(MISSING), reason=MISSING), pytest.mark.lab]
LONG = "@delay=100 @repeat=150 tick"
WHOLE = ["tick"] * 150


@pytest.fixture
def far() -> Generator[Host]:
    with netns.hosts("c") as (host,):
        yield host


def at(boxes: Boxes, host: Host, lease: int | None = None) -> Box:
    """The machine attic is that host, with rbee on it."""
    box = boxes.add("attic", host=host.address, prefix=host.prefix)
    box.has_rbee()
    if lease is not None:
        box.settings(f"[hive]\nlease = {lease}\n")
    return box


def test_a_cable_that_is_back_in_time_finds_all_as_it_was(far: Host, boxes: Boxes) -> None:
    box = at(boxes, far)
    boxes.join("attic")
    boxes.rbee("infer", "--hive", "attic", "--model", "echo", "one")
    (worker,) = boxes.workers_on("attic")
    free = boxes.ask(LONG)
    wait_for(lambda: "tick" in free.told.text, what="the first word")
    assert boxes.home.get("/v1/jobs?limit=1")["jobs"][0]["hive"] == "attic"
    pinned = boxes.ask(LONG, "attic")

    far.cut()
    wait_for(lambda: boxes.info("attic")["state"] != "online", limit=10, what="it is missed")
    assert free.whole().text.split() == WHOLE  # elsewhere: the cable is still cut
    assert boxes.home.get(f"/v1/jobs/{free.job_id}")["hive"] == "home"
    assert psutil.pid_exists(worker["pid"])
    assert boxes.info("attic")["link"]["reason"]

    far.mend()
    boxes.until("attic", "online", limit=60)
    assert pinned.whole().text.split() == WHOLE
    (again,) = boxes.workers_on("attic")
    assert (again["worker_id"], again["pid"]) == (worker["worker_id"], worker["pid"])
    boxes.rbee("hive", "stop", "attic")
    box.until_empty(10)


def test_a_machine_behind_a_cable_that_stays_cut_ends_all_by_itself(
    far: Host, boxes: Boxes
) -> None:
    box = at(boxes, far, lease=1)
    boxes.join("attic")
    boxes.rbee("infer", "--hive", "attic", "--model", "echo", "one")
    far.cut()
    # until it misses its queen, then its lease
    box.until_empty(45)
    far.mend()
    boxes.until("attic", "online", limit=60)
    assert not boxes.workers_on("attic")
    assert boxes.rbee("infer", "--hive", "attic", "--model", "echo", "one two") == "one two\n"


@pytest.mark.skipif(bool(SLOW_MISSING), reason=SLOW_MISSING)
@pytest.mark.parametrize("forward", ["ssh", "system-ssh"])
def test_a_slow_cable_is_shown_and_streams_as_it_should(boxes: Boxes, forward: str) -> None:
    with netns.hosts("s", slowable=True) as (host,):
        at(boxes, host)
        host.slow(50)
        boxes.join("attic", "--forward", forward)
        boxes.until("attic", "online")
        latency = wait_for(lambda: boxes.info("attic")["link"]["latency_ms"], what="its latency")
        assert latency >= 50
        reader = boxes.ask("@delay=20 @repeat=50 tick", "attic")
        assert reader.whole().text.split() == ["tick"] * 50
        boxes.rbee("hive", "remove", "attic", "--yes")


@pytest.mark.parametrize("forward", ["ssh", "system-ssh"])
def test_a_machine_behind_another_one(far: Host, boxes: Boxes, forward: str) -> None:
    door = boxes.add("door", host=far.address, prefix=far.prefix)
    inner = boxes.add("inner", host="127.0.0.1", prefix=far.prefix)  # of that host, not of ours
    inner.more = "  ProxyJump door\n"
    boxes.configure()
    inner.has_rbee()
    boxes.join("inner", "--forward", forward)
    boxes.until("inner", "online")
    via = boxes.info("inner")["link"]["via"]
    assert via == ("ssh -L" if forward == "system-ssh" else "ssh")
    assert boxes.rbee("infer", "--hive", "inner", "--model", "echo", "one two") == "one two\n"
    (worker,) = boxes.workers_on("inner")

    # the way there breaks at the machine between
    reader = boxes.ask("@delay=50 @repeat=80 tick", "inner")
    wait_for(lambda: "tick" in reader.told.text, what="the first word")
    door.sshd.cut()
    assert reader.whole().text.split() == ["tick"] * 80
    boxes.until("inner", "online")
    assert [w["pid"] for w in boxes.workers_on("inner")] == [worker["pid"]]
    boxes.rbee("hive", "stop", "inner")
    inner.until_empty(10)
