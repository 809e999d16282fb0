"""Steps that act as a user or client would, through the `rbee` command and HTTP."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys

import httpx
import psutil
import pytest
from pytest_bdd import given, parsers, then, when

from tests.features.story import Story, running
from tests.support.colony import Colony
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


@pytest.fixture
def story(home: Home) -> Story:
    it = Story()
    it.home = home
    it.jobs = []
    it.asked = {}
    return it


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


@given(parsers.parse("the environment sets {name} to {value}"))
def environment(story: Story, name: str, value: str) -> None:
    story.home.env[name] = value


@given(parsers.parse("a queen with the machines {one} and {other}"))
def two_machines(story: Story, one: str, other: str) -> None:
    story.colony = Colony(story.home, (one, other))


@given(parsers.parse("a worker with {model} on {machine}"))
def worker_on(story: Story, model: str, machine: str) -> None:
    story.worker = story.colony.start_worker(machine, model)


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


@when(parsers.re(r"I start rbee (?P<line>.*) in the background"))
def start(story: Story, line: str) -> None:
    story.background = story.home.start(*shlex.split(line))


@when(parsers.parse('it has printed "{text}"'))
def has_printed(story: Story, text: str) -> None:
    wait_for(lambda: text in story.home.out(story.background), what=f"{text!r} on stdout")
    story.worker = next(w["worker_id"] for w in story.home.workers() if w["state"] == "busy")
    story.job = story.home.get("/v1/jobs?state=running")["jobs"][0]["job_id"]


@when("the worker is killed with SIGKILL")
def kill_worker(story: Story) -> None:
    (worker,) = [w for w in story.home.workers() if w["worker_id"] == story.worker]
    os.kill(worker["pid"], signal.SIGKILL)


@when(parsers.parse("the queen gets {name}"))
def signal_queen(story: Story, name: str) -> None:
    assert story.home.state is not None
    os.kill(story.home.state["pid"], signal.Signals[name])
    if name == "SIGKILL":
        wait_for(lambda: not running(story.home, "queen.main", "--no-tui"), what="she is gone")


@when(parsers.re(r"I send (?P<method>\w+) (?P<path>\S+) with (?P<body>.*)"))
def send(story: Story, method: str, path: str, body: str) -> None:
    content = None if body == "-" else body.encode()
    url = story.home.url + path
    story.reply = httpx.request(method, url, content=content, timeout=10, trust_env=False)


@when(
    parsers.re(
        r"I ask rbee (?P<command>.+) about the (?P<what>job|worker)(?: with (?P<flags>.+))?$"
    )
)
def ask_about(story: Story, command: str, what: str, flags: str | None) -> None:
    about = story.job if what == "job" else story.worker
    if what == "worker":
        story.process = psutil.Process(story.colony.workers()[about]["pid"])
    story.result = story.home.rbee(*shlex.split(command), about, *shlex.split(flags or ""))


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


@then(parsers.re(r"stdout names (?P<one>the job|\S+) and (?P<other>\S+)$"))
def stdout_names(story: Story, one: str, other: str) -> None:
    for word in (story.job if one == "the job" else one, other):
        assert word in story.result.stdout


@then(parsers.parse("the answer has status {status:d} and code {code} with a suggested action"))
def error_answer(story: Story, status: int, code: str) -> None:
    assert story.reply.status_code == status, story.reply.text
    error = story.reply.json()["error"]
    assert error["code"] == code
    assert error["message"]
    assert error["details"]["suggested_action"]
    assert story.reply.headers["x-correlation-id"]


@then("another worker answered")
def another(story: Story) -> None:
    assert story.home.get("/v1/jobs")["jobs"][0]["worker_id"] not in (None, story.worker)


# ---- then: what is left --------------------------------------------------------------------------


@then("nothing runs any more")
def all_gone(story: Story) -> None:
    story.home.until_empty(3.0)


@then(parsers.parse("everything is gone within {seconds:d} seconds"))
def gone_within(story: Story, seconds: int) -> None:
    story.home.until_empty(seconds)


@then(parsers.parse('its stdout is "{text}"'))
def background_stdout(story: Story, text: str) -> None:
    assert story.home.out(story.background).strip() == text


@then("the queen still runs")
def still_runs(story: Story) -> None:
    assert story.home.get("/health")["status"] == "healthy"


@then("the worker's process is gone")
def process_gone(story: Story) -> None:
    assert not story.process.is_running()
    assert story.worker not in story.colony.workers()
