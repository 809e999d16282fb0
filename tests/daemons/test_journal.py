"""The journal: what a reader was sent is in the file, and what is in the file is read back."""

from __future__ import annotations

import logging
import os
import resource
import stat
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import anyio
import anyio.from_thread
import anyio.lowlevel
import pytest

from rbee.daemons.queen.joblog import HEAD, JobLog, frame, record, scan
from rbee.daemons.queen.journal import Journal
from rbee.daemons.queen.streams import JobStream
from rbee.errors import InternalError
from rbee.protocol.jobs import EventType
from tests.daemons.journals import begin, killed, on_disk, say, seen

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
