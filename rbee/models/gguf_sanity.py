"""Whether a header that reads well also makes sense: what llama.cpp takes for granted, looked at.

Owns the rules beyond the format. llama.cpp ends the process on most of what is refused here (a
failed assertion, an exception nobody catches), and then a worker dies without telling its user why.
Every rule stands for files that were tried; tests/models/test_gguf_hostile.py keeps them. Some
hundred architectures have rules of their own beyond these: a file that breaks one of those still
takes the one worker down that loads it, and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

from rbee.errors import ModelCorrupted
from rbee.models.gguf import Header, Skipped, Vocabulary


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_MAX_LAYERS, _MAX_EXPERTS = 512, 1024
_POOLINGS = frozenset({0, 1, 2, 3, 4, (1 << 32) - 1})
_ROPE_SCALINGS = frozenset({"none", "linear", "yarn", "longrope"})
_NO_VOCABULARY = frozenset({"none", "no_vocab"})
_BYTE_TYPE = 6
_ONE_HEAD_SIZE = _words(
    "afmoe bailingmoe2 bert bitnet bloom chatglm cohere2 command-r eurobert glm4 glm4moe gpt2"
    " gptneox granitehybrid jais jina-bert-v2 jina-bert-v3 laguna minimax-m3 modern-bert mpt"
    " nanbeige nemotron_h nemotron_h_moe neo-bert nomic-bert nomic-bert-moe openelm phi2 phi3"
    " phimoe qwen qwen35 qwen35moe qwen3next refact stablelm starcoder"
)
"""Architectures whose keys and values have heads of one size."""
_WHOLE_ROPE = _words(
    "apertus arcee arctic baichuan chameleon codeshell cogvlm cohere2moe dbrx deci deepseek"
    " dots1 dream ernie4_5 ernie4_5-moe exaone falcon granite granitemoe grok grovemoe"
    " hunyuan-moe internlm2 jais2 llada llada-moe llama llama4 maincoder mellum minimax-01"
    " minimax-m2 mistral3 nemotron olmo olmo2 olmoe orion paddleocr pangu-embedded plamo qwen2"
    " qwen2moe qwen2vl qwen3 qwen3moe qwen3vl qwen3vlmoe rnd1 seed_oss smallthinker smollm3"
    " starcoder2 xverse"
)
"""Architectures that in addition rotate the whole head."""
_ALWAYS_EXPERTS = frozenset({"smallthinker", "llada-moe", "bailingmoe2"})


def check(header: Header, name: str) -> None:
    """Raises ModelCorrupted, naming the key or tensor. `name` is the file's."""
    for rule in _RULES:
        for fault in rule(header):
            raise ModelCorrupted(f"{name}: {fault}")


def _norms(header: Header) -> Iterator[str]:
    for key in (
        "attention.layer_norm_rms_epsilon",
        "attention.layer_norm_epsilon",
        "attention.group_norm_epsilon",
    ):
        value = header.get(key, 0.0)
        if isinstance(value, float) and not 0 <= value < math.inf:
            yield f"{key} is {value}"
    for tensor in header.tensors:
        flat = tensor.name.endswith(".bias") or "norm" in tensor.name
        if (flat or tensor.name == "token_types.weight") and tensor.type != "F32":
            yield f"tensor {tensor.name[:64]!r} is {tensor.type}; it must be F32"


def _layers(header: Header) -> Iterator[str]:
    blocks = _count(header, "block_count")
    if blocks > _MAX_LAYERS:
        yield f"block_count is {blocks}; there are at most {_MAX_LAYERS}"
    if (ahead := _count(header, "nextn_predict_layers")) >= max(1, blocks):
        yield f"nextn_predict_layers is {ahead} of {blocks} layers"


def _heads(header: Header) -> Iterator[str]:
    blocks = _count(header, "block_count")
    heads = _per_layer(header.get("attention.head_count", 0), blocks)
    groups = _per_layer(header.get("attention.head_count_kv", heads), blocks)
    for queries, pairs in zip(heads, groups, strict=False):
        if pairs and queries % pairs:
            yield f"{queries} heads cannot share {pairs} heads of keys and values"
    one_size = header.architecture in _ONE_HEAD_SIZE | _WHOLE_ROPE
    if one_size and not any(heads):
        yield f"attention.head_count is {header.get('attention.head_count')!r}"
    width = _count(header, "embedding_length")
    out = _count(header, "embedding_length_out", width)
    if one_size and out not in (0, width):
        yield f"embedding_length_out is {out}, embedding_length {width}"
    default = width // heads[0] if heads and heads[0] else 0
    key = _count(header, "attention.key_length", default)
    value = _count(header, "attention.value_length", default)
    if one_size and (not key or key != value):
        yield f"heads have keys of {key} and values of {value} numbers; they must be equal"
    turned = _count(header, "rope.dimension_count", key)
    if header.architecture in _WHOLE_ROPE and turned != key:
        yield f"rope.dimension_count is {turned} in heads of {key}"
    if (header.architecture in _WHOLE_ROPE or turned != key) and turned % 2:
        yield f"{turned} numbers of a head are to be rotated in pairs"


