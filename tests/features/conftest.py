"""Steps that act as a user or client would, through the `rbee` command and HTTP."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pytest_bdd import given, parsers, then, when

from rbee.sse import Decoder, ServerEvent
from tests.support.home import Home, wait_for

WITHOUT_RIGHTS = """
import contextlib, io, os, sys
import rbee.cli, rbee.commands.config, rbee.narration, rbee.output
with contextlib.redirect_stdout(io.StringIO()):
    rbee.cli.app(["config", "paths", "--json"], standalone_mode=False)
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
rbee.cli.main(sys.argv[1:])
"""
"""A root that gives up its rights before the command runs; all modules are loaded before that,
since Python itself may lie where only root reads."""
BUSY = "@delay=100 @repeat=2000 tick"


class Story:
    """What has happened in the scenario so far."""

    home: Home
    result: subprocess.CompletedProcess[str]
    background: subprocess.Popen[str]
    foreground: subprocess.Popen[str]
    hive: subprocess.Popen[str]
    reply: httpx.Response
    events: list[ServerEvent]
    job: str
    jobs: list[str]
    worker: str
    many: list[subprocess.Popen[str]]


@pytest.fixture
def story(home: Home) -> Story:
    it = Story()
    it.home = home
    it.jobs = []
    return it


def read_stream(url: str, job_id: str, after: int = 0) -> list[ServerEvent]:
    decoder = Decoder()
    events: list[ServerEvent] = []
    path = f"{url}/v1/jobs/{job_id}/stream"
    with httpx.stream("GET", path, params={"after": after}, timeout=60, trust_env=False) as reply:
        for chunk in reply.iter_raw():
            events += decoder.feed(chunk)
    return [event for event in events if event.event != "comment"]


# ---- given ---------------------------------------------------------------------------------------


@given("nothing runs")
def nothing_runs(story: Story) -> None:
    assert not story.home.processes()


@given(parsers.parse("nothing runs, and queens linger for {seconds:d} second"))
def short_linger(story: Story, seconds: int) -> None:
    story.home.env["RBEE_QUEEN_LINGER"] = str(seconds)
    assert not story.home.processes()


@given("a queen I started")
def queen_started(story: Story) -> None:
    done = story.home.rbee("queen", "start")
    assert done.returncode == 0, done.stderr


@given(parsers.parse("a queen I started with {name} {value}"))
def queen_started_with(story: Story, name: str, value: str) -> None:
    story.home.env[name] = value
    queen_started(story)


@given("an answered request")
def answered(story: Story) -> None:
    done = story.home.rbee("infer", "--model", "smollm2-135m", "--max-tokens", "2", "Hello")
    assert done.returncode == 0, done.stderr
    (worker,) = story.home.workers()
    story.worker = worker["worker_id"]


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
    story.jobs = [submit(story, BUSY) for _ in range(slots)]
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
    queen_started(story)
    assert home.state is not None
    command = Path(home.command()[0]).with_name("rbee-hive")
    log = (home.path / "hive.log").open("w", encoding="utf-8")
    with log:
        story.hive = subprocess.Popen(
            [str(command), "--port", "0", "--name", "beside", "--queen-url", home.url],
            env=home.env | {"RBEE_INTERNAL_TOKEN": home.state["token"]},
            stdout=log, stderr=log, text=True,
        )  # fmt: skip
    home._running.append(story.hive)
    wait_for(lambda: home.get("/v1/hives")["hives"], what="the hive has joined")


@given("the next queen is to run a hive of that name")
def same_hive_next(story: Story) -> None:
    story.home.env["RBEE_QUEEN_LOCAL_HIVE"] = "true"
    story.home.env["RBEE_HIVE_NAME"] = "beside"


@given("I am a user without rights")
def without_rights(story: Story) -> None:
    assert os.geteuid() == 0 or not os.access("/etc", os.W_OK)


@given(parsers.parse("a settings file that sets {one} to {first} and {two} to {second}"))
def settings_file(story: Story, one: str, first: str, two: str, second: str) -> None:
    folder = story.home.path / "config"
    folder.mkdir()
    lines: list[str] = []
    for key, value in ((one, first), (two, second)):
        section, _, name = key.partition(".")
        lines += [f"[{section}]", f"{name} = {value}"]
    (folder / "config.toml").write_text("\n".join(lines), "utf-8")
    del story.home.env["RBEE_QUEEN_PORT"]


@when(parsers.parse("the settings file now sets {key} to {value}"))
def change_settings(story: Story, key: str, value: str) -> None:
    section, _, name = key.partition(".")
    file = story.home.path / "config" / "config.toml"
    file.write_text(f"[{section}]\n{name} = {value}\n", "utf-8")


@given("another program listens on the queen's port")
def port_taken(story: Story) -> Iterator[None]:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        story.home.env["RBEE_QUEEN_PORT"] = str(taken.getsockname()[1])
        yield


@given(parsers.parse("the environment sets {name} to {value}"))
def environment(story: Story, name: str, value: str) -> None:
    story.home.env[name] = value


# ---- when ----------------------------------------------------------------------------------------


@when(parsers.re(r"I run rbee (?P<line>.*) with \"(?P<text>.*)\" on stdin"))
def run_with_stdin(story: Story, line: str, text: str) -> None:
    story.result = story.home.rbee(*shlex.split(line), stdin=text)


@when(parsers.re(r"I run rbee (?P<line>(?:(?! on stdin$).)*)$"))
def run(story: Story, line: str) -> None:
    if "--system" in line and os.geteuid() == 0:
        story.result = subprocess.run(
            [sys.executable, "-c", WITHOUT_RIGHTS, *shlex.split(line)], env=story.home.env,
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        return
    story.result = story.home.rbee(*shlex.split(line))


@when(parsers.re(r"I run (?P<count>\d+) times at once rbee (?P<line>.*)"))
def run_at_once(story: Story, count: str, line: str) -> None:
    story.many = [story.home.start(*shlex.split(line)) for _ in range(int(count))]


@when(parsers.parse("I ask for {count:d} workers and cancel each at once"))
def spawn_and_cancel(story: Story, count: int) -> None:
    for _ in range(count):
        job = story.home.post("/v1/jobs", {"operation": "worker_spawn", "model": "echo"}).json()
        url = f"{story.home.url}/v1/jobs/{job['job_id']}"
        assert httpx.delete(url, timeout=10, trust_env=False).status_code in (200, 409)


@when("a guard is stopped with SIGSTOP")
def stop_guard(story: Story) -> None:
    guard = next(p for p in story.home.processes() if "guard.py" in " ".join(p.cmdline()))
    guard.suspend()


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


@when(parsers.re(r"I start rbee (?P<line>.*) in the background"))
def start(story: Story, line: str) -> None:
    story.background = story.home.start(*shlex.split(line))


@when(parsers.parse('it has printed "{text}"'))
def has_printed(story: Story, text: str) -> None:
    wait_for(lambda: text in story.home.out(story.background), what=f"{text!r} on stdout")
    story.worker = next(w["worker_id"] for w in story.home.workers() if w["state"] == "busy")
    story.job = story.home.get("/v1/jobs?state=running")["jobs"][0]["job_id"]


@when("I press Ctrl+C there")
def ctrl_c(story: Story) -> None:
    story.background.send_signal(signal.SIGINT)


@when("the worker is killed with SIGKILL")
def kill_worker(story: Story) -> None:
    (worker,) = [w for w in story.home.workers() if w["worker_id"] == story.worker]
    os.kill(worker["pid"], signal.SIGKILL)


@when(parsers.parse("the queen gets {name}"))
def signal_queen(story: Story, name: str) -> None:
    assert story.home.state is not None
    os.kill(story.home.state["pid"], signal.Signals[name])
    if name == "SIGKILL":
        wait_for(
            lambda: (
                not any(
                    "queen.main" in " ".join(p.cmdline()) or "--no-tui" in p.cmdline()
                    for p in story.home.processes()
                )
            )
        )


@when("the hive gets SIGKILL")
def kill_hive(story: Story) -> None:
    story.hive.kill()
    story.hive.wait(10)


@when(parsers.parse("I ask for a worker with {model}"))
def ask_worker(story: Story, model: str) -> None:
    reply = story.home.post("/v1/jobs", {"operation": "worker_spawn", "model": model})
    assert reply.status_code == 202, reply.text
    story.job = reply.json()["job_id"]


@when(parsers.parse("I submit an echo job of {count:d} words and read its stream"))
def submit_and_read(story: Story, count: int) -> None:
    story.job = submit(story, " ".join(f"word{n}" for n in range(count)))
    story.events = read_stream(story.home.url, story.job)


@when(parsers.re(r"I send (?P<method>\w+) (?P<path>\S+) with (?P<body>.*)"))
def send(story: Story, method: str, path: str, body: str) -> None:
    content = None if body == "-" else body.encode()
    url = story.home.url + path
    story.reply = httpx.request(method, url, content=content, timeout=10, trust_env=False)


def submit(story: Story, prompt: str) -> str:
    body = {"operation": "infer", "model": "echo", "prompt": prompt}
    reply = story.home.post("/v1/jobs", body)
    assert reply.status_code == 202, reply.text
    return reply.json()["job_id"]


def guards_and_workers(home: Home) -> list[Any]:
    return [
        p
        for p in home.processes()
        if "guard.py" in " ".join(p.cmdline()) or "worker.main" in " ".join(p.cmdline())
    ]


# ---- then: exit codes and output -----------------------------------------------------------------


@then(parsers.parse("the exit code is {code:d}"))
def exit_code(story: Story, code: int) -> None:
    assert story.result.returncode == code, (story.result.stdout, story.result.stderr)


@then(parsers.parse("it exits with {code:d}"))
def background_exit(story: Story, code: int) -> None:
    assert story.background.wait(20) == code, story.home.err(story.background)


@then("stdout has an answer")
def has_answer(story: Story) -> None:
    assert story.result.stdout.strip()


@then(parsers.parse('stdout is "{text}"'))
def stdout_is(story: Story, text: str) -> None:
    assert story.result.stdout.strip() == text


@then(parsers.parse("stderr names {code} and {rest}"))
def stderr_names(story: Story, code: str, rest: str) -> None:
    lines = [line for line in story.result.stderr.splitlines() if line.strip()]
    at = next(n for n, line in enumerate(lines) if code in line)
    if rest == "what to do":
        assert "→" in lines[at + 1], lines
        assert len(lines[at + 1].strip()) > 5
    elif rest == "its address":
        assert story.home.url in lines[at]
    else:
        assert rest in story.result.stderr


@then(parsers.parse("its stderr names {code} and {rest}"))
def background_stderr(story: Story, code: str, rest: str) -> None:
    text = story.home.err(story.background)
    assert code in text
    assert rest in text


@then(parsers.parse('stdout is one object whose text is "{text}"'))
def one_object(story: Story, text: str) -> None:
    answer = json.loads(story.result.stdout)
    assert answer["text"].strip() == text
    assert answer["finish_reason"] == "stop"


@then(parsers.parse("stdout is an error body with {code}"))
def error_body(story: Story, code: str) -> None:
    error = json.loads(story.result.stdout)["error"]
    assert error["code"] == code
    assert error["details"]["suggested_action"]


# ---- then: what is left --------------------------------------------------------------------------


@then("nothing runs any more")
def all_gone(story: Story) -> None:
    story.home.until_empty(3.0)


@then(parsers.parse("everything is gone within {seconds:d} seconds"))
def gone_within(story: Story, seconds: int) -> None:
    story.home.until_empty(seconds)


@then("the queen still runs")
def still_runs(story: Story) -> None:
    assert story.home.get("/health")["status"] == "healthy"
