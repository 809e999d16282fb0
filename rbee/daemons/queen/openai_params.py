"""OpenAI's request bodies, and the operations they stand for.

Format: https://platform.openai.com/docs/api-reference. A parameter that would change the answer and
is not supported is refused by name, and so is an unknown one; those that cannot change it are
ignored. `docs/openai.md` lists all of them by the tables here. Bounds are those of the operations.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from rbee.errors import ValidationFailed
from rbee.protocol.base import decode, encode
from rbee.protocol.messages import Message, Tool, ToolChoice
from rbee.protocol.operations import STOPS, Embed, Infer, check_infer

T = TypeVar("T", bound=msgspec.Struct)
SEEDS = 1 << 32
DEFAULT_COMPLETION = 16
"""Tokens of a completion that does not say how many, as OpenAI has it."""
MOST_CHOICES = 64
"""Of one request for completions: its prompts times `n`."""
TEXTS_ONLY = (
    "arrays of tokens are not supported by this version, send texts"
    " (LangChain's OpenAIEmbeddings: check_embedding_ctx_length=False)"
)

Limit = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
Count = Annotated[int, msgspec.Meta(ge=1, le=8)]


class StreamOptions(msgspec.Struct, frozen=True):
    """`stream_options`; padding against observers of the line (`include_obfuscation`) is not
    added."""

    include_usage: bool | None = None


class _Sampled(msgspec.Struct, frozen=True, kw_only=True):
    """What chat and text completions share; what stands last is ours."""

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Count | None = None
    max_tokens: Limit | None = None
    temperature: float | None = None
    top_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
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

    @property
    def with_usage(self) -> bool:
        """Whether a stream is to end with the counts."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)


class ChatRequest(_Sampled, frozen=True, kw_only=True):
    """What of POST /v1/chat/completions is understood."""

    messages: list[Message]
    max_completion_tokens: Limit | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None
    response_format: dict[str, Any] | None = None
    tools: Annotated[list[Tool], msgspec.Meta(max_length=128)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None


class CompletionRequest(_Sampled, frozen=True, kw_only=True):
    """What of POST /v1/completions is understood."""

    prompt: str | list[Any] | None = None
    best_of: int | None = None
    echo: bool | None = None
    logprobs: Annotated[int, msgspec.Meta(ge=0, le=5)] | None = None
    suffix: str | None = None

    def prompts(self) -> list[str]:
        """The texts, in order. Raises ValidationFailed for tokens in their place."""
        given = [self.prompt or ""] if self.prompt is None or isinstance(self.prompt, str) else None
        texts = self.prompt if given is None else given
        assert isinstance(texts, list)
        if not all(isinstance(text, str) for text in texts):
            raise _bad("prompt", TEXTS_ONLY, "a text or a list of texts")
        if not 1 <= len(texts) * (self.n or 1) <= MOST_CHOICES:
            raise _bad("prompt", f"1 to {MOST_CHOICES} answers in all", f"1..{MOST_CHOICES}")
        return texts


class EmbeddingRequest(msgspec.Struct, frozen=True):
    """What of POST /v1/embeddings is understood."""

    model: str
    input: str | list[Any]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, msgspec.Meta(ge=1)] | None = None


IGNORED: dict[type[msgspec.Struct], frozenset[str]] = {
    ChatRequest: frozenset({
        "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key",
        "prompt_cache_options", "prompt_cache_retention", "reasoning_effort", "verbosity",
    }),
    CompletionRequest: frozenset({"user"}),
    EmbeddingRequest: frozenset({"user"}),
}  # fmt: skip
"""They change no answer here."""
NEUTRAL: dict[type[msgspec.Struct], dict[str, tuple[Any, ...]]] = {
    ChatRequest: {
        "functions": ([],), "function_call": ("none", "auto"), "modalities": (["text"],),
        "audio": (), "prediction": (), "web_search_options": (), "moderation": (),
    },
    CompletionRequest: {},
    EmbeddingRequest: {},
}  # fmt: skip
"""Known and refused, but for these values, which ask for nothing; null always is one."""
AS_GIVEN = (
    "model", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty",
    "frequency_penalty", "logit_bias", "seed", "grammar", "ignore_eos", "deterministic",
)  # fmt: skip
"""Parameters that `infer` has by the same name."""


