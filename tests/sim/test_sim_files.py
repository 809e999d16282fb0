"""Traces and fleets: what is shipped can be read, and what is wrong is said with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from rbee.errors import InvalidRequest, NotFound
from rbee.sim.asks import conversations
from rbee.sim.files import shipped
from rbee.sim.fleets import load_fleet
from rbee.sim.traces import load_trace

TRACE = """\
title = "mine"
ctx = 4096

[models.small]
size = 1.0
parameters = 1.0

[models.large]
size = 9.0
parameters = 14.0

[[stream]]
client = "a"
model = "small"
prompt = 100
answer = [10, 50]
every = 5.0

[[stream]]
client = "b"
model = "large"
prompt = [20, 40]
answer = 10
every = 5.0

[[failure]]
at = 5.0
worker = "busiest"
"""
FLEET = """\
title = "mine"

[[hive]]
name = "one"
[[hive.device]]
name = "cuda:0"
label = "card"
memory = 24.0
bandwidth = 900.0
tflops = 50.0

[[hive]]
name = "two"
[[hive.device]]
name = "cpu"
label = "cores"
memory = 24.0
bandwidth = 50.0
tflops = 1.0
"""
HEADER = '{"title": "list", "models": {"m": {"size": 1, "parameters": 1}}, "ctx": 1024}'
LINE = '{"at": 1, "client": "a", "model": "m", "prompt": 10, "answer": 10}'


def read(folder: Path, text: str, name: str = "mine.toml"):
    file = folder / name
    file.write_text(text, "utf-8")
    return load_trace(str(file))


@pytest.mark.parametrize("name", shipped("traces"))
def test_a_shipped_trace_can_be_read_and_names_a_shipped_fleet(name: str):
    trace = load_trace(name)
    assert load_fleet(trace.fleet).hive
    talks = list(conversations(trace, trace.seed))
    assert 40 < sum(map(len, talks)) < 5000


def test_there_are_the_traces_that_are_promised():
    assert {"chat", "abab", "burst", "three-models"} <= set(shipped("traces"))
    assert {"home", "one-gpu"} <= set(shipped("fleets"))
    assert len(load_fleet("home").hive) == 5


def test_what_was_just_written_is_right(tmp_path: Path):
    trace = read(tmp_path, TRACE)
    assert [stream.client for stream in trace.stream] == ["a", "b"]
    (tmp_path / "fleet.toml").write_text(FLEET)
    assert [hive.name for hive in load_fleet(str(tmp_path / "fleet.toml")).hive] == ["one", "two"]


@pytest.mark.parametrize(
    "old, new, line, said",
    [
        ('title = "mine"\n', 'title = "mine\n', 1, "Illegal"),
        ('title = "mine"\n', "", None, "title"),
        ("size = 9.0", "sized = 9.0", 9, "sized"),
        ("size = 9.0", "size = -9.0", 9, "models.large.size"),
        ('model = "large"', 'model = "huge"', 21, "'huge' is none of the trace's models"),
        ("prompt = [20, 40]", "prompt = [40, 20]", 22, "40 is more than 20"),
        ("prompt = [20, 40]", "prompt = [40]", 22, "[least, most]"),
        ("prompt = [20, 40]", "prompt = 0", 22, "less than 1"),
        ("prompt = [20, 40]", "prompt = 5000", 22, "ctx is 4096"),
        ("every = 5.0\n\n[[failure]]", "every = 0\n\n[[failure]]", 24, "every"),
        ("every = 5.0\n\n[[failure]]", "every = 0.001\nclients=9\n[[failure]]", 24, "1000000"),
        ('worker = "busiest"', 'hive = "x"\nback = 1.0', 29, "later than it went"),
        ('worker = "busiest"', 'worker = "w-01"\nhive = "x"', 27, "either a worker or a hive"),
        ("ctx = 4096", 'ctx = 4096\npreload = ["none"]', 3, "'none'"),
    ],
)
def test_a_wrong_trace_says_where(tmp_path: Path, old: str, new: str, line: int | None, said: str):
    assert TRACE.count(old) == 1 or old.startswith("title")
    with pytest.raises(InvalidRequest) as caught:
        read(tmp_path, TRACE.replace(old, new))
    where = f"mine.toml:{line}: " if line is not None else "mine.toml"
    assert where in caught.value.message
    assert said in caught.value.message
    assert "docs/simulation.md" in caught.value.action


@pytest.mark.parametrize(
    "lines, number, said",
    [
        (["{"], 1, "not JSON"),
        ([LINE], 1, "unknown field `at`"),
        ([HEADER, LINE, "nonsense"], 3, "not JSON"),
        ([HEADER, LINE, "", LINE.replace('"m"', '"n"')], 4, "'n' is none"),
        ([HEADER, LINE, LINE.replace('"at": 1', '"at": 0.5')], 3, "before the one above"),
        ([HEADER, LINE.replace('"answer": 10', '"answer": 1020')], 2, "ctx is 1024"),
        ([HEADER, LINE.replace("answer", "reply")], 2, "reply"),
        ([""], 1, "first line"),
    ],
)
def test_a_wrong_list_says_which_line(tmp_path: Path, lines: list[str], number: int, said: str):
    with pytest.raises(InvalidRequest) as caught:
        read(tmp_path, "\n".join(lines), "mine.jsonl")
    assert f"mine.jsonl:{number}: " in caught.value.message
    assert said in caught.value.message


def test_nobody_who_asks_is_an_error(tmp_path: Path):
    with pytest.raises(InvalidRequest, match="nobody asks"):
        read(tmp_path, HEADER, "mine.jsonl")


def test_a_list_keeps_what_a_conversation_said(tmp_path: Path):
    line = LINE.removesuffix("}") + ', "conversation": "c"}'
    trace = read(tmp_path, "\n".join([HEADER, line, line]), "mine.jsonl")
    first, second = (talk[0].ask for talk in conversations(trace, 1))
    assert second.segments[:2] == (*first.segments, first.answer)
    assert second.prompt == 30


@pytest.mark.parametrize(
    "old, new, line, said",
    [
        ('name = "two"', 'name = "one"', 13, "two hives named 'one'"),
        ('name = "two"', 'name = "Two!"', 13, "name"),
        ("memory = 24.0\nbandwidth = 50.0", "memory = 24.0\nbandwidht = 50.0", 18, "bandwidht"),
        ('name = "cpu"', 'name = "tpu"', 15, "name"),
    ],
)
def test_a_wrong_fleet_says_where(tmp_path: Path, old: str, new: str, line: int, said: str):
    file = tmp_path / "fleet.toml"
    assert FLEET.count(old) == 1
    file.write_text(FLEET.replace(old, new))
    with pytest.raises(InvalidRequest) as caught:
        load_fleet(str(file))
    assert f"fleet.toml:{line}: " in caught.value.message
    assert said in caught.value.message


def test_what_is_not_there_names_what_is():
    with pytest.raises(NotFound) as caught:
        load_trace("nowhere.toml")
    assert "abab" in caught.value.action


def test_bytes_that_are_no_text_are_told(tmp_path: Path):
    file = tmp_path / "mine.toml"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidRequest, match="UTF-8"):
        load_trace(str(file))


def test_equal_seeds_ask_the_same_and_others_do_not():
    trace = load_trace("chat")
    assert list(conversations(trace, 5)) == list(conversations(trace, 5))
    assert list(conversations(trace, 5)) != list(conversations(trace, 6))


def test_one_client_more_changes_nothing_for_the_others(tmp_path: Path):
    text = TRACE.replace('client = "b"', 'client = "b"\nclients = 3')
    more = TRACE.replace('client = "b"', 'client = "b"\nclients = 4')
    few = {t[0].ask.ask_id: t for t in conversations(read(tmp_path, text), 1)}
    many = {t[0].ask.ask_id: t for t in conversations(read(tmp_path, more), 1)}
    assert few.items() < many.items()
