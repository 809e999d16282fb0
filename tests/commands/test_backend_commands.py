"""`rbee backend list|check`, run as a person does."""

from __future__ import annotations

import json

import pytest

from rbee import registry
from tests.support.home import Home


def test_the_list_says_what_each_can_and_what_would_make_it_usable(home: Home):
    done = home.rbee("backend", "list")
    assert done.returncode == 0
    head, *lines = done.stdout.splitlines()
    assert head.split() == ["BACKEND", "PACKAGE", "RUNS", "CAN", "DEVICES", "USABLE"]
    rows = {line.split()[0]: line for line in lines if line and not line.startswith(" ")}
    assert rows["echo"].split()[-2:] == ["cpu", "yes"]
    for info, support in registry.survey():
        if not support.available:
            assert f"no: {support.reason}" in rows[info.name]
            assert f"→ {support.action}" in done.stdout


def test_a_model_is_named_and_its_format_is_the_one_there_is(home: Home):
    file = home.path / "words.txt"
    file.write_text("bees")
    done = home.rbee("backend", "check", "echo", "-m", "words.txt", "--json")
    told = json.loads(done.stdout)
    assert told["model"] == str(file.resolve())
    clauses = {one["name"]: one for one in told["clauses"]}
    assert clauses["answers"]["state"] == "ok"
    # echo looks into no file: that it takes a damaged one is what the contract is for.
    assert (done.returncode, clauses["refuses damaged files"]["state"]) == (1, "failed")
    assert (
        "a file that was cut off: it loaded all the same"
        in (clauses["refuses damaged files"]["words"])
    )
    assert done.stderr == f"Checking echo with {file.resolve()} on cpu …\n"


def test_a_clause_that_fails_ends_with_1_and_says_why(home: Home):
    done = home.rbee("backend", "check", "echo", "--device", "cuda:3", "-q")
    assert done.returncode == 1
    [line] = [one for one in done.stdout.splitlines() if one.startswith("loads")]
    assert line.split() == [
        "loads", "failed", "BACKEND_UNAVAILABLE:", "echo", "runs", "on", "the", "device", "cpu",
        "only,", "not", "on", "cuda:3",
    ]  # fmt: skip
    assert done.stderr == "rbee: 3 of 17 clauses failed\n"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("abacus",), "BACKEND_UNAVAILABLE", "is not installed here"),
        (("echo", "-m", "nowhere"), "MODEL_NOT_FOUND", "nowhere does not exist"),
    ],
)
def test_what_cannot_be_checked_is_said(home: Home, words, code, said):
    done = home.rbee("backend", "check", *words, "--json")
    error = json.loads(done.stdout)["error"]
    assert done.returncode == 1
    assert error["code"] == code
    assert said in error["message"]
    assert error["details"]["suggested_action"]
