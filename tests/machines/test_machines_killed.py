"""A part of a machine's way is killed or falls silent: what is lost is replaced, and no more."""

from __future__ import annotations

import signal

import psutil
import pytest

from tests.support.box import Boxes
from tests.support.home import wait_for, words_of

pytestmark = pytest.mark.lab

LONG = "@delay=50 @repeat=80 tick"
WHOLE = ["tick"] * 80


def test_the_programs_of_a_way_are_killed_one_after_the_other(boxes: Boxes) -> None:
    box = boxes.add("attic")
    box.has_rbee()
    boxes.join("attic")
    boxes.rbee("infer", "--hive", "attic", "--model", "echo", "one")
    (first,) = boxes.workers_on("attic")

    # the system's ssh that carries its tokens: it is started again, and the stream goes on
    reader = boxes.ask(LONG, "attic")
    wait_for(lambda: "tick" in reader.told.text, what="the first word")
    (carrier,) = [p for p in boxes.queen.children(recursive=True) if p.name() == "ssh"]
    carrier.kill()
    assert reader.whole().text.split() == WHOLE
    (worker,) = boxes.workers_on("attic")
    assert worker["worker_id"] == first["worker_id"]
    assert boxes.info("attic")["link"]["losses"] == 0

    # what guards its worker against being left behind
    reader = boxes.ask(LONG, "attic")
    wait_for(lambda: "tick" in reader.told.text, what="the first word")
    (guard,) = [p for p in box.processes() if "guard.py" in " ".join(words_of(p))]
    guard.kill()
    assert reader.whole().text.split() == WHOLE

    # its worker
    reader = boxes.ask(LONG, "attic")
    wait_for(lambda: "tick" in reader.told.text, what="the first word")
    (worker,) = boxes.workers_on("attic")
    psutil.Process(worker["pid"]).kill()
    assert reader.whole().text.split() == WHOLE
    assert boxes.info("attic")["state"] == "online"
    assert boxes.info("attic")["link"]["losses"] == 0

    boxes.rbee("hive", "stop", "attic")
    box.until_empty(10)


def test_a_hive_that_falls_silent_on_a_machine_that_answers_is_replaced(boxes: Boxes) -> None:
    box = boxes.add("attic")
    box.has_rbee()
    boxes.join("attic")
    boxes.rbee("infer", "--hive", "attic", "--model", "echo", "one")
    reader = boxes.ask("@delay=100 @repeat=100 tick", "attic")
    wait_for(lambda: "tick" in reader.told.text, what="the first word")
    silent = box.hive()
    silent.send_signal(signal.SIGSTOP)
    try:
        wait_for(lambda: boxes.info("attic")["state"] != "online", what="it is missed")
        boxes.until("attic", "online", limit=60)
        assert box.hive().pid != silent.pid
        wait_for(lambda: not silent.is_running(), what="the silent one is gone")
    finally:
        if silent.is_running():
            silent.kill()
    assert reader.whole().text.split() == ["tick"] * 100
    assert boxes.info("attic")["link"]["losses"] == 0
    boxes.rbee("hive", "stop", "attic")
    box.until_empty(10)
