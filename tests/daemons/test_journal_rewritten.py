"""A journal that is written anew loses nothing that lives, whatever comes in between."""

from __future__ import annotations

import asyncio
import os
import stat
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
from rbee.daemons.queen.joblog import HEAD, frame, record, scan
from rbee.daemons.queen.journal import Journal
from rbee.daemons.queen.streams import JobStream
from rbee.protocol.jobs import EventType
from tests.daemons.journals import Events, begin, killed, on_disk, say, seen

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
