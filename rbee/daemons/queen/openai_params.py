"""OpenAI's request bodies, and the operations they stand for.

Format: https://platform.openai.com/docs/api-reference. A parameter that would change the answer and
is not supported is refused by name; those that cannot (user, metadata) are ignored. Bounds are
those of the operations.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from rbee.errors import ValidationFailed
from rbee.protocol.base import decode, encode
from rbee.protocol.messages import Message
from rbee.protocol.operations import Embed, Infer, check_infer

IGNORED = frozenset(
    {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key",
     "parallel_tool_calls", "reasoning_effort", "verbosity"}
)  # fmt: skip
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "tools": ([],), "tool_choice": ("none", "auto"), "functions": ([],),
    "function_call": ("none", "auto"), "modalities": (["text"],),
}  # fmt: skip
"""Accepted only with a value that asks for nothing; null always is."""
AS_GIVEN = (
    "model", "messages", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty",
    "frequency_penalty", "logit_bias", "seed", "response_format", "grammar", "ignore_eos",
    "deterministic",
)  # fmt: skip
"""Parameters of chat completions that `infer` has by the same name."""
SEEDS = 1 << 32

Limit = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]


class StreamOptions(msgspec.Struct, frozen=True):
    """`stream_options`"""

    include_usage: bool = False


class ChatRequest(msgspec.Struct, frozen=True):
    """What of POST /v1/chat/completions is understood; what stands last is ours."""

    model: str
    messages: list[Message]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=8)] | None = None
    max_tokens: Limit | None = None
    max_completion_tokens: Limit | None = None
    temperature: float | None = None
    top_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None
    response_format: dict[str, Any] | None = None
    seed: int | None = None
    stop: Annotated[str, msgspec.Meta(max_length=256)] | list[str] | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    grammar: str | None = None
    ignore_eos: bool | None = None
    cache: bool | None = None
    cache_prompt: bool | None = None
    """The same as `cache`."""
    deterministic: bool | None = None


class EmbeddingRequest(msgspec.Struct, frozen=True):
    """What of POST /v1/embeddings is understood."""

    model: str
    input: str | list[Any]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, msgspec.Meta(ge=1)] | None = None


_FIELDS: dict[type[msgspec.Struct], frozenset[str]] = {
    shape: frozenset(shape.__struct_encode_fields__) for shape in (ChatRequest, EmbeddingRequest)
}
"""The parameters' names."""


def chat_of(body: bytes) -> ChatRequest:
    """Raises ValidationFailed naming the parameter."""
    refuse_unknown(body, ChatRequest)
    return decode(body, ChatRequest)


def embedding_of(body: bytes) -> EmbeddingRequest:
    """Raises ValidationFailed naming the parameter."""
    refuse_unknown(body, EmbeddingRequest)
    return decode(body, EmbeddingRequest)


def refuse_unknown(body: bytes, shape: type[msgspec.Struct]) -> None:
    """Raises ValidationFailed for a parameter that is not in the shape and asks for something."""
    raw = decode(body, dict[str, Any])
    known = _FIELDS[shape]
    for name, value in raw.items():
        if name in known or name in IGNORED or value is None:
            continue
        if name in NEUTRAL and value in NEUTRAL[name]:
            continue
        raise ValidationFailed(
            f"{name[:80]}: not supported by this version" if name in NEUTRAL
            else f"{name[:80]}: unknown parameter",
            field=name[:80], constraint="a supported parameter",
        )  # fmt: skip


def infers_of(chat: ChatRequest) -> list[Infer]:
    """One operation for each of the `n` answers; their seeds follow one another."""
    present = {name: getattr(chat, name) for name in AS_GIVEN} | {
        "max_tokens": chat.max_completion_tokens or chat.max_tokens,
        "temperature": 1.0 if chat.temperature is None else chat.temperature,
        "stop": [chat.stop] if isinstance(chat.stop, str) else chat.stop,
        "logprobs": _logprobs(chat),
        "cache": chat.cache_prompt if chat.cache is None else chat.cache,
    }
    present = {name: value for name, value in present.items() if value is not None}
    operation = decode(encode({**present, "operation": "infer"}), Infer)
    check_infer(operation)
    count = chat.n or 1
    if operation.seed is None:
        return [operation] * count
    return [
        msgspec.structs.replace(operation, seed=(operation.seed + n) % SEEDS) for n in range(count)
    ]


def embed_of(asked: EmbeddingRequest) -> Embed:
    """Raises ValidationFailed for tokens in the place of texts."""
    if isinstance(asked.input, list) and any(isinstance(x, int | list) for x in asked.input):
        raise ValidationFailed(
            "input: arrays of tokens are not supported by this version, send texts",
            field="input",
            constraint="a text or a list of texts",
        )
    fields = {"operation": "embed", "model": asked.model, "input": asked.input}
    return decode(encode(fields), Embed)


def _logprobs(chat: ChatRequest) -> int | None:
    if chat.logprobs:
        return chat.top_logprobs or 0
    if chat.top_logprobs:
        raise ValidationFailed(
            "top_logprobs: needs logprobs", field="top_logprobs", constraint="logprobs is true"
        )
    return None
