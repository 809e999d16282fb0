"""A hive tells signs of life for many workers at once: nothing that matters is lost by that."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rbee.core.effects import Effect, StopWorker
from rbee.core.events import HiveSaid, Tick
from rbee.core.limits import Limits
from rbee.daemons.hive.news import MISSED, News
from rbee.protocol.hives import Device, HiveHeartbeat, HiveTelemetry, WorkerLoad
from rbee.protocol.operations import WorkerSpawn
from rbee.protocol.workers import Heartbeat, WorkerState
from tests.core.builders import World, device

GIB = 1 << 30
BEAT, EVERY = 2.0, 1.0
PATIENT = Limits(keep_alive=1e9)
"""Stale after 6 s, removed after 30 s."""


class Side:
    """A hive's news and the colony that hears them, on one clock; beats are sent by the test."""

    def __init__(self, count: int, limits: Limits = PATIENT) -> None:
        self.world = World(limits=limits)
        self.news = News(heartbeat=BEAT, every=EVERY)
        self.beats: dict[str, Heartbeat] = {}
        self.at: dict[str, float] = {}
        self.passed = 0
        for number in range(1, count + 1):
            name = f"w-{number:02d}"
            self.world.submit(f"spawn-{number}", WorkerSpawn(model="tiny", slots=1, ctx=256))
            self.world.bring_up(name)
            self.beat(name)

    def beat(self, name: str, **more: object) -> None:
        said = Heartbeat(worker_id=name, state=WorkerState.IDLE, slots_total=1)
        beat = msgspec.structs.replace(said, **more)
        before, self.beats[name] = self.beats.get(name), beat
        self.at[name] = self.world.now
        if self.news.is_new(beat, before):
            self.passed += 1
            self.world.tell(HiveSaid("home", HiveHeartbeat(beat=beat)))

    def telemetry(self, loads: tuple[WorkerLoad, ...] = ()) -> HiveTelemetry:
        ages = {name: self.world.now - at for name, at in self.at.items()}
        said = self.news.telemetry(([device()], loads), ages)
        self.world.tell(HiveSaid("home", said))
        return said

    def second(self, *beating: str) -> list[Effect]:
        """One second with these workers' heartbeats, telemetry and two ticks."""
        effects = self.world.tell(Tick(), after=0.5)
        for name in beating:
            self.beat(name)
        self.world.now += 0.5
        self.telemetry()
        return effects + self.world.tell(Tick())

    def suspects(self) -> set[str]:
        return {w.id for w in self.world.colony.fleet.workers.values() if w.suspect}


def stopped(effects: list[Effect]) -> list[str]:
    return [e.worker_id for e in effects if isinstance(e, StopWorker)]


def test_heartbeats_that_say_nothing_new_do_not_pass_and_keep_their_worker_alive() -> None:
    side = Side(2)
    side.telemetry()
    side.passed = 0
    for _ in range(30):
        assert not stopped([*side.second("w-01"), *side.second("w-02")])
        assert not side.suspects()
    assert side.passed == 0
    worker = side.world.colony.fleet.workers["w-02"]
    told = worker.info(side.world.now).last_beat_at
    assert told is not None
    assert told >= 1e9 + side.world.now - MISSED * BEAT


@pytest.mark.parametrize(
    "news",
    [
        {"state": WorkerState.BUSY},
        {"slots_busy": 1},
        {"progress": 0.5},
        {"memory_bytes": 7},
        {"error": {"code": "X"}},
    ],
)
def test_a_heartbeat_that_says_anything_new_passes_at_once(news: dict[str, object]) -> None:
    side = Side(1)
    side.telemetry()
    side.beat("w-01")
    side.passed = 0
    side.beat("w-01", idle_seconds=5.0)
    assert side.passed == 0
    side.beat("w-01", **news)
    assert side.passed == 1


def test_a_worker_that_falls_silent_among_others_is_doubted_after_6_s_and_killed_after_30() -> None:
    side = Side(2)
    side.telemetry()
    silent_since = side.at["w-01"]
    while not side.suspects():
        assert not stopped(side.second("w-02"))
    assert side.suspects() == {"w-01"}
    assert 6.0 < side.world.now - silent_since <= 7.0
    effects: list[Effect] = []
    while not (effects := side.second("w-02")) or not stopped(effects):
        assert side.world.now - silent_since <= 31.0
    assert stopped(effects) == ["w-01"]
    assert 30.0 < side.world.now - silent_since <= 31.0


def test_a_hive_that_says_nothing_any_more_takes_its_workers_signs_of_life_with_it() -> None:
    side = Side(3)
    side.telemetry()
    for _ in range(13):
        side.world.tell(Tick(), after=0.5)
    assert side.suspects() == {"w-01", "w-02", "w-03"}


