"""Streams of jobs, their leave of the journal, and what stays of a job that failed."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import AsyncGenerator
from pathlib import Path

import anyio
import pytest

from rbee.daemons.queen.joblog import scan
from rbee.daemons.queen.journal import Journal
from rbee.daemons.queen.store import Store
from rbee.daemons.queen.streams import JobStream, Streams
from rbee.protocol.base import encode
from rbee.protocol.jobs import ErrorData, EventType, JobInfo, JobState

pytestmark = pytest.mark.anyio


class Queen:
    """A queen's memory."""

    def __init__(self, folder: Path) -> None:
        self.store = Store.open(folder / "rbee.db", patience=0.01)
        self.journal = Journal.open(folder / "rbee.journal")
        self.streams = Streams(self.store, self.journal)

    def in_file(self) -> set[str]:
        self.journal.flush()
        return set(scan(self.journal.path.read_bytes()).logs)

    def save(self, job_id: str, state: JobState, *, ended: float | None = None) -> None:
        info = JobInfo(
            job_id=job_id, operation="infer", state=state, created_at=1.0, finished_at=ended
        )
        self.store.save_job(info, b"{}", durable=True)


@pytest.fixture
async def queen(tmp_path: Path) -> AsyncGenerator[Queen]:
    made = Queen(tmp_path)
    yield made
    made.journal.close()
    made.store.close()


async def test_only_durable_jobs_are_in_the_journal_until_the_database_has_them(
    queen: Queen,
) -> None:
    chat, job = queen.streams.create("chat"), queen.streams.create("job", durable=True)
    assert (chat.durable, job.durable) == (False, True)
    assert queen.streams.create("job") is job
    for stream in (chat, job):
        stream.append(EventType.TOKEN, b'{"t":"x","i":0}', b"[7]")
    assert queen.in_file() == {"job"}
    assert queen.streams.counts() == {"chat": 1, "job": 1}
    for name, stream in (("chat", chat), ("job", job)):
        stream.append(EventType.END, b"{}")
        queen.save(name, JobState.COMPLETED, ended=2.0)
        queen.store.save_stream(name, queen.streams.retire(name))
    assert queen.in_file() == {"job"}  # the database is still at it
    await queen.streams.settle()
    assert queen.in_file() == set()
    assert queen.streams.counts() == {}
    assert (await queen.streams.get("job")).events[-1] == ("end", b"{}")
    queen.streams.forget("job")
    assert len((await queen.streams.get("job")).events) == 2


async def test_what_the_database_lost_stays_in_the_journal(queen: Queen) -> None:
    queen.save("job", JobState.RUNNING)
    await queen.store.flush()
    queen.streams.create("job", durable=True).append(EventType.END, b"{}")
    other = sqlite3.connect(queen.store.path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    queen.save("job", JobState.COMPLETED, ended=2.0)
    queen.store.save_stream("job", queen.streams.retire("job"))
    await queen.streams.settle()
    other.close()
    assert queen.in_file() == {"job"}
    queen.streams.create("later", durable=True).append(EventType.END, b"{}")
    queen.save("later", JobState.COMPLETED, ended=2.0)
    queen.store.save_stream("later", queen.streams.retire("later"))
    await queen.streams.settle()
    assert queen.in_file() == {"job"}


async def test_a_job_that_was_not_accepted_leaves_nothing(queen: Queen) -> None:
    stream = queen.streams.create("refused", durable=True)
    stream.append(EventType.QUEUED, b"{}")
    assert queen.in_file() == {"refused"}
    queen.streams.drop("refused")
    queen.streams.drop("refused")
    assert queen.in_file() == set()
    assert queen.streams.live("refused") is None
    assert [batch async for batch in stream.read(1)] == []


async def test_the_text_of_a_failed_job_stays_on_it(queen: Queen) -> None:
    stream = queen.streams.create("job", durable=True)
    for number, word in enumerate(("half", " an", " answer")):
        stream.append(EventType.TOKEN, b'{"t":"%b","i":%d}' % (word.encode(), number))
    error = ErrorData(code="WORKER_LOST", message="gone", details={"tokens_out": 3})
    stream.append(EventType.ERROR, encode(error))
    stream.append(EventType.TOKEN, b'{"t":"too late","i":3}')
    queen.save("job", JobState.FAILED, ended=2.0)
    queen.store.save_stream("job", queen.streams.retire("job"))
    await queen.streams.settle()
    queen.streams.forget("job")
    kept = await queen.streams.get("job")
    assert [kind for kind, _ in kept.events] == ["token"] * 3 + ["error"]
    assert kept.emitted().text == "half an answer"
    assert (kept.tokens, kept.ended) == (3, True)


async def test_a_stream_whose_last_word_is_still_to_come_is_not_ended_by_saving_its_job(
    queen: Queen,
) -> None:
    stream = queen.streams.create("job", durable=True)
    stream.append(EventType.QUEUED, b"{}")
    assert queen.streams.retire("job") == [("queued", b"{}")]
    assert queen.streams.live("job") is stream
    stream.append(EventType.ERROR, b"{}")
    assert [kind for kind, _ in queen.streams.retire("job")] == ["queued", "error"]
    assert queen.streams.live("job") is None


async def test_an_answer_counts_its_tokens_by_their_ids() -> None:
    stream = JobStream()
    assert stream.emitted() == ("", [], 0)
    stream.note_ids_of("llamacpp")
    stream.append(EventType.TOKEN, b'{"t":"na\\u00efve","i":0}', b"[4,5,6]")
    assert (stream.tokens, stream.ids_of) == (3, "llamacpp")
    stream.append(EventType.TOKEN, b'{"t":" bee","i":3}', b"[7]")
    assert stream.emitted() == ("naïve bee", [4, 5, 6, 7], 4)
    stream.append(EventType.TOKEN, b'{"t":"s","i":4}')
    assert stream.emitted() == ("naïve bees", [], 5)
    assert all(b"[" not in data for _, data in stream.events)


async def test_readers_go_on_over_the_death_of_a_queen(tmp_path: Path) -> None:
    first = Queen(tmp_path)
    stream = first.streams.create("job", durable=True)
    stream.append(EventType.QUEUED, b"{}")
    stream.append(EventType.TOKEN, b'{"t":"a","i":0}', b"[1]")
    async for start, batch in stream.read():
        assert start + len(batch) == 3
        break
    os.close(first.journal._fd)
    first.store.close()
    second = Queen(tmp_path)
    again = second.streams.restore("job")
    assert again is not None
    assert second.streams.create("job") is again
    assert second.streams.restore("other") is None
    again.append(EventType.TOKEN, b'{"t":"b","i":1}', b"[2]")
    again.append(EventType.END, b"{}")
    seen = [(start, kind) async for start, batch in again.read(2) for kind, _ in batch]
    assert seen == [(3, "token"), (3, "end")]
    second.journal.close()
    second.store.close()


async def test_a_queen_that_leaves_lets_readers_go_and_keeps_the_stream(queen: Queen) -> None:
    stream = queen.streams.create("job", durable=True)
    stream.append(EventType.QUEUED, b"{}")
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:

            async def read() -> None:
                seen = [len(batch) async for _, batch in stream.read()]
                assert seen == [1]

            tasks.start_soon(read)
            await anyio.wait_all_tasks_blocked()
            queen.streams.close()
    stream.append(EventType.TOKEN, b'{"t":"late","i":0}')
    assert len(stream.events) == 1
    assert queen.in_file() == {"job"}
