"""What a user is told of machines that are off, known by two names, or no machines at all."""

from __future__ import annotations

import json
import signal

import pytest

from tests.support.box import Boxes
from tests.support.home import wait_for
from tests.support.tiny_gguf import write_llama


@pytest.mark.lab
def test_a_model_that_only_a_machine_has_that_is_off(boxes: Boxes) -> None:
    box = boxes.add("attic")
    box.has_rbee()
    boxes.join("attic")
    file = write_llama(box.home / "only-here.gguf")
    boxes.rbee("model", "import", str(file), "--hive", "attic", "--name", "only-here")
    wait_for(lambda: "only-here" in boxes.rbee("model", "list"), what="it is listed")
    box.sshd.freeze(whole=True)
    boxes.until("attic", "offline")
    wait_for(lambda: boxes.info("attic")["link"]["reason"], what="why is told")
    assert "no answer any more" in boxes.rbee("hive", "list")

    (line,) = [row for row in boxes.rbee("model", "list").splitlines() if "only-here" in row]
    assert "attic (off)" in line
    told = boxes.rbee("infer", "--model", "only-here", "hi", code=1)
    assert "HIVE_OFFLINE" in told
    assert "only-here is on attic, which is offline" in told
    assert "rbee hive refresh attic" in told
    body = {"model": "only-here", "messages": [{"role": "user", "content": "hi"}]}
    reply = boxes.home.post("/v1/chat/completions", body)
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "HIVE_OFFLINE")
    assert "MODEL_NOT_FOUND" in boxes.rbee("infer", "--model", "no-such", "hi", code=1)
    done = boxes.home.rbee("model", "gc")
    assert "attic was left out: it is offline" in done.stderr

    stops = boxes.home.start("hive", "stop", "attic")
    wait_for(lambda: "(try 1 of 3)" in boxes.home.err(stops), what="it says what it tries")
    stops.send_signal(signal.SIGINT)
    assert stops.wait(20) == 130

    waits = boxes.home.start("infer", "--hive", "attic", "--model", "echo", "hi")
    wait_for(
        lambda: "looking whether attic can do it" in boxes.home.err(waits),
        what="it says what it waits for",
    )
    waits.send_signal(signal.SIGINT)
    assert waits.wait(20) == 130
    box.sshd.thaw()
    boxes.until("attic", "online")

    def ended() -> list[str]:
        jobs = boxes.home.get("/v1/jobs")["jobs"]
        return [job["state"] for job in jobs if job["model"] == "echo" and job["finished_at"]]

    assert wait_for(ended, what="what was called off is taken in") == ["cancelled"]


def test_a_hive_that_was_stopped_ends_without_noise(boxes: Boxes) -> None:
    box = boxes.add("attic")
    box.has_rbee()
    boxes.join("attic")
    boxes.rbee("hive", "stop", "attic")
    box.until_empty(20.0)
    log = (box.state / "hive-attic.log").read_text("utf-8")
    assert "hive attic stops" in log
    assert "Traceback" not in log
    for words in (("hive", "logs", "attic"), ("logs", "--hive", "attic")):
        told = boxes.rbee(*words, code=1)
        assert "hive attic was stopped" in told
        assert "rbee hive start attic" in told


def test_names_that_are_taken_or_mean_something_else(boxes: Boxes) -> None:
    boxes.add("attic").has_rbee()
    told = boxes.rbee("hive", "add", "nearby", "attic", "--accept-new", code=1)
    assert "nearby cannot be a machine's name" in told
    boxes.join("attic")
    done = boxes.home.rbee("hive", "add", "again", "attic")
    assert done.returncode == 0, done.stderr
    assert "attic is the same machine: its memory counts for both" in done.stderr
    names = [hive["name"] for hive in json.loads(boxes.rbee("hive", "list", "--json"))["hives"]]
    assert names == ["home", "attic", "again"]
    for words in (("stop", "home"), ("install", "home"), ("set", "home", "--label", "a=b")):
        told = boxes.rbee("hive", *words, code=1)
        assert "home was not added" in told
        assert "rbee hive add home" not in told


def test_a_copy_goes_on_when_a_link_that_broke_is_back(boxes: Boxes) -> None:
    box = boxes.add("attic")
    box.has_rbee()
    boxes.join("attic")
    file = write_llama(boxes.folder / "long.gguf")
    with file.open("r+b") as long:
        long.truncate(300_000_000)
    boxes.rbee("model", "import", str(file), "--name", "long")
    copies = boxes.home.start("model", "copy", "long", "--to", "attic")

    def begun() -> bool:
        told = boxes.home.get("/v1/catalog/transfers")["transfers"]
        return any(one["bytes_done"] for one in told)

    wait_for(begun, limit=60.0, what="some of it is there")
    box.sshd.cut()
    assert copies.wait(100) == 0, boxes.home.err(copies)
    assert "the link to attic broke; the copy goes on" in boxes.home.err(copies)
    done = boxes.rbee("model", "verify", "long", "--hive", "attic")
    assert "all as they should be" in done
    boxes.rbee("model", "delete", "long", "--hive", "attic", "--yes")
    told = boxes.rbee("model", "delete", "long", "--hive", "attic", "--yes", code=1)
    assert "attic does not have long, another hive has" in told
    told = boxes.rbee("infer", "--hive", "attic", "--model", "long", "hi", code=1)
    assert "rbee model copy long --to attic" in told
