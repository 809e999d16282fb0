"""The journal: what a reader was sent is in the file, and what is in the file is read back."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import stat
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
import anyio.from_thread
import anyio.lowlevel
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from rbee.daemons.queen import journal as module
from rbee.daemons.queen.joblog import HEAD, JobLog, frame, record, scan
from rbee.daemons.queen.journal import Journal
from rbee.daemons.queen.streams import JobStream
from rbee.errors import InternalError
from rbee.protocol.jobs import EventType

Events = list[tuple[str, bytes]]


def begin(journal: Journal, job_id: str) -> JobStream:
    return JobStream(journal.begin(job_id), journal)


def say(stream: JobStream, text: str, ids: bytes = b"") -> None:
    stream.append(EventType.TOKEN, b'{"t":"%b","i":%d}' % (text.encode(), stream.tokens), ids)


def killed(journal: Journal) -> Journal:
    """The next queen's journal, after this one's process went without a word."""
    os.close(journal._fd)  # all that the kernel does for a killed process
    return Journal.open(journal.path)


def seen(journal: Journal, job_id: str) -> Events:
    return journal.found[job_id].events


def on_disk(journal: Journal) -> bytes:
    return journal.path.read_bytes()


# ---- kept -------------------------------------------------------------------------------------


def test_what_was_looked_at_is_known_after_a_kill_and_what_was_not_may_be_lost(
    tmp_path: Path,
) -> None:
    journal = Journal.open(tmp_path / "rbee.journal")
    stream, other = begin(journal, "a"), begin(journal, "b")
    stream.append(EventType.QUEUED, b'{"position":1}')
    stream.note_ids_of("llamacpp")
    say(stream, "the", b"[5]")
    say(stream, " bees", b"[6,7]")
    other.append(EventType.STATUS, b"{}")
    told = list(stream.events)
    say(stream, " never seen", b"[8]")
    after = killed(journal)
    assert seen(after, "a") == told
    assert seen(after, "b") == [("status", b"{}")]
    back = after.adopt("a")
    assert back is not None
    again = JobStream(back, after)
    assert again.emitted() == ("the bees", [5, 6, 7], 3)
    assert (again.ids_of, again.tokens, again.ended) == ("llamacpp", 3, False)
    say(again, " go on", b"[9]")
    assert [e[0] for e in again.events] == ["queued", "token", "token", "token"]
    third = killed(after)
    assert third.found["a"].emitted() == ("the bees go on", [5, 6, 7, 9], 4)
    third.close()


def test_the_file_is_private(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "state" / "rbee.journal")
    assert stat.S_IMODE(journal.path.stat().st_mode) == 0o600
    journal.close()


@pytest.mark.anyio
async def test_one_write_for_all_that_comes_before_the_loop_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes: list[int] = []
    real = os.pwrite

    def counted(fd: int, data: bytes, offset: int) -> int:
        writes.append(len(data))
        return real(fd, data, offset)

    journal = Journal.open(tmp_path / "rbee.journal")
    monkeypatch.setattr(os, "pwrite", counted)
    streams = [begin(journal, f"job-{n}") for n in range(50)]
    for stream in streams:
        say(stream, "x")
    assert not writes
    await anyio.lowlevel.checkpoint()
    assert len(writes) == 1
    assert len(scan(on_disk(journal)).logs) == 50
    journal.close()


@pytest.mark.anyio
async def test_no_reader_is_ahead_of_the_file(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "rbee.journal")
    streams = {f"job-{n}": begin(journal, f"job-{n}") for n in range(3)}
    for stream in streams.values():
        say(stream, "before")
        say(stream, "any reader")
    read = 0

    async def reader(job_id: str, after: int) -> None:
        nonlocal read
        async for first, batch in streams[job_id].read(after):
            kept = scan(on_disk(journal)).logs[job_id].events
            assert kept[first - 1 : first - 1 + len(batch)] == batch
            read += len(batch)

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            for job_id in streams:
                for after in (0, 2):
                    tasks.start_soon(reader, job_id, after)
            for number in range(60):
                for stream in streams.values():
                    say(stream, f"w{number}")
                if number % 3 == 0:
                    await anyio.lowlevel.checkpoint()
            for stream in streams.values():
                stream.append(EventType.END, b"{}")
    assert read == 3 * (63 + 61)
    journal.close()


# ---- torn, corrupt ----------------------------------------------------------------------------


def test_a_last_write_that_was_cut_short_counts_for_nothing_wherever_it_was_cut(
    tmp_path: Path,
) -> None:
    journal = Journal.open(tmp_path / "rbee.journal")
    stream = begin(journal, "a")
    say(stream, "one")
    told = list(stream.events)
    sound = len(on_disk(journal))
    say(stream, "two")
    journal.flush()
    whole = on_disk(journal)
    os.close(journal._fd)
    for size in range(sound, len(whole)):
        journal.path.write_bytes(whole[:size])
        after = Journal.open(journal.path)
        assert seen(after, "a") == told
        assert after.set_aside is None
        assert after.found["a"].whole
        assert len(on_disk(after)) == sound
        os.close(after._fd)


@pytest.mark.parametrize("at", [40, 70, 110])
def test_damage_in_the_middle_is_set_aside_and_nobody_goes_on_from_it(
    tmp_path: Path, at: int
) -> None:
    journal = Journal.open(tmp_path / "rbee.journal")
    stream, other = begin(journal, "a"), begin(journal, "b")
    for number in range(8):
        say(stream, f"word {number}")
        say(other, "x")
        journal.flush()
    content = bytearray(on_disk(journal))
    content[at] ^= 0xFF
    os.close(journal._fd)
    journal.path.write_bytes(content)
    after = Journal.open(journal.path)
    assert after.set_aside is not None
    assert after.set_aside.read_bytes() == content
    assert all(not one.whole for one in after.found.values())
    assert on_disk(after) == HEAD
    for job_id, one in list(after.found.items()):
        assert one.events == (stream if job_id == "a" else other).log.events[: len(one.events)]
        adopted = after.adopt(job_id)
        assert adopted is not None
        JobStream(adopted, after).append(EventType.ERROR, b"{}")
    after.flush()
    again = scan(on_disk(after)).logs
    assert all(one.ended for one in again.values())
    after.close()


@pytest.mark.parametrize("content", [b"no journal at all", HEAD[:-2] + b"2\n\x00", b"\x00" * 300])
def test_a_foreign_file_is_set_aside(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "rbee.journal"
    path.write_bytes(content)
    journal = Journal.open(path)
    assert journal.set_aside is not None
    assert journal.set_aside.read_bytes() == content
    assert not journal.found
    journal.close()


def test_a_sound_frame_with_a_senseless_record_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "rbee.journal"
    good = frame(record(1, 64, b"a") + record(1, 1, b"{}"))
    path.write_bytes(HEAD + good + frame(record(1, 99, b"?")))
    journal = Journal.open(path)
    assert journal.set_aside is not None
    assert seen(journal, "a") == [("queued", b"{}")]
    journal.close()


def test_a_folder_in_its_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "rbee.journal").mkdir()
    with pytest.raises(InternalError, match=r"rbee\.journal"):
        Journal.open(tmp_path / "rbee.journal")


# ---- small again ------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_a_file_of_ended_jobs_is_written_anew_with_those_that_live(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "COMPACT_AT", 10_000)
    journal = Journal.open(tmp_path / "rbee.journal")
    lives = begin(journal, "lives")
    lives.note_ids_of("llamacpp")
    say(lives, "kept", b"[1,2]")
    unknown = begin(journal, "unknown")
    say(unknown, "three", b"[1,2,3]")
    say(unknown, "one")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(journal.run)
        for number in range(20):
            stream = begin(journal, f"job-{number}")
            stream.append(EventType.TOKEN, b'{"t":"%b","i":0}' % (b"x" * 2000))
            stream.append(EventType.END, b"{}")
            journal.flush()
            journal.release(stream.log)
        big = len(on_disk(journal))
        assert big > 40_000
        with anyio.fail_after(30):
            while len(on_disk(journal)) > 2000:
                await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
    say(lives, " on", b"[3]")
    told = list(lives.events)
    after = killed(journal)
    assert set(after.found) == {"lives", "unknown"}
    assert seen(after, "lives") == told
    assert after.found["lives"].emitted() == ("kept on", [1, 2, 3], 3)
    assert after.found["lives"].ids_of == "llamacpp"
    assert after.found["unknown"].emitted() == ("threeone", [], 4)
    assert stat.S_IMODE(after.path.stat().st_mode) == 0o600
    after.close()


@pytest.mark.anyio
async def test_what_comes_while_it_is_written_anew_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal.open(tmp_path / "rbee.journal")
    old, gone = begin(journal, "old"), begin(journal, "gone")
    say(old, "before")
    gone.append(EventType.END, b"{}")
    real = module._write_anew
    reached, go_on = anyio.Event(), anyio.Event()

    def slow(path: Path, cuts: list[module.Cut]) -> tuple[int, int]:
        anyio.from_thread.run_sync(reached.set)
        anyio.from_thread.run(go_on.wait)
        return real(path, cuts)

    monkeypatch.setattr(module, "_write_anew", slow)
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(journal.compact)
            await reached.wait()
            say(old, "meanwhile")
            fresh = begin(journal, "fresh")
            say(fresh, "new")
            journal.flush()
            journal.release(gone.log)
            say(old, "pending")
            go_on.set()
    expected = {"old": list(old.events), "fresh": list(fresh.events)}
    after = killed(journal)
    assert {job_id: one.events for job_id, one in after.found.items()} == expected
    after.close()


@pytest.mark.anyio
async def test_with_no_retention_no_text_of_an_ended_job_stays(tmp_path: Path) -> None:
    secret = b"the bees know 5371"
    journal = Journal.open(tmp_path / "rbee.journal")
    journal.erases = True
    lives = begin(journal, "lives")
    say(lives, "alive")
    ended = begin(journal, "ended")
    say(ended, secret.decode())
    ended.append(EventType.END, b"{}")
    journal.flush()
    assert secret in on_disk(journal)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(journal.run)
        journal.release(ended.log)
        with anyio.fail_after(30):
            while secret in on_disk(journal):
                await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
    assert os.listdir(tmp_path) == ["rbee.journal"]
    assert b"alive" in on_disk(journal)
    lives.append(EventType.END, b"{}")
    journal.flush()
    journal.release(lives.log)  # the last one: at once
    assert on_disk(journal) == HEAD
    journal.close()


def test_a_close_takes_the_text_that_may_not_stay(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "rbee.journal")
    journal.erases = True
    lives, ended = begin(journal, "lives"), begin(journal, "ended")
    say(lives, "alive")
    say(ended, "secret")
    ended.append(EventType.END, b"{}")
    journal.release(ended.log)
    journal.close()
    after = Journal.open(journal.path)
    assert b"secret" not in on_disk(after)
    assert list(after.found) == ["lives"]
    after.close()


# ---- a disk that is full ----------------------------------------------------------------------


@contextmanager
def full_at(size: int) -> Generator[None]:
    """No file of this process may grow beyond so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.anyio
