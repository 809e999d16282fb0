"""Scenarios: the life of daemons."""

from __future__ import annotations

import socket
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from pytest_bdd import given, parsers, scenarios, then, when

from rbee.sse import Decoder
from tests.features.story import BUSY, Story, guards_and_workers, read_stream, running, submit
from tests.support.colony import words
from tests.support.home import wait_for
from tests.support.told import follow

TICKS = 40
"""Words, a tenth of a second each, of an answer that outlasts the queen."""

scenarios("daemons.feature")


@given("rbee --no-tui in the foreground")
def no_tui(story: Story) -> None:
    story.foreground = story.home.start("--no-tui")
    wait_for(lambda: story.home.state, what="the queen is up")


@given("3 workers, one of them busy")
def three_workers(story: Story) -> None:
    for _ in range(3):
        body = {"operation": "worker_spawn", "model": "echo"}
        job = story.home.post("/v1/jobs", body).json()["job_id"]
        assert read_stream(story.home.url, job)[-2].event == "end"
    story.job = submit(story, BUSY)
    wait_for(lambda: any(w["state"] == "busy" for w in story.home.workers()), what="a busy worker")
    wait_for(lambda: len(guards_and_workers(story.home)) >= 6, what="3 guards and 3 workers")


@given("a running job and a waiting one")
def running_and_waiting(story: Story) -> None:
    slots = 8
    story.jobs = [submit(story, f"@delay=100 {words(TICKS)}") for _ in range(slots)]
    wait_for(
        lambda: story.home.get(f"/v1/jobs/{story.jobs[-1]}")["state"] == "running", what="running"
    )
    story.job = submit(story, "waiting words")
    assert story.home.get(f"/v1/jobs/{story.job}")["state"] == "queued"


@given("a queen without a hive, and rbee-hive beside it")
def separate_hive(story: Story) -> None:
    home = story.home
    home.env["RBEE_QUEEN_LOCAL_HIVE"] = "false"
    with socket.create_server(("127.0.0.1", 0)) as free:  # the same again after her restart
        home.env["RBEE_QUEEN_PORT"] = str(free.getsockname()[1])
    done = home.rbee("queen", "start")
    assert done.returncode == 0, done.stderr
    assert home.state is not None
    command = Path(home.command()[0]).with_name("rbee-hive")
    log = (home.path / "hive.log").open("w", encoding="utf-8")
    with log:
        story.hive = subprocess.Popen(
            [str(command), "--port", "0", "--name", "beside", "--queen-url", home.url],
            env=home.env | {"RBEE_INTERNAL_TOKEN": home.state["token"]},
            stdout=log, stderr=log, text=True,
        )  # fmt: skip
    home.adopt(story.hive)
    wait_for(lambda: home.get("/v1/hives")["hives"], what="the hive has joined")


@given("the next queen is to run a hive of that name")
def same_hive_next(story: Story) -> None:
    story.home.env["RBEE_QUEEN_LOCAL_HIVE"] = "true"
    story.home.env["RBEE_HIVE_NAME"] = "beside"


@given("another program listens on the queen's port")
def port_taken(story: Story) -> Iterator[None]:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        story.home.env["RBEE_QUEEN_PORT"] = str(taken.getsockname()[1])
        yield


@when(parsers.parse("the settings file now sets {key} to {value}"))
def change_settings(story: Story, key: str, value: str) -> None:
    section, _, name = key.partition(".")
    file = story.home.path / "config" / "config.toml"
    file.write_text(f"[{section}]\n{name} = {value}\n", "utf-8")


@when(parsers.parse("I ask for {count:d} workers and cancel each at once"))
def spawn_and_cancel(story: Story, count: int) -> None:
    for _ in range(count):
        job = story.home.post("/v1/jobs", {"operation": "worker_spawn", "model": "echo"}).json()
        url = f"{story.home.url}/v1/jobs/{job['job_id']}"
        assert httpx.delete(url, timeout=10, trust_env=False).status_code in (200, 409)


@when("a guard is stopped with SIGSTOP")
def stop_guard(story: Story) -> None:
    running(story.home, "guard.py")[0].suspend()


