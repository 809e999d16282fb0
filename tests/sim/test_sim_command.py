"""`rbee sim`: what it prints, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rbee.cli import app
from rbee.sim.contest import POLICIES

TRACE = """\
{"title": "a few", "models": {"m": {"size": 5, "parameters": 8}}, "fleet": "one-gpu", "ctx": 2048}
{"at": 0, "client": "anna", "model": "m", "prompt": 200, "answer": 40}
{"at": 12, "client": "ben", "model": "m", "prompt": 300, "answer": 20, "priority": "batch"}
"""


@pytest.fixture
def trace(tmp_path: Path) -> str:
    file = tmp_path / "few.jsonl"
    file.write_text(TRACE)
    return str(file)


def rbee(*arguments: str):
    return CliRunner().invoke(app, ["sim", *arguments])


def test_without_a_trace_it_says_what_there_is():
    done = rbee()
    assert done.exit_code == 0
    for name in ("chat", "abab", "burst", "three-models", "home", "one-gpu", *POLICIES):
        assert f"\n{name} " in f"\n{done.stdout}"
    listed = json.loads(rbee("--json").stdout)
    assert listed["traces"]["abab"]["fleet"] == "one-gpu"
    assert listed["policies"].keys() == POLICIES.keys()


def test_policies_stand_side_by_side(trace: str):
    done = rbee(trace)
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[:2] == [f"{trace}: a few", "on one-gpu: One machine with one RTX 3090; seed 1"]
    assert lines[3].split() == [name.upper() for name in POLICIES]
    rows = {line[:28].strip(): line[28:].split() for line in lines[4:]}
    assert rows["requests"] == ["2", "2", "2"]
    assert rows["failed"] == ["0", "0", "0"]
    assert rows["model loads"] == ["1", "1", "1"]
    assert rows["interactive: total p95"][0] == rows["interactive: total p95"][2]
    assert done.stderr == ""


def test_json_has_every_figure(trace: str):
    done = rbee(trace, "--policy", "ect", "--policy", "own-load", "--policy", "ect", "--json")
    assert done.exit_code == 0
    outcomes = json.loads(done.stdout)["outcomes"]
    assert [o["policy"] for o in outcomes] == ["ect", "own-load"]
    assert outcomes[0]["answer_tokens"] == 60
    assert outcomes[0]["prompt_tokens"] == 500
    assert outcomes[0]["classes"].keys() == {"interactive", "batch"}


def test_another_fleet_and_all_policies(trace: str):
    done = rbee(trace, "--fleet", "home", "--policy", "all", "--json")
    told = json.loads(done.stdout)
    assert {o["fleet"] for o in told["outcomes"]} == {"home"}
    assert [o["policy"] for o in told["outcomes"]] == list(POLICIES)


def test_a_seed_decides(trace: str):
    said = [rbee("abab", "--policy", "ect", "--seed", seed, "--json").stdout for seed in "446"]
    assert said[0] == said[1] != said[2]


@pytest.mark.parametrize(
    "arguments, code, said",
    [
        (["nowhere"], 1, "abab"),
        (["abab", "--policy", "best"], 2, "least-connections"),
        (["abab", "--fleet", "palace"], 1, "one-gpu"),
        (["--policy", "ect"], 2, "no trace is named"),
    ],
)
def test_what_is_not_known_is_said(arguments: list[str], code: int, said: str):
    done = rbee(*arguments)
    assert done.exit_code == code
    assert said in done.stderr
    assert done.stdout == ""
