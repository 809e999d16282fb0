"""Scenarios: from nothing to a streamed answer."""

from __future__ import annotations

import json
import signal

import httpx
from pytest_bdd import parsers, scenarios, then, when

from tests.features.story import Story, read_stream, submit
from tests.support.home import wait_for

scenarios("first_token.feature")


@when(parsers.parse("I submit an echo job of {count:d} words and read its stream"))
def submit_and_read(story: Story, count: int) -> None:
    story.job = submit(story, " ".join(f"word{n}" for n in range(count)))
    story.events = read_stream(story.home.url, story.job)


@when("I press Ctrl+C there")
def ctrl_c(story: Story) -> None:
    story.background.send_signal(signal.SIGINT)


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
