"""LiteLLM as a client: what came back, as JSON on stdout."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}},
            "required": ["city"],
        },
    },
}


def main(url: str, caller: str) -> None:
    """What it routes to a provider of OpenAI's kind."""
    litellm.suppress_debug_info = True
    given: dict[str, Any] = {"api_base": url, "api_key": "none", "num_retries": 0}
    said = [{"role": "user", "content": "one two"}]
    streamed = litellm.completion(model="openai/echo", messages=said, stream=True, **given)
    called = litellm.completion(
        model=f"openai/{caller}", messages=said, tools=[TOOL], tool_choice="required",
        parallel_tool_calls=False, max_tokens=60, temperature=0, **given,
    ).choices[0]  # fmt: skip
    text = litellm.text_completion(model="text-completion-openai/echo", prompt="one two", **given)
    response = litellm.responses(model="openai/echo", input="one two", **given)
    try:
        litellm.completion(model="openai/nope", messages=said, **given)
        error = ""
    except litellm.NotFoundError as exc:
        error = exc.message
    whole = litellm.completion(model="openai/echo", messages=said, **given)
    found = {
        "whole": whole.choices[0].message.content,
        "stream": "".join(chunk.choices[0].delta.content or "" for chunk in streamed),
        "usage": whole.usage.completion_tokens,
        "call": called.message.tool_calls[0].function.name,
        "reason": called.finish_reason,
        "text": text.choices[0].text,
        "responses": response.output[0].content[0].text,
        "vectors": len(litellm.embedding(model="openai/echo", input=["a", "b"], **given).data),
        "error": "no model is called 'nope'" in error,
    }
    json.dump(found, sys.stdout)


main(*sys.argv[1:])
