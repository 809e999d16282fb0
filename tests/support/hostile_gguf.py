"""Ways to damage a model's file that keep it a GGUF file: hostile values, kinds, shapes, names.

Each case is a name and the file's bytes. `systematic` is every single change, `random_cases` draws
several at a time and flips bytes; the same seed gives the same files.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import numpy as np

from tests.support.tiny_gguf import BOOL, F32, I32, KINDS, STRING, U32, U64, Gguf, Value

Case = tuple[str, bytes]
_WIDTH = {0: 8, 1: 8, 2: 16, 3: 16, 4: 32, 5: 32, 10: 64, 11: 64}
_SIGNED = {1, 3, 5, 11}
_FLOATS = [0.0, -1.0, 1e-30, 1e30, 3.4e38, float("nan"), float("inf"), -float("inf")]
_HOSTILE = [
    0, 1, 2, 3, 5, 6, 7, 31, 33, 127, 255, 512, 513, 4096, 65535, 1 << 20, (1 << 24) + 1,
    (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 40, 1 << 63, (1 << 64) - 1,
]  # fmt: skip


def _words(text: str) -> list[str]:
    return text.split()


EXTRA = _words(
    "attention.key_length attention.value_length attention.key_length_mla"
    " attention.value_length_mla attention.key_length_swa attention.value_length_swa"
    " attention.sliding_window attention.sliding_window_pattern attention.causal"
    " attention.max_alibi_bias attention.clamp_kqv attention.scale attention.output_scale"
    " attention.temperature_length attention.temperature_scale attention.group_norm_epsilon"
    " attention.group_norm_groups attention.layer_norm_epsilon attention.layer_norm_rms_epsilon"
    " attention.q_lora_rank attention.kv_lora_rank attention.relative_buckets_count"
    " attention.shared_kv_layers attention.recurrent_layers attention.indexer.head_count"
    " attention.indexer.key_length attention.indexer.top_k rope.dimension_count"
    " rope.dimension_count_swa rope.dimension_sections rope.freq_base rope.freq_base_swa"
    " rope.scale_linear rope.scaling.type rope.scaling.factor rope.scaling.attn_factor"
    " rope.scaling.original_context_length rope.scaling.finetuned rope.scaling.yarn_log_multiplier"
    " rope.scaling.yarn_ext_factor rope.scaling.yarn_beta_fast expert_count expert_used_count"
    " expert_shared_count expert_group_count expert_group_used_count expert_weights_scale"
    " expert_gating_func expert_feed_forward_length expert_shared_feed_forward_length"
    " moe_every_n_layers nextn_predict_layers vocab_size pooling_type logit_scale residual_scale"
    " embedding_scale attn_logit_softcapping final_logit_softcapping router_logit_softcapping"
    " ssm.conv_kernel ssm.inner_size ssm.state_size ssm.time_step_rank ssm.group_count"
    " wkv.head_size time_mix_extra_dim time_decay_extra_dim token_shift_count"
    " leading_dense_block_count features_length posnet.block_count posnet.embedding_length"
    " convnext.block_count convnext.embedding_length classifier.output_labels"
    " decoder_start_token_id decoder_block_count embedding_length_out"
    " embedding_length_per_layer_input interleave_moe_layer_step"
    " full_attention_interval use_parallel_residual tensor_data_layout feed_forward_length"
    " n_deepstack_layers swiglu_clamp_exp dense_2_feat_in dense_2_feat_out shortconv.l_cache"
)
"""Keys of an architecture that a file may have and ours do not."""
TOKENIZER = _words(
    "bos_token_id eos_token_id eot_token_id eom_token_id unknown_token_id seperator_token_id"
    " padding_token_id cls_token_id mask_token_id fim_pre_token_id fim_suf_token_id"
    " fim_mid_token_id fim_pad_token_id fim_rep_token_id fim_sep_token_id prefix_token_id"
    " suffix_token_id middle_token_id add_bos_token add_eos_token add_sep_token add_space_prefix"
    " remove_extra_whitespaces token_type_count precompiled_charsmap model pre"
)
ARCHITECTURES = _words(
    "llama llama4 deci falcon falcon-h1 grok gpt2 gptj gptneox mpt baichuan starcoder refact bert"
    " modern-bert nomic-bert nomic-bert-moe neo-bert jina-bert-v2 jina-bert-v3 eurobert bloom"
    " stablelm qwen qwen2 qwen2moe qwen2vl qwen3 qwen3moe qwen3next qwen3vl phi2 phi3 phimoe plamo"
    " plamo2 codeshell orion internlm2 minicpm minicpm3 gemma gemma2 gemma3 gemma3n gemma4"
    " gemma-embedding starcoder2 mamba mamba2 jamba xverse command-r cohere2 dbrx olmo olmo2 olmoe"
    " openelm arctic deepseek deepseek2 chatglm glm4 glm4moe bitnet t5 t5encoder jais nemotron"
    " nemotron_h exaone exaone4 rwkv6 rwkv6qwen2 rwkv7 arwkv7 granite granitemoe granitehybrid"
    " chameleon wavtokenizer-dec plm bailingmoe dots1 arcee ernie4_5 hunyuan-moe hunyuan-dense"
    " smollm3 gpt-oss lfm2 lfm2moe dream smallthinker llada llada-moe seed_oss grovemoe apertus"
    " minimax-m2 cogvlm pangu-embed mistral3 clip mmproj none"
)


def systematic(make: Callable[[], Gguf]) -> Iterator[Case]:
    """Every single change to every key and every tensor, keys it does not have included."""
    base = make()
    arch = str(base.metadata["general.architecture"].value)
    for key, value in base.metadata.items():
        yield f"without {key}", _with(base, {key: None})
        for changed in _values(value):
            yield f"{key} = {_short(changed)}", _with(base, {key: changed})
    for key in [*(f"{arch}.{k}" for k in EXTRA), *(f"tokenizer.ggml.{k}" for k in TOKENIZER)]:
        if key not in base.metadata:
            for changed in _extra_values():
                yield f"{key} = {_short(changed)}", _with(base, {key: changed})
    for name in ARCHITECTURES:
        yield f"architecture {name}", _as(base, arch, name).data()
    for pre in (
        "default",
        "llama-bpe",
        "qwen2",
        "deepseek-llm",
        "smollm",
        "tekken",
        "gpt-4o",
        "bad",
    ):
        for model in (
            "gpt2",
            "llama",
            "bert",
            "t5",
            "rwkv",
            "plamo2",
            "no_vocab",
            "none",
            "hybriddna",
        ):
            changes = {"tokenizer.ggml.model": model, "tokenizer.ggml.pre": pre}
            yield f"tokenizer {model} {pre}", _with(base, changes)
    yield from _tensors(base)


def random_cases(make: Callable[[], Gguf], count: int, seed: int) -> Iterator[Case]:
    """Some changes at once, bytes flipped in the header, or the file cut."""
    draw = random.Random(seed)
    base = make()
    header = base.header()
    data = base.data()
    keys = list(base.metadata)
    arch = str(base.metadata["general.architecture"].value)
    for number in range(count):
        way = draw.randrange(4)
        if way == 0:
            flipped = bytearray(data)
            for _ in range(draw.choice((1, 1, 2, 4))):
                flipped[draw.randrange(len(header))] = draw.choice(
                    (0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256))
                )
            yield f"flip {seed}.{number}", bytes(flipped)
        elif way == 1:
            yield f"cut {seed}.{number}", data[: draw.randrange(len(data))]
        else:
            changes: dict[str, Value | None] = {}
            for _ in range(draw.choice((1, 2, 3))):
                if draw.random() < 0.5:
                    key = draw.choice(keys)
                    changes[key] = draw.choice([*_values(base.metadata[key]), None])
                else:
                    changes[f"{arch}.{draw.choice(EXTRA)}"] = draw.choice(list(_extra_values()))
            what = ", ".join(f"{k} = {_short(v)}" for k, v in changes.items())
            yield f"{what} {seed}.{number}", _with(base, changes)


def _with(base: Gguf, changes: dict[str, object]) -> bytes:
    return Gguf(dict(base.metadata), base.tensors).set(changes).data()


def _as(base: Gguf, arch: str, name: str) -> Gguf:
    """The same file under another architecture's name."""
    out = Gguf({}, base.tensors)
    for key, value in base.metadata.items():
        own = key.startswith(f"{arch}.")
        out.metadata[name + key[len(arch) :] if own else key] = value
    return out.set({"general.architecture": name})


