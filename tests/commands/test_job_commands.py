"""`rbee job …`, `rbee why` and `rbee worker drain`, as a user runs them."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import termios
from typing import Any

import psutil
import pytest

from tests.support.home import Home, wait_for

FOREVER = "@hang_after=0 x"
UNKNOWN = "j-unknown1"


def last_job(home: Home) -> dict[str, Any]:
    return home.get("/v1/jobs?limit=1")["jobs"][0]


def submit(home: Home, prompt: str, **fields: Any) -> str:
    body = {"operation": "infer", "model": "echo", "prompt": prompt, **fields}
    return home.post("/v1/jobs", body).json()["job_id"]


def run_forever(home: Home) -> str:
    """A job that keeps the only slot."""
    job_id = submit(home, FOREVER)
    wait_for(lambda: any(w["slots_busy"] for w in home.workers()), what="a busy slot")
    return job_id


def on_a_terminal(home: Home, *args: str, width: int = 80) -> str:
    """What a command shows on a terminal of that width."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    process = subprocess.Popen(home.command(*args), env=home.env, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 65536):
            shown += chunk
    except OSError:  # Linux says that the other side is closed so
        pass
    os.close(ours)
    assert process.wait(30) == 0
    return shown.decode()


@pytest.fixture
def narrow(home: Home) -> Home:
    """A user whose workers have one slot, with a queen."""
    home.env["RBEE_WORKER_SLOTS"] = "1"
    assert home.rbee("queen", "start").returncode == 0
    return home


def test_a_story_is_told_without_the_answers_text(home: Home) -> None:
    assert home.rbee("infer", "-q", "--model", "echo", "secret words").returncode == 0
    job_id = last_job(home)["job_id"]
    told = home.rbee("job", "logs", job_id).stdout
    first, *lines = told.splitlines()
    assert first.startswith(f"{job_id}: infer of echo for cli, interactive, asked at ")
    for part in ("queued at place 1", "loading: ", "started on w-01@home cpu", "2 tokens",
                 "completed (stop): 2 tokens in "):  # fmt: skip
        assert any(part in line for line in lines), part
    assert "secret" not in told
    assert "secret words\n" in home.rbee("job", "logs", job_id, "--text").stdout
    events = [json.loads(x) for x in home.rbee("job", "logs", job_id, "--json").stdout.splitlines()]
    assert events[0]["event"] == "queued"
    assert events[-1]["data"]["finish_reason"] == "stop"
    assert "token" not in [e["event"] for e in events]
    all_of_it = home.rbee("job", "logs", job_id, "--json", "--text").stdout.splitlines()
    ids = [json.loads(line)["id"] for line in all_of_it]
    assert ids == list(range(1, len(ids) + 1))


def test_a_story_that_is_followed_ends_with_its_job_and_leaving_it_cancels_nothing(
    narrow: Home,
) -> None:
    keeps = run_forever(narrow)
    waits = submit(narrow, "hello")
    assert "all 1 slot(s)" in narrow.rbee("job", "logs", waits).stdout
    leaves = narrow.start("job", "logs", waits, "--follow")
    stays = narrow.start("job", "logs", waits, "--follow", "--text")
    for process in (leaves, stays):
        wait_for(lambda p=process: "busy" in narrow.out(p), what="why it waits")
    leaves.send_signal(signal.SIGINT)
    assert leaves.wait(10) == 130
    assert narrow.get(f"/v1/jobs/{waits}")["state"] == "queued"
    assert "Traceback" not in narrow.err(leaves)
    assert narrow.rbee("job", "cancel", keeps).returncode == 0
    assert stays.wait(20) == 0
    assert "hello" in narrow.out(stays)
    assert narrow.out(stays).splitlines()[-1].endswith(" ms")


def test_who_waits_is_listed_in_order_and_fits_a_terminal(narrow: Home) -> None:
    empty = narrow.rbee("job", "queue")
    assert (empty.stdout, "Nobody waits" in empty.stderr) == ("", True)
    run_forever(narrow)
    first, second = submit(narrow, "x"), submit(narrow, "x", priority="batch")
    body = json.loads(narrow.rbee("job", "queue", "--json").stdout)
    assert [j["job_id"] for j in body["jobs"]] == [first, second]
    table = narrow.rbee("job", "queue").stdout.splitlines()
    assert [line.split()[:4] for line in table[1:]] == [
        ["1", first, "api", "interactive"], ["2", second, "api", "batch"],
    ]  # fmt: skip
    assert table[1].endswith("all 1 slot(s) of w-01 are busy")
    for command in (("job", "queue"), ("job", "list"), ("why", first)):
        lines = on_a_terminal(narrow, *command).splitlines()
        assert max(map(len, lines)) <= 80, lines
    assert any(line.endswith("…") for line in on_a_terminal(narrow, "job", "list").splitlines())
    listed = narrow.rbee("job", "list", "--state", "queued").stdout
    assert "queued #1" in listed
    assert "…" not in listed


