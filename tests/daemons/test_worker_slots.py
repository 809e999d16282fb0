"""The worker daemon with requests that run: its slots, what goes wrong, vectors."""

from __future__ import annotations

import threading

import httpx
import pytest
from worker_process import WorkerProcess, decoded


def busy(worker: WorkerProcess) -> int:
    return worker.http.get("/v1/health").json()["slots_busy"]


# -- slots -------------------------------------------------------------------------------------


def test_idle_busy_idle_and_all_slots_busy(hive, start):
    worker = start()
    with (
        worker.stream("@hang_after=1 a b", "r-1") as one,
        worker.stream("@hang_after=1 a b", "r-2") as two,
    ):
        assert next(one)["token"] == next(two)["token"] == "a "
        reply = worker.execute("third", "r-3")
        assert (reply.status_code, reply.headers["x-backoff-ms"]) == (503, "1000")
        error = reply.json()["error"]
        assert error["code"] == "ALL_SLOTS_BUSY"
        assert (error["details"]["slots_total"], error["details"]["slots_busy"]) == (2, 2)
        hive.wait(lambda beats: beats[-1]["slots_busy"] == 2)
        assert worker.http.get("/v1/ready").json()["state"] == "busy"
        assert worker.http.post("/v1/cancel", json={"request_id": "r-1"}).status_code == 204
        rest = list(one)
        assert rest[-2]["finish_reason"] == "cancelled"
        assert worker.execute("third", "r-3").json()["text"] == "third"
        assert worker.http.delete("/v1/inference/r-2").status_code == 204
        assert list(two)[-1] is None
    assert worker.http.delete("/v1/inference/r-2").status_code == 204
    hive.wait(lambda beats: beats[-1]["state"] == "idle")
    states = [beat["state"] for beat in hive.beats]
    assert states.index("busy") < len(states) - 1


def test_the_slot_is_free_when_the_last_event_arrives(start):
    worker = start(slots=1)
    for turn in range(50):
        assert worker.answer("again and again", f"r-{turn}").ended


def test_a_second_request_of_the_same_id_is_a_conflict(start):
    worker = start()
    with worker.stream("@hang_after=1 a b") as events:
        next(events)
        assert worker.execute("same id").status_code == 409


@pytest.mark.parametrize("streaming", [True, False])
def test_a_client_that_leaves_frees_the_slot(hive, start, streaming):
    worker = start(slots=1)
    if streaming:
        with worker.stream("@hang_after=1 a b") as events:
            next(events)
    else:
        with pytest.raises(httpx.ReadTimeout):
            worker.http.post(
                "/v1/execute",
                json={"request_id": "r", "prompt": "@hang_after=1 a b", "stream": False},
                timeout=0.3,
            )
    hive.wait(lambda beats: beats[-1]["state"] == "idle" and len(beats) > 2)
    assert busy(worker) == 0
    assert worker.execute("next").json()["text"] == "next"


def test_eight_at_once(start):
    worker = start(slots=8)
    answers: dict[int, str] = {}

    def ask(number: int) -> None:
        answers[number] = worker.answer(f"@repeat=200 word{number}", f"r-{number}").text

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(8):
        assert answers[number].split() == [f"word{number}"] * 200
    assert busy(worker) == 0


# -- errors ------------------------------------------------------------------------------------


def test_an_error_before_the_first_token_has_its_own_status(start):
    worker = start(ctx=64)
    for stream in (True, False):
        reply = worker.execute("word " * 100, stream=stream)
        assert reply.status_code == 400
        error = reply.json()["error"]
        assert error["code"] == "CONTEXT_LENGTH_EXCEEDED"
        assert (error["details"]["required"], error["details"]["available"]) == (101, 64)


def test_an_error_in_mid_stream_is_an_event_then_done(start):
    worker = start()
    answer = worker.answer("@fail_after=2 a b c")
    assert answer.text == "a b "
    assert answer.done["error"]["code"] == "INTERNAL_ERROR"
    assert answer.ended
    assert worker.execute("alive").json()["text"] == "alive"


def test_a_device_that_fails_ends_the_worker_once_its_hive_and_its_caller_know(hive, start):
    worker = start()
    answer = worker.answer("@break_after=2 a b c")
    assert answer.text == "a b "
    assert answer.done["error"]["code"] == "DEVICE_FAILED"
    assert answer.ended
    assert hive.wait_for_state("failed")["error"]["code"] == "DEVICE_FAILED"
    assert worker.exit_code() == 1
    assert "failed: echo was told that its device fails" in worker.log.splitlines()[-1]


def test_a_long_prefill_is_kept_alive_by_comments(start):
    answer = start().answer("@delay=6000 a")
    assert answer.comments[0] == "prefill"
    assert answer.text == "a"


def test_an_answer_goes_on_in_another_worker(start):
    words = "@exit_after=2 one two three four"
    first = start()
    with first.stream(words) as events:
        said = [next(events), next(events)]
    assert first.exit_code() == 3
    text = "".join(event["token"] for event in said)
    other = start(wait="")
    with other.http.stream("GET", "/v1/loading/progress") as stream:
        assert list(decoded(stream))[-1]["stage"] == "ready"
    rest = other.answer(words, ids=True, emitted=text, emitted_tokens=2, max_tokens=9)
    assert text + rest.text == "one two three four"
    assert [event["index"] for event in rest.events[:-1]] == [2, 3]
    assert not any("ids" in event for event in rest.events)
    assert (rest.done["total_tokens"], rest.done["usage"]["prompt_tokens"]) == (4, 5)


def test_a_backend_that_ends_the_process(start):
    worker = start()
    with worker.stream("@exit_after=2 a b c") as events:
        assert [next(events)["token"], next(events)["token"]] == ["a ", "b "]
        with pytest.raises(httpx.RemoteProtocolError):
            next(events)
    assert worker.exit_code() == 3


# -- vectors -----------------------------------------------------------------------------------


def test_texts_become_vectors_in_one_json_body(start):
    worker = start()
    for stream in (True, False):
        body = {"request_id": "e", "input": ["a bee", "A BEE", "a tax form"], "stream": stream}
        reply = worker.http.post("/v1/execute", json=body)
        assert reply.headers["content-type"].startswith("application/json")
        first, same, other = reply.json()["vectors"]
        assert first == same != other
        assert sum(x * x for x in first) == pytest.approx(1.0)
        assert reply.json()["usage"] == {"prompt_tokens": 7}
    whole = worker.http.post("/v1/execute", json=body | {"normalize": False}).json()
    assert sum(x * x for x in whole["vectors"][2]) == pytest.approx(3.0)


def test_texts_that_are_being_embedded_can_be_cancelled(hive, start):
    worker = start()
    replies: list[httpx.Response] = []
    body = {"request_id": "e", "input": ["@hang_after=0 x"]}
    reader = threading.Thread(
        target=lambda: replies.append(worker.http.post("/v1/execute", json=body))
    )
    reader.start()
    hive.wait_for_state("busy")
    assert worker.http.post("/v1/cancel", json={"request_id": "e"}).status_code == 204
    reader.join(30)
    assert replies[0].json()["finish_reason"] == "cancelled"
