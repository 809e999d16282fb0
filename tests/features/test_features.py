"""The scenarios, on real processes: `smollm2-135m` is a real model, `echo` a steerable backend."""

from __future__ import annotations

import json
import sqlite3

import httpx
import psutil
import pytest
from pytest_bdd import parsers, scenarios, then

from rbee.sse import Decoder
from tests.features.conftest import Story, guards_and_workers, read_stream
from tests.support.home import wait_for

scenarios("first_token.feature", "workers.feature", "daemons.feature", "errors.feature")


# ---- first token ---------------------------------------------------------------------------------


@then("stderr tells that the queen was started and the model loaded")
def narrated(story: Story) -> None:
    assert "queen" in story.result.stderr
    assert "loading" in story.result.stderr


@then(parsers.parse("the job made {count:d} tokens or ended by itself"))
def made_tokens(story: Story, count: int) -> None:
    (job,) = story.home.get("/v1/jobs?state=completed")["jobs"]
    assert job["tokens_out"] == count or job["finish_reason"] == "stop"


@then(parsers.parse("one worker with {model} is idle"))
def one_idle(story: Story, model: str) -> None:
    (worker,) = story.home.workers()
    assert (worker["model"], worker["state"]) == (model, "idle")


@then("the same worker answered and no other was started")
def same_worker(story: Story) -> None:
    (worker,) = story.home.workers()
    assert worker["worker_id"] == story.worker
    assert story.home.get("/v1/jobs")["jobs"][0]["worker_id"] == story.worker


@then("the listed workers are none")
def none_listed(story: Story) -> None:
    listed = json.loads(story.result.stdout)
    assert (listed["workers"] if isinstance(listed, dict) else listed) == []


@then("its events are queued, started, tokens, metrics, end in this order")
def event_order(story: Story) -> None:
    kinds = [e.event for e in story.events if e.data != "[DONE]" and e.event != "status"]
    assert kinds[:2] == ["queued", "started"]
    assert set(kinds[2:-2]) == {"token"}
    assert kinds[-2:] == ["metrics", "end"]
    assert story.events[-1].data == "[DONE]"


@then("its ids count from 1 without gaps")
def ids(story: Story) -> None:
    numbers = [int(e.id or 0) for e in story.events if e.data != "[DONE]"]
    assert numbers == list(range(1, len(numbers) + 1))


@then("its tokens are numbered from 0")
def token_numbers(story: Story) -> None:
    numbers = [json.loads(e.data)["i"] for e in story.events if e.event == "token"]
    assert numbers == list(range(len(numbers)))


@then(parsers.parse("its end says {reason} and {count:d} tokens"))
def end_says(story: Story, reason: str, count: int) -> None:
    (end,) = [json.loads(e.data) for e in story.events if e.event == "end"]
    assert (end["finish_reason"], end["tokens_out"]) == (reason, count)


@then(parsers.parse("reading again after event {number:d} gives the rest only"))
def replay(story: Story, number: int) -> None:
    again = read_stream(story.home.url, story.job, after=number)
    assert again == story.events[number:]


@then("the job is cancelled")
def job_cancelled(story: Story) -> None:
    assert story.home.get(f"/v1/jobs/{story.job}")["state"] == "cancelled"


@then(parsers.parse("the worker has no busy slot within {seconds:d} seconds"))
def slot_free(story: Story, seconds: int) -> None:
    def free() -> bool:
        (worker,) = story.home.workers()
        health = httpx.get(worker["url"] + "/v1/health", trust_env=False).json()
        return worker["slots_busy"] == 0 and health["slots_busy"] == 0

    wait_for(free, limit=seconds, what="the slot is free")


# ---- workers -------------------------------------------------------------------------------------


@then("it is listed as loading, with address, pid, backend and device, and no slot")
def listed_loading(story: Story) -> None:
    def bound() -> dict[str, object] | None:
        workers = story.home.workers()
        return workers[0] if workers and workers[0]["url"] else None

    worker = wait_for(bound, what="a worker with an address")
    assert worker["state"] == "loading"
    assert worker["slots_total"] == 0
    assert (worker["backend"], worker["device"]) == ("echo", "cpu")
    assert psutil.pid_exists(int(str(worker["pid"])))


@then("asking it whether it is ready gets 503 with the progress address")
def ready_503(story: Story) -> None:
    (worker,) = story.home.workers()
    reply = httpx.get(worker["url"] + "/v1/ready", headers=token(story), trust_env=False)
    assert reply.status_code == 503
    body = reply.json()
    assert (body["ready"], body["state"]) == (False, "loading")
    assert body["progress_url"].endswith("/v1/loading/progress")
    assert httpx.get(worker["url"] + "/v1/ready", trust_env=False).status_code == 401