def parameters_of(
    body: bytes,
    shape: type[T],
    *,
    ignored: frozenset[str] | None = None,
    neutral: dict[str, tuple[Any, ...]] | None = None,
) -> T:
    """A body as its struct. Raises ValidationFailed naming the parameter, also one that is not in
    the struct and asks for something."""
    known = frozenset(shape.__struct_encode_fields__) | (
        IGNORED.get(shape, frozenset()) if ignored is None else ignored
    )
    neutral = NEUTRAL.get(shape, {}) if neutral is None else neutral
    for name, value in decode(body, dict[str, Any]).items():
        if name in known or value is None or value in neutral.get(name, ()):
            continue
        what = "not supported by this version" if name in neutral else "unknown parameter"
        raise _bad(name[:80], what, "a supported parameter")
    return decode(body, shape)


def infers_of(chat: ChatRequest) -> list[Infer]:
    """One operation for each of the `n` answers; their seeds follow one another."""
    fields = _shared(chat) | {
        "messages": chat.messages,
        "max_tokens": chat.max_completion_tokens or chat.max_tokens,
        "logprobs": _logprobs(chat),
        "response_format": chat.response_format,
        "tools": chat.tools,
        "tool_choice": chat.tool_choice,
        "parallel_tool_calls": chat.parallel_tool_calls,
    }
    return _each(infer_of(fields), chat.n or 1)


def completions_of(asked: CompletionRequest) -> list[Infer]:
    """One operation for each prompt and each of its `n` answers, prompt by prompt."""
    if asked.suffix:
        raise _bad("suffix", "text in the middle is not supported by this version", "null")
    if asked.best_of not in (None, asked.n or 1):
        raise _bad("best_of", "not supported by this version", "the same as n")
    if asked.echo and asked.logprobs is not None:
        raise _bad("logprobs", "those of a prompt are not known; leave echo out", "without echo")
    shared = _shared(asked) | {
        "raw": True,
        "max_tokens": asked.max_tokens or DEFAULT_COMPLETION,
        "logprobs": asked.logprobs,
    }
    found: list[Infer] = []
    for prompt in asked.prompts():
        found += _each(infer_of(shared | {"prompt": prompt}), asked.n or 1)
    return found


def embed_of(asked: EmbeddingRequest) -> Embed:
    """Raises ValidationFailed for tokens in the place of texts."""
    if isinstance(asked.input, list) and any(isinstance(x, int | list) for x in asked.input):
        raise _bad("input", TEXTS_ONLY, "a text or a list of texts")
    fields = {"operation": "embed", "model": asked.model, "input": asked.input}
    return decode(encode(fields), Embed)


def infer_of(
    fields: dict[str, Any], names: Sequence[tuple[str, str]] = (), *, stops: int = STOPS
) -> Infer:
    """The operation with these fields; null ones are left to their defaults. Raises
    ValidationFailed, whose field has the name that the first of `names` gives it: patterns of how
    operations call things, and what the caller's dialect has in their place."""
    present = {name: value for name, value in fields.items() if value is not None}
    try:
        operation = decode(encode({**present, "operation": "infer"}), Infer)
        check_infer(operation, stops=stops)
    except ValidationFailed as exc:
        raise _renamed(exc, names) from exc
    return operation


def _renamed(error: ValidationFailed, names: Sequence[tuple[str, str]]) -> ValidationFailed:
    field = str(error.details.get("field"))
    for pattern, theirs in names:
        told, found = re.subn(rf"^{pattern}", theirs, field, count=1)
        if found:
            what = error.message.removeprefix(f"{field}: ")
            return ValidationFailed(
                f"{told}: {what}", field=told, constraint=error.details.get("constraint")
            )
    return error


def _shared(asked: _Sampled) -> dict[str, Any]:
    return {name: getattr(asked, name) for name in AS_GIVEN} | {
        "temperature": 1.0 if asked.temperature is None else asked.temperature,
        "stop": [asked.stop] if isinstance(asked.stop, str) else asked.stop,
        "cache": asked.cache_prompt if asked.cache is None else asked.cache,
    }


def _each(operation: Infer, count: int) -> list[Infer]:
    if operation.seed is None:
        return [operation] * count
    return [
        msgspec.structs.replace(operation, seed=(operation.seed + n) % SEEDS) for n in range(count)
    ]


def _logprobs(chat: ChatRequest) -> int | None:
    if chat.logprobs:
        return chat.top_logprobs or 0
    if chat.top_logprobs:
        raise _bad("top_logprobs", "needs logprobs", "logprobs is true")
    return None


def _bad(field: str, what: str, constraint: str) -> ValidationFailed:
    return ValidationFailed(f"{field}: {what}", field=field, constraint=constraint)
