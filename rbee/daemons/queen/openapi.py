"""The OpenAPI document of the queen's public routes, written from her routes and her structs.

Format: OpenAPI 3.1 (https://spec.openapis.org/oas/v3.1.1), schemas as msgspec gives them. Routes
for her own processes are left out, and so are the aliases below `/openai`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import anyio.to_thread
import msgspec
from starlette.requests import Request
from starlette.responses import Response

from rbee import __version__
from rbee.daemons.base import json_response
from rbee.daemons.queen.openapi_routes import ROUTES, Told
from rbee.daemons.queen.scopes import Need, need_of

LINES = "application/x-ndjson"
REF = "#/components/schemas/{name}"
JSON, EVENTS = "application/json", "text/event-stream"
Route = tuple[str, str]
_PARAMETER = re.compile(r"\{([a-z_]+)(?::path)?\}")


def public(routes: Iterable[Route]) -> list[Route]:
    """Those that the document is about, of methods and paths."""
    return [
        (method, path)
        for method, path in routes
        if not path.startswith("/openai/") and need_of(method, path) is not Need.INTERNAL
    ]


def handler(routes: Iterable[Route]) -> Callable[[Request], Awaitable[Response]]:
    """GET /openapi.json, written when it is first asked for."""
    described = [route for route in public(routes) if f"{route[0]} {route[1]}" in ROUTES]

    @functools.cache
    def body() -> dict[str, Any]:
        return document(described)

    async def openapi(_request: Request) -> Response:
        """GET /openapi.json"""
        return json_response(await anyio.to_thread.run_sync(body))

    return openapi


def document(routes: Iterable[Route]) -> dict[str, Any]:
    """The whole of it, for routes that are in ROUTES."""
    told = [(method, path, ROUTES[f"{method} {path}"]) for method, path in routes]
    kinds = _Kinds([kind for _, _, one in told for kind in _structs(one)])
    paths: dict[str, dict[str, Any]] = {}
    for method, path, one in told:
        plain = _PARAMETER.sub(r"{\1}", path)
        paths.setdefault(plain, {})[method.lower()] = _operation(method, path, one, kinds)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "rbee",
            "version": __version__,
            "description": "The queen's routes. Those of OpenAI are under /openai/v1, too.",
        },
        "paths": paths,
        "components": {
            "schemas": {**kinds.components, **_ERRORS},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


class _Kinds:
    """Schemas of structs, by the struct or union."""

    def __init__(self, kinds: list[Any]) -> None:
        unique = list({repr(kind): kind for kind in kinds}.values())
        schemas, components = msgspec.json.schema_components(unique, ref_template=REF)
        self._schemas = {
            repr(kind): _ecma(schema) for kind, schema in zip(unique, schemas, strict=True)
        }
        self.components: dict[str, Any] = _ecma(components)

    def of(self, kind: Any) -> dict[str, Any]:
        """Of a struct, a list of one, the fields of an object, or of anything for None."""
        if kind is None:
            return {"type": "object"}
        if isinstance(kind, list):
            return {"type": "array", "items": self.of(kind[0])}
        if isinstance(kind, dict):
            fields = {name: self.of(one) for name, one in kind.items()}
            return {"type": "object", "properties": fields, "required": list(fields)}
        return self._schemas[repr(kind)]


def _structs(told: Told) -> list[Any]:
    found = [told.body] if told.body is not None else []
    reply: Any = told.reply
    parts = list(reply.values()) if isinstance(reply, dict) else [reply]
    found += [part[0] if isinstance(part, list) else part for part in parts if part is not None]
    return found


def _operation(method: str, path: str, told: Told, kinds: _Kinds) -> dict[str, Any]:
    name = re.sub(r"[^a-z0-9]+", "_", f"{method} {path.replace('/v1', '')}".lower()).strip("_")
    content = {"text/plain": {"schema": {"type": "string"}}} if told.text else {}
    if not told.text and not told.bare:
        content[JSON] = {"schema": kinds.of(told.reply)}
    if told.streams:
        content[EVENTS] = {}
    if told.lines:
        content[LINES] = {}
    error = _ERROR_OF.get(told.tag, "Error")
    failed = {JSON: {"schema": {"$ref": REF.format(name=error)}}}
    found: dict[str, Any] = {
        "operationId": name,
        "summary": told.summary,
        "tags": [told.tag],
        "parameters": [
            *({"name": one, "in": "path", "required": True, "schema": {"type": "string"}}
              for one in _PARAMETER.findall(path)),
            *({"name": one, "in": "query", "required": one in told.required, "schema": schema}
              for one, schema in told.query.items()),
        ],
        "responses": {
            str(told.status): {"description": "Done.", "content": content},
            "default": {"description": "An error, with its code.", "content": failed},
        },
    }  # fmt: skip
    if told.body is not None:
        schema = {"schema": kinds.of(told.body)}
        found["requestBody"] = {"required": True, "content": {JSON: schema}}
    if need_of(method, path) is not Need.OPEN:
        found["security"] = [{"key": []}, {}]
    return found


def _ecma(schema: Any) -> Any:
    """Patterns as ECMA-262 has them, whose `$` is Python's end of the text."""
    if isinstance(schema, dict):
        return {
            key: value.replace("\\Z", "$")
            if key == "pattern" and isinstance(value, str)
            else _ecma(value)
            for key, value in schema.items()
        }
    return [_ecma(one) for one in schema] if isinstance(schema, list | tuple) else schema


_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message", "details"],
            "properties": {
                "code": {"type": "string"},
                "message": {"type": "string"},
                "details": {"type": "object"},
            },
        }
    },
}
_OPENAI_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string"},
                "details": {"type": "object"},
            },
        }
    },
}
_OLLAMA_ERROR = {
    "type": "object",
    "required": ["error", "code"],
    "properties": {"error": {"type": "string"}, "code": {"type": "string"}},
}
_ANTHROPIC_ERROR = {
    "type": "object",
    "required": ["type", "error"],
    "properties": {
        "type": {"const": "error"},
        "error": {
            "type": "object",
            "required": ["type", "message", "code"],
            "properties": {
                "type": {"type": "string"},
                "message": {"type": "string"},
                "code": {"type": "string"},
                "details": {"type": "object"},
            },
        },
    },
}
_ERROR_OF = {"openai": "OpenAIError", "ollama": "OllamaError", "anthropic": "AnthropicError"}
"""By the tag of a route."""
_ERRORS = {
    "Error": _ERROR,
    "OpenAIError": _OPENAI_ERROR,
    "OllamaError": _OLLAMA_ERROR,
    "AnthropicError": _ANTHROPIC_ERROR,
}
