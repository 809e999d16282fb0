"""What a template takes: found out by trying it, since no template says.

Owns the trial conversations, what is read from their renderings, and putting a request's messages
into the form that was found. Templates differ in what they refuse (a system turn, text as parts),
in what they leave out without a word (tools, calls), and in how they want a call's arguments.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from rbee.errors import ValidationFailed

Message = dict[str, Any]
Try = Callable[[list[Message], list[Any]], str | None]
"""Renders; None when the template refuses."""

_SAID, _RULE, _NAME, _KEY, _VALUE, _RESULT = (
    "kestrel", "otter", "find_hazel", "walnut", "birch", "juniper"
)  # fmt: skip
_LONG_ID, _SHORT_ID = "call_0123456789abcdef", "Abc123xyZ"
_USER: Message = {"role": "user", "content": _SAID}
_SYSTEM: Message = {"role": "system", "content": _RULE}
_SCHEMA = {
    "type": "object",
    "properties": {_KEY: {"type": "string", "description": "What to look for."}},
    "required": [_KEY],
}
_TOOL = {
    "type": "function",
    "function": {"name": _NAME, "description": "Finds things.", "parameters": _SCHEMA},
}


@dataclass(frozen=True)
class Shape:
    """How a template wants its messages."""

    system: bool = True
    """It has a place for a system message."""
    parts: bool = False
    """Content must be a list of parts, not text."""
    tools: bool = False
    """It tells the model about tools."""
    calls: bool = False
    """It shows calls that were made, and their results; otherwise calls become JSON text."""
    results: bool = True
    """It takes what a tool answered as such; otherwise that becomes the user's words."""
    objects: bool = True
    """A call's arguments must be an object, not its JSON text."""
    empty: str | None = ""
    """The content of a message that only calls."""
    short_ids: bool = False
    """Ids of calls must be nine letters and digits (Mistral's)."""


def find_shape(render: Try, *, for_tools: bool = False) -> Shape:
    """Try a template; `for_tools` when it is the variant that is only used with tools."""
    tools = [_TOOL] if for_tools else []

    def rendered(shape: Shape, *messages: Message, tools: list[Any] = tools) -> str:
        return render([_with_parts(one) if shape.parts else one for one in messages], tools) or ""

    text, parts = Shape(), Shape(parts=True)
    shape = (
        parts if _SAID not in rendered(text, _USER) and _SAID in rendered(parts, _USER) else text
    )
    told = rendered(shape, _SYSTEM, _USER)
    system = _RULE in told and _SAID in told
    start = (_USER,)
    takes_tools = _NAME in rendered(shape, *start, tools=[_TOOL])
    if not takes_tools and system:
        start = (_SYSTEM, _USER)
        takes_tools = _NAME in rendered(shape, *start, tools=[_TOOL])
    found = Shape(system=system, parts=shape.parts, tools=takes_tools)
    best = 0
    for short, empty, objects in itertools.product((False, True), ("", None), (True, False)):
        talk = _calling(_SHORT_ID if short else _LONG_ID, empty, as_object=objects)
        score = _score(rendered(shape, *start, *talk, tools=[_TOOL] if takes_tools else []))
        if score > best:
            best = score
            found = replace(found, calls=True, objects=objects, empty=empty, short_ids=short)
    if found.calls:
        return found
    spoken: Message = {"role": "assistant", "content": _NAME}
    told = rendered(shape, *start, spoken, _calling(_SHORT_ID, "", as_object=True)[1])
    return replace(found, results=_RESULT in told)


def fit(messages: Sequence[Mapping[str, Any]], shape: Shape) -> list[Message]:
    """The messages as the template wants them. Raises ValidationFailed, naming the field."""
    names: dict[str, str] = {}
    fitted = [_fit_message(message, at, shape, names) for at, message in enumerate(messages)]
    if not shape.system:
        fitted = _merge_system(fitted)
    if not shape.results and any(one["role"] == "tool" for one in fitted):
        fitted = _merge_results(fitted)
    return [_with_parts(message) for message in fitted] if shape.parts else fitted


def _fit_message(
    message: Mapping[str, Any], at: int, shape: Shape, names: dict[str, str]
) -> Message:
    fitted = {key: value for key, value in message.items() if value is not None}
    role = fitted.get("role")
    if not isinstance(role, str):
        raise _wrong(f"messages[{at}].role", "must be a text", "text")
    if role == "developer":
        fitted["role"] = "system"
    calls: Any = fitted.pop("tool_calls", None)
    text = _text(message.get("content"), at)
    fitted["content"] = text
    if calls:
        fitted_calls = [
            _fit_call(call, f"messages[{at}].tool_calls", shape, names) for call in calls
        ]
        if shape.calls:
            fitted |= {"content": text or shape.empty, "tool_calls": fitted_calls}
        else:
            written = [_written(call["function"]) for call in fitted_calls]
            fitted["content"] = "\n".join([text, *written] if text else written)
    if role == "tool" and isinstance(call_id := fitted.get("tool_call_id"), str):
        if call_id in names:
            fitted.setdefault("name", names[call_id])
        fitted["tool_call_id"] = _short(call_id) if shape.short_ids else call_id
    return fitted


