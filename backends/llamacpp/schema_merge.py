"""JSON schemas without combinators: what `$ref`, `allOf`, `anyOf` and `oneOf` amount to.

Owns which keywords there are, that their values have the right form, and the rewriting of a schema
into alternatives of plain keywords, each at most as wide as the schema. Every keyword that limits
what is valid and is not understood is refused by its place. Writes no grammar.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from typing import Any, NoReturn, TypeAlias, cast
from urllib.parse import unquote

from rbee.errors import ValidationFailed

Schema: TypeAlias = Mapping[str, Any]
Plain: TypeAlias = dict[str, Any]
"""Keywords of KINDS, `type` (a list) and `enum`; or a `$ref` alone."""

MAX_DEPTH = 40
MAX_ALTERNATIVES = 64
MAX_WORK = 5000
"""Schemas looked at, one as often as it is combined with others."""
TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
KINDS = {
    "properties": "object",
    "required": "object",
    "additionalProperties": "object",
    "minProperties": "object",
    "maxProperties": "object",
    "items": "array",
    "prefixItems": "array",
    "minItems": "array",
    "maxItems": "array",
    "minLength": "string",
    "maxLength": "string",
    "pattern": "string",
    "format": "string",
    "minimum": "number",
    "maximum": "number",
    "exclusiveMinimum": "number",
    "exclusiveMaximum": "number",
}
"""The type each understood keyword is about."""
_COMBINED = {"$ref", "allOf", "anyOf", "oneOf"}
_IGNORED = {
    "$schema", "$id", "$comment", "$defs", "definitions", "title", "description", "default",
    "example", "examples", "deprecated", "readOnly", "writeOnly", "discriminator",
    "contentEncoding", "contentMediaType", "contentSchema", "externalDocs", "xml",
}  # fmt: skip
"""They say nothing about what is valid."""
_COUNTS = {"minProperties", "maxProperties", "minItems", "maxItems", "minLength", "maxLength"}
_LEAST = {"minProperties", "minItems", "minLength", "minimum", "exclusiveMinimum"}


def fail(place: str, reason: str, constraint: str = "a supported JSON schema") -> NoReturn:
    """Refuse the schema for what stands at a JSON pointer."""
    raise ValidationFailed(
        f"json_schema: {place or '/'}: {reason}", field="json_schema", constraint=constraint
    )


def step(place: str, *keys: str | int) -> str:
    """The JSON pointer of a part, shortened for people."""
    parts = (str(key).replace("~", "~0").replace("/", "~1")[:60] for key in keys)
    return "/".join([place, *parts])


def canonical(value: Any) -> str:
    """The same text for values that JSON schema takes for equal (1 and 1.0, not 1 and true)."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, Mapping):
        items = sorted(cast("Mapping[str, Any]", value).items())
        return "{" + ",".join(f"{json.dumps(k)}:{canonical(v)}" for k, v in items) + "}"
    if isinstance(value, list):
        return "[" + ",".join(canonical(part) for part in cast("list[Any]", value)) + "]"
    return json.dumps(value)


