"""Anthropic's request bodies, and the operation they stand for.

Format: https://docs.anthropic.com/en/api/messages. A parameter that would change the answer and is
not supported is refused by name, and so is an unknown one; `docs/anthropic.md` lists all of them by
the tables here. Blocks of content become the messages that a chat template knows.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias, TypeGuard, cast

import msgspec

from rbee.daemons.queen.openai_params import infer_of
from rbee.errors import ValidationFailed
from rbee.protocol.base import decode
from rbee.protocol.operations import STOPS_ELSEWHERE, Infer

Content: TypeAlias = str | list[dict[str, Any]]
THOUGHT = ("thinking", "redacted_thinking")
"""Blocks of earlier answers that no model is shown."""
NAMES = (
    (r"messages\b.*", "messages"),
    (r"stop\b", "stop_sequences"),
    (r"response_format(\.json_schema)?\b", "output_config.format"),
    (r"(tools\[\d+\])\.function\.parameters\b", r"\1.input_schema"),
    (r"(tools\[\d+\]|tool_choice)\.function\b", r"\1"),
)
"""What operations call otherwise. Turns are not told by their numbers: their blocks become messages
of their own."""


class Spoken(msgspec.Struct, frozen=True):
    """One turn."""

    role: Literal["user", "assistant", "system"]
    content: Content


class Choice(msgspec.Struct, frozen=True):
    """`tool_choice`."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Output(msgspec.Struct, frozen=True):
    """`output_config`; `effort` is ignored."""

    format: dict[str, Any] | None = None


class _Asked(msgspec.Struct, frozen=True, kw_only=True):
    model: str
    messages: Annotated[list[Spoken], msgspec.Meta(min_length=1, max_length=1000)]
    system: Content | None = None
    tools: Annotated[list[dict[str, Any]], msgspec.Meta(max_length=128)] | None = None
    tool_choice: Choice | None = None
    output_config: Output | None = None


class CountRequest(_Asked, frozen=True, kw_only=True):
    """What of POST /v1/messages/count_tokens is understood."""


class MessagesRequest(_Asked, frozen=True, kw_only=True):
    """What of POST /v1/messages is understood."""

    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
    stop_sequences: list[str] | None = None
    stream: bool | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    top_p: float | None = None
    top_k: int | None = None


IGNORED = frozenset({
    "metadata", "service_tier", "cache_control", "inference_geo", "speed", "diagnostics",
    "user_profile_id", "workspace_id", "thinking", "betas", "billing_policy",
})  # fmt: skip
"""They change no answer here. `thinking` is leave to think, which no model here has to use."""
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "container": (), "mcp_servers": ([],), "context_management": ({}, {"edits": []}),
    "compaction": (), "fallbacks": ([],), "fallback_credit_token": (), "thread": (),
    "output_format": (),
}  # fmt: skip
"""Known and refused, but for these values, which ask for nothing; null always is one."""


def asked_of(body: bytes, shape: type[MessagesRequest] | type[CountRequest]) -> Any:
    """A body as its struct. Raises ValidationFailed naming the parameter."""
    known = {*shape.__struct_encode_fields__, *IGNORED}
    told = decode(body, dict[str, Any])
    for name, value in told.items():
        if name in known or value is None or value in NEUTRAL.get(name, ()):
            continue
        if name == "context_management" and _clears_thinking(value):
            continue
        what = "not supported by this version" if name in NEUTRAL else "unknown parameter"
        raise _bad(name[:80], what)
    return decode(body, shape)


def infer_from(asked: MessagesRequest) -> Infer:
    """The operation. Raises ValidationFailed."""
    fields = _conversation(asked) | {
        "max_tokens": asked.max_tokens,
        "stop": asked.stop_sequences,
        "temperature": 1.0 if asked.temperature is None else asked.temperature,
        "top_p": asked.top_p,
        "top_k": asked.top_k,
    }
    return infer_of(fields, NAMES, stops=STOPS_ELSEWHERE)


def counted_from(asked: CountRequest) -> Infer:
    """What computes the same prompt and says next to nothing."""
    fields = _conversation(asked) | {"max_tokens": 1, "temperature": 0.0}
    return infer_of({**fields, "response_format": None}, NAMES)


def _conversation(asked: _Asked) -> dict[str, Any]:
    messages: list[dict[str, Any]] = []
    if asked.system:
        messages.append({"role": "system", "content": _text(asked.system, "system")})
    names: dict[str, str] = {}
    for at, turn in enumerate(asked.messages):
        messages += _turn(turn, f"messages[{at}]", names)
    if asked.messages[-1].role == "assistant":
        raise _bad("messages", "the last one is the assistant's: an answer cannot be begun for it")
    choice = asked.tool_choice or Choice("auto")
    offered = [_tool(one, at) for at, one in enumerate(asked.tools or ())]
    return {
        "model": asked.model,
        "messages": messages,
        "tools": offered or None,
        "tool_choice": _choice(choice) if offered or choice.type in ("any", "tool") else None,
        "parallel_tool_calls": not choice.disable_parallel_tool_use,
        "response_format": _format(asked.output_config),
    }


