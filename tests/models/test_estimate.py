"""Estimates of architectures that are not here to be loaded, from headers as such files have."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rbee.models import gguf
from rbee.models.describe import info_of
from rbee.models.estimate import estimate
from rbee.models.gguf import Header, Tensor
from rbee.protocol.base import decode, encode
from rbee.protocol.hives import ModelInfo
from tests.support.tiny_gguf import write_llama


def header(architecture: str, tensors: tuple[Tensor, ...] = (), **figures: Any) -> Header:
    usual = {"block_count": 24, "embedding_length": 2048, "feed_forward_length": 8192}
    usual |= {"attention.head_count": 16, "attention.head_count_kv": 4}
    usual |= {key.replace("__", "."): value for key, value in figures.items()}
    metadata = {f"{architecture}.{key}": value for key, value in usual.items()}
    return Header(3, metadata | {"general.architecture": architecture}, tensors, 0)


def tensor(name: str, size: int, kind: str = "Q6_K", shape: tuple[int, ...] = (2048, 1000)):
    return Tensor(name, shape, kind, 0, size)


LAYER = 4 * (128 + 128) * 2
"""Bytes a token takes in one layer of `header`."""


def test_a_plain_model_keeps_all_layers_whole():
    need = estimate(header("llama"))
    assert (need.kv_per_token, need.windows, need.state, need.heads) == (24 * LAYER, (), 0, 16)


@pytest.mark.parametrize(
    "architecture, more, windowed",
    [
        ("gemma3", {}, 20),
        ("gemma2", {}, 12),
        ("gpt-oss", {}, 12),
        ("cohere2", {}, 18),
        ("gemma3n", {"attention__sliding_window_pattern": 4}, 18),
        ("gemma4", {"attention__sliding_window_pattern": [True, True, False] * 8}, 16),
        ("llama", {}, 0),
        ("phi3", {}, 0),
    ],
)
def test_layers_with_a_window_are_those_llama_cpp_gives_one(architecture, more, windowed):
    need = estimate(header(architecture, attention__sliding_window=1024, **more))
    assert need.kv_per_token == 24 * LAYER
    assert need.windows == (((1024, windowed * LAYER),) if windowed else ())


def test_a_window_of_zero_is_none():
    assert estimate(header("gemma3", attention__sliding_window=0)).windows == ()


def test_the_chunks_of_llama4_are_windows_of_8192():
    assert estimate(header("llama4")).windows == ((8192, 18 * LAYER),)


def test_layers_that_share_another_ones_keys_and_values_keep_none():
    need = estimate(header("gemma4", attention__shared_kv_layers=10))
    assert need.kv_per_token == 14 * LAYER


def test_windowed_layers_may_have_heads_of_their_own_size():
    need = estimate(
        header(
            "gemma4",
            attention__sliding_window=512,
            attention__sliding_window_pattern=[True, False] * 12,
            attention__key_length=512,
            attention__value_length=512,
            attention__key_length_swa=256,
            attention__value_length_swa=256,
            attention__head_count_kv=[2, 1] * 12,
        )
    )
    assert need.windows == ((512, 12 * 2 * 512 * 2),)
    assert need.kv_per_token == 12 * 2 * 512 * 2 + 12 * 1024 * 2


def test_a_mamba_keeps_a_state_and_no_keys():
    """mamba-130m: 24 layers, inner 1536, state 16, kernel 4."""
    need = estimate(
        header(
            "mamba",
            attention__head_count=0,
            attention__head_count_kv=0,
            ssm__inner_size=1536,
            ssm__state_size=16,
            ssm__conv_kernel=4,
        )
    )
    assert need.kv_per_token == 0
    assert need.state == 24 * (3 * 1536 + 16 * 1536) * 4


def test_of_a_mixed_model_each_layer_keeps_one_or_the_other():
    ssm = {"ssm__inner_size": 4096, "ssm__state_size": 128, "ssm__conv_kernel": 4}
    state = (3 * (4096 + 2 * 16 * 128) + 128 * 4096) * 4
    listed = estimate(
        header("jamba", attention__head_count_kv=[0, 0, 0, 4] * 6, ssm__group_count=16, **ssm)
    )
    every = estimate(header("qwen3next", full_attention_interval=4, ssm__group_count=16, **ssm))
    for need in (listed, every):
        assert need.kv_per_token == 6 * LAYER
        assert need.state == 18 * state


def test_where_the_embeddings_lie():
    """On a GPU the table stays behind, unless it is the output too; it is there once in any case.
    On the CPU it lies there twice only where the output is kept in another order."""
    rest = tensor("blk.0.ffn_up.weight", 500)
    table, output = tensor("token_embd.weight", 100), tensor("output.weight", 150)
    for tensors, weights, gpu in (
        ((table, rest, output), 750, 650),
        ((table, rest), 600, 600),
        ((tensor("token_embd.weight", 100, "Q4_0"), rest), 700, 600),
        ((rest,), 500, 500),
    ):
        need = estimate(header("llama", tensors))
        assert (need.weights, need.gpu_weights) == (weights, gpu)


def test_a_row_of_logits_is_as_wide_as_the_vocabulary_and_encoders_have_none():
    tensors = (tensor("token_embd.weight", 100, shape=(2048, 151936)),)
    assert estimate(header("llama", tensors)).row == 151936 * 4
    for name in ("bert", "nomic-bert", "gemma-embedding"):
        assert estimate(header(name, tensors)).row == 0


def test_the_figures_travel_with_the_model(tmp_path):
    path = write_llama(tmp_path / "m.gguf")
    info = info_of(gguf.read(path), name="m.gguf", ref="hf:a/b", path="", size=700)
    need = estimate(gguf.read(path))
    assert decode(encode(info), ModelInfo) == info
    told = (info.weights_bytes, info.gpu_weights_bytes, info.kv_bytes_per_token, info.state_bytes)
    assert told == (need.weights, need.gpu_weights, need.kv_per_token, need.state)
    assert (info.compute_bytes, info.heads, info.row_bytes) == (need.compute, 4, 300 * 4)
    assert len(encode(info)) < 1000


ANY = st.one_of(
    st.integers(-5, 1 << 64), st.lists(st.integers(0, 1 << 64), max_size=30), st.text(max_size=3),
    st.booleans(), st.floats(), st.none(),
)  # fmt: skip
KEYS = [
    "embedding_length",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.sliding_window",
    "attention.sliding_window_pattern",
    "attention.shared_kv_layers",
    "attention.key_length_swa",
    "full_attention_interval",
    "ssm.inner_size",
    "ssm.state_size",
    "ssm.conv_kernel",
    "ssm.group_count",
]


@settings(deadline=None, max_examples=150)
@given(
    st.sampled_from(["llama", "gemma3", "llama4", "mamba", "bert"]),
    st.dictionaries(st.sampled_from(KEYS), ANY),
)
def test_whatever_a_header_says_the_figures_are_amounts_a_message_can_carry(name, figures):
    found = header(name, **{key.replace(".", "__"): value for key, value in figures.items()})
    need = estimate(found)
    numbers = [*need._replace(windows=())[:3], need.state, need.compute, need.heads, need.row]
    numbers += [number for window in need.windows for number in window]
    assert all(0 <= number <= 1 << 60 for number in numbers)
