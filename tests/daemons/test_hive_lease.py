"""A hive without its queen: how long it goes on, what it takes, and that it ends by itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rbee.daemons.hive.lease import Lease
from rbee.errors import HiveOffline
from rbee.protocol.base import encode
from tests.daemons.hive_process import HiveProcess
from tests.daemons.standing_hive import Spoken, StandingHive, echo, gone, nobody
from tests.support.home import wait_for


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def made(seconds: float = 60.0, frames: float | None = 20.0) -> tuple[Lease, Clock]:
    clock = Clock()
    return Lease(seconds, frames=frames, now=clock), clock


def test_the_clock_runs_from_the_start_until_a_queen_follows() -> None:
    lease, clock = made()
    clock.now += 59
    assert (lease.alone_seconds, lease.has_run_out) == (59, False)
    lease.came()
    clock.now += 19
    assert (lease.alone_seconds, lease.has_run_out) == (None, False)
    lease.went()
    clock.now += 61
    assert (lease.alone_seconds, lease.has_run_out) == (61, True)


def test_a_queen_that_is_silent_is_gone_although_her_connection_stands() -> None:
    lease, clock = made()
    lease.came()
    for _ in range(3):
        clock.now += 20
        lease.frame()
    clock.now += 20
    assert lease.alone_seconds is None
    clock.now += 1
    assert lease.alone_seconds == 0
    with pytest.raises(HiveOffline, match="takes no new work"):
        lease.check_work("attic")
    clock.now += 60
    assert not lease.has_run_out
    lease.frame()
    assert lease.alone_seconds is None
    lease.check_work("attic")


def test_frames_alone_do_not_make_a_queen() -> None:
    lease, clock = made()
    for _ in range(7):
        clock.now += 10
        lease.frame()
    assert lease.has_run_out


def test_a_hive_that_announces_itself_asks_for_no_frames_and_takes_work() -> None:
    lease, clock = made(frames=None)
    lease.check_work("attic")
    lease.came()
    clock.now += 1000
    assert lease.alone_seconds is None
    lease.went()
    lease.check_work("attic")
    clock.now += 61
    assert lease.has_run_out


def test_a_hive_that_is_to_stay_does_so_from_then_on_and_for_later_queens() -> None:
    lease, clock = made()
    clock.now += 50
    assert lease.frame(600.0).lease == 600
    clock.now += 600
    assert not lease.has_run_out
    lease.came()
    lease.went()
    clock.now += 600
    assert (lease.info().alone, lease.has_run_out) == (600, False)
    assert lease.frame(0).alone is None
    clock.now += 61
    assert lease.has_run_out


EVENTS = st.lists(
    st.tuples(st.sampled_from(["came", "went", "frame", "look"]), st.floats(0, 40)), max_size=60
)


@settings(deadline=None, max_examples=200)
@given(EVENTS)
def test_it_never_runs_out_under_a_queen_that_lives_and_always_without_one(
    events: list[tuple[str, float]],
) -> None:
    lease, clock = made()
    followed, heard = False, clock.now
    since: float | None = clock.now
    for what, wait in events:
        clock.now += wait
        silent = clock.now - heard > 20
        before = since
        if what == "came":
            followed, heard, silent = True, clock.now, False
            lease.came()
        elif what == "went":
            followed = False
            lease.went()
        elif what == "frame":
            heard, silent = clock.now, False
            lease.frame()
        alone = silent or not followed
        since = None if not alone else clock.now if before is None else before
        expected = None if since is None else clock.now - since
        assert lease.alone_seconds == expected
        assert lease.has_run_out == (expected is not None and expected > 60)
    clock.now += 1000
    lease.went()
    clock.now += 61
    assert lease.has_run_out


# ---- real processes -----------------------------------------------------------------------------


@pytest.fixture
def hive(tmp_path: Path) -> Iterator[StandingHive]:
    one = StandingHive(tmp_path / "home")
    yield one
    one.close()


def test_without_a_queen_running_workers_stay_and_new_work_is_refused(hive: StandingHive) -> None:
    with Spoken(hive.ensure()) as spoken:
        refused = spoken.http.post("/v1/workers/spawn", content=encode(echo("w-01")))
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "HIVE_OFFLINE"
        with spoken.followed():
            worker = spoken.spawn()
            assert spoken.health()["alone_seconds"] is None
        wait_for(lambda: spoken.health()["alone_seconds"] is not None, what="the queen is missed")
        for path in ("/v1/workers/spawn", "/v1/models/download", "/v1/models/receive"):
            assert spoken.http.post(path, content=encode(echo("w-02"))).status_code == 503
        assert not gone(worker)
        with spoken.followed():  # she is back in time
            assert spoken.health()["alone_seconds"] is None
            (adopted,) = spoken.json("GET", "/v1/workers")["workers"]
            assert adopted["ready"]["pid"] == worker.pid
            spoken.spawn("w-02")
    text = hive.log.read_text("utf-8")
    assert "no queen follows: without one this hive stops in 60 s" in text
    assert "a queen follows, after " in text


def test_when_the_lease_has_run_out_the_workers_and_the_hive_are_gone(hive: StandingHive) -> None:
    hive.home.env["RBEE_HIVE_LEASE"] = "2"
    up = hive.ensure()
    with Spoken(up) as spoken:
        with spoken.followed():
            worker = spoken.spawn()
        process = psutil.Process(up.pid)
        wait_for(lambda: gone(process), what="the hive leaves")
    assert gone(worker)
    wait_for(lambda: nobody(hive.home.path), limit=5)
    assert not hive.file.exists()
    assert "hive attic stops, with 1 workers: no queen for 2 s" in hive.log.read_text("utf-8")


def test_a_hive_whose_queen_gives_no_sign_of_life_leaves_although_she_reads(
    hive: StandingHive,
) -> None:
    hive.home.env["RBEE_HIVE_LEASE"] = "1"
    up = hive.ensure()
    process = psutil.Process(up.pid)
    with Spoken(up) as spoken, spoken.followed():
        wait_for(lambda: gone(process), limit=60, what="the hive leaves")
    assert "no sign of life of the queen for 2" in hive.log.read_text("utf-8")


def test_a_hive_that_is_to_stay_stays_beyond_its_lease(hive: StandingHive) -> None:
    hive.home.env["RBEE_HIVE_LEASE"] = "2"
    up = hive.ensure("--alone", "300")
    assert up.alone == 300
    with Spoken(up) as spoken:
        wait_for(lambda: spoken.health()["alone_seconds"] > 4, what="longer than its lease")
        assert spoken.health()["lease"] == 300
        assert hive.ensure("--alone", "0").alone is None
        assert spoken.health()["lease"] == 2
        assert hive.ensure("--alone", "200").alone == 200
        assert hive.ensure().alone == 200
        frame = spoken.json("POST", "/v1/lease", {})
        assert frame["lease"] == 200
        told = spoken.json("GET", "/v1/lease")
        assert told["alone"] == 200
        for bad in ({"alone": -1}, {"alone": 1e9}, {"alone": "x"}, {"more": 1}):
            assert spoken.http.post("/v1/lease", content=encode(bad)).status_code == 400
        spoken.http.headers.pop("Authorization")
        assert spoken.http.post("/v1/lease", content=b"{}").status_code == 401


def test_a_hive_that_announces_itself_takes_work_before_its_queen_comes(tmp_path: Path) -> None:
    with HiveProcess(tmp_path / "home") as hive:
        hive.json("POST", "/v1/workers/spawn", content=encode(echo("w-01")))
        assert hive.json("GET", "/v1/health")["lease"] == 300
        assert hive.ask("GET", "/v1/logs").status_code == 404


def test_a_hive_has_one_queen_at_a_time(hive: StandingHive) -> None:
    up = hive.ensure()
    with Spoken(up) as mine, Spoken(up) as other:
        mine.http.headers["x-rbee-queen"] = "laptop 1"
        other.http.headers["x-rbee-queen"] = "desk 2"
        with mine.followed():
            mine.json("POST", "/v1/lease")
            for method, path in (("GET", "/v1/telemetry/stream"), ("POST", "/v1/lease")):
                refused = other.http.request(method, path)
                assert refused.status_code == 409, refused.text
                assert "laptop" in refused.json()["error"]["message"]
            worker = mine.spawn()
            with mine.followed():  # after a cut she comes before the hive has noticed it
                mine.json("POST", "/v1/lease")
        wait_for(lambda: mine.health()["alone_seconds"] is not None, what="nobody follows")
        with other.followed():
            other.json("POST", "/v1/lease")
            assert worker.is_running()
            assert mine.http.post("/v1/lease").status_code == 409
