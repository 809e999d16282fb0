"""Hostile files: what would end the process in llama.cpp is refused before it is reached.

KILLERS are files that did end it, found by trying every single change that
`hostile_gguf.systematic` makes to a small llama and a small BERT, and thousands of random ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rbee import registry
from rbee.errors import ModelCorrupted
from rbee.models import gguf, gguf_sanity, packages
from tests.support import hostile_gguf, load_trial
from tests.support.tiny_gguf import F32, I32, STRING, Gguf, Value, bert, llama

needs_llamacpp = pytest.mark.skipif(
    not registry.load("llamacpp").probe().available, reason="llama-cpp-python is not installed"
)
SEED = 20_240_607
HUGE = (1 << 32) - 1
FLAT = ("attn_norm.weight", "ffn_norm.weight")


def tokens(*changes: tuple[int, str], count: int = 300) -> Value:
    """The small llama's tokens with some replaced."""
    items = list(llama().metadata["tokenizer.ggml.tokens"].value)[:count]
    for index, text in changes:
        items[index] = text
    return Value(STRING, items, array=True)


def halved(make: Callable[[], Gguf], *names: str) -> Gguf:
    """Some tensors in 16 bits."""
    file = make()
    for name in names:
        file.tensors[name] = file.tensors[name].astype(np.float16)
    return file


def experts(count: int, used: int) -> Gguf:
    """A mixture, rightly shaped."""
    file = llama(metadata={"llama.expert_count": count, "llama.expert_used_count": used})
    for layer in range(2):
        for name in ("gate", "up", "down"):
            weights = file.tensors.pop(f"blk.{layer}.ffn_{name}.weight")
            file.tensors[f"blk.{layer}.ffn_{name}_exps.weight"] = np.stack([weights] * count)
        file.tensors[f"blk.{layer}.ffn_gate_inp.weight"] = np.ones((count, 32), np.float32)
    return file


def changed(make: Callable[..., Gguf], **changes: Any) -> Gguf:
    """`attention__head_count=0` is `llama.attention.head_count`, `tokenizer__x` is as it is."""
    file = make()
    arch = file.metadata["general.architecture"].value
    for name, value in changes.items():
        key = name.replace("__", ".")
        file.set({key if key.startswith("tokenizer.") else f"{arch}.{key}": value})
    return file


def eps(value: float) -> Value:
    return Value(F32, value)


KILLERS: dict[str, tuple[Callable[[], Gguf], str]] = {
    "no layers": (lambda: changed(llama, block_count=0), "block_count"),
    "too many layers": (lambda: changed(llama, block_count=9999), "block_count"),
    "513 layers": (lambda: llama(layers=513), "at most 512"),
    "all layers ahead": (lambda: changed(llama, nextn_predict_layers=3), "nextn"),
    "layers ahead": (lambda: changed(bert, nextn_predict_layers=HUGE), "nextn"),
    "heads 4 to 3": (lambda: llama(kv_heads=3), "cannot share"),
    "heads 4 to 8": (lambda: llama(kv_heads=8), "cannot share"),
    "odd heads": (lambda: llama(width=36, heads=4, kv_heads=4), "in pairs"),
    "heads of one": (lambda: llama(width=4, heads=4, kv_heads=4), "in pairs"),
    "keys of 0": (lambda: changed(bert, attention__key_length=0), "keys of 0"),
    "keys of 64": (lambda: changed(bert, attention__key_length=64), "keys of 64"),
    "keys of -1": (lambda: changed(bert, attention__key_length=HUGE), "keys of"),
    "wider out": (lambda: changed(bert, embedding_length_out=64), "embedding_length_out"),
    "negative epsilon": (
        lambda: changed(llama, attention__layer_norm_rms_epsilon=eps(-1.0)),
        "epsilon is -1",
    ),
    "no epsilon": (
        lambda: changed(bert, attention__layer_norm_epsilon=eps(float("nan"))),
        "epsilon is nan",
    ),
    "rope": (lambda: changed(llama, rope__scaling__type="x"), "rope.scaling.type"),
    "experts of none": (lambda: changed(llama, expert_count=2), "expert_used_count"),
    "used of none": (lambda: changed(llama, expert_used_count=1), "expert_used_count"),
    "used by layer": (
        lambda: changed(llama, expert_used_count=Value(I32, [1, 1], array=True)),
        "expert_used_count",
    ),
    "experts without end": (lambda: changed(llama, expert_count=HUGE), "expert_count"),
    "groups of none": (lambda: changed(bert, expert_group_count=1), "expert_group_count"),
    "more used": (lambda: experts(2, 3), "expert_used_count is 3 of 2"),
    "none used": (lambda: experts(3, 0), "expert_used_count is 0 of 3"),
    "pooling": (lambda: changed(bert, pooling_type=5), "pooling_type is 5"),
    "pooling of a talker": (lambda: changed(llama, pooling_type=7), "pooling_type is 7"),
    "16-bit norms": (lambda: halved(llama, *(f"blk.0.{name}" for name in FLAT)), "must be F32"),
    "16-bit output norm": (lambda: halved(llama, "output_norm.weight"), "must be F32"),
    "16-bit bias": (lambda: halved(bert, "blk.1.attn_q.bias"), "must be F32"),
    "16-bit types": (lambda: halved(bert, "token_types.weight"), "must be F32"),
    "a token twice": (lambda: changed(llama, tokenizer__ggml__tokens=tokens((7, "a"))), "twice"),
    "twice to a zero": (
        lambda: changed(llama, tokenizer__ggml__tokens=tokens((7, "x\0y"), (8, "x\0z"))),
        "twice",
    ),
    "two tokens": (
        lambda: changed(llama, tokenizer__ggml__tokens=Value(STRING, ["x", "x"], array=True)),
        "twice",
    ),
    "bytes that are none": (
        lambda: changed(
            llama, tokenizer__ggml__token_type=Value(I32, [6] * 300, array=True)
        ),
        "said to be a byte",
    ),
    "pieces without bytes": (lambda: changed(llama, tokenizer__ggml__model="llama"), "byte 0x"),
    "no vocabulary": (lambda: changed(llama, tokenizer__ggml__model="none"), "no vocabulary"),
    "no vocabulary either": (lambda: changed(llama, tokenizer__ggml__model="no_vocab"), "no voc"),
}  # fmt: skip


