"""The machines on paper: their law, their bounds, and what the brain is told of them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rbee.core.policies import LeastConnections, OwnLoad
from rbee.core.policy import Policy
from rbee.core.scheduling import Ect
from rbee.errors import InvalidRequest
from rbee.protocol.jobs import EventType
from rbee.protocol.operations import Priority
from rbee.sim.contest import POLICIES
from rbee.sim.fleets import FleetSpec
from rbee.sim.simulation import Simulation
from rbee.sim.speed import CROWD, REACHED, alone
from rbee.sim.traces import FailureSpec, ModelSpec, StreamSpec, TraceSpec
from tests.sim.worlds import Watched, ask, fleet, hive, trace


def seconds(watched: Watched, ask_id: str) -> tuple[float, float]:
    """First token and total."""
    record = watched.tally.records[ask_id]
    assert record.first is not None
    assert record.ended is not None
    return record.first - record.began, record.ended - record.began


def test_one_request_takes_what_the_law_says():
    told = trace(ask(1.0, prompt=700, answer=101), ask(30.0, prompt=700, answer=101))
    watched = Watched(told, fleet(hive(disk=2.5, start=2.0)))
    watched.holds()
    reading = 700 * 2 * 8e9 / 60e12
    writing = 100 * 5e9 / (REACHED * 900e9)
    loading = 2.0 + 5.0 / 2.5
    first, total = seconds(watched, "l0")
    assert first == pytest.approx(loading + reading, abs=1e-6)
    assert total == pytest.approx(loading + reading + writing, abs=1e-6)
    first, total = seconds(watched, "l1")
    assert (first, total) == pytest.approx((reading, reading + writing), abs=1e-6)
    assert total == pytest.approx(
        alone("cuda", 900.0, 60.0, size=5 * 10**9, parameters=8e9, prompt=700, answer=100)
    )
    assert (watched.tally.loads, watched.tally.load_bytes) == (1, 5 * 10**9)


def test_streams_of_a_worker_slow_each_other():
    told = trace(
        ask(0.0),
        *(ask(20.0, prompt=10, answer=1001, client=f"c{n}") for n in range(4)),
    )
    watched = Watched(told, fleet())
    watched.holds()
    writing = 1000 * 5e9 / (REACHED * 900e9) * (1 + CROWD["cuda"] * 3)
    for n in range(1, 5):
        assert seconds(watched, f"l{n}")[1] == pytest.approx(writing, rel=0.01)


def test_workers_on_one_device_share_it():
    models = {"m": ModelSpec(size=2.0, parameters=3.0), "n": ModelSpec(size=2.0, parameters=3.0)}
    told = trace(
        ask(0.0, "m"),
        ask(0.0, "n"),
        ask(30.0, "m", prompt=10, answer=1001),
        ask(30.0, "n", prompt=10, answer=1001),
        models=models,
    )
    watched = Watched(told, fleet())
    watched.holds()
    writing = 1000 * 2e9 / (REACHED * 900e9)
    for name in ("l2", "l3"):
        assert seconds(watched, name)[1] == pytest.approx(2 * writing, rel=0.01)


def test_a_prompt_that_is_known_is_not_read_again():
    told = trace(
        ask(0.0, prompt=1500, answer=200, conversation="c"),
        ask(30.0, prompt=100, answer=50, conversation="c"),
        ask(60.0, prompt=1800, answer=50),
    )
    watched = Watched(told, fleet())
    watched.holds()
    assert watched.tally.cached_tokens == 1700
    assert seconds(watched, "l1")[0] == pytest.approx(100 * 2 * 8e9 / 60e12, abs=1e-6)
    assert seconds(watched, "l2")[0] == pytest.approx(1800 * 2 * 8e9 / 60e12, abs=1e-6)


def test_an_answer_survives_its_worker():
    told = trace(
        ask(20.0, prompt=100, answer=2000),
        preload=["m"],
        failure=[FailureSpec(at=25.0, worker="busiest")],
    )
    watched = Watched(told, fleet(hive("one"), hive("two")))
    watched.holds()
    assert [worker for _, name, worker in watched.dispatches if name == "l0"] in (
        ["w-01", "w-02"],
        ["w-02", "w-01"],
    )
    assert watched.tally.counts["resumes"] == 1
    writing = 1999 * 5e9 / (REACHED * 900e9)
    first, total = seconds(watched, "l0")
    assert first == pytest.approx(100 * 2 * 8e9 / 60e12, abs=1e-6)
    # What is added is the prompt, with what was said, read again.
    assert writing < total < writing + 0.6


def test_a_hive_that_goes_and_comes_back_takes_work_again():
    told = trace(
        ask(20.0, answer=1000),
        ask(60.0, answer=100),
        failure=[FailureSpec(at=22.0, hive="two", back=40.0)],
        preload=["m"],
    )
    watched = Watched(told, fleet(hive("one"), hive("two")))
    watched.holds()
    assert all(r.end is EventType.END for r in watched.tally.records.values())
    assert all(h.online for h in watched.simulation.colony.fleet.hives.values())


def test_a_hive_back_before_it_was_missed_is_not_thought_to_run_what_it_ran():
    told = trace(
        *(ask(20.0, answer=2000, client=f"c{n}") for n in range(6)),
        ask(60.0, answer=100),
        failure=[FailureSpec(at=22.0, hive="one", back=23.0)],
        preload=["m"],
    )
    watched = Watched(told, fleet(hive("one"), hive("two")))
    watched.holds()
    assert all(r.end is EventType.END for r in watched.tally.records.values())
    machines = watched.simulation.hosts.machines.values()
    there = {name for machine in machines for name in machine.workers}
    assert set(watched.simulation.colony.fleet.workers) == there
    assert watched.tally.counts["resumes"] > 0


@pytest.mark.parametrize("at", [22.0, 30.0])
def test_the_only_hive_is_waited_for(at: float):
    """Lost while its worker loads, or while it answers."""
    told = trace(ask(20.0, answer=2000), failure=[FailureSpec(at=at, hive="home", back=at + 10.0)])
    watched = Watched(told, fleet())
    watched.holds()
    assert watched.tally.records["l0"].end is EventType.END


def test_a_deadline_that_cannot_be_met_is_refused():
    told = trace(
        ask(0.0, deadline_ms=1000),
        ask(0.1, deadline_ms=1000),
        ask(0.2),
        ask(30.0, deadline_ms=1000),
    )
    tally = Watched(told, fleet()).tally
    ends = [tally.records[f"l{n}"].code for n in range(4)]
    assert ends == ["DEADLINE_UNMET", "QUEUE_FULL", None, None]  # the first one has it loaded
    assert tally.refused == 1


def test_a_model_that_fits_nowhere_fails():
    models = {"m": ModelSpec(size=50.0, parameters=70.0)}
    watched = Watched(trace(ask(0.0), models=models), fleet())
    watched.holds()
    assert watched.tally.records["l0"].code == "INSUFFICIENT_VRAM"


def test_a_failure_of_an_unknown_hive_is_refused():
    told = trace(ask(0.0), failure=[FailureSpec(at=1.0, hive="attic")])
    with pytest.raises(InvalidRequest, match="'attic'"):
        Simulation(told, fleet(), Ect(ctx=4096))


def test_a_long_pause_is_no_end():
    watched = Watched(trace(ask(0.0), ask(9000.0)), fleet())
    watched.holds()
    assert watched.tally.records["l1"].end is EventType.END
    assert watched.tally.loads == 2, "the worker was idle for longer than it is kept"


def test_batch_work_goes_behind():
    told = trace(
        *(ask(0.0, prompt=400, answer=400, priority=Priority.BATCH) for _ in range(40)),
        *(ask(10.0 + n, answer=20, client="person") for n in range(5)),
    )
    watched = Watched(told, fleet())
    watched.holds()
    batch = max(seconds(watched, f"l{n}")[1] for n in range(40))
    assert max(seconds(watched, f"l{n}")[1] for n in range(40, 45)) < batch / 3


models = st.dictionaries(
    st.sampled_from("abc"),
    st.builds(
        ModelSpec,
        size=st.sampled_from([2.0, 9.0, 18.0, 30.0]),
        parameters=st.sampled_from([3.0, 14.0, 30.0]),
        kv=st.sampled_from([32.0, 128.0]),
    ),
    min_size=1,
)
fleets = st.lists(
    st.tuples(st.sampled_from([11.0, 23.0, 40.0]), st.sampled_from([0.5, 3.0])),
    min_size=1,
    max_size=3,
).map(lambda all_: fleet(*(hive(f"h{n}", memory=m, disk=d) for n, (m, d) in enumerate(all_))))


@st.composite
def traces(draw: st.DrawFn) -> TraceSpec:
    known = draw(models)
    streams = st.builds(
        StreamSpec,
        client=st.sampled_from(["a", "b"]),
        clients=st.integers(1, 3),
        model=st.lists(st.sampled_from(sorted(known)), min_size=1, max_size=3),
        prompt=st.just([10, 500]),
        answer=st.just([1, 200]),
        every=st.sampled_from([4.0, 15.0]),
        end=st.just(60.0),
        turns=st.integers(1, 3),
        think=st.sampled_from([0.0, 4.0]),
        at_once=st.sampled_from([1, 1, 8]),
        priority=st.sampled_from(Priority),
        deadline_ms=st.sampled_from([None, None, 4000]),
    )
    kills = st.builds(FailureSpec, at=st.floats(1, 80), worker=st.sampled_from(["busiest", "w-01"]))
    losses = st.floats(1, 80).map(lambda at: FailureSpec(at=at, hive="h0", back=at + 9.5))
    return trace(
        models=known,
        stream=draw(st.lists(streams, min_size=1, max_size=2)),
        failure=draw(st.lists(kills | losses, max_size=3)),
        preload=draw(st.lists(st.sampled_from(sorted(known)), max_size=1)),
    )


@settings(deadline=None, max_examples=20)
@given(told=traces(), on=fleets, policy=st.sampled_from([Ect, OwnLoad, LeastConnections]))
def test_every_request_has_one_end_and_no_bound_is_broken(
    told: TraceSpec, on: FleetSpec, policy: type[Ect]
):
    chosen: Policy = policy(ctx=told.ctx)
    watched = Watched(told, on, chosen)
    watched.holds()


SCRIPT = """
import sys
from rbee.protocol.base import encode
from rbee.sim.contest import contest
from rbee.sim.fleets import load_fleet
from rbee.sim.traces import load_trace
trace = load_trace("three-models")
found = contest(trace, load_fleet(trace.fleet), ["ect"], names=("t", "f"), seed=3)
sys.stdout.buffer.write(encode(found))
"""


def test_equal_seeds_give_equal_figures_in_any_process():
    """Python orders sets by a number that differs from process to process."""
    outputs = {
        subprocess.run(
            [sys.executable, "-c", SCRIPT],
            capture_output=True,
            check=True,
            timeout=100,
            env=os.environ | {"PYTHONHASHSEED": salt},
        ).stdout
        for salt in ("1", "2")
    }
    assert len(outputs) == 1
    assert outputs.pop().startswith(b"[{")


def test_a_policy_is_called_what_it_calls_itself():
    assert {name: make(4096).name for name, make in POLICIES.items()} == {n: n for n in POLICIES}


def test_what_came_up_after_the_last_telemetry_is_no_free_memory():
    """The hive's figures are of the second before, when the worker still loaded: a model that needs
    that memory must not be started beside it, but wait for it or make it go."""
    models = {
        "large": ModelSpec(size=18.0, parameters=30.0),
        "small": ModelSpec(size=2.0, parameters=3.0, kv=128.0),
    }
    for offset in range(10):
        begin = 5.0 + offset / 10
        told = trace(
            *(ask(begin, "small", answer=300, client=f"c{n}") for n in range(3)),
            *(ask(begin + 0.1, "large", client=f"d{n}") for n in range(3)),
            models=models,
        )
        watched = Watched(told, fleet(hive(disk=1.3)))
        watched.holds()
        assert all(r.end is EventType.END for r in watched.tally.records.values())
