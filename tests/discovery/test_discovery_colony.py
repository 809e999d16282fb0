"""A colony over a real cable: a host with a network of its own, which is cut, slow, and asleep."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.box import Box, Boxes, boxes_of
from tests.support.home import Home, wait_for
from tests.support.netns import MISSING, SLOW_MISSING, Host, hosts

pytestmark = [pytest.mark.skipif(bool(MISSING), reason=MISSING), pytest.mark.lab]
CARD = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
    receiver.bind(("", 9))
    print("asleep", flush=True)
    print(receiver.recv(2048).hex(), flush=True)
"""
"""What a network card does while its machine sleeps: it waits for its packet."""


@pytest.fixture
def boxes(home: Home, tmp_path: Path) -> Iterator[Boxes]:
    with boxes_of(home, tmp_path) as boxes:
        yield boxes


@pytest.fixture
def far() -> Iterator[Host]:
    with hosts("c", slowable=not SLOW_MISSING) as (host,):
        yield host


@pytest.fixture
def attic(boxes: Boxes, far: Host) -> Box:
    """Over there, with rbee, joined and online."""
    box = boxes.add("attic", host=far.address, prefix=far.prefix)
    box.has_rbee()
    boxes.rbee("queen", "start")
    boxes.join("attic")
    boxes.until("attic", "online")
    return box


def test_no_port_but_that_of_ssh_is_open(attic: Box, boxes: Boxes, far: Host):
    boxes.rbee("infer", "--hive", "attic", "--model", "echo", "hello")
    table = (
        "import json, psutil;"
        "print(json.dumps([c.laddr for c in psutil.net_connections('inet') if not c.raddr]))"
    )
    shown = far.start([sys.executable, "-c", table], stdout=subprocess.PIPE)
    said, _ = shown.communicate(timeout=20)
    listening = {tuple(place) for place in json.loads(said)}
    assert {place for place in listening if not str(place[0]).startswith("127.")} == {
        (far.address, attic.sshd.port)
    }
    assert len(listening) > 1, "the hive and its worker"


def test_a_cable_that_is_slow_and_pulled_for_a_while_costs_nothing(
    attic: Box, boxes: Boxes, far: Host
):
    def slow() -> bool:
        return (boxes.info("attic")["link"]["latency_ms"] or 0.0) >= 50.0

    if not SLOW_MISSING:
        far.slow(50)
        wait_for(slow, limit=40.0, what="the link is measured again")
    reader = boxes.ask("@delay=100 @repeat=60 tick", hive="attic")
    wait_for(lambda: "tick" in reader.told.text, what="its first words")
    (worker,) = boxes.workers_on("attic")
    far.cut()
    threading.Event().wait(2.0)
    assert reader.told.kinds[-1] == "token"
    far.mend()
    assert reader.whole().text.split() == ["tick"] * 60
    assert boxes.info("attic")["link"]["losses"] == 0
    assert [one["pid"] for one in boxes.workers_on("attic")] == [worker["pid"]]


def test_a_machine_that_sleeps_is_woken(attic: Box, boxes: Boxes, far: Host):
    def mac() -> str | None:
        return boxes.info("attic")["record"]["mac"]

    assert wait_for(mac, what="its network card is learned") == far.mac
    card = far.start([sys.executable, "-c", CARD], stdout=subprocess.PIPE)
    waking = None
    try:
        assert card.stdout is not None
        assert card.stdout.readline() == b"asleep\n"
        for process in attic.processes():
            process.kill()
        attic.sshd.stop()
        boxes.until("attic", "offline")
        waking = boxes.home.start("hive", "wake", "attic", "--json")
        packet = bytes.fromhex(card.stdout.readline().decode())
        assert packet == b"\xff" * 6 + bytes.fromhex(far.mac.replace(":", "")) * 16
        attic.sshd.start()
        assert waking.wait(60) == 0, boxes.home.err(waking)
    finally:
        card.kill()
        card.communicate(timeout=20)
    assert json.loads(boxes.home.out(waking))
    info = boxes.until("attic", "online")
    assert info["record"]["wake_seconds"] > 0
