"""How models say that a function is to be called: the forms they were trained on.

Told by what a chat template contains. Making a model call is not done here, nor is taking calls out
of an answer: whoever reads it sees the markers, which is why those that are control tokens are told
as text.

    hermes   <tool_call> {"name": …, "arguments": …} </tool_call>, for each call (Qwen, Hermes)
    mistral  [TOOL_CALLS] [{"name": …, "arguments": …}, …]
    llama    {"name": …, "parameters": …}, perhaps after <|python_tag|> (Llama 3)
    json     {"name": …, "arguments": …}: every other template that tells of tools
"""

from __future__ import annotations

from dataclasses import dataclass

MARKERS = (
    "<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "<|python_tag|>"
)  # fmt: skip
"""What is shown of an answer although it may be a control token."""


@dataclass(frozen=True)
class Family:
    """One form. `begin` and `end` stand around each call; `several`: more calls may follow."""

    name: str
    key: str = "arguments"
    begin: str = ""
    end: str = ""
    several: bool = False


HERMES = Family("hermes", begin="<tool_call>\n", end="\n</tool_call>", several=True)
MISTRAL = Family("mistral")
LLAMA = Family("llama", key="parameters")
JSON = Family("json")


def family_of(template: str) -> Family:
    """By the marks of a chat template, of the variant for tools where there are two."""
    if "<tool_call>" in template:
        return HERMES
    if "[TOOL_CALLS]" in template:
        return MISTRAL
    if "<|python_tag|>" in template or '"parameters": ' in template:
        return LLAMA
    return JSON
