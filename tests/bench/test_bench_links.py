"""What machines over SSH cost, with real servers, hives and workers; no figure is judged here."""

from __future__ import annotations

import json

import pytest

from bench import links
from tests.support.sshd import MISSING

pytestmark = [pytest.mark.skipif(bool(MISSING), reason=MISSING), pytest.mark.lab]


def test_two_idle_links_and_their_hives_are_measured(capsys: pytest.CaptureFixture[str]):
    assert links.main(["--only", "idle", "--links", "2", "--seconds", "0.3"]) == 0
    told = json.loads(capsys.readouterr().out)["idle"]
    assert [told[f"{count} links"]["processes"]["hives"] for count in (0, 1, 2)] == [0, 1, 2]
    assert [told[f"{count} links"]["processes"]["queen"] for count in (0, 1, 2)] == [1, 1, 1]
    assert told["2 links"]["processes"]["sshd"] >= 2
    assert told["2 links"]["hive_rss_mib"] > 1
    assert told["a_queen_killed"]["hives_that_stayed"] == 2
    assert set(told["a_link"]) == {"rss_mib", "cpu_percent", "the_first_rss_mib"}


def test_tokens_and_requests_go_over_each_way(capsys: pytest.CaptureFixture[str]):
    sizes = ["--rounds", "1", "--tokens", "20", "--requests", "2", "--seconds", "0.1"]
    assert links.main(["--only", "events", *sizes]) == 0
    printed = capsys.readouterr()
    each = json.loads(printed.out)["events"]["microseconds_of_cpu_each"]
    for way in links.WAYS:
        assert f"round 1, {way}: 160 events" in printed.err
        assert {name: len(rounds) for name, rounds in each[way].items()} == {
            "queen": 1, "ssh": 1, "sshd": 1, "worker": 1,
        }  # fmt: skip
    waits = json.loads(printed.out)["requests"]
    assert all(set(waits["milliseconds"][way]) == {"p50", "p90", "p99"} for way in links.WAYS)
