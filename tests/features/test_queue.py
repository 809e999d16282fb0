"""Scenarios: who waits, for how long, and why; and what becomes of workers that nobody needs."""

from __future__ import annotations

import httpx
import psutil
from pytest_bdd import given, parsers, scenarios, then, when

from tests.features.story import BUSY, Story
from tests.support.colony import words
from tests.support.home import wait_for
from tests.support.told import follow

BATCH = words(60)
scenarios("queue.feature")


# ---- given ---------------------------------------------------------------------------------------


@given(parsers.parse("workers with {count:d} slot"))
def slots(story: Story, count: int) -> None:
    story.home.env["RBEE_WORKER_SLOTS"] = str(count)


@given(parsers.parse("room for {count:d} in the queue"))
def room(story: Story, count: int) -> None:
    story.home.env["RBEE_QUEEN_QUEUE_CAPACITY"] = str(count)


@given(parsers.parse("interactive work waits for {seconds:d} second at most"))
def preempt(story: Story, seconds: int) -> None:
    story.home.env["RBEE_QUEEN_PREEMPT_AFTER"] = str(seconds)


@given(parsers.parse("a client {name} with 1 answer under way and {count:d} questions waiting"))
def client_at_work(story: Story, name: str, count: int) -> None:
    story.job = ask(story, name, BUSY)
    running(story)
    client_waits(story, name, count)


@given(parsers.parse("a client {name} with {count:d} question waiting"))
def client_waits(story: Story, name: str, count: int) -> None:
    jobs = [ask(story, name, f"{name} asks {n}") for n in range(count)]
    assert {story.home.get(f"/v1/jobs/{job}")["state"] for job in jobs} == {"queued"}
    story.asked[name] = jobs


@given(parsers.parse("a batch answer under way and {count:d} more in the queue"))
def batch_at_work(story: Story, count: int) -> None:
    story.job = ask(story, "night", f"@delay=100 {BATCH}", priority="batch")
    running(story)
    story.asked["night"] = [ask(story, "night", f"row {n}", priority="batch") for n in range(count)]


@given("an echo was answered")
def echo_answered(story: Story) -> None:
    done = story.home.rbee("infer", "--model", "echo", "warm")
    assert done.returncode == 0, done.stderr
    (worker,) = story.home.workers()
    story.worker, story.process = worker["worker_id"], psutil.Process(worker["pid"])


@given(parsers.parse("an answer that must be on {machine}'s {device}, where there is none"))
def impossible(story: Story, machine: str, device: str) -> None:
    story.job = ask(story, "api", "x", hive=machine, device=device)


# ---- when ----------------------------------------------------------------------------------------


@when("the answer under way is cancelled")
def cancel(story: Story) -> None:
    url = f"{story.home.url}/v1/jobs/{story.job}"
    assert httpx.delete(url, timeout=10, trust_env=False).status_code == 200


@when("the worker is drained")
def drain(story: Story) -> None:
    story.process = psutil.Process(story.colony.workers()[story.worker]["pid"])
    story.many = [story.home.start("worker", "drain", story.worker)]
    wait_for(lambda: story.colony.workers()[story.worker]["draining"], what="it drains")


@when("its worker has been idle for too long")
def idle(story: Story) -> None:
    wait_for(lambda: not story.home.workers(), limit=15, what="the worker is gone")


# ---- then ----------------------------------------------------------------------------------------


@then("everyone is answered")
@when("everyone is answered")
def all_answered(story: Story) -> None:
    for jobs in story.asked.values():
        for job in jobs:
            told = follow(story.home.url, job).whole()
            assert told.end == "end", told.events
            assert len(told.text.split()) in (2, 3)


@then("I am told my place in the queue, and a time")
def place_told(story: Story) -> None:
    accepted = story.reply.json()
    queue = story.home.get("/v1/queue")
    order = [job["job_id"] for job in queue["jobs"]]
    place = order.index(accepted["job_id"]) + 1
    assert queue["depth"]["interactive"] == len(order) == 3
    assert queue["jobs"][place - 1]["eta_ms"] > 0
    told = follow(story.home.url, accepted["job_id"], until=lambda told: bool(told.of("queued")))
    (queued,) = told.of("queued")
    assert queued["eta_ms"] > 0
    # After the first of A's, with the same counter; and before both once A's answer has cost more.
    assert 2 == queued["position"] >= accepted["queue_position"] >= place