@then("its progress stream ends with ready")
def progress_ready(story: Story) -> None:
    (worker,) = story.home.workers()
    decoder = Decoder()
    stages: list[dict[str, object]] = []
    url = worker["url"] + "/v1/loading/progress"
    with httpx.stream("GET", url, headers=token(story), timeout=30, trust_env=False) as reply:
        for chunk in reply.iter_raw():
            stages += [
                json.loads(e.data) for e in decoder.feed(chunk) if e.data and e.data != "[DONE]"
            ]
    assert stages[-1]["stage"] == "ready"
    assert any(0 < float(str(s.get("progress") or 0)) < 1 for s in stages)


@then("the job that asked for it told its progress and ended")
def spawn_job(story: Story) -> None:
    events = read_stream(story.home.url, story.job)
    progress = [json.loads(e.data).get("progress") for e in events if e.event == "status"]
    assert any(p is not None and 0 < p < 1 for p in progress)
    assert [e.event for e in events if e.data != "[DONE]"][-2:] == ["result", "end"]


@then("it is then idle with free slots")
def then_idle(story: Story) -> None:
    (worker,) = story.home.workers()
    assert worker["state"] == "idle"
    assert worker["slots_total"] > worker["slots_busy"] == 0
    reply = httpx.get(worker["url"] + "/v1/ready", headers=token(story), trust_env=False)
    assert reply.json() == {"ready": True, "state": "idle"}


@then("stdout names the worker, its model and its state")
def table(story: Story) -> None:
    for text in (story.worker, "smollm2-135m", "idle"):
        assert text in story.result.stdout


@then("another worker answered")
def another(story: Story) -> None:
    assert story.home.get("/v1/jobs")["jobs"][0]["worker_id"] not in (None, story.worker)


@then("no worker is listed")
def no_worker(story: Story) -> None:
    wait_for(lambda: not story.home.workers(), limit=10, what="no worker")


# ---- daemons -------------------------------------------------------------------------------------


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
    assert sum("queen.main" in " ".join(p.cmdline()) for p in story.home.processes()) == 1


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


@then("the running job has ended with a code")
def running_lost(story: Story) -> None:
    job = story.home.get(f"/v1/jobs/{story.jobs[-1]}")
    assert (job["state"], job["error_code"]) == ("failed", "WORKER_LOST")


@then(parsers.parse("{count:d} worker is left within {seconds:d} seconds"))
def workers_left(story: Story, count: int, seconds: int) -> None:
    wait_for(lambda: len(story.home.workers()) == count, limit=seconds, what=f"{count} left")


@then(parsers.parse("its workers are gone within {seconds:d} seconds"))
def hive_workers_gone(story: Story, seconds: int) -> None:
    def workers() -> list[psutil.Process]:
        return [p for p in story.home.processes() if "worker.main" in " ".join(p.cmdline())]

    wait_for(lambda: not workers(), limit=seconds, what="the hive's workers are gone")


@then("the queen says that it is offline")
def hive_offline(story: Story) -> None:
    wait_for(lambda: not story.home.get("/v1/hives")["hives"][0]["online"], limit=10)


# ---- errors and settings -------------------------------------------------------------------------


@then(parsers.parse("the answer has status {status:d} and code {code} with a suggested action"))
def error_answer(story: Story, status: int, code: str) -> None:
    assert story.reply.status_code == status, story.reply.text
    error = story.reply.json()["error"]
    assert error["code"] == code
    assert error["message"]
    assert error["details"]["suggested_action"]
    assert story.reply.headers["x-correlation-id"]


@then("the settings file is there with every default")
def settings_written(story: Story) -> None:
    text = (story.home.path / "config" / "config.toml").read_text("utf-8")
    for key in ("[queen]", "port = 8500", "linger = 300.0", "keep_alive = 300.0", "ctx = 4096"):
        assert key in text


@then("the paths are this user's")
def user_paths(story: Story) -> None:
    paths = json.loads(story.result.stdout)
    for name in ("config", "data", "state", "cache"):
        assert str(paths[name]).startswith(str(story.home.path))


@then(parsers.parse("{key} is {value} from {origin}"))
def setting(story: Story, key: str, value: str, origin: str) -> None:
    shown = json.loads(story.result.stdout)
    entry = shown["settings"][key] if "settings" in shown else shown[key]
    assert float(entry["value"]) == float(value) if value.isdigit() else entry["value"] == value
    where = str(entry["origin"])
    assert ("config.toml:" in where) if origin == "the file" else (where == origin)


def token(story: Story) -> dict[str, str]:
    assert story.home.state is not None
    return {"Authorization": f"Bearer {story.home.state['token']}"}