@pytest.mark.parametrize("killer", KILLERS)
def test_a_killer_is_refused_with_its_reason(killer: str, tmp_path: Path):
    make, why = KILLERS[killer]
    path = make().save(tmp_path / "m.gguf")
    with pytest.raises(ModelCorrupted) as caught:
        gguf_sanity.check(gguf.read(path), path.name)
    assert caught.value.message.startswith("m.gguf: ")
    assert why in caught.value.message


def test_the_vocabulary_must_fit_the_embeddings(tmp_path: Path):
    path = changed(llama, tokenizer__ggml__tokens=tokens(count=299)).save(tmp_path / "m.gguf")
    with pytest.raises(ModelCorrupted, match=r"shape \(32, 300\)"):
        gguf_sanity.check(gguf.read(path), path.name)


@pytest.mark.parametrize(
    "make",
    [
        llama,
        bert,
        lambda: llama(kv_heads=1),
        lambda: llama(layers=1, width=2, heads=1, kv_heads=1),
        lambda: experts(2, 1),
        lambda: experts(2, 2),
        lambda: changed(llama, pooling_type=0),
        lambda: changed(llama, rope__scaling__type="yarn"),
        lambda: changed(llama, expert_count=0, expert_used_count=0),
    ],
)
@needs_llamacpp
def test_what_is_right_is_let_through_and_loads(make: Callable[[], Gguf], tmp_path: Path):
    path = make().save(tmp_path / "m.gguf")
    ((_, outcome, words),) = load_trial.trial([path])
    assert (outcome, words) == ("loaded", "")


@pytest.mark.skipif(packages.packaged("smollm2-135m") is None, reason="no demo model")
def test_a_real_model_passes():
    file = packages.packaged("smollm2-135m")
    assert file is not None
    gguf_sanity.check(gguf.read(file.path), file.path.name)


def tried(cases: Iterable[hostile_gguf.Case], folder: Path) -> Iterator[tuple[str, str, str]]:
    """(name, outcome, words) of each; two files at a time lie on the disk."""
    names: list[str] = []

    def paths() -> Iterator[Path]:
        for name, data in cases:
            path = folder / f"{len(names) % 2}.gguf"
            path.write_bytes(data)
            names.append(name)
            yield path

    for number, (_, outcome, words) in enumerate(load_trial.trial(paths())):
        yield names[number], outcome, words


@needs_llamacpp
def test_random_damage_never_ends_the_process(tmp_path: Path):
    cases = chain(
        hostile_gguf.random_cases(llama, 150, SEED),
        hostile_gguf.random_cases(bert, 100, SEED + 1),
        hostile_gguf.at_every_cut(llama().data(), len(llama().header()), 500),
    )
    seen: set[str] = set()
    for name, outcome, words in tried(cases, tmp_path):
        assert outcome in ("loaded", "refused"), f"{name}: {outcome} {words}"
        seen.add(outcome)
    assert seen == {"loaded", "refused"}


@needs_llamacpp
def test_the_trial_sees_a_death(tmp_path: Path):
    path = changed(llama, rope__scaling__type="x").save(tmp_path / "m.gguf")
    ((_, outcome, words),) = load_trial.trial([path], checked=False)
    assert (outcome, words) == ("died", "SIGABRT")