@when("a hive with the name of hers is started")
def same_name(story: Story) -> None:
    assert story.home.state is not None
    command = Path(story.home.command()[0]).with_name("rbee-hive")
    story.result = subprocess.run(
        [str(command), "--port", "0", "--name", "home", "--queen-url", story.home.url],
        env=story.home.env | {"RBEE_INTERNAL_TOKEN": story.home.state["token"]},
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip


@when("I follow the waiting job while the queen stops")
def follow_and_stop(story: Story) -> None:
    path = f"{story.home.url}/v1/jobs/{story.job}/stream"
    decoder = Decoder()
    with httpx.stream("GET", path, timeout=30, trust_env=False) as reply:
        chunks = reply.iter_raw()
        story.events = decoder.feed(next(chunks))
        assert story.home.rbee("queen", "stop").returncode == 0
        for chunk in chunks:
            story.events += decoder.feed(chunk)


@when("the hive gets SIGKILL")
def kill_hive(story: Story) -> None:
    story.hive.kill()
    story.hive.wait(10)


@then("its hive answers with a worker")
def hive_answers(story: Story) -> None:
    (hive,) = story.home.get("/v1/hives")["hives"]
    assert hive["online"]
    assert hive["workers"] == 1


@then(parsers.parse("the queen still runs after {seconds:d} seconds"))
def runs_after(story: Story, seconds: int) -> None:
    assert story.home.state is not None
    process = psutil.Process(story.home.state["pid"])
    with pytest.raises(psutil.TimeoutExpired):
        process.wait(seconds)


@then("all exit with 0")
def all_zero(story: Story) -> None:
    assert [p.wait(60) for p in story.many] == [0] * len(story.many)


@then("one queen runs")
def one_queen(story: Story) -> None:
    assert len(running(story.home, "queen.main")) == 1


@then(parsers.parse("no worker process is left within {seconds:d} seconds"))
def no_process(story: Story, seconds: int) -> None:
    wait_for(lambda: not guards_and_workers(story.home), limit=seconds, what="no worker process")


@then("it ends with 1 and HIVE_EXISTS")
def hive_exists(story: Story) -> None:
    assert story.result.returncode == 1, story.result.stderr
    assert "HIVE_EXISTS" in story.result.stderr


@then("the same worker is still there")
def still_there(story: Story) -> None:
    (worker,) = story.home.workers()
    assert worker["worker_id"] == story.worker
    assert psutil.pid_exists(worker["pid"])


@then(parsers.parse("the hive is back within {seconds:d} seconds"))
def hive_back(story: Story, seconds: int) -> None:
    wait_for(lambda: story.home.get("/v1/hives")["hives"], limit=seconds, what="the hive")


@then("its stream had neither a terminal event nor DONE")
def no_false_end(story: Story) -> None:
    assert [e.event for e in story.events if e.event not in ("comment", "status")] == ["queued"]
    assert all(e.data != "[DONE]" for e in story.events)


@then("rbee --no-tui exited with 0")
def foreground_exit(story: Story) -> None:
    assert story.foreground.wait(5) == 0, story.home.err(story.foreground)


@then("the database is sound")
def database(story: Story) -> None:
    with sqlite3.connect(story.home.path / "data" / "rbee.db") as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        (state,) = db.execute("SELECT state FROM jobs WHERE job_id = ?", (story.job,)).fetchone()
    db.close()
    assert state == "failed"


@then("stdout has the queen's address")
def has_address(story: Story) -> None:
    assert story.home.url in story.result.stdout


@then("the waiting job is completed")
def waiting_ran(story: Story) -> None:
    wait_for(
        lambda: story.home.get(f"/v1/jobs/{story.job}")["state"] == "completed", what="completed"
    )


@then("the running job has gone on and is whole")
def running_went_on(story: Story) -> None:
    told = follow(story.home.url, story.jobs[-1]).whole()
    assert (told.end, told.text) == ("end", words(TICKS))
    assert [data["attempt"] for data in told.of("started")] == [1, 2]


@then(parsers.parse("{count:d} worker is left within {seconds:d} seconds"))
def workers_left(story: Story, count: int, seconds: int) -> None:
    wait_for(lambda: len(story.home.workers()) == count, limit=seconds, what=f"{count} left")


@then(parsers.parse("its workers are gone within {seconds:d} seconds"))
def hive_workers_gone(story: Story, seconds: int) -> None:
    wait_for(
        lambda: not running(story.home, "worker.main"), limit=seconds,
        what="the hive's workers are gone",
    )  # fmt: skip


@then("the queen says that it is offline")
def hive_offline(story: Story) -> None:
    wait_for(lambda: not story.home.get("/v1/hives")["hives"][0]["online"], limit=10)