def test_why_names_the_options_and_all_decisions_on_demand(narrow: Home) -> None:
    assert narrow.rbee("infer", "-q", "--model", "echo", "x").returncode == 0
    job_id = last_job(narrow)["job_id"]
    short, whole = narrow.rbee("why", job_id).stdout, narrow.rbee("why", job_id, "--all").stdout
    assert short.startswith(f"{job_id}: echo, completed, 2 decisions\n")
    for told in (short, whole):
        assert "1. " in told
        assert "a worker is started on home cpu" in told
        assert "given to w-01" in told
    assert (short.count("TOTAL"), whole.count("TOTAL")) == (1, 2)
    assert "→  w-01" in short
    assert "→  home cpu" in whole
    body = json.loads(narrow.rbee("why", job_id, "--json").stdout)
    assert [d["verdict"] for d in body["decisions"]] == ["start", "run"]
    run_forever(narrow)
    waits = narrow.rbee("why", submit(narrow, "x")).stdout
    assert "now  it waits for w-01: all 1 slot(s) of w-01 are busy" in waits
    narrow.post("/v1/jobs", {"operation": "status"})
    status = wait_for(
        lambda: [j for j in narrow.get("/v1/jobs")["jobs"] if j["operation"] == "status"],
        what="the status job",
    )[0]["job_id"]
    nothing = narrow.rbee("why", status)
    assert (nothing.returncode, nothing.stdout) == (0, "")
    assert f"rbee job logs {status}" in nothing.stderr


def test_a_retry_prints_the_new_id_or_follows_the_answer(home: Home) -> None:
    assert home.rbee("infer", "-q", "--model", "echo", "@fail_after=1 a b").returncode == 1
    first = last_job(home)["job_id"]
    done = home.rbee("job", "retry", first)
    second = last_job(home)
    assert (done.returncode, done.stdout) == (0, f"{second['job_id']}\n")
    assert second["retry_of"] == first
    assert second["client"] == "cli"
    assert f"again after {first}" in home.rbee("job", "logs", second["job_id"]).stdout
    followed = home.rbee("job", "retry", first, "--follow")
    assert (followed.returncode, followed.stdout) == (1, "a \n")
    assert f"{first} is tried again as " in followed.stderr
    assert "INTERNAL_ERROR" in followed.stderr
    body = json.loads(home.rbee("job", "retry", first, "--json").stdout)
    assert body["job_id"] == last_job(home)["job_id"]


def test_a_cancelled_job_is_retried_and_ctrl_c_cancels_it_again(home: Home) -> None:
    process = home.start("infer", "--model", "echo", "@delay=50 @repeat=400 tick")
    wait_for(lambda: "tick" in home.out(process), what="a token")
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    again = home.start("job", "retry", "-f", last_job(home)["job_id"])
    wait_for(lambda: "tick" in home.out(again), what="a token of the second try")
    again.send_signal(signal.SIGINT)
    assert again.wait(20) == 130
    info = last_job(home)
    assert (info["state"], info["retry_of"] is not None) == ("cancelled", True)
    vectors = home.start("embed", "--model", "echo", "@hang_after=0 x")
    wait_for(lambda: any(w["slots_busy"] for w in home.workers()), what="a busy worker")
    vectors.send_signal(signal.SIGINT)
    assert vectors.wait(20) == 130
    embed = home.start("job", "retry", "-f", last_job(home)["job_id"])
    wait_for(lambda: any(w["slots_busy"] for w in home.workers()), what="the vectors again")
    embed.send_signal(signal.SIGINT)
    assert embed.wait(20) == 130


def test_given_up_jobs_are_listed_apart(home: Home) -> None:
    home.env["RBEE_JOB_ATTEMPTS"] = "1"
    assert home.rbee("queen", "start").returncode == 0
    nothing = home.rbee("job", "list", "--dead")
    assert (nothing.returncode, nothing.stdout) == (0, "")
    assert "No job was given up" in nothing.stderr
    assert home.rbee("infer", "-q", "--model", "echo", "@exit_after=1 a b c").returncode == 1
    job_id = last_job(home)["job_id"]
    assert "given up after 1 tries" in home.rbee("job", "list", "--dead").stdout
    shown = home.rbee("job", "show", job_id)
    assert f"rbee job retry {job_id}" in shown.stderr
    assert shown.stdout.endswith("\na \n")


