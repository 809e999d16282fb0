"""What was measured of the queen: rows, tables, JSON; and what tells a lost stream."""

from __future__ import annotations

import json

import pytest

from bench import litellm_venv
from bench.client import Stream
from bench.figures import Target
from bench.load import Wrong
from bench.queen.__main__ import arguments
from bench.queen.book import FLOOR, QUEEN, QUICK, Book, Row, Size, as_json, line, table
from bench.queen.cases import CASES, chosen, name_of, rows_of
from bench.queen.death_cases import WORDS, gap_after, lost, worker_of
from bench.queen.decision_case import timed

HEAD = b"HTTP/1.1 200 OK\r\nX-Rbee-Worker: w-07\r\nContent-Type: text/event-stream\r\n\r\n"


def book(ours: list[float], theirs: list[float]) -> Book:
    made = Book()
    for value in ours:
        made.add("events", QUEEN, {"cpu": value})
    for value in theirs:
        made.add("events", FLOOR, {"cpu": value})
    return made


def test_a_row_beside_the_bare_proxy():
    row = Row("cpu", "one event", "µs", "P5", FLOOR, Target(2.0, least=False), of_ratio=True)
    assert line(book([40, 42, 44], [20, 21, 22]), "events", row) == [
        *("P5", "one event", "µs", "42.0 (40.0–44.0)", "bare proxy: 21.0 (20.0–22.0)"),
        *("2.00", "2.00 (2.00–2.00)", "ratio ≤ 2", "yes"),
    ]


def test_a_target_of_the_value_itself():
    row = Row("cpu", "one event", "µs", "P5", FLOOR, Target(20, least=False))
    assert line(book([40], [20]), "events", row)[-2:] == ["≤ 20", "**no**"]


def test_how_many_times_less():
    row = Row("cpu", "", "µs", "", FLOOR, Target(15, least=True), of_ratio=True, inverse=True)
    found = book([100], [1600])
    assert found.met("events", row) is True
    assert line(found, "events", row)[5] == "16.00"


def test_what_is_absent_is_told_and_half_a_series_is_dropped():
    found = book([40, 41], [20])
    found.drop("events", FLOOR, "it did not start")
    row = Row("cpu", "one event", "µs", "P5", FLOOR, Target(2.0, least=False), of_ratio=True)
    assert line(found, "events", row)[-1] == "not measured"
    assert found.series("events", FLOOR, "cpu") == []
    text = table(found, [("events", row)])
    assert "- bare proxy was not measured: it did not start (events)" in text


def test_json_has_every_round():
    row = Row("cpu", "one event", "µs", "P5", FLOOR, Target(2.0, least=False), of_ratio=True)
    said = json.loads(json.dumps(as_json({}, {}, book([40, 44], [20, 20]), [("events", row)])))
    assert said["rows"][0]["rounds"] == {QUEEN: [40, 44], FLOOR: [20, 20]}
    assert said["rows"][0]["ratio"]["of_medians"] == pytest.approx(2.1)
    assert said["rows"][0]["met"] is False


def test_cases_can_be_chosen_and_say_which_target_they_are_for():
    assert chosen([]) == list(CASES)
    assert {name_of(case) for case in chosen(["streams", "events"])} == {"streams", "events"}
    numbers = {row.number for _, row in rows_of(CASES)} - {""}
    assert numbers == {f"P{n}" for n in (*range(4, 11), 13, 14, 15, 16)}
    keys = [(case, row.key, row.against) for case, row in rows_of(CASES)]
    assert len(keys) == len(set(keys))
    assert arguments(["--case", "streams"]).case == ["streams"]


def test_every_measured_fleet_and_number_of_streams_has_its_row():
    keys = {(case, row.key) for case, row in rows_of(CASES)}
    for size in (Size(), QUICK):
        assert all(("decision", f"p95_{count}") in keys for count in size.fleets)
        assert all((f"streams-{count}", "memory") in keys for count in size.streams)


def test_litellm_is_started_with_a_key_and_without_a_database():
    config = litellm_venv.config("stand-in", "http://127.0.0.1:1/v1")
    assert config["general_settings"] == {"master_key": litellm_venv.KEY}
    assert config["litellm_settings"]["num_retries"] == 0
    assert config["model_list"][0]["litellm_params"]["api_base"] == "http://127.0.0.1:1/v1"


def stream(words: int, *, tail: bytes = b"data: [DONE]\n\n", at: float = 0.0) -> Stream:
    made = Stream()
    made.chunks.append((at, HEAD))
    for number in range(words):
        delta = {"choices": [{"index": 0, "delta": {"content": "tick "}}]}
        made.chunks.append((at + number + 1, b"data: " + json.dumps(delta).encode() + b"\n\n"))
    made.chunks.append((at + words + 1, tail))
    return made


def test_a_whole_stream_is_not_lost():
    assert lost(stream(WORDS)) is None


@pytest.mark.parametrize("words", [WORDS - 1, WORDS + 1])
def test_a_stream_with_too_few_or_too_many_words_is_lost(words: int):
    assert str(words) in (lost(stream(words)) or "")


def test_a_stream_that_ends_with_an_error_is_lost():
    assert "WORKER" in (lost(stream(4, tail=b'data: {"error":{"code":"WORKER"}}\n\n')) or "")


def test_the_longest_silence_after_the_blow_counts_from_the_blow():
    found = stream(6)
    found.chunks[4:] = [(at + 2.5, data) for at, data in found.chunks[4:]]
    assert gap_after(found, 3.25) == pytest.approx(6.5 - 3.25)
    with pytest.raises(Wrong):
        gap_after(found, 99.0)


def test_who_serves_a_stream_stands_in_its_head():
    assert worker_of(stream(1)) == "w-07"
    with pytest.raises(Wrong, match="no worker is named"):
        worker_of(Stream())


def test_decisions_are_timed_among_busy_workers():
    verdicts, wholes = timed(100, decisions=20)
    assert len(verdicts) == len(wholes) == 20
    assert all(seconds > 0 for seconds in (*verdicts, *wholes))
