"""What the screen of logs is made of, without a screen: lines, their order, and how logs join."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import anyio
import colony_data as data
import machine_data as m
import msgspec
import pytest
from colony_data import NOW
from hypothesis import given, settings
from hypothesis import strategies as st

from rbee.errors import HiveOffline, QueenUnreachable
from rbee.protocol.colony import WorkerGone
from rbee.protocol.workers import WorkerState
from rbee.tui import log_reader, rows_logs
from rbee.tui.glyphs import UNICODE
from rbee.tui.log_lines import LONGEST, level_of_output, narrated, parse
from rbee.tui.log_reader import STREAMS, LogReader
from rbee.tui.log_seam import Seam
from rbee.tui.logbook import SLACK, TOLD, Entry, Level, LogBook, Shown
from rbee.tui.store import ColonyStore, Link


async def so(true: Callable[[], bool]) -> None:
    with anyio.fail_after(10):
        while not true():  # noqa: ASYNC110
            await anyio.sleep(0.01)


def at(text: str) -> float:
    return time.mktime(time.strptime(text, "%Y-%m-%d %H:%M:%S"))


@pytest.mark.parametrize(
    ("line", "moment", "level", "text", "fine"),
    [
        ("2023-11-15 09:30:01 WARNING slow", "2023-11-15 09:30:01", Level.WARN, "slow", False),
        ("09:30:01 INFO    up", "2023-11-15 09:30:01", Level.INFO, "up", False),
        ("23:59:01 ERROR   no", "2023-11-14 23:59:01", Level.ERROR, "no", False),
        ("2023-11-15T09:30:01Z hm", "2023-11-15 09:30:01", None, "hm", False),
        ("INFO no time", None, Level.INFO, "no time", True),
        ("load: \x1b[31mred\x1b[0m\r of\t1", None, None, "load: red  of 1", True),
        ("2023-13-45 99:99:99 INFO x", None, None, "2023-13-45 99:99:99 INFO x", True),
        ('{"not": "ours"}', None, None, '{"not": "ours"}', True),
        ("{" * 3000, None, None, "{" * 3000, True),
    ],
)
def test_a_line_says_when_and_what(
    line: str, moment: str | None, level: Level | None, text: str, fine: bool
) -> None:
    found = parse(line, at("2023-11-15 12:00:00"))
    assert (found.at, found.level) == (None if moment is None else at(moment), level)
    assert (found.text, found.fine) == (text, fine)


def test_json_and_long_lines_and_bad_words() -> None:
    said = {"at": 12.5, "level": "warning", "logger": "x", "message": "late", "job": "j-1"}
    found = parse(json.dumps(said | {"traceback": "a\nValueError: b"}), NOW)
    assert (found.at, found.level) == (12.5, Level.WARN)
    assert found.text == "late job=j-1 ValueError: b"
    assert parse("x" * 9000, NOW).text == "x" * LONGEST + " (cut: 9000 characters)"
    assert level_of_output("CUDA error: out of memory") is Level.ERROR
    assert level_of_output("0 terrors found") is Level.OUTPUT
    text = "mule: w-01 is ready correlation_id=ab12"
    assert narrated(text, {"mule"}) == ("mule", "w-01 is ready")
    assert narrated(text, {"attic"}) is None


@settings(deadline=None, max_examples=200)
@given(st.text(), st.floats(0, 4e9))
def test_no_line_breaks_the_reader_or_steers_the_terminal(line: str, now: float) -> None:
    text = parse(line, now).text
    assert text.isprintable()


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.sampled_from("abc"), max_size=30),
    st.lists(st.sampled_from("abcd"), max_size=12),
    st.integers(1, 20),
)
def test_a_log_that_is_read_again_is_joined_without_repeats(
    before: list[str], after: list[str], window: int
) -> None:
    """Lines with numbers, as those with times are: each is told once, in order."""
    lines = [f"{at} {word}" for at, word in enumerate([*before, *after])]
    known = lines[: len(before)]
    seam = Seam([hash(line) for line in known[-window:]])
    again = lines[-window:]
    told = [new for line in again for new in seam.feed(line)]
    fresh = lines[len(before) :]
    assert told == fresh[-window:]
    if len(fresh) >= window and known:
        assert seam.gap


def test_equal_lines_are_not_told_twice_and_a_new_log_is_a_gap() -> None:
    seam = Seam([hash("x")] * 3)
    assert [new for _ in range(3) for new in seam.feed("x")] == []
    assert seam.feed("y") == ["y"]
    assert not seam.gap
    other = Seam([hash("x"), hash("y")])
    assert (other.feed("a"), other.gap) == (["a"], True)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 50), st.booleans()), max_size=300), st.integers(1, 40))
def test_the_book_is_in_order_and_bounded(lines: list[tuple[int, bool]], limit: int) -> None:
    book = LogBook(lines=limit)
    for order, (moment, told) in enumerate(lines):
        book.add(moment, "queen", Level.INFO, f"line {order}", told=told)
    keys = [entry.key for entry in book.entries]
    assert keys == sorted(keys)
    assert len(book.entries) + book.dropped == len(lines)
    logs = [entry for entry in book.entries if not entry.told]
    assert len(logs) <= limit + SLACK


def test_narration_outlives_the_logs_around_it_and_is_there_once() -> None:
    book = LogBook(lines=1000)
    assert book.add(5.7, "mule", Level.INFO, "w-01 ready", told=True)
    assert not book.add(5.0, "mule", Level.INFO, "w-01 ready", told=True, fine=False)
    assert book.add(9.0, "mule", Level.INFO, "w-01 ready", told=True)
    for moment in range(5000):
        book.add(moment, "w-01", Level.OUTPUT, "x" * 100)
    assert [entry.at for entry in book.entries if entry.told] == [5.7, 9.0]
    assert len(book.entries) <= 1000 + SLACK
    assert book.dropped == 5002 - len(book.entries)
    fresh = book.take()
    assert fresh == sorted(fresh, key=lambda entry: entry.key)
    assert book.take() == []
    for moment in range(3 * TOLD):
        book.add(moment * 10.0, "queen", Level.INFO, f"told {moment}", told=True)
    assert len(book.entries) <= 1000 + SLACK + TOLD
    big = LogBook()
    for moment in range(9000):
        big.add(moment, "w-01", Level.OUTPUT, "x" * 4000)
    assert sum(len(entry.text) for entry in big.entries) <= 16 << 20


def test_what_belongs_to_a_source() -> None:
    store = ColonyStore(clock=lambda: NOW)
    store.apply("snapshot", m.full())
    lines = [
        Entry(1, 1, "queen", Level.INFO, "job j-1 -> w-05 it is", told=True),
        Entry(1, 2, "mule", Level.INFO, "up", told=True),
        Entry(1, 3, "w-05", Level.OUTPUT, "reading"),
        Entry(1, 4, "w-055", Level.ERROR, "oops"),
        Entry(1, 5, "queen", Level.DEBUG, "w-05 detail"),
        Entry(1, 6, "w-05", Level.ERROR, "error"),
    ]

    def kept(source: str, shown: Shown) -> list[int]:
        keep = rows_logs.keeper(source, shown, store)
        return [entry.order for entry in lines if keep(entry)]

    assert kept("", Shown.ALL) == [1, 2, 3, 4, 5, 6]
    assert kept("", Shown.INFO) == [1, 2, 4, 6]
    assert kept("", Shown.NARRATION) == [1, 2]
    assert kept("w-05", Shown.ALL) == [1, 3, 6]
    assert kept("w-05", Shown.NARRATION) == [1]
    assert kept("mule", Shown.INFO) == [1, 2, 6]
    assert kept("queen", Shown.ALL) == [1, 5]
    assert kept("laptop", Shown.ALL) == [5], "the hive of the queen's machine logs with her"
    assert rows_logs.command("attic", store) == "rbee logs --hive attic --follow"
    assert rows_logs.command("w-05", store) == "rbee logs --worker w-05 --follow"
    assert rows_logs.command("", store) == "rbee logs --follow"
    assert rows_logs.saved(lines[3]) == "1970-01-01T00:00:01.000Z w-055 err oops"


def test_the_tree_says_why_a_source_is_not_read() -> None:
    store = ColonyStore(clock=lambda: NOW, link=Link.UP)
    store.apply("snapshot", m.full())
    reason = HiveOffline("hive barn does not answer: no route to host", action="rbee hive check")
    rows = rows_logs.sources(
        store, UNICODE, trouble={"barn": reason}, left_out={"w-03"}, heard=set()
    )
    assert [row.key for row in rows][:3] == ["", "queen", "laptop"]
    notes = {row.key: row.note for row in rows if row.note}
    assert notes == {"barn": reason.message, "w-03": "not read: too many; choose it"}
    drawn = ["".join(text for text, _ in line) for _, line in
             rows_logs.tree_lines(rows, "barn", UNICODE, 14)]  # fmt: skip
    at = drawn.index(" ▌○ barn")
    words = [line.strip() for line in drawn[at + 1 : at + 4]]
    assert words == ["hive barn", "does not", "answer: n…"]


@pytest.mark.anyio
async def test_no_more_logs_are_open_than_fit_and_the_chosen_ones_come_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(log_reader, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(log_reader, "AGAIN_SECONDS", 60.0)
    store = ColonyStore(clock=lambda: NOW, link=Link.UP)
    crowd = [data.worker(f"w-{at:03}", "mule cpu", "m", WorkerState.IDLE) for at in range(60)]
    away = data.worker("w-900", "barn cpu", "m", WorkerState.IDLE)
    store.apply("snapshot", msgspec.structs.replace(m.full(), workers=[*crowd, away]))
    asked: list[str] = []

    def url() -> str:
        asked.append("")
        raise QueenUnreachable("no queen")

    reader = LogReader(store, LogBook(), url)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(reader.run)
        await so(lambda: len(reader.trouble) == STREAMS)
        assert len(asked) == STREAMS
        assert "w-059" in reader.left_out()
        assert "w-900" not in reader.left_out() | set(reader.trouble), "its hive is away"
        reader.chosen = "w-059"
        await so(lambda: "w-059" in reader.trouble)
        assert len(reader.left_out()) == 60 + 6 - STREAMS
        store.apply("worker_gone", WorkerGone(worker_id="w-059", reason="stopped"))
        await so(lambda: "w-059" not in reader.trouble)
        tasks.cancel_scope.cancel()