def test_an_answer_that_goes_on_elsewhere_is_told(home: Home) -> None:
    process = home.start("infer", "--json", "--model", "echo", "@delay=50 @repeat=60 tick")
    wait_for(lambda: home.state and any(w["slots_busy"] for w in home.workers()), what="busy")
    job_id = last_job(home)["job_id"]
    wait_for(lambda: home.get(f"/v1/jobs/{job_id}")["tokens_out"] >= 3, what="some tokens")
    psutil.Process(home.workers()[0]["pid"]).kill()
    assert process.wait(60) == 0
    body = json.loads(home.out(process))
    assert (body["text"].split(), body["resumed"]) == (["tick"] * 60, 1)
    said = home.err(process)
    assert "w-01 was lost after " in said
    assert "tokens; w-02@home cpu goes on" in said
    story = home.rbee("job", "logs", job_id).stdout
    assert "resuming: " in story
    assert "(try 2)" in story
    assert "went on elsewhere once" in home.rbee("job", "list").stdout
    assert "given to w-02 (try 2)" in home.rbee("why", job_id).stdout


def test_a_drain_waits_for_the_work_and_ctrl_c_takes_it_back(home: Home) -> None:
    work = home.start("infer", "-q", "--model", "echo", "@hang_after=0 x")
    wait_for(lambda: home.state and any(w["slots_busy"] for w in home.workers()), what="busy")
    drain = home.start("worker", "drain", "w-01")
    wait_for(lambda: "takes no more work" in home.err(drain), what="the drain is told")
    assert "draining" in home.rbee("worker", "list").stdout
    assert home.rbee("worker", "health", "w-01").returncode == 1
    drain.send_signal(signal.SIGINT)
    assert drain.wait(20) == 130
    assert home.workers()[0]["draining"] is False
    assert "draining" not in home.rbee("worker", "list").stdout
    again = home.start("worker", "drain", "w-01", "--json")
    wait_for(lambda: home.workers()[0]["draining"], what="it drains again")
    work.send_signal(signal.SIGINT)
    assert (work.wait(20), again.wait(20)) == (130, 0)
    assert json.loads(home.out(again)) == {"worker_id": "w-01", "state": "stopped"}
    assert home.workers() == []
    gone = home.rbee("worker", "drain", "w-01")
    assert (gone.returncode, "NOT_FOUND" in gone.stderr) == (1, True)


def test_the_queue_and_the_priority_are_told_while_waiting(narrow: Home) -> None:
    run_forever(narrow)
    submit(narrow, "x")
    process = narrow.start("infer", "--model", "echo", "--priority", "batch", "hello")
    wait_for(lambda: "queued, 1 before you, about " in narrow.err(process), what="its place")
    assert last_job(narrow)["priority"] == "batch"
    late = narrow.rbee("infer", "--model", "echo", "--deadline-ms", "1", "x")
    assert (late.returncode, "QUEUE_FULL" in late.stderr) == (1, True)
    for job in narrow.get("/v1/jobs")["jobs"]:
        if job["finished_at"] is None:
            narrow.rbee("job", "cancel", job["job_id"])
    assert process.wait(20) == 130


@pytest.mark.parametrize(
    "words", [("job", "logs"), ("job", "retry"), ("job", "retry", "-f"), ("why",)]
)
def test_jobs_that_are_none(home: Home, words: tuple[str, ...]) -> None:
    for wrong in ("../workers", "J_1", "", "x" * 65):
        done = home.rbee(*words, "--", wrong)
        assert (done.returncode, "INVALID_REQUEST" in done.stderr) == (2, True)
    assert home.state is None
    unknown = home.rbee(*words, UNKNOWN)
    assert (unknown.returncode, "NOT_FOUND" in unknown.stderr) == (1, True)
    assert "rbee job list" in unknown.stderr


def test_flags_that_are_wrong_start_nothing(home: Home) -> None:
    for words in (
        ("job", "list", "--state", "asleep"),
        ("job", "list", "--limit", "0"),
        ("infer", "--model", "echo", "--priority", "soon", "x"),
        ("infer", "--model", "echo", "--deadline-ms", "0", "x"),
        ("embed", "--model", "echo", "--priority", "soon", "x"),
        ("worker", "drain", "W 1"),
    ):
        assert home.rbee(*words).returncode == 2, words
    assert home.state is None
