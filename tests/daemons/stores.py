"""Databases of jobs as the tests of them fill, lock and look into them."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import anyio
import anyio.lowlevel
import anyio.to_thread

from rbee.protocol.jobs import JobInfo, JobState
from tests.support.home import wait_for


def info(job_id: str, state: JobState = JobState.QUEUED, *, at: float = 1.0) -> JobInfo:
    ended = None if state in (JobState.QUEUED, JobState.RUNNING) else at
    return JobInfo(job_id=job_id, operation="infer", state=state, created_at=at, finished_at=ended)


@contextmanager
def locked(path: Path) -> Generator[sqlite3.Connection]:
    """Another program in the middle of a write."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    try:
        yield other
    finally:
        other.close()


async def until(condition: Callable[[], bool]) -> None:
    await anyio.to_thread.run_sync(lambda: wait_for(condition))


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def content(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.iterdir())