def _values(value: Value) -> Iterator[Value]:
    if value.array:
        yield from _arrays(value)
    elif value.kind == STRING:
        for text in ("", "x", "\0", "\udcff", "a" * 100_000, "{% raise %}", "%s%n"):
            yield Value(STRING, text)
    elif value.kind == F32:
        yield from (Value(F32, number) for number in _FLOATS)
    elif value.kind in _WIDTH:
        yield from (Value(value.kind, number) for number in _fitting(value.kind))
    yield from _kinds(value)


def _kinds(value: Value) -> Iterator[Value]:
    for kind in (*KINDS, STRING):
        if kind != value.kind or value.array:
            yield Value(kind, "1" if kind == STRING else KINDS[kind] != "<?" and 1)
    for kind, item in ((U32, 1), (I32, -1), (F32, 1.0), (STRING, "x"), (BOOL, True)):
        for length in (0, 1, 2, 600):
            yield Value(kind, [item] * length, array=True)


def _arrays(value: Value) -> Iterator[Value]:
    items = list(value.value)
    for changed in ([], items[:1], items[:-1], [*items, items[-1]], items[::-1], items * 2):
        yield Value(value.kind, changed, array=True)
    worst: list[object]
    if value.kind == STRING:
        worst = ["", " ", "\n", items[0], "\udcff", "\0", "a b", "x" * 70_000, "<0xFF>", "▁" * 300]
    elif value.kind == F32:
        worst = list(_FLOATS)
    else:
        worst = list(_fitting(value.kind))
    for item in worst:
        yield Value(value.kind, [item] * len(items), array=True)
        for place in (0, len(items) // 2, len(items) - 1):
            yield Value(value.kind, [*items[:place], item, *items[place + 1 :]], array=True)


def _extra_values() -> Iterator[Value]:
    for number in (0, 1, 2, 3, 7, 64, 513, (1 << 31) - 1, 1 << 31, (1 << 32) - 1):
        yield Value(U32, number)
    for number in (0.0, -1.0, 1e30, float("nan"), float("inf")):
        yield Value(F32, number)
    yield Value(BOOL, True)
    yield Value(BOOL, False)
    for text in ("", "x", "yarn", "linear", "longrope", "none"):
        yield Value(STRING, text)
    for number in (0, 1, (1 << 31) - 1):
        for length in (1, 2, 4, 600):
            yield Value(I32, [number] * length, array=True)
            yield Value(U32, [number] * length, array=True)
    yield Value(BOOL, [True, True], array=True)
    yield Value(F32, [float("nan")] * 2, array=True)
    yield Value(U64, 1 << 63)


def _fitting(kind: int) -> Iterator[int]:
    width = _WIDTH[kind]
    seen: set[int] = set()
    for number in [*_HOSTILE, -1, -2]:
        wrapped = number & ((1 << width) - 1)
        if kind in _SIGNED and wrapped >> (width - 1):
            wrapped -= 1 << width
        if wrapped not in seen:
            seen.add(wrapped)
            yield wrapped


def _tensors(base: Gguf) -> Iterator[Case]:
    for name, weights in base.tensors.items():
        others = {other: w for other, w in base.tensors.items() if other != name}
        yield f"without tensor {name}", Gguf(base.metadata, others).data()
        for what, changed in {
            "flat": weights.reshape(-1),
            "turned": np.ascontiguousarray(weights.T),
            "half": weights[: max(1, len(weights) // 2)],
            "double": np.concatenate([weights, weights]),
            "deep": weights.reshape(1, 1, *weights.shape),
            "f16": weights.astype(np.float16),
            "one": weights.reshape(-1)[:1],
            "nan": np.full_like(weights, np.nan),
            "inf": np.full_like(weights, np.inf),
        }.items():
            yield (
                f"tensor {name} {what}",
                Gguf(base.metadata, {**base.tensors, name: changed}).data(),
            )
        renamed = {**others, f"{name}x": weights, "": weights}
        yield f"tensor {name} renamed", Gguf(base.metadata, renamed).data()
    for extra in ("rope_freqs.weight", "blk.0.attn_q.bias", "blk.0.attn_qkv.weight", "output.bias",
                  "blk.0.ffn_gate_inp.weight", "blk.0.attn_q_norm.weight", "cls.weight", "x" * 64,
                  "blk.0.rope_factors_long.weight", "blk.0.attn_output.bias", "x" * 70,
                  "blk.0.attn_q.scale", "blk.0.ffn_norm.bias"):  # fmt: skip
        for shape in ((1,), (4,), (32,), (32, 32), (1, 1, 1, 1)):
            tensors = {**base.tensors, extra: np.ones(shape, np.float32)}
            yield f"extra tensor {extra[:40]} {shape}", Gguf(base.metadata, tensors).data()


def _short(value: Value | None) -> str:
    if value is None:
        return "nothing"
    text = repr(value.value)
    return f"{text[:40]}{'…' + str(len(value.value)) if len(text) > 40 else ''} kind {value.kind}"


def at_every_cut(data: bytes, header: int, step: int) -> Iterator[Case]:
    """The file cut in the header every `step` bytes, and at some places in the weights."""
    for length in [*range(0, header, step), *range(header, len(data), max(1, len(data) // 20))]:
        yield f"cut at {length}", data[:length]
