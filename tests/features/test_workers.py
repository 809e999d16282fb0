"""Scenarios: the life of a worker."""

from __future__ import annotations

import json

import httpx
import psutil
from pytest_bdd import parsers, scenarios, then, when

from rbee.sse import Decoder
from tests.features.story import Story, read_stream
from tests.support.home import wait_for

scenarios("workers.feature")


@when(parsers.parse("I ask for a worker with {model}"))
def ask_worker(story: Story, model: str) -> None:
    reply = story.home.post("/v1/jobs", {"operation": "worker_spawn", "model": model})
    assert reply.status_code == 202, reply.text
    story.job = reply.json()["job_id"]


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


@then("no worker is listed")
def no_worker(story: Story) -> None:
    wait_for(lambda: not story.home.workers(), limit=10, what="no worker")


def token(story: Story) -> dict[str, str]:
    assert story.home.state is not None
    return {"Authorization": f"Bearer {story.home.state['token']}"}