def test_one_that_was_silent_and_speaks_again_passes_and_is_used_at_once() -> None:
    side = Side(2)
    while not side.suspects():
        side.second("w-02")
    side.beat("w-01")
    assert not side.suspects()


def test_after_a_broken_connection_only_a_later_sign_of_life_counts() -> None:
    side = Side(1)
    side.second("w-01")
    fleet, worker = side.world.colony.fleet, side.world.colony.fleet.workers["w-01"]
    worker.suspect, worker.suspect_mono = True, side.world.now
    fleet.touch(worker)
    side.second()
    assert worker.suspect
    assert worker.free_slots == 0
    side.second("w-01")
    assert not worker.suspect
    assert worker.free_slots == 1


def test_a_new_listener_is_told_everything_and_then_only_changes() -> None:
    news = News(heartbeat=BEAT, every=EVERY)
    load = WorkerLoad(worker_id="w-01", cpu_percent=3.2, rss_bytes=GIB + 1)
    ages = {"w-01": 0.25, "w-02": 9.0}
    for _ in range(2):
        first = news.telemetry(([device()], [load]), ages)
        assert (first.devices, first.heard) == ([device()], ["w-01"])
        assert [(one.cpu_percent, one.rss_bytes) for one in first.workers] == [
            (3.0, GIB + (1 << 20))
        ]
        assert (first.within, first.silent) == (0.25, {"w-02": 9.0})
        news.afresh()
    news.telemetry(([device()], [load]), ages)
    again = news.telemetry(([device()], [load]), ages)
    assert (again.devices, again.workers, again.heard) == (None, [], None)
    other = news.telemetry(([device(free_gib=1.0)], [load]), {"w-01": 0.5, "w-02": 0.5})
    assert (other.devices, other.heard) == ([device(free_gib=1.0)], ["w-01", "w-02"])
    waiting = news.telemetry(None, ages)
    assert (waiting.measured, waiting.devices, waiting.workers) == (False, None, [])


def test_workers_that_beat_faster_than_the_hive_measures_are_passed_on_each_time() -> None:
    news = News(heartbeat=0.5, every=1.0)
    beat = Heartbeat(worker_id="w-01", state=WorkerState.IDLE)
    told = news.telemetry(None, {"w-01": 0.1})
    assert (told.heard, told.silent) == ([], {})
    assert news.is_new(beat, beat)


def test_unchanged_devices_are_measured_anew_all_the_same() -> None:
    """What a worker that has gone held is counted as used until the next measurement only."""
    side = Side(1)
    load = WorkerLoad(worker_id="w-01", cpu_percent=0.0, rss_bytes=4 * GIB)
    side.telemetry((load,))
    fleet = side.world.colony.fleet
    hive = fleet.hives["home"]
    before: list[Device] = hive.devices
    fleet.remove("w-01")
    spot = fleet.spot("home", "cpu")
    assert spot is not None
    assert spot.settles_with is hive.devices
    side.at.clear()
    side.telemetry()
    assert hive.devices == before
    assert spot.settles_with is not hive.devices


def test_a_worker_that_the_queen_has_given_up_is_stopped_as_long_as_its_hive_hears_it() -> None:
    side = Side(2)
    side.telemetry()
    side.world.colony.fleet.remove("w-01")
    for _ in range(2):
        assert stopped(side.world.tell(HiveSaid("home", HiveTelemetry()))) == ["w-01"]
    del side.at["w-01"]
    side.telemetry()
    assert not stopped(side.world.tell(HiveSaid("home", HiveTelemetry())))


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("beat"), st.integers(1, 4)),
        st.tuples(st.just("wait"), st.integers(1, 25)),
        st.tuples(st.just("tell"), st.just(0)),
        st.tuples(st.just("afresh"), st.just(0)),
    ),
    max_size=60,
)


@settings(deadline=None, max_examples=60)
@given(steps=STEPS)
def test_what_is_believed_of_a_worker_is_never_later_than_the_truth_and_exact_when_it_matters(
    steps: list[tuple[str, int]],
) -> None:
    side = Side(4, Limits(keep_alive=1e9, stale_after=1e9, remove_after=1e9))
    fleet = side.world.colony.fleet
    for what, number in steps:
        if what == "beat":
            side.beat(f"w-{number:02d}")
        elif what == "wait":
            side.world.now += number * 0.2
        elif what == "afresh":
            side.news.afresh()
        else:
            side.telemetry()
        now = side.world.now
        for name, worker in fleet.workers.items():
            true = side.at[name]
            assert worker.heard_mono <= true + 0.002
            if what == "tell" and now - true > MISSED * BEAT:
                assert worker.heard_mono == pytest.approx(true, abs=0.002)
            elif what == "tell":
                assert worker.heard_mono >= now - MISSED * BEAT - 0.002
        late = {w.id for w in fleet.workers.values() if w.heard_mono < now - 3.0}
        assert late <= {w.id for w in fleet.pulses.quiet(now - 3.0)}
