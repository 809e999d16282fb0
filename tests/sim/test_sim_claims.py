"""What the built-in policy is said to win, and that it does: docs/simulation.md has the figures."""

from __future__ import annotations

import pytest

from rbee.sim.contest import contest
from rbee.sim.fleets import load_fleet
from rbee.sim.tally import Outcome
from rbee.sim.traces import load_trace


def figures(name: str, seed: int, *policies: str) -> list[Outcome]:
    trace = load_trace(name)
    return contest(trace, load_fleet(trace.fleet), policies, names=(name, trace.fleet), seed=seed)


LAB = pytest.mark.lab


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=LAB), pytest.param(3, marks=LAB)])
@pytest.mark.parametrize("name, times", [("abab", 4.0), ("three-models", 1.2)])
def test_models_that_compete_for_memory_are_served_sooner(name: str, times: float, seed: int):
    ect, least = figures(name, seed, "ect", "least-connections")
    assert (ect.failed, least.failed) == (0, 0)
    assert ect.requests == least.requests
    assert ect.total.p95 * times < least.total.p95
    assert ect.first_token.p95 * times < least.first_token.p95
    assert ect.loads < least.loads


@pytest.mark.parametrize("name", ["abab", "three-models"])
def test_it_is_what_others_lose_that_makes_the_difference(name: str):
    ect, own = figures(name, 1, "ect", "own-load")
    assert ect.total.p95 * 4 < own.total.p95
    assert ect.loads * 2 < own.loads


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=LAB)])
def test_in_an_uneven_house_the_first_token_comes_sooner(seed: int):
    ect, least = figures("chat", seed, "ect", "least-connections")
    assert (ect.failed, least.failed) == (0, 0)
    assert ect.first_token.p95 * 2 < least.first_token.p95
    assert ect.total.p95 < least.total.p95
    assert ect.cached_tokens > least.cached_tokens


def test_people_do_not_wait_for_bursts_of_batch_work():
    (ect,) = figures("burst", 1, "ect")
    assert ect.failed == 0
    people, batch = ect.classes["interactive"], ect.classes["batch"]
    assert people.first_token.p95 * 10 < batch.first_token.p95


def test_no_answer_is_lost_with_its_worker():
    (ect,) = figures("lost-workers", 1, "ect")
    assert ect.failed == 0
    assert ect.resumes > 0
