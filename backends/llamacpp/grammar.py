"""What a request's answer must look like, as one checked grammar.

Owns the choice between a request's `grammar` and its `json_schema`, and the memory of the last
ones, since a program sends the same again and again. Never calls the library.
"""

from __future__ import annotations

import functools
import json

from rbee.backend_api import Generation
from rbee.errors import ValidationFailed

from ..shared.families import JSON, Family
from . import calling, gbnf, schema

MAX_SCHEMA = 256 << 10
"""Characters of a schema's JSON text."""


def source_of(request: Generation, family: Family = JSON) -> str | None:
    """GBNF for llama_sampler_init_grammar, root `root`; None where anything may be written.

    `family`: how the model calls. Raises ValidationFailed naming `grammar`, `json_schema` or
    `tools`, and the place. Takes some milliseconds for one that was not seen lately.
    """
    several = request.several_calls
    if request.must_call:
        return calling.calls(request.tools, request.must_call, family, several=several)
    shape = _shape_of(request)
    if shape is None or not request.tools or request.grammar is not None:
        return shape
    names = [tool["function"]["name"] for tool in request.tools]
    return calling.either(shape, calling.calls(request.tools, names, family, several=several))


def _shape_of(request: Generation) -> str | None:
    if request.json_schema is None:
        return None if request.grammar is None else _checked(request.grammar)
    if request.grammar is not None:
        raise ValidationFailed(
            "grammar: cannot be combined with json_schema",
            field="grammar",
            constraint="not with json_schema",
        )
    try:
        text = json.dumps(request.json_schema, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as exc:
        raise ValidationFailed(
            f"json_schema: is no JSON document: {exc}", field="json_schema", constraint="json"
        ) from exc
    if len(text) > MAX_SCHEMA:
        raise ValidationFailed(
            f"json_schema: {len(text)} characters are more than the {MAX_SCHEMA} allowed",
            field="json_schema",
            constraint="size",
        )
    return _converted(text)


@functools.lru_cache(maxsize=64)
def _checked(text: str) -> str:
    gbnf.check(text)
    return text


@functools.lru_cache(maxsize=64)
def _converted(text: str) -> str:
    return schema.to_gbnf(json.loads(text))
