"""LangChain's ChatOpenAI and OpenAIEmbeddings: what came back, as JSON on stdout."""

from __future__ import annotations

import json
import sys
from typing import Any

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel, Field


class Weather(BaseModel):
    """The weather of a city."""

    city: str = Field(max_length=20)


def main(url: str, caller: str) -> None:
    """Everything a chain does with a model."""

    def model(name: str, **more: Any) -> ChatOpenAI:
        return ChatOpenAI(
            base_url=url, api_key="none", model=name, max_retries=0, temperature=0, **more
        )

    bound = model(caller, max_tokens=60).bind_tools([Weather], tool_choice="Weather")
    asked = bound.invoke("Weather in Paris?")
    result = ToolMessage("18 degrees", tool_call_id=asked.tool_calls[0]["id"])
    after = model(caller, max_tokens=3).invoke([HumanMessage("Weather?"), asked, result])
    shaped = model("smollm2-135m", max_tokens=60).with_structured_output(
        Weather, method="json_schema"
    )
    vectors = OpenAIEmbeddings(
        base_url=url, api_key="none", model="echo", check_embedding_ctx_length=False
    )
    found = {
        "whole": model("echo").invoke("one two").content,
        "stream": [chunk.content for chunk in model("echo").stream("one two")],
        "usage": model("echo").invoke("one two").usage_metadata["output_tokens"],
        "call": asked.tool_calls[0]["name"],
        "arguments": list(asked.tool_calls[0]["args"]),
        "after": after.response_metadata["finish_reason"],
        "shaped": type(shaped.invoke("Weather in Paris?")).__name__,
        "responses": model("echo", use_responses_api=True).invoke("one two").text,
        "vectors": [len(vector) for vector in vectors.embed_documents(["a b", "c"])],
    }
    json.dump(found, sys.stdout)


main(*sys.argv[1:])
