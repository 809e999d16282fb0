"""Ollama's request bodies, and the operations they stand for.

Format: https://github.com/ollama/ollama/blob/main/docs/api.md. As there, fields that nobody knows
are ignored, and so are those about how a machine computes: that is the business of settings here. A
known one that would change the answer and is not supported is refused by name; `docs/ollama.md`
lists all of them. What a name means is in `ollama_names`.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, TypeVar

import msgspec

from rbee.daemons.queen.openai_params import SEEDS, infer_of
from rbee.errors import ValidationFailed
from rbee.protocol.base import decode, encode
from rbee.protocol.operations import STOPS_ELSEWHERE, Embed, Infer

T = TypeVar("T", bound=msgspec.Struct)
Tools = Annotated[list[dict[str, Any]], msgspec.Meta(max_length=128)]
Short = Annotated[str, msgspec.Meta(max_length=64)]
Named = Annotated[str, msgspec.Meta(max_length=600)]
NAMES = (
    (r"max_tokens\b", "options.num_predict"),
    (r"repetition_penalty\b", "options.repeat_penalty"),
    (
        r"(temperature|top_k|top_p|min_p|presence_penalty|frequency_penalty|stop)\b",
        r"options.\1",
    ),
    (r"response_format(\.json_schema)?\b", "format"),
)
"""What operations call otherwise."""
_DURATION = re.compile(r"-?\d{1,9}(\.\d{1,9})?|-?(\d{1,9}(\.\d{1,9})?(ns|us|µs|ms|s|m|h)){1,6}")
"""A number of seconds, or Go's `time.ParseDuration`."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What of `options` is understood; defaults are Ollama's own (docs/modelfile.md there)."""

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    num_predict: int | None = None
    """Tokens of the answer; 0 and less: as many as there is room for."""


class _Model(msgspec.Struct, frozen=True, kw_only=True):
    model: Named = ""
    name: Named = ""
    """What `model` was called once."""

    @property
    def asked(self) -> str:
        """The model's name. Raises ValidationFailed without one."""
        if found := self.model or self.name:
            return found
        raise bad("model", "must be given", "a model's name")


class _Answered(_Model, frozen=True, kw_only=True):
    stream: bool | None = None
    format: str | dict[str, Any] | None = None
    options: Options | None = None
    keep_alive: float | Short | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None


class GenerateRequest(_Answered, frozen=True, kw_only=True):
    """What of POST /api/generate is understood."""

    prompt: str | None = None
    system: str | None = None
    raw: bool | None = None


class CalledFunction(msgspec.Struct, frozen=True):
    """A function that was called, with its arguments as an object."""

    name: str
    arguments: dict[str, Any] = {}


class Called(msgspec.Struct, frozen=True):
    """A call in a message."""

    function: CalledFunction
    id: str | None = None


class ChatMessage(msgspec.Struct, frozen=True, kw_only=True):
    """One message; what its author thought is left out of what the model is told."""

    role: str
    content: str | None = None
    images: list[Any] | None = None
    tool_calls: Annotated[list[Called], msgspec.Meta(max_length=128)] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class ChatRequest(_Answered, frozen=True, kw_only=True):
    """What of POST /api/chat is understood."""

    messages: Annotated[list[ChatMessage], msgspec.Meta(max_length=1000)] | None = None
    tools: Tools | None = None


class EmbedRequest(_Model, frozen=True, kw_only=True):
    """What of POST /api/embed is understood."""

    input: str | list[str] | None = None
    dimensions: Annotated[int, msgspec.Meta(ge=1)] | None = None
    keep_alive: float | Short | None = None


class EmbeddingsRequest(_Model, frozen=True, kw_only=True):
    """What of POST /api/embeddings is understood."""

    prompt: str | None = None
    keep_alive: float | Short | None = None


class PullRequest(_Model, frozen=True, kw_only=True):
    """What of POST /api/pull is understood."""

    stream: bool | None = None


class ModelRequest(_Model, frozen=True, kw_only=True):
    """What of POST /api/show and DELETE /api/delete is understood."""


_THINK = (
    "no model here tells apart what it thinks: leave it out, what such a model thinks"
    " stands in the answer between <think> and </think>"
)
_IMAGES = "pictures are not understood by this version"
_TEMPLATE = "a model's template comes with its file and is not replaced; `raw` leaves it out"
_TALL = dict.fromkeys(("width", "height"), ((), "pictures are not made by this version"))
REFUSED: dict[type[msgspec.Struct], dict[str, tuple[tuple[Any, ...], str]]] = {
    GenerateRequest: {
        "template": (("",), _TEMPLATE),
        "context": (([],), "tokens of an earlier answer mean nothing here: send messages to chat"),
        "suffix": (("",), "text in the middle is not supported by this version"),
        "images": (([],), _IMAGES),
        "think": ((False,), _THINK),
        **_TALL,
        "steps": ((), "pictures are not made by this version"),
    },
    ChatRequest: {"think": ((False,), _THINK)},
}
"""Known and refused, but for these values, which ask for nothing; and why."""
REFUSED_OPTIONS: dict[str, tuple[tuple[Any, ...], str]] = {
    "mirostat": ((0,), "not supported by this version"),
    "tfs_z": ((1,), "not supported by this version"),
    "typical_p": ((1,), "not supported by this version"),
    "repeat_last_n": ((64,), "repetitions are looked for in the last 64 tokens"),
}