class Combined:
    """The schemas of one document, which may name each other."""

    def __init__(self, root: Schema) -> None:
        self._root = root
        self._work = 0

    def target(self, reference: str, place: str) -> Any:
        """The schema a `$ref` names."""
        at = step(place, "$ref")
        parts = reference.split("/")
        if parts[0] != "#" or (len(parts) > 1 and parts[1] not in ("$defs", "definitions")):
            fail(at, "only references to #, #/$defs/… and #/definitions/… are supported")
        found: Any = self._root
        for part in parts[1:]:
            key = unquote(part).replace("~1", "/").replace("~0", "~")
            if not isinstance(found, Mapping) or key not in found:
                fail(at, f"there is no {reference[:80]!r}")
            found = cast("Schema", found)[key]
        return found

    def alternatives(self, schema: Any, place: str, depth: int = 0) -> list[Plain]:
        """Plain schemas of which one must hold; none where nothing can."""
        if depth > MAX_DEPTH:
            fail(place, f"refers to itself, or is nested more than {MAX_DEPTH} deep", "depth")
        self._work += 1
        if self._work > MAX_WORK:
            fail("", f"combines its parts in more than {MAX_WORK} ways", "size")
        if isinstance(schema, bool):
            return [{}] if schema else []
        if not isinstance(schema, Mapping):
            fail(place, "must be an object or a boolean", "JSON schema")
        given = cast("Schema", schema)
        out = [_plain(given, place)]
        if "$ref" in given:
            reference = given["$ref"]
            if not isinstance(reference, str):
                fail(step(place, "$ref"), "must be a text", "JSON schema")
            self.target(reference, place)
            out = self._both(out, [{"$ref": reference}], place, depth)
        for i, branch in enumerate(_branches(given, "allOf", place)):
            more = self.alternatives(branch, step(place, "allOf", i), depth + 1)
            out = self._both(out, more, place, depth)
        for word in ("anyOf", "oneOf"):
            if word not in given:
                continue
            found: list[list[Plain]] = [
                self.alternatives(branch, step(place, word, i), depth + 1)
                for i, branch in enumerate(_branches(given, word, place))
            ]
            if word == "oneOf":
                self._check_disjoint(found, step(place, word), depth)
            out = self._both(out, [plain for branch in found for plain in branch], place, depth)
        return out

    def resolved(self, plain: Plain, place: str, depth: int = 0) -> list[Plain]:
        """The same without a `$ref`."""
        if "$ref" not in plain:
            return [plain]
        reference = plain["$ref"]
        found = self.alternatives(self.target(reference, place), reference[1:], depth + 1)
        return [deep for part in found for deep in self.resolved(part, place, depth + 1)]

    def _both(self, one: list[Plain], other: list[Plain], place: str, depth: int) -> list[Plain]:
        if len(one) * len(other) > MAX_ALTERNATIVES:
            fail(place, f"combines to more than {MAX_ALTERNATIVES} alternatives", "size")
        out: list[Plain] = []
        for a, b in itertools.product(one, other):
            if not a or not b:
                out.append(a or b)
                continue
            pairs = itertools.product(
                self.resolved(a, place, depth), self.resolved(b, place, depth)
            )
            out += [both for c, d in pairs if (both := _merged(c, d, place)) is not None]
        if len(out) > MAX_ALTERNATIVES:
            fail(place, f"combines to more than {MAX_ALTERNATIVES} alternatives", "size")
        return out

    def _check_disjoint(self, branches: list[list[Plain]], place: str, depth: int) -> None:
        """What is written for one branch of a oneOf must be invalid under all others."""
        known = [
            [deep for plain in branch for deep in self.resolved(plain, place, depth)]
            for branch in branches
        ]
        for (i, a), (j, b) in itertools.combinations(enumerate(known), 2):
            if not all(self._disjoint(x, y, place, depth) for x in a for y in b):
                reason = f"its branches {i} and {j} may both hold; make them differ in type or in"
                fail(place, f"{reason} the const of a required property, or use anyOf")

    def _disjoint(self, a: Plain, b: Plain, place: str, depth: int) -> bool:
        if not _shared(_kinds(a), _kinds(b)):
            return True
        if "enum" in a and "enum" in b:
            return not {canonical(v) for v in a["enum"]} & {canonical(v) for v in b["enum"]}
        if a.get("type") != ["object"] or b.get("type") != ["object"]:
            return False
        for key in {*a.get("required", ()), *b.get("required", ())}:
            for one, other in ((a, b), (b, a)):
                closed = other.get("additionalProperties") is False
                if key in one.get("required", ()) and closed and key not in _properties(other):
                    return True
            if key in _properties(a) and key in _properties(b):
                at = step(place, "properties", key)
                pairs = itertools.product(
                    *(
                        [
                            deep
                            for plain in self.alternatives(_properties(side)[key], at, depth + 1)
                            for deep in self.resolved(plain, at, depth + 1)
                        ]
                        for side in (a, b)
                    )
                )
                if all(self._disjoint(c, d, at, depth + 1) for c, d in pairs):
                    return True
        return False


def _properties(plain: Plain) -> dict[str, Any]:
    return plain.get("properties", {})


def _branches(schema: Schema, word: str, place: str) -> list[Any]:
    found = schema.get(word, [])
    if not isinstance(found, list) or (word in schema and not found):
        fail(step(place, word), "must be a list of schemas", "JSON schema")
    return cast("list[Any]", found)


