"""What is measured: cases, groups, prompts, readings."""

from __future__ import annotations

import random

import pytest

from bench import prompts
from bench.cases import CASES, LLAMA_CPP, chosen, step_costs
from bench.hygiene import MIB, Sample, growth, random_ask
from bench.load import Wrong
from bench.processes import parse_pss
from bench.servers_rbee import whole_request
from bench.session import groups, reason


def test_cases_have_names_and_rows_of_their_own():
    names = [case.name for case in CASES]
    assert len(names) == len(set(names))
    rows = [(f.what, model) for case in CASES for f in case.figures for model in case.models]
    assert len([row for row in rows if not row[0].startswith(("the same", "of it"))]) == len(
        {row for row in rows if not row[0].startswith(("the same", "of it"))}
    )


def test_every_target_of_the_engine_has_a_row():
    numbers = {figure.number for case in CASES for figure in case.figures if figure.target}
    assert numbers == {"P1", "P2", "P3", "P3a", "P3b"}


def test_choosing():
    assert chosen([], []) == list(CASES)
    (case,) = chosen(["prefix-seen"], ["q4_1"])
    assert (case.name, case.models) == ("prefix-seen", ("q4_1",))
    assert chosen(["memory"], ["q4_1"]) == []


def test_every_case_is_in_one_start_of_its_servers():
    found = groups(CASES)
    assert len(found) == len(set(found))
    assert sum(len(groups([case])) for case in CASES) == sum(len(case.models) for case in CASES)
    assert [queen for _, _, queen in found] == sorted(queen for _, _, queen in found)


def test_the_slow_third_server_has_few_rows():
    assert 1 <= sum(LLAMA_CPP in case.servers for case in CASES) <= 4


def test_words_are_one_token_each():
    from tests.support.vocabulary import packaged_vocab

    with packaged_vocab() as vocab:
        text = prompts.text(600, random.Random(3))
        assert len(vocab.tokenize(text, special=False)) == 600
        for word in prompts.WORDS:
            assert len(vocab.tokenize(f" {word}", special=False)) == 1, word


def test_the_same_salt_gives_the_same_prompt_and_another_gives_another():
    assert prompts.short(random.Random("a")) == prompts.short(random.Random("a"))
    assert prompts.short(random.Random("a")) != prompts.short(random.Random("b"))
    salt = random.Random(1)
    prefix = prompts.text(10, salt)
    one, two = prompts.extended(prefix, salt), prompts.extended(prefix, salt)
    assert one.startswith(prefix)
    assert two.startswith(prefix)
    assert one != two


def test_costs_of_a_step():
    before = {"steps": 10, "compute_ms": 100, "between_ms": 10, "engine_cpu_ms": 5, "loop_s": 0.5}
    after = {"steps": 20, "compute_ms": 200, "between_ms": 30, "engine_cpu_ms": 9, "loop_s": 0.51}
    costs = step_costs(before, after)
    assert costs["python"] == pytest.approx(1.4)
    assert (costs["engine"], costs["between"], costs["compute"]) == (0.4, 2.0, 10.0)
    assert "python" not in step_costs(before | {"loop_s": None}, after)
    with pytest.raises(Wrong, match="no steps"):
        step_costs(before, before)
    with pytest.raises(Wrong, match="between_ms"):
        step_costs(before, {"steps": 3, "compute_ms": 1})


def test_growth_is_from_after_the_warm_up_to_the_end():
    def sample(ended: int, rss: int) -> Sample:
        return Sample(0.0, ended, rss * MIB, 0, 0)

    samples = [sample(0, 50), sample(20, 100), sample(25, 102), sample(60, 300), sample(95, 111)]
    assert growth(samples, 100) == {"after_warm_up": 101, "at_end": 111, "growth": 10}
    assert growth(samples[:2], 100) == {}


def test_random_requests_stay_short():
    chance = random.Random(7)
    asks = [random_ask(chance) for _ in range(300)]
    assert all(1 <= ask.max_tokens <= 24 and len(ask.prompt.split()) <= 144 for ask in asks)
    assert len({ask.prompt for ask in asks}) == 300
    assert {bool(ask.stop) for ask in asks} == {ask.sampled for ask in asks} == {True, False}


def test_pss():
    assert parse_pss("Rss: 10 kB\nPss:       1234 kB\nPss_Dirty: 7 kB\n") == 1234 * 1024
    assert parse_pss("") == 0


def test_whole_requests():
    one = b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc"
    assert whole_request(one + b"rest") == b"rest"
    assert whole_request(one[:-1]) is None
    assert whole_request(b"POST / HTTP/1.1\r\n") is None
    assert whole_request(b"GET / HTTP/1.1\r\n\r\n") == b""


def test_reasons_are_one_line_with_the_end_of_what_was_said():
    assert reason(Wrong("a\n b")) == "a b"
    assert reason(TimeoutError()) == "TimeoutError"
    assert reason(Wrong("x" * 500 + "the end")).endswith("the end")
    assert len(reason(Wrong("x" * 500))) == 201
