"""Texts to vectors with a tiny random BERT: pooled, normalised, batched."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rbee import registry
from rbee.backend_api import Done, Embedded, Embedding, Generation
from rbee.errors import ContextLengthExceeded, InternalError, ModelIncompatible, ValidationFailed
from tests.support.backends import Driver, load
from tests.support.tiny_gguf import write_bert, write_llama

pytestmark = pytest.mark.skipif(
    not registry.load("llamacpp").probe().available, reason="llama-cpp-python is not installed"
)
CTX = 64


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_bert(tmp_path_factory.mktemp("bert") / "bert.gguf")


@pytest.fixture(scope="module")
def model(path):
    driver = Driver(load(path, ctx=CTX, slots=2))
    yield driver
    driver.close()


def vectors(model: Driver, *texts: str, **options) -> np.ndarray:
    last = model.submit(Embedding(texts, **options)).end()
    assert isinstance(last, Embedded), last
    assert last.prompt_tokens >= len(texts)
    return np.array(last.vectors)


def test_vectors_have_length_one_unless_asked_otherwise(model):
    one = vectors(model, "hello world", "bees")
    assert np.linalg.norm(one, axis=1) == pytest.approx([1.0, 1.0], abs=1e-5)
    raw = vectors(model, "hello world", "bees", normalize=False)
    lengths = np.linalg.norm(raw, axis=1)
    assert lengths != pytest.approx([1.0, 1.0], abs=1e-3)
    assert raw / lengths[:, None] == pytest.approx(one, abs=1e-5)


def test_a_batch_gives_each_text_what_it_gets_alone_and_in_order(model):
    texts = [f"{word} number {n}" for n in range(90) for word in ("bee", "hive")]
    together = vectors(model, *texts)
    assert together.shape[0] == 180
    for n in (0, 1, 63, 64, 65, 128, 179):
        assert vectors(model, texts[n])[0] == pytest.approx(together[n], abs=1e-3)
    assert not np.allclose(together[0], together[1])


def test_requests_share_batches(model):
    before = model.model.stats()["steps"]
    answers = [model.submit(Embedding((f"text {n}",))) for n in range(40)]
    found = [answer.end() for answer in answers]
    assert all(isinstance(last, Embedded) for last in found)
    assert model.model.stats()["steps"] - before < 40


def test_a_text_that_does_not_fit_is_refused_with_both_numbers(model):
    with pytest.raises(ContextLengthExceeded, match="input 1") as caught:
        model.submit(Embedding(("short", "long " * CTX)))
    assert caught.value.details["available"] == CTX
    assert len(vectors(model, "still alive")) == 1


def test_it_writes_no_text_and_is_told_by_its_capabilities(model):
    assert model.model.capabilities == ("embedding",)
    with pytest.raises(ModelIncompatible):
        model.submit(Generation(prompt="hello"))


def test_cancel_and_close_end_what_waits(path):
    driver = Driver(load(path, ctx=CTX))
    many = driver.submit(Embedding(tuple(f"text number {n}" for n in range(2000))))
    many.cancel()
    last = many.end()
    assert isinstance(last, Done)
    assert last.finish_reason == "cancelled"
    waiting = driver.submit(Embedding(tuple(f"text number {n}" for n in range(2000))))
    driver.close()
    assert isinstance(waiting.end(), Done)


def test_pooling_by_the_first_token_differs_from_the_mean(path, tmp_path):
    first = write_bert(tmp_path / "cls.gguf", pooling=2)
    driver = Driver(load(first, ctx=CTX))
    mean = Driver(load(path, ctx=CTX))
    try:
        one, other = vectors(driver, "hello world"), vectors(mean, "hello world")
        assert not np.allclose(one, other, atol=1e-3)
        assert math.isclose(float(np.linalg.norm(one)), 1.0, abs_tol=1e-5)
    finally:
        driver.close()
        mean.close()


def test_a_text_of_no_tokens_is_refused_and_costs_others_nothing(tmp_path):
    path = write_llama(tmp_path / "llama.gguf", metadata={"llama.pooling_type": 3})
    driver = Driver(load(path, ctx=CTX))
    try:
        others = [driver.submit(Embedding((text,))) for text in ("hello", "bees")]
        with pytest.raises(ValidationFailed, match="text 1"):
            driver.submit(Embedding(("a", "")))
        for other in others:
            assert isinstance(other.end(), Embedded)
    finally:
        driver.close()


def test_a_defect_ends_the_requests_it_meets_and_no_other(path, monkeypatch):
    from rbee.backends.llamacpp.embedding import EmbeddingModel

    def broken(self: EmbeddingModel, sequence: int, *, normalize: bool) -> list[float]:
        raise ValueError(sequence)

    driver = Driver(load(path, ctx=CTX))
    try:
        with monkeypatch.context() as patch:
            patch.setattr(EmbeddingModel, "_vector", broken)
            assert isinstance(driver.submit(Embedding(("hello",))).end(), InternalError)
        assert isinstance(driver.submit(Embedding(("hello",))).end(), Embedded)
    finally:
        driver.close()