def _fit_call(call: Any, field: str, shape: Shape, names: dict[str, str]) -> Message:
    function: Any = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise _wrong(field, "must be calls of named functions", "function calls")
    arguments: Any = function.get("arguments")
    call_id = str(call.get("id") or "")
    names[call_id] = function["name"]
    return {
        **call,
        "type": "function",
        "id": _short(call_id) if shape.short_ids else call_id,
        "function": {
            **function,
            "arguments": _as_object(arguments) if shape.objects else _as_text(arguments),
        },
    }


def _text(content: Any, at: int) -> str:
    """Content as one text; parts that are no text are refused rather than left out."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    field = f"messages[{at}].content"
    if not isinstance(content, (list, tuple)):
        raise _wrong(field, "must be a text or a list of parts", "text")
    texts: list[str] = []
    for part in cast("Sequence[Any]", content):
        said = part.get("text") if isinstance(part, Mapping) else None
        if not isinstance(said, str):
            raise _wrong(field, "has a part that is no text; this model reads only text", "text")
        texts.append(said)
    return "\n".join(texts)


def _merge_system(messages: list[Message]) -> list[Message]:
    """Put what the system says in front of the user's next words."""
    merged: list[Message] = []
    waiting: list[str] = []
    for message in messages:
        if message["role"] == "system":
            waiting.append(message["content"])
        elif message["role"] == "user" and waiting:
            merged.append({**message, "content": "\n\n".join([*waiting, message["content"]])})
            waiting = []
        else:
            merged.append(message)
    if waiting:
        merged.append({"role": "user", "content": "\n\n".join(waiting)})
    return merged


def _merge_results(messages: list[Message]) -> list[Message]:
    """Let the user say what tools answered, in one turn with the words before and after."""
    merged: list[Message] = []
    for message in messages:
        said = {"role": "user", "content": message["content"]}
        if message["role"] not in ("tool", "user"):
            merged.append(message)
        elif merged and merged[-1]["role"] == "user":
            merged[-1] = {**said, "content": f"{merged[-1]['content']}\n\n{said['content']}"}
        else:
            merged.append(said if message["role"] == "tool" else message)
    return merged


def _written(function: Message) -> str:
    """A call as text, for templates that have no form for it."""
    call = {"name": function["name"], "arguments": function["arguments"]}
    return json.dumps(call, ensure_ascii=False)


def _with_parts(message: Message) -> Message:
    content = message["content"]
    parts = [{"type": "text", "text": content}] if content else []
    return {**message, "content": parts}


def _as_object(arguments: Any) -> Any:
    """What models write may be no JSON; then it stays the text it is."""
    if arguments is None or arguments == "":
        return {}
    if not isinstance(arguments, str):
        return arguments
    try:
        value: Any = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    return cast("Any", value) if isinstance(value, dict) else arguments


def _as_text(arguments: Any) -> str:
    if isinstance(arguments, str):
        return arguments or "{}"
    return json.dumps(arguments if arguments is not None else {}, ensure_ascii=False)


def _short(call_id: str) -> str:
    """The id itself where it is short enough, else always the same one for it."""
    if len(call_id) == len(_SHORT_ID) and call_id.isascii() and call_id.isalnum():
        return call_id
    return hashlib.sha256(call_id.encode("utf-8", "replace")).hexdigest()[: len(_SHORT_ID)]


def _calling(call_id: str, empty: str | None, *, as_object: bool) -> tuple[Message, ...]:
    arguments: Any = {_KEY: _VALUE} if as_object else json.dumps({_KEY: _VALUE})
    call = {
        "id": call_id,
        "type": "function",
        "function": {"name": _NAME, "arguments": arguments},
    }
    return (
        {"role": "assistant", "content": empty, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call_id, "name": _NAME, "content": _RESULT},
    )


def _score(text: str) -> int:
    """How well a rendering shows a call: 0 not at all, more when the arguments are readable."""
    shown = text[text.rfind(_SAID) :]
    if _NAME not in shown or _RESULT not in shown:
        return 0
    spoiled = f"'{_KEY}'" in shown or f'\\"{_KEY}' in shown or "None" in shown
    return 1 if spoiled or _KEY not in shown or _VALUE not in shown else 2


def _wrong(field: str, what: str, constraint: str) -> ValidationFailed:
    return ValidationFailed(
        f"{field}: {what}", field=field.partition("[")[0], constraint=constraint
    )