async def test_a_full_disk_stops_no_stream_is_told_once_and_mended(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal.open(tmp_path / "rbee.journal")
    stream = begin(journal, "a")
    say(stream, "kept")
    kept = list(stream.events)
    with full_at(len(on_disk(journal)) + 30):
        for number in range(3):
            say(stream, f"word {number}")
            assert len(stream.events) == len(kept) + number + 1
        assert not await journal.compact()
    assert journal.broken
    assert len([r for r in caplog.records if r.levelno == logging.ERROR]) == 1
    lacking = scan(on_disk(journal))
    assert not lacking.logs["a"].whole
    assert lacking.logs["a"].events == kept
    assert await journal.compact()
    assert journal.broken is None
    say(stream, "after")
    told = list(stream.events)
    after = killed(journal)
    assert seen(after, "a") == told
    assert after.found["a"].whole
    after.close()


def test_the_next_queen_knows_that_events_are_missing(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "rbee.journal")
    stream = begin(journal, "a")
    say(stream, "kept")
    journal.flush()
    with full_at(len(on_disk(journal)) + 5):
        say(stream, "lost")
        assert len(stream.events) == 2
    after = killed(journal)
    assert after.set_aside is None
    assert not after.found["a"].whole
    assert len(seen(after, "a")) == 1
    after.close()


# ---- any order of things ----------------------------------------------------------------------


class Lives(RuleBasedStateMachine):
    """Queens that come and go over one journal, with jobs, readers, ends and compactions."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.journal = Journal.open(Path(self.folder.name) / "rbee.journal")
        self.streams: dict[str, JobStream] = {}
        self.shown: dict[str, Events] = {}
        self.names = 0
        self.runner = asyncio.Runner()

    @rule()
    def submit(self) -> None:
        self.names += 1
        name = f"job-{self.names}"
        self.streams[name] = begin(self.journal, name)
        self.shown[name] = []

    @precondition(lambda self: self.streams)
    @rule(data=st.data(), text=st.text("ab<", max_size=9), ids=st.lists(st.integers(0, 99)))
    def append(self, data: st.DataObject, text: str, ids: list[int]) -> None:
        stream = self._one(data)
        say(stream, text, str(ids).encode() if ids else b"")

    @precondition(lambda self: self.streams)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        self._one(data).append(EventType.END, b"{}")

    @rule()
    def turn(self) -> None:
        self.journal.flush()

    @precondition(lambda self: self.streams)
    @rule(data=st.data())
    def read(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.streams)))

        async def look() -> None:
            async for first, batch in self.streams[name].read():
                assert first == 1
                self.shown[name] = batch
                return

        if self.streams[name].log.events:
            self.runner.run(look())

    @precondition(lambda self: any(one.ended for one in self.streams.values()))
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        ended = [name for name, one in self.streams.items() if one.ended]
        name = data.draw(st.sampled_from(ended))
        self.journal.release(self.streams.pop(name).log)
        del self.shown[name]

    @rule(erases=st.booleans())
    def compact(self, erases: bool) -> None:
        self.journal.erases = erases
        assert self.runner.run(self.journal.compact())

    @rule(torn=st.integers(0, 60))
    def kill(self, torn: int) -> None:
        os.close(self.journal._fd)
        half = frame(record(1, 4, b"never seen by anybody, cut short" * 2))[:torn]
        with self.journal.path.open("ab") as file:
            file.write(half)
        before, self.streams = self.streams, {}
        self.journal = Journal.open(self.journal.path)
        assert self.journal.set_aside is None
        for name, events in self.shown.copy().items():
            found = self.journal.adopt(name)
            if found is None:
                assert not events
                del self.shown[name]
                continue
            assert found.whole
            assert found.events[: len(events)] == events
            old = before[name].log
            assert found.events == old.events[: len(found.events)]
            if len(found.events) == len(old.events):
                assert found.emitted() == old.emitted()
            self.streams[name] = JobStream(found, self.journal)
        # Their release was not written yet; the database has them.
        assert all(one.ended for one in self.journal.found.values())
        self.runner.run(self.journal.settled())
        assert scan(self.journal.path.read_bytes()).logs.keys() == self.streams.keys()

    @invariant()
    def what_was_shown_is_in_the_file(self) -> None:
        logs = scan(self.journal.path.read_bytes()).logs
        for name, events in self.shown.items():
            if events:
                assert logs[name].events[: len(events)] == events

    def teardown(self) -> None:
        self.runner.close()
        self.journal.close()
        self.folder.cleanup()

    def _one(self, data: st.DataObject) -> JobStream:
        return self.streams[data.draw(st.sampled_from(sorted(self.streams)))]


TestLives = Lives.TestCase
TestLives.settings = settings(deadline=None, max_examples=60, stateful_step_count=30)


@pytest.mark.parametrize(
    "ids, expected",
    [
        ([b"[1]", b"[2, 3]"], ("ab", [1, 2, 3], 3)),
        ([b"[1]", b""], ("ab", [], 2)),
        ([b"[1,2]", b"null"], ("ab", [], 3)),
        ([b"[1]", b"[]"], ("ab", [1], 1)),
        ([b"", b"[4,5]"], ("ab", [], 3)),
        ([b"[1]", b'["x"]'], ("ab", [], 2)),
    ],
)
def test_ids_are_told_only_when_all_are_known_and_tokens_are_counted_by_them(
    ids: list[bytes], expected: tuple[str, list[int], int]
) -> None:
    one = JobLog()
    for text, numbers in zip((b"a", b"b"), ids, strict=True):
        one.append(EventType.TOKEN, b'{"t":"%b","i":0}' % text, numbers)
    assert one.emitted() == expected