@then("it says when to come back")
def come_back(story: Story) -> None:
    assert story.reply.status_code == 429
    assert story.reply.json()["error"]["code"] == "QUEUE_FULL"
    seconds = int(story.reply.headers["retry-after"])
    assert seconds > 0
    assert int(story.reply.headers["x-backoff-ms"]) == seconds * 1000


@then(parsers.parse("the question of {name} was answered before all but {count:d} of {other}'s"))
def fair(story: Story, name: str, count: int, other: str) -> None:
    def began(client: str) -> list[float]:
        return [story.home.get(f"/v1/jobs/{job}")["started_at"] for job in story.asked[client]]

    (mine,) = began(name)
    assert sum(theirs < mine for theirs in began(other)) <= count


@then("the batch answer has not ended yet")
def batch_goes_on(story: Story) -> None:
    assert story.home.get(f"/v1/jobs/{story.job}")["finished_at"] is None


@then("the batch answer was put back once and is whole")
def put_back(story: Story) -> None:
    told = follow(story.home.url, story.job).whole()
    assert (told.end, told.text) == ("end", BATCH)
    assert [data["attempt"] for data in told.of("started")] == [1, 2]
    assert sum("put back" in data["message"] for data in told.of("status")) == 1
    job = story.home.get(f"/v1/jobs/{story.job}")
    assert (job["resumes"], job["dead"], job["error_code"]) == (1, False, None)


@then(parsers.parse("it is counted in {name}"))
def counted(story: Story, name: str) -> None:
    text = httpx.get(f"{story.home.url}/metrics", timeout=10, trust_env=False).text
    (line,) = [line for line in text.splitlines() if line.startswith(name)]
    assert float(line.rpartition(" ")[2]) == 1


@then("it was answered by the drained worker alone")
def by_drained(story: Story) -> None:
    told = follow(story.home.url, story.job).whole()
    assert [data["worker_id"] for data in told.of("started")] == [story.worker]


@then("the drain ends and the worker's process is gone")
def drained(story: Story) -> None:
    (drain,) = story.many
    assert drain.wait(20) == 0, story.home.err(drain)
    assert not story.process.is_running()
    assert story.worker not in story.colony.workers()
    assert story.colony.online() == {"attic", "cellar"}


@then("its process is gone and its hive stays")
def idle_gone(story: Story) -> None:
    story.process.wait(10)
    (hive,) = story.home.get("/v1/hives")["hives"]
    assert (hive["online"], hive["workers"]) == (True, 0)


@then("it was refused with the sentence of that place")
def refused(story: Story) -> None:
    told = follow(story.home.url, story.job).whole()
    (error,) = told.of("error")
    story.text = error["message"]
    assert "cellar" in story.text
    assert "cuda:0" in story.text


@then("it tells me that sentence")
def sentence(story: Story) -> None:
    assert story.text in story.result.stdout


@then("its decision is there as JSON, with every place")
def decision(story: Story) -> None:
    why = story.home.get(f"/v1/jobs/{story.job}/decision")
    assert (why["job_id"], why["state"]) == (story.job, "failed")
    (last,) = why["decisions"]
    assert (last["verdict"], last["reason"]) == ("refuse", story.text)
    sentences = [option["why"] for option in last["options"] if not option["passed"]]
    assert story.text in sentences
    assert any(story.worker in one and "not cellar cuda:0 as asked" in one for one in sentences)


def ask(story: Story, client: str, prompt: str, **fields: str) -> str:
    body = {"operation": "infer", "model": "echo", "prompt": prompt, **fields}
    headers = {"X-Rbee-Client": client}
    url = f"{story.home.url}/v1/jobs"
    reply = httpx.post(url, json=body, headers=headers, timeout=30, trust_env=False)
    assert reply.status_code == 202, reply.text
    return reply.json()["job_id"]


def running(story: Story) -> None:
    wait_for(lambda: story.home.get(f"/v1/jobs/{story.job}")["state"] == "running", what="it runs")