def body_of(body: bytes, shape: type[T]) -> T:
    """A body as its struct. Raises ValidationFailed naming the parameter."""
    told = decode(body or b"{}", dict[str, Any])
    _check(told, REFUSED.get(shape, {}), "")
    options = told.get("options")
    if isinstance(options, dict):
        _check(options, REFUSED_OPTIONS, "options.")  # pyright: ignore[reportUnknownArgumentType]
    return decode(body or b"{}", shape)


def generate_of(asked: GenerateRequest, model: str) -> Infer:
    """The operation; `model` is what its name means here."""
    fields = _shared(asked, model)
    if asked.raw:
        if asked.system:
            raise bad("system", "a raw prompt has no place for it", "not with raw")
        return _infer({**fields, "prompt": asked.prompt, "raw": True})
    said = [{"role": "system", "content": asked.system}] if asked.system else []
    return _infer({**fields, "messages": [*said, {"role": "user", "content": asked.prompt}]})


def chat_of(asked: ChatRequest, model: str) -> Infer:
    """The operation; `model` is what its name means here."""
    fields = _shared(asked, model) | {
        "messages": [_message(one, at) for at, one in enumerate(asked.messages or ())],
        "tools": [_tool(one) for one in asked.tools or ()] or None,
    }
    return _infer(fields)


def embed_of(model: str, texts: str | list[str], *, normalize: bool = True) -> Embed:
    """The operation; no text may be empty."""
    fields = {"operation": "embed", "model": model, "input": texts, "normalize": normalize}
    return decode(encode(fields), Embed)


def unloads(keep_alive: float | str | None) -> bool:
    """Whether the model is to go after this. Raises ValidationFailed for what is no duration."""
    if keep_alive is None:
        return False
    if isinstance(keep_alive, str):
        if not _DURATION.fullmatch(keep_alive):
            raise bad("keep_alive", f"{keep_alive[:40]!r} is no duration", "such as 5m, 300, -1")
        return not re.search("[1-9]", keep_alive)
    return keep_alive == 0


def bad(field: str, what: str, constraint: str) -> ValidationFailed:
    """The error for a parameter."""
    return ValidationFailed(f"{field}: {what}", field=field, constraint=constraint)


def _check(
    told: dict[str, Any], refused: dict[str, tuple[tuple[Any, ...], str]], before: str
) -> None:
    for name, (neutral, why) in refused.items():
        value = told.get(name)
        if value is not None and value not in neutral:
            raise bad(f"{before}{name}", why, "left out")


def _shared(asked: _Answered, model: str) -> dict[str, Any]:
    options = asked.options or Options()
    stop = [options.stop] if isinstance(options.stop, str) else options.stop
    top = asked.top_logprobs
    if top and not asked.logprobs:
        raise bad("top_logprobs", "needs logprobs", "logprobs is true")
    return {
        "model": model,
        "temperature": _or(options.temperature, 0.8),
        "top_k": _or(options.top_k, 40),
        "top_p": _or(options.top_p, 0.9),
        "min_p": _or(options.min_p, 0.0),
        "repetition_penalty": _or(options.repeat_penalty, 1.1),
        "presence_penalty": options.presence_penalty,
        "frequency_penalty": options.frequency_penalty,
        "seed": None if options.seed is None or options.seed < 0 else options.seed % SEEDS,
        "stop": stop,
        "max_tokens": options.num_predict if (options.num_predict or 0) > 0 else None,
        "logprobs": (top or 0) if asked.logprobs else None,
        "response_format": _format(asked.format),
    }


def _infer(fields: dict[str, Any]) -> Infer:
    return infer_of(fields, NAMES, stops=STOPS_ELSEWHERE)


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def _format(wanted: str | dict[str, Any] | None) -> dict[str, Any] | None:
    if wanted is None or wanted == "":
        return None
    if wanted == "json":
        return {"type": "json_object"}
    if isinstance(wanted, str):
        raise bad("format", f"{wanted[:40]!r} is none", '"json" or a JSON schema')
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": wanted}}


def _message(one: ChatMessage, at: int) -> dict[str, Any]:
    if one.images:
        raise bad("images", f"messages[{at}]: {_IMAGES}", "no pictures")
    said: dict[str, Any] = {"role": one.role, "content": one.content}
    if one.tool_calls:
        said["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.function.name, "arguments": call.function.arguments},
            }
            for call in one.tool_calls
        ]
    if one.tool_name:
        said["name"] = one.tool_name
    if one.tool_call_id:
        said["tool_call_id"] = one.tool_call_id
    return said


def _tool(one: dict[str, Any]) -> dict[str, Any]:
    function = one.get("function")
    if one.get("type", "function") != "function" or not isinstance(function, dict):
        raise bad("tools", "functions are the only kind", "type function")
    known: dict[str, Any] = function  # pyright: ignore[reportUnknownVariableType]
    kept = {name: known.get(name) for name in ("name", "description", "parameters")}
    return {"type": "function", "function": kept}
