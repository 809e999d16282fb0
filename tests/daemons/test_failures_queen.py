"""A queen that is killed with jobs in every state, and files of hers that are damaged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.colony import Colony, words
from tests.support.home import Home

STORY = words(40)
PROMPT = f"@delay=50 {STORY}"


@pytest.fixture
def colony(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Colony]:
    """Workers with three slots; by parameter with these hives beside the queen."""
    hives: tuple[str, ...] = getattr(request, "param", ())
    one = Colony(Home(tmp_path / "home"), hives, RBEE_WORKER_SLOTS="3")
    yield one
    one.close()
    one.home.until_empty(10)


@pytest.mark.parametrize("colony", [(), ("attic",)], ids=["her own hive", "a hive"], indirect=True)
def test_no_job_of_a_killed_queen_is_lost_whatever_its_state(colony: Colony) -> None:
    first = colony.start_worker()
    ended = colony.infer("all said")
    before = colony.follow(ended)
    answering = [colony.infer(PROMPT) for _ in range(2)]
    prompted = colony.infer("@delay=2500 late")
    loading = colony.infer("slowly", model="echo-slow")
    waiting = [colony.infer(words(3, f"q{n}-")) for n in range(4)]
    cancelled = waiting.pop(1)
    httpx.delete(f"{colony.url}/v1/jobs/{cancelled}", timeout=10, trust_env=False)
    drain = colony.post({"operation": "worker_drain", "worker_id": first})
    everyone = [*answering, prompted, loading, *waiting, cancelled, drain]
    readers = {job: colony.reader(job) for job in everyone}
    for job in answering:
        colony.until_said(job, 5)
    assert colony.until(prompted, "dispatched")["tokens_out"] == 0
    assert [colony.job(job)["state"] for job in (loading, *waiting)] == ["queued"] * 4

    colony.kill_queen()
    colony.start_queen()

    told = {job: reader.whole() for job, reader in readers.items()}
    for job in everyone:
        again = colony.follow(job).whole()
        assert again.events == told[job].events
        assert readers[job].breaks or told[job].end == "cancelled"
    assert [told[job].text for job in answering] == [STORY] * 2
    assert [told[job].of("metrics")[-1]["resumed"] for job in answering] == [1, 1]
    assert (told[prompted].text, told[loading].text) == ("late", "slowly")
    assert [told[job].text for job in waiting] == [words(3, f"q{n}-") for n in (0, 2, 3)]
    ends = {job: told[job].end for job in everyone}
    assert ends.pop(cancelled) == "cancelled"
    assert ends.pop(drain) == "error"
    assert told[drain].of("error")[0]["code"] == "WORKER_LOST"
    assert set(ends.values()) == {"end"}
    began = [colony.job(job)["started_at"] for job in waiting]
    assert began == sorted(began)
    assert colony.follow(ended).whole().events == before.events
    assert all(job["finished_at"] for job in colony.home.get("/v1/jobs")["jobs"])


def test_damaged_files_are_set_aside_and_named(colony: Colony) -> None:
    kept = colony.infer("kept before")
    colony.follow(kept)
    assert colony.home.rbee("queen", "stop").returncode == 0
    data = colony.home.path / "data"
    damaged = sorted(path for path in data.iterdir() if path.name in ("rbee.db", "rbee.journal"))
    assert [path.name for path in damaged] == ["rbee.db", "rbee.journal"]
    for path in damaged:
        path.write_bytes(b"\x07garbage" * 1000)
    for path in (data / "rbee.db-wal", data / "rbee.db-shm"):
        path.unlink(missing_ok=True)

    colony.start_queen()
    log = colony.home.rbee("queen", "logs").stdout
    for path in damaged:
        (line,) = [one for one in log.splitlines() if f"{path.name} was unreadable" in one]
        aside = Path(line.rpartition(": ")[2])
        assert aside.parent == data
        assert aside.read_bytes() == b"\x07garbage" * 1000
    assert colony.follow(colony.infer("works again")).whole().text == "works again"
    assert jobs_of(colony) == ["works again"]


def jobs_of(colony: Colony) -> list[Any]:
    jobs = colony.home.get("/v1/jobs")["jobs"]
    return [colony.follow(job["job_id"]).text for job in jobs]
