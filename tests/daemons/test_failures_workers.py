"""Workers that are killed or hang at each stage, with another machine beside theirs."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psutil
import pytest

from rbee.sse import Decoder
from tests.support.colony import Colony, words
from tests.support.home import Home, wait_for

STORY = words(40)
PROMPT = f"@delay=50 {STORY}"
CHAT = {"model": "echo", "messages": [{"role": "user", "content": PROMPT}]}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Colony]:
    """Two machines; three silent seconds of a worker are enough to notice. After all deaths the
    queen has as many files open as before."""
    colony = Colony(
        Home(tmp_path_factory.mktemp("failures")), ("attic", "cellar"),
        RBEE_WORKER_HEARTBEAT="0.5", RBEE_WORKER_STALE_AFTER="3", RBEE_WORKER_REMOVE_AFTER="4",
        RBEE_WORKER_SLOTS="3",
    )  # fmt: skip
    try:
        files = colony.files()
        yield colony
        colony.until_files(files)
    finally:
        colony.close()


@pytest.fixture
def colony(world: Colony) -> Iterator[Colony]:
    yield world
    world.clear()


def test_every_kind_of_caller_gets_one_whole_answer_when_the_worker_is_killed(
    colony: Colony,
) -> None:
    first = colony.start_worker("attic")
    with ThreadPoolExecutor() as callers:
        whole = callers.submit(chat, colony, stream=False)
        chunks = callers.submit(chat, colony, stream=True)
        job = colony.infer(PROMPT)
        reader = colony.reader(job)
        wait_for(lambda: len(colony.jobs("running")) == 3, what="all three answer")
        colony.until_said(job, 5)
        colony.signal_worker(first)

        told = reader.whole()
        reply = whole.result().json()
        decoder = Decoder()
        data = [event.data for event in decoder.feed(chunks.result().content) if event.data]

    assert told.text == STORY
    assert [(data["hive"], data["attempt"]) for data in told.of("started")] == [
        ("attic", 1), ("cellar", 2),
    ]  # fmt: skip
    assert told.of("metrics")[-1]["resumed"] == 1
    assert reply["choices"][0]["message"]["content"] == STORY
    assert reply["usage"]["completion_tokens"] == len(STORY.split())
    assert reply["usage"]["x_rbee_resumed"] == 1
    assert data[-1] == "[DONE]"
    assert said(data) == STORY
    assert [chunk["choices"][0]["finish_reason"] for chunk in parsed(data)][-1] == "stop"
    assert colony.job(job)["resumes"] == 1


def test_whatever_a_killed_worker_was_doing_is_done_by_another(colony: Colony) -> None:
    first = colony.start_worker("attic")
    answering = [colony.infer(PROMPT) for _ in range(2)]
    prompted = colony.infer("@delay=2500 late")
    waiting = [colony.infer(words(3, f"q{n}-"), hive="attic") for n in range(3)]
    readers = {job: colony.reader(job) for job in (*answering, prompted, *waiting)}
    colony.until_said(answering[0], 5)
    assert colony.until(prompted, "dispatched")["tokens_out"] == 0
    assert [colony.job(job)["state"] for job in waiting] == ["queued"] * 3
    drain = colony.reader(colony.post({"operation": "worker_drain", "worker_id": first}))
    wait_for(lambda: colony.workers()[first]["draining"], what="draining")
    colony.signal_worker(first)

    texts = {job: reader.whole().text for job, reader in readers.items()}
    assert [texts[job] for job in answering] == [STORY] * 2
    assert texts[prompted] == "late"
    assert [texts[job] for job in waiting] == [words(3, f"q{n}-") for n in range(3)]
    assert {readers[job].told.end for job in readers} == {"end"}
    assert drain.whole().end == "end"
    assert first not in colony.workers()


def test_a_worker_killed_while_it_loads_is_not_waited_for(colony: Colony) -> None:
    job = colony.infer("slowly", model="echo-slow")
    reader = colony.reader(job)

    def loading() -> str | None:
        return next((w for w, of in colony.workers().items() if of["url"]), None)

    first = wait_for(loading, what="a worker with an address")
    assert first is not None
    place = colony.workers()[first]["hive"]
    colony.signal_worker(first)
    told = reader.whole()
    assert (told.end, told.text) == ("end", "slowly")
    assert [data["hive"] for data in told.of("started")] == [
        "cellar" if place == "attic" else "attic"
    ]


def test_a_worker_that_hangs_in_an_answer_is_killed_and_its_answer_goes_on(colony: Colony) -> None:
    first = colony.start_worker("attic")
    job = colony.infer(PROMPT)
    reader = colony.reader(job)
    colony.until_said(job, 5)
    pid = colony.signal_worker(first, signal.SIGSTOP)
    told = reader.whole()
    assert told.text == STORY
    assert [data["hive"] for data in told.of("started")] == ["attic", "cellar"]
    assert any("hung" in data["message"] for data in told.of("status"))
    wait_for(lambda: not psutil.pid_exists(pid), what="the hanging process is gone")
    assert first not in colony.workers()


@pytest.mark.s47
def test_an_idle_worker_that_misses_its_beats_is_removed_and_its_hive_stays(colony: Colony) -> None:
    first = colony.start_worker("attic")
    pid = colony.signal_worker(first, signal.SIGSTOP)
    colony.until_gone(first)
    wait_for(lambda: not psutil.pid_exists(pid), what="its process is gone")
    assert colony.online() == {"attic", "cellar"}
    told = colony.follow(colony.infer("after that"))
    assert told.whole().text == "after that"


def test_a_machine_that_hangs_is_given_up_and_taken_back_when_it_goes_on(colony: Colony) -> None:
    """Its workers could answer on; but nobody can tell, start or stop them."""
    first = colony.start_worker("attic")
    job = colony.infer(f"@delay=300 {STORY}")
    reader = colony.reader(job)
    colony.until_said(job, 2)
    with colony.halted("attic"):
        wait_for(lambda: colony.online() == {"cellar"}, what="attic is offline")
        assert first not in colony.workers()
        told = colony.follow(colony.infer("meanwhile"))
        assert told.of("started")[0]["hive"] == "cellar"
    wait_for(lambda: colony.online() == {"attic", "cellar"}, what="attic is back")
    told = reader.whole()
    assert (told.end, told.text) == ("end", STORY)
    assert [data["hive"] for data in told.of("started")] == ["attic", "cellar"]
    again = colony.follow(colony.infer("and again", hive="attic"))
    assert again.whole().text == "and again"


def test_a_machine_that_dies_with_many_answers_and_questions_loses_none(colony: Colony) -> None:
    colony.start_worker("attic")
    answering = [colony.infer(PROMPT) for _ in range(3)]
    asked = dict.fromkeys(answering, STORY)
    readers = {job: colony.reader(job) for job in asked}
    for job in answering:
        colony.until_said(job, 5)
    waiting = {colony.infer(text): text for text in (words(3, f"q{n}-") for n in range(4))}
    readers |= {job: colony.reader(job) for job in waiting}
    pids = colony.kill_hive("attic")
    texts = {job: reader.whole().text for job, reader in readers.items()}
    assert texts == asked | waiting, [reader.told.events[-2] for reader in readers.values()]
    assert {reader.told.end for reader in readers.values()} == {"end"}
    for job in answering:
        assert readers[job].told.of("started")[-1]["hive"] == "cellar"
    wait_for(lambda: not any(psutil.pid_exists(pid) for pid in pids), what="its workers are gone")
    colony.start_hives(["attic"])


def chat(colony: Colony, *, stream: bool) -> httpx.Response:
    reply = httpx.post(
        f"{colony.url}/v1/chat/completions", json=CHAT | {"stream": stream}, timeout=60,
        trust_env=False,
    )  # fmt: skip
    assert reply.status_code == 200, reply.text
    return reply


def parsed(data: list[str]) -> list[dict[str, Any]]:
    return [json.loads(text) for text in data if text != "[DONE]"]


def said(data: list[str]) -> str:
    return "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in parsed(data))