def _rope(header: Header) -> Iterator[str]:
    kind = header.get("rope.scaling.type", "none")
    if isinstance(kind, str) and kind not in _ROPE_SCALINGS:
        yield f"rope.scaling.type is {kind[:40]!r}"


def _experts(header: Header) -> Iterator[str]:
    experts = _count(header, "expert_count")
    used = max(_per_layer(header.get("expert_used_count", 0), _count(header, "block_count")))
    groups, groups_used = (
        _count(header, f"expert_group_{what}") for what in ("count", "used_count")
    )
    if experts > _MAX_EXPERTS:
        yield f"expert_count is {experts}; there are at most {_MAX_EXPERTS}"
    if used > experts or (experts and not used):
        yield f"expert_used_count is {used} of {experts} experts"
    if groups and groups >= experts:
        yield f"expert_group_count is {groups} for {experts} experts"
    if groups > 1 and (experts % groups or not 0 < groups_used < groups):
        yield f"{experts} experts in {groups} groups, of which {groups_used} are used"
    if not experts and header.architecture in _ALWAYS_EXPERTS:
        yield "expert_count is 0"


def _pooling(header: Header) -> Iterator[str]:
    value = header.get("pooling_type", 0)
    if isinstance(value, int) and value not in _POOLINGS:
        yield f"pooling_type is {value}; known are 0 to 4"


def _vocabulary(header: Header) -> Iterator[str]:
    kind = header.metadata.get("tokenizer.ggml.model")
    if not isinstance(kind, str) or kind in _NO_VOCABULARY:
        yield f"it has no vocabulary (tokenizer.ggml.model is {str(kind)[:40]!r})"
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, Vocabulary) or not tokens.length:
        yield "it has no tokenizer.ggml.tokens"
        return
    if tokens.distinct != tokens.length:
        yield f"{tokens.length - tokens.distinct} tokens of its vocabulary occur twice"
    known = {*tokens.byte_tokens.values()}
    if kind == "llama" and (missing := set(range(256)) - known - tokens.single):
        yield f"its vocabulary has no token for the byte {min(missing):#04x}"
    if kind == "plamo2" and len(known) < 256:
        yield "its vocabulary does not have all 256 byte tokens"
    types = header.metadata.get("tokenizer.ggml.token_type", [])
    if isinstance(types, Skipped):
        yield f"tokenizer.ggml.token_type has {types.length} entries"
    elif isinstance(types, list):
        for index, value in enumerate(types):
            if value == _BYTE_TYPE and index not in tokens.byte_tokens:
                yield f"token {index} is said to be a byte and is none"
    embedded = next((t for t in header.tensors if t.name == "token_embd.weight"), None)
    if header.architecture in _ONE_HEAD_SIZE | _WHOLE_ROPE and embedded is not None:
        expected = (header.get("embedding_length"), tokens.length)
        if embedded.shape != expected:
            yield (
                f"token_embd.weight has the shape {embedded.shape}; the width is {expected[0]!r}"
                f" and the vocabulary {expected[1]}"
            )


_RULES: tuple[Callable[[Header], Iterator[str]], ...] = (
    _layers,
    _heads,
    _experts,
    _norms,
    _rope,
    _pooling,
    _vocabulary,
)


def _count(header: Header, key: str, default: int = 0) -> int:
    """A whole number that is not negative; the default for all else, which llama.cpp refuses."""
    value = header.get(key, default)
    usable = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return value if usable else default


def _per_layer(value: Any, layers: int) -> list[int]:
    """One figure for all layers, or one for each; at least one."""
    items: list[Any] = value if isinstance(value, list) else [value] * min(layers, _MAX_LAYERS)
    return [int(item) if isinstance(item, int) else 0 for item in items] or [0]
