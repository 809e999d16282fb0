"""Logs that are followed: of a hive and of its workers, over HTTP and by `rbee-hive --log`."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rbee.daemons.hive.logfile import LINE_BYTES, LogFile, copy_out, events
from rbee.daemons.queen.logs_of import whole
from rbee.errors import HiveOffline, NotFound
from rbee.sse import Decoder
from tests.daemons.standing_hive import Spoken, StandingHive
from tests.support.home import wait_for


@pytest.fixture
def hive(tmp_path: Path) -> Iterator[StandingHive]:
    one = StandingHive(tmp_path / "home")
    yield one
    one.close()


def write(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def test_the_last_lines_then_what_comes(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    write(path, b"one\ntwo\nthree\nfo")
    with LogFile(path) as log:
        assert log.last(2) == ["two", "three"]
        assert log.more() == ([], True)
        write(path, b"ur\r\n\nfi")
        assert log.more() == (["four", ""], True)
        assert log.rest() == ["fi"]


def test_a_log_that_is_cut_or_set_aside_is_read_on(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    write(path, b"a long first line\n")
    with LogFile(path) as log:
        assert log.last(9) == ["a long first line"]
        path.write_bytes(b"new\n")
        assert log.more() == (["new"], True)
        write(path, b"end without end")
        path.rename(tmp_path / "x.log.1")
        write(path, b"next\n")
        told = [line for _ in range(3) for line in log.more()[0]]
        assert told == ["end without end", "next"]
        path.unlink()
        assert log.more() == ([], False)


def test_a_line_that_is_too_long_says_so(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    write(path, b"x" * (LINE_BYTES + 7) + b"\nshort\n")
    with LogFile(path) as log:
        assert log.last(9) == ["x" * LINE_BYTES + " … (7 more bytes)", "short"]


def test_a_large_log_is_read_from_near_its_end(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    write(path, b"".join(b"%07d\n" % n for n in range(400_000)))
    with LogFile(path) as log:
        assert log.last(2) == ["0399998", "0399999"]
        assert log.last(2000)[0] == "0398000"


def test_a_log_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    with LogFile(tmp_path / "x.log") as log, pytest.raises(NotFound):
        log.last(1)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.binary(max_size=40), max_size=30), st.integers(0, 1))
def test_however_it_is_written_each_line_is_told_once(
    tmp_path_factory: pytest.TempPathFactory, parts: list[bytes], skip: int
) -> None:
    path = tmp_path_factory.mktemp("log") / "x.log"
    write(path, b"")
    told: list[str] = []
    with LogFile(path) as log:
        log.last(1)
        for number, part in enumerate(parts):
            write(path, part)
            if number % 2 == skip:
                told += log.more()[0]
        told += log.more()[0]
        rest = log.rest()
    whole = b"".join(parts)
    *lines, last = [line.rstrip(b"\r").decode("utf-8", "replace") for line in whole.split(b"\n")]
    assert told == lines
    assert rest == ([last] if whole.rpartition(b"\n")[2] else [])


@pytest.mark.anyio
async def test_a_stream_ends_when_its_writer_has_and_all_is_told(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    write(path, b"first\n")
    over = anyio.Event()
    out = b""
    with anyio.fail_after(20):
        async for block in events(path, lines=5, ended=over.is_set):
            if not over.is_set():
                write(path, b"last words\nwithout end")
                over.set()
            out += block
    told = [
        json.loads(part.removeprefix("data: "))["line"] for part in out.decode().split("\n\n")[:-2]
    ]
    assert told == ["first", "last words", "without end"]
    assert out.endswith(b"data: [DONE]\n\n")


@pytest.mark.anyio
async def test_a_stream_of_a_log_that_goes_away_ends(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    write(path, b"first\n")
    blocks: list[bytes] = []
    with anyio.fail_after(20):
        async for block in events(path, lines=5, ended=lambda: False):
            blocks.append(block)
            path.unlink(missing_ok=True)
    assert blocks[-1] == b"data: [DONE]\n\n"
    assert [block async for block in events(path, lines=5, ended=lambda: False)] == [
        b"data: [DONE]\n\n"
    ]


def test_a_copy_that_nobody_reads_any_more_ends(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    write(path, b"first\n")
    reading, writing = os.pipe()
    copier = threading.Thread(
        target=copy_out, args=(path,), kwargs={"lines": 5, "follow": True, "out": writing}
    )
    copier.start()
    assert os.read(reading, 100) == b"first\n"
    os.close(reading)
    copier.join(20)
    os.close(writing)
    assert not copier.is_alive()


def test_a_hives_own_log_is_told_over_http(hive: StandingHive) -> None:
    with Spoken(hive.ensure()) as spoken:
        lines = spoken.json("GET", "/v1/logs?lines=5")["lines"]
        assert any("attic listens on" in line for line in lines)
        assert spoken.http.get("/v1/logs?lines=0").status_code == 400
        seen: list[str] = []
        with spoken.http.stream("GET", "/v1/logs?lines=5&follow=1") as stream:
            for line in stream.iter_lines():
                if line.startswith("data: "):
                    seen.append(json.loads(line.removeprefix("data: "))["line"])
                if len(seen) == len(lines):
                    write(hive.log, b"something new\n")
                if seen and seen[-1] == "something new":
                    break
        assert seen[: len(lines)] == lines


def test_a_workers_log_is_followed_to_its_end(hive: StandingHive) -> None:
    with Spoken(hive.ensure()) as spoken, spoken.followed():
        worker = spoken.spawn()
        path = hive.state / "logs" / "w-01.log"
        seen: list[str] = []
        with Spoken(spoken.up) as other:
            assert other.http.get("/v1/workers/w-09/logs?follow=1").status_code == 404
            assert "lines" in other.json("GET", "/v1/workers/w-01/logs")
            with other.http.stream("GET", "/v1/workers/w-01/logs?follow=1") as stream:
                write(path, b"from the test\n")
                for line in stream.iter_lines():
                    if line.startswith("data: "):
                        seen.append(line.removeprefix("data: "))
                    if "from the test" in line:
                        worker.send_signal(signal.SIGKILL)
        assert seen[-1] == "[DONE]"
        assert json.loads(seen[-2])["line"]


def test_the_log_of_a_hive_that_is_down_is_read_and_followed(hive: StandingHive) -> None:
    assert hive.run("--log").returncode == 1
    hive.ensure()
    assert hive.run("--stop").returncode == 0
    lines = hive.run("--log").stdout.splitlines()
    assert hive.run("--log", "--lines", "1").stdout.splitlines() == lines[-1:]
    assert hive.run("--log", "--lines", "0").returncode == 2
    follower = hive.start("--log", "--follow", "--lines", "1")
    assert follower.stdout is not None
    assert follower.stdout.readline().rstrip("\n") == lines[-1]
    hive.ensure()
    assert follower.stdout.readline()
    follower.stdout.close()
    wait_for(lambda: follower.poll() is not None, what="it ends with its reader")
    assert follower.returncode == 0
    assert follower.stderr is not None
    follower.stderr.close()


@pytest.mark.anyio
async def test_a_log_that_breaks_off_says_why_after_its_last_whole_line() -> None:
    async def far() -> AsyncGenerator[bytes]:
        yield b'data: {"line": "one"}\n'
        yield b'\ndata: {"line": "two"}\n\ndata: {"li'
        raise HiveOffline("hive far does not answer any more")

    decoder = Decoder()
    heard = [event async for piece in whole(far()) for event in decoder.feed(piece)]
    assert [(event.event, json.loads(event.data).get("line")) for event in heard] == [
        ("message", "one"), ("message", "two"), ("error", None),
    ]  # fmt: skip
    assert json.loads(heard[-1].data)["code"] == "HIVE_OFFLINE"


@pytest.mark.anyio
async def test_a_log_whose_line_has_no_end_ends() -> None:
    async def far() -> AsyncGenerator[bytes]:
        while True:
            yield b"x" * 70_000

    with anyio.fail_after(20):
        heard = b"".join([piece async for piece in whole(far())])
    assert heard.startswith(b"event: error\n")
    assert len(heard) < 1000
