"""A real model held to nested schemas, three answers at a time: every one of them is valid.

The schemas bound their own answers, and `longest` bounds them in bytes; a token is a byte or more,
so that no answer can be cut off.
"""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from rbee import registry
from rbee.backend_api import Generation
from rbee.models import packages
from tests.support.backends import Driver, load

pytestmark = pytest.mark.skipif(
    not registry.load("llamacpp").probe().available, reason="llama-cpp-python is not installed"
)
SLOTS, CTX, EACH = 3, 1536, 3
PROMPT_ROOM = 128
WS = 25
"""Bytes: a line break and 24 spaces."""

ORDER: dict[str, Any] = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {
            "size": {"enum": ["big", "small", None]},
            "count": {"type": "integer", "minimum": 1, "maximum": 40},
            "note": {"type": "string", "minLength": 1, "maxLength": 6},
        },
        "required": ["size", "count"],
        "additionalProperties": False,
    },
    "minItems": 1,
    "maxItems": 2,
}
PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": "^[A-Z][a-z]{1,8}$"},
        "home": {
            "type": "object",
            "properties": {
                "street": {"type": "string", "maxLength": 6},
                "place": {
                    "type": "object",
                    "properties": {
                        "lat": {"type": "number", "minimum": -90, "maximum": 90},
                        "north": {"type": "boolean"},
                    },
                    "additionalProperties": False,
                },
            },
            "additionalProperties": False,
        },
        "job": {"type": ["string", "null"], "maxLength": 4},
    },
    "required": ["home"],
    "additionalProperties": False,
}
LEAF: dict[str, Any] = {"properties": {"kids": {"maxItems": 0}}}
CHILD: dict[str, Any] = {"properties": {"kids": {"maxItems": 1, "items": LEAF}}}
TREE: dict[str, Any] = {
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "kind": {"enum": ["hive", "comb", "cell", 7, None]},
                "kids": {"type": "array", "items": {"$ref": "#/$defs/node"}, "maxItems": 2},
            },
            "required": ["kids"],
            "additionalProperties": False,
        }
    },
    "$ref": "#/$defs/node",
    "properties": {"kids": {"items": CHILD}},
}
"""A node holds nodes, without end; what stands beside the reference ends it at the third level."""
SCHEMAS = {"order": ORDER, "person": PERSON, "tree": TREE}


def longest(schema: dict[str, Any], root: dict[str, Any]) -> int:
    """The most bytes an answer under a schema of this page can have; its tokens are no more."""
    if "$ref" in schema:
        nodes = dict(root["$defs"]["node"])
        kids = schema.get("properties", {}).get("kids", {})
        merged = nodes["properties"]["kids"] | {"items": {"$ref": "", **kids.get("items", {})}}
        merged["maxItems"] = min(merged["maxItems"], kids.get("maxItems", 2))
        nodes["properties"] = nodes["properties"] | {"kids": merged}
        return longest(nodes, root)
    if "enum" in schema:
        return max(len(json.dumps(value)) for value in schema["enum"])
    if "properties" in schema:
        members = [
            len(json.dumps(key)) + len(": ,") + WS + longest(value, root)
            for key, value in schema["properties"].items()
        ]
        return len("{}") + WS + sum(members)
    if "items" in schema:
        most = schema["maxItems"]
        return len("[]") + WS + (most and most * (longest(schema["items"], root) + WS + 1))
    if "pattern" in schema:
        return len('""') + 9
    if "maxLength" in schema:
        return len('""') + 12 * schema["maxLength"]  # a character may be two escapes of six
    return len("-0.") + 15


@pytest.fixture(scope="module")
def driver():
    model = packages.packaged("smollm2-135m")
    if model is None:
        pytest.skip("the demo model is not installed")
    driver = Driver(load(model.path, slots=SLOTS, ctx=CTX))
    yield driver
    driver.close()


@pytest.mark.parametrize(
    "part", [0, *(pytest.param(n, marks=pytest.mark.lab) for n in range(1, 12))]
)
def test_every_answer_of_a_real_model_is_valid_under_nested_schemas(driver, part):
    """In twelve parts of 3, all three schemas at a time; each schema is asked 12 times."""
    limits = {name: longest(schema, schema) for name, schema in SCHEMAS.items()}
    assert max(limits.values()) < CTX - PROMPT_ROOM
    names = list(SCHEMAS)
    asked = [(names[seed % len(names)], seed) for seed in range(part * EACH, (part + 1) * EACH)]
    answers = [
        driver.submit(
            Generation(
                messages=({"role": "user", "content": f"As JSON in one line: {name} {seed}"},),
                json_schema=SCHEMAS[name],
                max_tokens=limits[name],
                temperature=1.0,
                seed=seed,
            )
        )
        for name, seed in asked
    ]
    for (name, seed), answer in zip(asked, answers, strict=True):
        where = f"{name} {seed}: {answer.text!r}"
        assert answer.done().finish_reason == "stop", where
        jsonschema.validate(json.loads(answer.text), SCHEMAS[name])
    assert len({answer.text for answer in answers}) > EACH // 2
