"""The same request in each server's words, and answers out of each server's events."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bench.dialects import (
    Answer,
    Ask,
    Reader,
    failures,
    llama_server_body,
    openai_body,
    read_answer,
    read_llama_server,
    read_openai,
    read_worker,
    worker_body,
)
from bench.http_bytes import Event, Reply
from bench.load import Load, Wrong, load_of
from rbee.protocol.base import decode
from rbee.protocol.workers import Execute

WORKER: list[Any] = [
    {"token": "Hel", "index": 0},
    {"token": "lo", "index": 1},
    {
        "done": True,
        "total_tokens": 3,
        "finish_reason": "length",
        "usage": {"prompt_tokens": 9, "completion_tokens": 3, "cached_tokens": 4},
    },
    "[DONE]",
]
LLAMA: list[Any] = [
    {"content": "Hel", "tokens": [1], "stop": False},
    {"content": "lo", "tokens": [2], "stop": False},
    {
        "content": "",
        "stop": True,
        "stop_type": "limit",
        "tokens_predicted": 3,
        "tokens_evaluated": 9,
        "timings": {"cache_n": 4},
    },
]
OPENAI: list[Any] = [
    {"choices": [{"delta": {"role": "assistant"}, "finish_reason": None}]},
    {"choices": [{"delta": {"content": "Hel"}, "finish_reason": None}]},
    {"choices": [{"text": "lo", "finish_reason": None}]},
    {"choices": [{"delta": {}, "finish_reason": "length"}]},
    {
        "choices": [],
        "usage": {
            "prompt_tokens": 9,
            "completion_tokens": 3,
            "prompt_tokens_details": {"cached_tokens": 4},
        },
    },
    "[DONE]",
]


def reply(events: list[Any], status: int = 200) -> Reply:
    texts = [e if isinstance(e, str) else json.dumps(e) for e in events]
    made = tuple(Event(float(n), text.encode()) for n, text in enumerate(texts))
    return Reply(status, {}, "".join(texts).encode(), made)


@pytest.mark.parametrize(
    "reader, events, times",
    [
        (read_worker, WORKER, (0.0, 1.0)),
        (read_llama_server, LLAMA, (0.0, 1.0)),
        (read_openai, OPENAI, (1.0, 2.0)),
    ],
)
def test_each_dialect_says_the_same(reader: Reader, events: list[Any], times: tuple[float, ...]):
    answer = read_answer(reply(events), reader)
    assert answer == Answer(times, 3, prompt_tokens=9, cached_tokens=4, finish="length")


def test_without_a_count_each_event_with_text_is_a_token():
    assert read_answer(reply(OPENAI[:4]), read_openai).tokens == 2


@pytest.mark.parametrize(
    "given, said",
    [
        (reply([*WORKER[:1], {"error": {"code": "INTERNAL"}}]), "INTERNAL"),
        (reply(WORKER[:2]), "without saying how"),
        (reply(["no json"]), "no JSON"),
        (reply(["[1]"]), "no object"),
        (reply([{"error": "busy"}], status=503), "status 503"),
    ],
)
def test_failures_are_told(given: Reply, said: str):
    answer = read_answer(given, read_worker)
    assert said in answer.error
    assert failures([answer, answer]) == [answer.error]


def test_an_answer_without_a_token_is_a_failure():
    assert failures([Answer(finish="stop")]) == ["no token came"]


def test_bodies_agree():
    ask = Ask("Once", 7, sampled=True, seed=5, stop=("x",))
    worker, llama = worker_body(ask, request_id="r-1"), llama_server_body(ask)
    openai = openai_body(ask, model="m", ignore_eos=True)
    same = ["temperature", "top_k", "top_p", "min_p", "seed"]
    assert [[body[key] for key in same] for body in (worker, llama, openai)] == [
        [0.7, 40, 0.95, 0.05, 5]
    ] * 3
    assert worker["max_tokens"] == llama["n_predict"] == openai["max_tokens"] == 7
    assert worker["ignore_eos"] is llama["ignore_eos"] is openai["ignore_eos"] is True
    assert worker["stop"] == llama["stop"] == ["x"]


def test_the_workers_own_decoder_takes_the_body():
    body = worker_body(Ask("Hi", 3, chat=True), request_id="r-1")
    order = decode(json.dumps(body), Execute)
    assert order.prompt is None
    assert order.messages == [{"role": "user", "content": "Hi"}]
    assert (order.temperature, order.max_tokens, order.stream) == (0.0, 3, True)


def test_a_server_that_does_not_know_the_word_is_not_told_it():
    assert "ignore_eos" not in openai_body(Ask("Hi", 3), model="m", ignore_eos=False)


def test_rates_and_waits_of_a_load():
    one = Answer((2.0, 3.0), tokens=10, finish="length")
    two = Answer((4.0, 6.0), tokens=20, finish="stop")
    load = Load((one, two), (1.0, 1.5))
    assert (load.tokens, load.seconds, load.rate, load.cut) == (30, 5.0, 6.0, 1)
    assert load.first_tokens == [1.0, 2.5]


def test_a_stream_without_a_reply_is_wrong():
    from bench.client import Stream

    with pytest.raises(Wrong, match="no end of the header"):
        load_of([Stream()], read_worker)
