"""Workers that report to a stand-in for their hive."""

from __future__ import annotations

import pytest
from worker_process import HiveStandIn, WorkerProcess


@pytest.fixture
def hive():
    with HiveStandIn() as stand_in:
        yield stand_in


@pytest.fixture
def start(hive, tmp_path):
    """Start workers; the ones still alive at the end are killed."""
    started: list[WorkerProcess] = []

    def make(*, wait: str = "idle", **spec) -> WorkerProcess:
        log = tmp_path / f"worker-{len(started)}.log"
        started.append(WorkerProcess(hive.url, log, **spec))
        if wait:
            hive.wait_for_state(wait)
        return started[-1]

    yield make
    for worker in started:
        worker.__exit__()
