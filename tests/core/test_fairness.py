"""The virtual token counters: who has had how much, and that absence earns nothing."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rbee.core import fairness
from rbee.core.fairness import TYPICAL_JOB, Shares

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["enter", "leave", "charge"]),
        st.sampled_from("abcdef"),
        st.integers(0, 50),
    ),
    max_size=120,
)


def test_an_answer_token_counts_twice_a_prompt_token() -> None:
    shares = Shares()
    shares.enter("a")
    shares.charge("a", input_tokens=10)
    shares.charge("a", output_tokens=7, input_tokens=1)
    assert shares.of("a") == 10 + 1 + 14


def test_who_comes_back_is_lifted_to_the_smallest_active_counter() -> None:
    shares = Shares()
    for client in "abc":
        shares.enter(client)
    shares.leave("c")
    shares.charge("a", output_tokens=100)
    shares.charge("b", output_tokens=40)
    shares.enter("c")
    assert shares.counters == {"a": 200, "b": 80, "c": 80}


def test_who_is_ahead_keeps_what_it_owes_over_an_absence() -> None:
    shares = Shares()
    shares.enter("a")
    shares.enter("b")
    shares.charge("a", output_tokens=500)
    shares.charge("b", output_tokens=5)
    shares.leave("a")
    shares.enter("a")
    assert shares.of("a") == 1000


def test_a_second_job_of_an_active_client_lifts_nothing() -> None:
    shares = Shares()
    shares.enter("a")
    shares.enter("b")
    shares.charge("a", input_tokens=50)
    shares.enter("b")
    assert shares.of("b") == 0
    shares.leave("b")
    assert shares.counters == {"a": 50, "b": 0}  # its other job is still there


def test_after_a_quiet_time_who_comes_is_level_with_the_last_that_left() -> None:
    shares = Shares()
    shares.enter("a")
    shares.enter("b")
    shares.charge("b", input_tokens=70)
    shares.charge("a", input_tokens=30)
    shares.leave("b")
    shares.leave("a")
    assert shares.of("new") == 30
    shares.enter("new")
    shares.enter("b")
    assert shares.counters == {"new": 30, "b": 70}


def test_who_is_absent_and_overtaken_is_forgotten() -> None:
    shares = Shares()
    for n in range(500):
        shares.enter(f"guest-{n}")
        shares.charge(f"guest-{n}", input_tokens=3)
        shares.leave(f"guest-{n}")
    assert shares.counters == {}
    assert shares.of("anybody") == 1500


def test_no_more_than_a_bound_of_absent_clients_are_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fairness, "REMEMBERED", 20)
    shares = Shares()
    shares.enter("slow")
    for n in range(300):
        shares.enter(f"guest-{n}")
        shares.charge(f"guest-{n}", input_tokens=n + 1)
        shares.leave(f"guest-{n}")
    assert len(shares.counters) == 21
    assert min(v for k, v in shares.counters.items() if k != "slow") == 281
    assert shares.of("slow") == 0


def test_a_late_charge_of_who_has_left_is_not_lost() -> None:
    shares = Shares()
    shares.enter("a")
    shares.enter("b")
    shares.leave("b")
    shares.charge("b", output_tokens=10)
    shares.enter("b")
    assert shares.of("b") == 20


def test_a_job_refused_before_it_entered_leaves_without_a_trace() -> None:
    shares = Shares()
    shares.leave("a")
    shares.enter("a")
    shares.enter("b")
    shares.charge("b", input_tokens=5)
    assert shares.counters == {"a": 0, "b": 5}
    shares.leave("a")
    assert shares.counters == {"b": 5}


def test_nothing_is_given_back() -> None:
    shares = Shares()
    shares.enter("a")
    shares.charge("a", input_tokens=10, output_tokens=-3)
    shares.charge("a", output_tokens=-100)
    assert shares.of("a") == 10
    shares.charge("nobody", input_tokens=0)
    assert "nobody" not in shares.counters


def test_what_a_job_typically_costs_follows_what_jobs_cost() -> None:
    shares = Shares()
    assert shares.typical == TYPICAL_JOB
    for _ in range(100):
        shares.enter("a")
        shares.charge("a", input_tokens=20, output_tokens=20)
        shares.leave("a")
    assert shares.typical == pytest.approx(60, rel=0.02)
    for _ in range(100):
        shares.enter("a")
        shares.leave("a")  # cancelled while it waited: says nothing of costs
    assert shares.typical == pytest.approx(60, rel=0.02)


@given(STEPS)
@settings(max_examples=200, deadline=None)
def test_counters_never_fall_and_are_those_of_the_plain_algorithm(
    steps: list[tuple[str, str, int]],
) -> None:
    """Against the paper's algorithm written down plainly, with nothing forgotten."""
    shares = Shares()
    counters: dict[str, int] = {}
    here: dict[str, int] = {}
    floor = 0
    for step, client, amount in steps:
        before = {c: shares.of(c) for c in "abcdef"}
        if step == "enter":
            shares.enter(client)
            if not here.get(client):
                counters[client] = max(counters.get(client, 0), floor)
            here[client] = here.get(client, 0) + 1
        elif not here.get(client):
            continue
        elif step == "leave":
            shares.leave(client)
            here[client] -= 1
            if not any(here.values()):
                floor = counters[client]
        else:
            shares.charge(client, input_tokens=amount % 7, output_tokens=amount)
            counters[client] += amount % 7 + 2 * amount
        active = [counters[c] for c in here if here[c]]
        floor = max(floor, min(active, default=0))
        for c in "abcdef":
            assert shares.of(c) >= before[c]
            assert shares.of(c) == max(counters.get(c, 0), floor)
        kept = {c: n for c, n in counters.items() if here.get(c) or n > floor}
        assert shares.counters == kept