def _plain(schema: Schema, place: str) -> Plain:
    """The keywords of one schema object, checked; const is an enum of one."""
    out: Plain = {}
    for word, value in schema.items():
        at = step(place, word)
        if word in KINDS:
            _check_value(word, value, at)
            out[word] = value
        elif word == "type":
            types = cast("list[Any]", value if isinstance(value, list) else [value])
            if not types or any(kind not in TYPES for kind in types):
                fail(at, f"must be of {', '.join(TYPES)}", "JSON schema")
            out[word] = [kind for kind in TYPES if kind in types]
        elif word == "enum" and isinstance(value, list) and value:
            out[word] = value
        elif word == "enum":
            fail(at, "must be a list of values", "JSON schema")
        elif word == "$id" and place:
            fail(at, "is only supported at the top")
        elif (word, value) in (("uniqueItems", False), ("patternProperties", {})) or (
            word == "multipleOf" and value == 1 and schema.get("type") == "integer"
        ):
            continue  # says nothing
        elif word == "nullable":
            fail(at, 'is not a keyword of JSON schema; write "type": ["…", "null"]')
        elif word not in _IGNORED and word not in _COMBINED and word != "const":
            fail(at, "is not supported")
    if "const" in schema:
        both = _merged(out, {"enum": [schema["const"]]}, place)
        return out | {"enum": []} if both is None else both
    return out


def _check_value(word: str, value: Any, at: str) -> None:
    kind = KINDS[word]
    if word in _COUNTS:
        whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        if isinstance(value, bool) or not whole or value < 0:
            fail(at, "must be a whole number, 0 or more", "JSON schema")
    elif kind == "number":
        if isinstance(value, bool) or not isinstance(value, int | float):
            fail(at, "must be a number", "JSON schema")
    elif kind == "string":
        if not isinstance(value, str):
            fail(at, "must be a text", "JSON schema")
    elif word in ("prefixItems", "required"):
        good = isinstance(value, list)
        if not good or (word == "required" and any(not isinstance(v, str) for v in value)):
            fail(at, "must be a list" + (" of texts" if word == "required" else ""), "JSON schema")
    elif word == "properties":
        if not isinstance(value, Mapping):
            fail(at, "must be an object", "JSON schema")
    elif isinstance(value, list):
        fail(at, "a list is not supported; use prefixItems")


def kind_of(value: Any) -> str:
    """The type of a value; a number without a fraction is an integer."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else "boolean"
    if isinstance(value, int | float):
        return "integer" if isinstance(value, int) or value.is_integer() else "number"
    return "string" if isinstance(value, str) else "array" if isinstance(value, list) else "object"


def _kinds(plain: Plain) -> list[str] | None:
    given: list[str] | None = plain.get("type")
    return _shared(given, [kind_of(v) for v in plain["enum"]]) if "enum" in plain else given


def _shared(one: list[str] | None, other: list[str] | None) -> list[str]:
    a, b = (set(TYPES) if kinds is None else set(kinds) for kinds in (one, other))
    a, b = (kinds | ({"integer"} if "number" in kinds else set()) for kinds in (a, b))
    return [kind for kind in TYPES if kind in a & b]


def _merged(a: Plain, b: Plain, place: str) -> Plain | None:
    """What holds where both hold; None where nothing can."""
    if not a or not b:
        return a or b
    one, other = _with_open_properties(a, b), _with_open_properties(b, a)
    out = one | other
    for word in one.keys() & other.keys():
        x, y = one[word], other[word]
        if word == "type":
            out[word] = _shared(x, y)
        elif word == "enum":
            known = {canonical(value) for value in y}
            out[word] = [value for value in x if canonical(value) in known]
        elif word == "required":
            out[word] = [*x, *(key for key in y if key not in x)]
        elif word == "properties":
            out[word] = x | {key: _all_of(x[key], y[key]) if key in x else y[key] for key in y}
        elif word == "additionalProperties" or (word == "items" and "prefixItems" not in out):
            out[word] = _all_of(x, y)
        elif KINDS[word] == "number" or word in _COUNTS:
            out[word] = max(x, y) if word in _LEAST else min(x, y)
        elif x != y:
            fail(step(place, word), "stands in several schemas that must all hold")
    if {"items", "prefixItems"} <= out.keys() and a.get("items") != b.get("items"):
        fail(step(place, "prefixItems"), "stands beside items of another schema that must hold")
    return None if out.get("type") == [] or out.get("enum") == [] else out


def _all_of(one: Any, other: Any) -> Any:
    if one is False or other is False:
        return False
    return one if one == other else {"allOf": [one, other]}


def _with_open_properties(own: Plain, other: Plain) -> Plain:
    """`own`, with its additionalProperties written out for the properties only `other` names."""
    rest = own.get("additionalProperties", True)
    if rest is True or "properties" not in other:
        return own
    properties = _properties(own)
    more = {key: rest for key in other["properties"] if key not in properties}
    return own | {"properties": properties | more}
