"""What a conversation and its frame are made of: messages, tools, and the shape of the answer.

Names and meanings are those of OpenAI's API (https://platform.openai.com/docs/api-reference/chat).
Owns their form; what a model makes of them is its template's business.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

import msgspec

from rbee.errors import ValidationFailed
from rbee.protocol.base import Request

Text = Annotated[str, msgspec.Meta(max_length=1_000_000)]
FunctionName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_.-]{1,64}\Z")]
CallId = Annotated[str, msgspec.Meta(max_length=128)]


class ContentPart(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a multi-part message; only text parts are understood."""

    type: str
    text: Text = ""


class CalledFunction(msgspec.Struct, frozen=True, kw_only=True):
    """Which function, and its arguments: JSON as text, or the object itself."""

    name: FunctionName
    arguments: Text | dict[str, Any] = "{}"


class ToolCall(msgspec.Struct, frozen=True, kw_only=True):
    """A call that the assistant asked for in an earlier message."""

    function: CalledFunction
    id: CallId | None = None
    type: Literal["function"] = "function"


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """One chat message. `content` is null where the assistant only called tools."""

    role: Annotated[str, msgspec.Meta(min_length=1, max_length=32)]
    content: str | list[ContentPart] | None = None
    name: Annotated[str, msgspec.Meta(max_length=128)] | None = None
    tool_calls: Annotated[list[ToolCall], msgspec.Meta(max_length=128)] | None = None
    tool_call_id: CallId | None = None

    def text(self) -> str:
        """The content as one string. Raises ValidationFailed for a part that is not text."""
        if isinstance(self.content, list):
            for part in self.content:
                if part.type != "text":
                    raise ValidationFailed(
                        f"messages: parts of type {part.type[:40]!r} are not supported here",
                        field="messages",
                        constraint="text parts only",
                    )
            return "".join(part.text for part in self.content)
        return self.content or ""

    def plain(self) -> dict[str, Any]:
        """As a worker takes it: content a string or null, nothing that was not given."""
        silent = self.content is None and bool(self.tool_calls)
        found: dict[str, Any] = {"role": self.role, "content": None if silent else self.text()}
        if self.name is not None:
            found["name"] = self.name
        if self.tool_calls:
            found["tool_calls"] = msgspec.to_builtins(self.tool_calls)
        if self.tool_call_id is not None:
            found["tool_call_id"] = self.tool_call_id
        return found


class Function(Request, frozen=True, kw_only=True, omit_defaults=True):
    """A function the model may ask for; `parameters` is a JSON schema."""

    name: FunctionName
    description: Annotated[str, msgspec.Meta(max_length=10_000)] | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Request, frozen=True, kw_only=True):
    """A tool in OpenAI's form; functions are the only kind."""

    type: Literal["function"]
    function: Function


class FunctionChoice(Request, frozen=True, kw_only=True):
    """Which function."""

    name: FunctionName


class NamedTool(Request, frozen=True, kw_only=True):
    """This function must be called."""

    type: Literal["function"] = "function"
    function: FunctionChoice


ToolChoice: TypeAlias = Literal["auto", "none", "required"] | NamedTool


class AnyText(Request, frozen=True, kw_only=True, tag_field="type", tag="text"):
    """The answer is free."""


class AnyJson(Request, frozen=True, kw_only=True, tag_field="type", tag="json_object"):
    """The answer is a JSON object."""


class NamedSchema(Request, frozen=True, kw_only=True):
    """A JSON schema with the name OpenAI wants for it; `strict` changes nothing here."""

    name: Annotated[str, msgspec.Meta(max_length=64)] = "answer"
    description: Annotated[str, msgspec.Meta(max_length=10_000)] | None = None
    schema: dict[str, Any]
    strict: bool | None = None


class JsonBySchema(Request, frozen=True, kw_only=True, tag_field="type", tag="json_schema"):
    """The answer is JSON that is valid under the schema."""

    json_schema: NamedSchema


ResponseFormat: TypeAlias = AnyText | AnyJson | JsonBySchema


def schema_of(wanted: ResponseFormat | None) -> dict[str, Any] | None:
    """The JSON schema that the answer must fit; `{}` is any object, None no JSON at all."""
    match wanted:
        case AnyJson():
            return {}
        case JsonBySchema(json_schema=named):
            return named.schema
        case _:
            return None