def _turn(turn: Spoken, where: str, names: dict[str, str]) -> list[dict[str, Any]]:
    """The messages that a turn's blocks are; `names`: of the calls so far, by id."""
    if isinstance(turn.content, str):
        return [{"role": turn.role, "content": turn.content}]
    found: list[dict[str, Any]] = []
    texts: list[str] = []
    calls: list[dict[str, Any]] = []
    for at, block in enumerate(turn.content):
        kind, place = block.get("type"), f"{where}.content[{at}]"
        if kind == "text":
            texts.append(_said(block, place))
        elif kind == "tool_use" and turn.role == "assistant":
            names[str(block.get("id"))] = str(block.get("name"))
            function = {"name": block.get("name"), "arguments": block.get("input") or {}}
            calls.append({"id": block.get("id"), "type": "function", "function": function})
        elif kind == "tool_result" and turn.role == "user":
            found.append(_result(block, place, names))
        elif not (kind in THOUGHT and turn.role == "assistant"):
            raise _bad("messages", f"{place}: {str(kind)[:40]!r} is not understood by this version")
    text = "\n".join(texts)
    if calls:
        found.append({"role": turn.role, "content": text or None, "tool_calls": calls})
    elif texts or not found:
        found.append({"role": turn.role, "content": text})
    return found


def _result(block: dict[str, Any], place: str, names: dict[str, str]) -> dict[str, Any]:
    content, call_id = block.get("content") or "", block.get("tool_use_id")
    if not isinstance(content, str) and not _blocks(content):
        raise _bad("messages", f"{place}.content: must be a text or a list of blocks")
    text = _text(content, f"{place}.content")
    if block.get("is_error"):
        text = f"Error: {text}"
    told: dict[str, Any] = {"role": "tool", "content": text, "tool_call_id": call_id}
    name = names.get(str(call_id))
    return {**told, "name": name} if name else told


def _text(content: Content, where: str) -> str:
    if isinstance(content, str):
        return content
    texts: list[str] = []
    for at, block in enumerate(content):
        if block.get("type") != "text":
            kind = str(block.get("type"))[:40]
            raise _bad(where.partition("[")[0], f"{where}[{at}]: {kind!r} is no text")
        texts.append(_said(block, f"{where}[{at}]"))
    return "\n".join(texts)


def _blocks(value: Any) -> TypeGuard[list[dict[str, Any]]]:
    return isinstance(value, list) and all(isinstance(x, dict) for x in cast("list[Any]", value))


def _said(block: dict[str, Any], place: str) -> str:
    text = block.get("text")
    if not isinstance(text, str):
        raise _bad(place.partition("[")[0], f"{place}: a block of text without `text`")
    return text


def _tool(one: dict[str, Any], at: int) -> dict[str, Any]:
    kind = one.get("type") or "custom"
    if kind != "custom":
        raise _bad("tools", f"tools[{at}]: {str(kind)[:40]!r} is a tool of Anthropic's own")
    function = {
        "name": one.get("name"),
        "description": one.get("description"),
        "parameters": one.get("input_schema"),
    }
    return {"type": "function", "function": function}


def _choice(choice: Choice) -> Any:
    if choice.type == "tool":
        return {"type": "function", "function": {"name": choice.name}}
    return {"any": "required"}.get(choice.type, choice.type)


def _format(config: Output | None) -> dict[str, Any] | None:
    form = config.format if config is not None else None
    if form is None:
        return None
    if form.get("type") != "json_schema" or not isinstance(form.get("schema"), dict):
        raise _bad("output_config", "its format is json_schema with a schema")
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": form["schema"]}}


def _clears_thinking(value: Any) -> bool:
    """Thinking is never told again, so that clearing it asks for nothing."""
    if not isinstance(value, dict) or set(cast("dict[str, Any]", value)) != {"edits"}:
        return False
    edits: Any = cast("dict[str, Any]", value)["edits"]
    return isinstance(edits, list) and all(
        isinstance(one, dict)
        and str(cast("dict[str, Any]", one).get("type")).startswith("clear_thinking_")
        for one in cast("list[Any]", edits)
    )


def _bad(field: str, what: str) -> ValidationFailed:
    return ValidationFailed(f"{field}: {what}", field=field, constraint="supported")
