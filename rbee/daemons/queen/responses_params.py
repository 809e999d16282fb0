"""The body of POST /v1/responses, and the conversation it stands for.

Format: https://platform.openai.com/docs/api-reference/responses. Items become messages and back;
what an item cannot be here is refused by name. Keeps nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, cast

import msgspec

from rbee.daemons.queen.openai_params import IGNORED, NEUTRAL, Limit, infer_of
from rbee.errors import ValidationFailed
from rbee.protocol.base import Request
from rbee.protocol.messages import FunctionName
from rbee.protocol.operations import Infer

TEXTS = ("input_text", "output_text", "text")
"""Types of parts that are text."""
MOST_ITEMS = 1000
NAMES = (
    (r"messages\b.*", "input"),
    (r"max_tokens\b", "max_output_tokens"),
    (r"response_format(\.json_schema)?\b", "text.format"),
    (r"(tools\[\d+\]|tool_choice)\.function\b", r"\1"),
)
"""What operations call otherwise. Items are not told by their numbers: what was said before, and
calls that are one message, make those of messages others."""


class FunctionTool(Request, frozen=True, kw_only=True):
    """A function; the only kind of tool there is."""

    type: Literal["function"]
    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class NamedFunction(Request, frozen=True, kw_only=True):
    """This function must be called."""

    type: Literal["function"]
    name: FunctionName


class TextOptions(msgspec.Struct, frozen=True):
    """`text`: the shape of the answer. How many words it makes (`verbosity`) is not heeded."""

    format: dict[str, Any] | None = None


class ResponseRequest(msgspec.Struct, frozen=True):
    """What of POST /v1/responses is understood."""

    model: str
    input: str | Annotated[list[dict[str, Any]], msgspec.Meta(max_length=MOST_ITEMS)] = ""
    instructions: str | None = None
    previous_response_id: Annotated[str, msgspec.Meta(max_length=128)] | None = None
    store: bool | None = None
    stream: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_output_tokens: Limit | None = None
    text: TextOptions | None = None
    tools: Annotated[list[FunctionTool], msgspec.Meta(max_length=128)] | None = None
    tool_choice: Literal["auto", "none", "required"] | NamedFunction | None = None
    parallel_tool_calls: bool | None = None
    metadata: Annotated[dict[str, str], msgspec.Meta(max_length=16)] | None = None


IGNORED[ResponseRequest] = frozenset({
    "user", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_options",
    "prompt_cache_retention", "reasoning", "stream_options", "max_tool_calls", "access_programs",
})  # fmt: skip
NEUTRAL[ResponseRequest] = {
    "background": (False,), "include": ([], ["reasoning.encrypted_content"]),
    "truncation": ("disabled",), "top_logprobs": (0,), "conversation": (), "prompt": (),
    "context_management": ([],), "moderation": (), "image": (),
}  # fmt: skip


def response_infer(asked: ResponseRequest, before: Sequence[dict[str, Any]]) -> Infer:
    """The operation that answers it, after what was said `before`. Raises ValidationFailed."""
    said = [*before, *messages_of(asked.input)]
    if asked.instructions:
        said = [{"role": "developer", "content": asked.instructions}, *said]
    choice: Any = asked.tool_choice
    if isinstance(choice, NamedFunction):
        choice = {"type": "function", "function": {"name": choice.name}}
    tools = [
        {
            "type": "function",
            "function": {
                "name": tool.name,
                "description": tool.description,
                "parameters": tool.parameters,
                "strict": tool.strict,
            },
        }
        for tool in asked.tools or ()
    ]
    return infer_of(
        {
            "model": asked.model,
            "messages": said,
            "max_tokens": asked.max_output_tokens,
            "temperature": 1.0 if asked.temperature is None else asked.temperature,
            "top_p": asked.top_p,
            "response_format": _format(asked.text),
            "tools": tools or None,
            "tool_choice": choice,
            "parallel_tool_calls": asked.parallel_tool_calls,
        },
        NAMES,
    )


def messages_of(given: str | Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Items as messages: calls that follow one another are one message's. Raises
    ValidationFailed."""
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    found: list[dict[str, Any]] = []
    for at, item in enumerate(given):
        kind = item.get("type", "message")
        if kind == "message":
            found.append({"role": item.get("role"), "content": _text(item.get("content"), at)})
        elif kind == "function_call":
            _add_call(found, item)
        elif kind == "function_call_output":
            output = _text(item.get("output"), at, "output")
            found.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": output})
        elif kind != "reasoning":
            raise _bad(f"input[{at}]", f"items of type {str(kind)[:40]!r} are not supported here")
    return found


def _add_call(found: list[dict[str, Any]], item: dict[str, Any]) -> None:
    function = {"name": item.get("name"), "arguments": item.get("arguments", "{}")}
    call = {"id": item.get("call_id"), "type": "function", "function": function}
    if found and found[-1]["role"] == "assistant":
        found[-1].setdefault("tool_calls", []).append(call)
    else:
        found.append({"role": "assistant", "content": None, "tool_calls": [call]})


def _text(content: Any, at: int, field: str = "content") -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise _bad(f"input[{at}].{field}", "must be a text or a list of parts")
    texts: list[str] = []
    for part in cast("list[Any]", content):
        kind = part.get("type") if isinstance(part, dict) else None
        text = part.get("text") if isinstance(part, dict) else None
        if kind == "refusal":
            continue
        if kind not in TEXTS or not isinstance(text, str):
            raise _bad(f"input[{at}].{field}", f"parts of type {str(kind)[:40]!r} are no text")
        texts.append(text)
    return "".join(texts)


def _format(text: TextOptions | None) -> dict[str, Any] | None:
    """`text.format` as the `response_format` of chat completions."""
    if text is None or text.format is None or text.format.get("type") != "json_schema":
        return None if text is None else text.format
    named = {name: value for name, value in text.format.items() if name != "type"}
    return {"type": "json_schema", "json_schema": named}


def _bad(field: str, what: str) -> ValidationFailed:
    return ValidationFailed(f"{field}: {what}", field="input", constraint="a supported item")
