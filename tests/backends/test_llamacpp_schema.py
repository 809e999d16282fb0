"""JSON schemas as grammars: what is enforced is valid, what is not enforced is refused by name."""

from __future__ import annotations

import datetime
import json
import random
import re
import uuid

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rbee.backends.llamacpp.grammar import source_of
from rbee.backends.llamacpp.schema import to_gbnf

from rbee.backend_api import Generation
from rbee.errors import ValidationFailed
from tests.support import gbnf_native
from tests.support.gbnf_walk import Walk

FORMATS = {
    "date": datetime.date.fromisoformat,
    "time": lambda text: datetime.time.fromisoformat(text).tzinfo is not None,
    "date-time": lambda text: datetime.datetime.fromisoformat(text).tzinfo and text[10] == "T",
    "uuid": lambda text: str(uuid.UUID(text)) == text.lower(),
    "email": lambda text: re.fullmatch(r"[^@\s]+@[^@\s.]+(\.[^@\s.]+)+", text),
}
CHECKER = jsonschema.FormatChecker(())
for name, parse in FORMATS.items():
    CHECKER.checks(name, raises=ValueError)(
        lambda value, parse=parse: not isinstance(value, str) or bool(parse(value))
    )
POINT = {"type": "object", "properties": {"x": {"type": "integer"}, "y": {"type": "integer"}}}
LIST = {
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "value": {"type": "integer"},
                "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
            },
            "required": ["value", "next"],
        }
    },
    "$ref": "#/$defs/node",
}
SHAPES = {
    "oneOf": [
        {
            "type": "object",
            "properties": {"kind": {"const": kind}, key: {"type": "number"}},
            "required": ["kind", key],
        }
        for kind, key in (("circle", "radius"), ("square", "side"))
    ]
}


def is_valid(schema, text):
    try:
        value = json.loads(text)
    except ValueError:
        return False
    validator = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)
    return validator(schema, format_checker=CHECKER).is_valid(value)


def place(schema):
    """Where and why a schema is refused."""
    with pytest.raises(ValidationFailed) as caught:
        to_gbnf(schema)
    assert caught.value.details["field"] == "json_schema"
    assert caught.value.details["constraint"]
    return caught.value.message.removeprefix("json_schema: ")


ACCEPTED = [
    # schema, valid texts it takes, texts it must not take
    ({}, ["{}", '{"a": [1, {"b": null}]}', '{\n  "a": "b"\n}'], ["[]", "1", "", " {}", '{"a"}']),
    ({"title": "T", "description": "d"}, ["{}"], ["[]"]),
    ({"type": "string"}, ['""', '"a\\n\\u00e9"', '"é🐝"', '"\\ud83d\\udc1d"'], ['"\n"',
     '"\\ud83d"']),
    ({"type": "string", "minLength": 2, "maxLength": 3}, ['"ab"', '"a\\n🐝"'], ['"a"', '"abcd"']),
    ({"minLength": 1}, ['"a"'], ['""', "1"]),
    ({"type": "integer"}, ["0", "-7", "123456789012345"], ["1.5", "01", "-0", "1e3", "+1"]),
    ({"type": "integer", "minimum": -3, "maximum": 12}, ["-3", "0", "9", "12"], ["-4", "13",
     "120"]),
    ({"type": "integer", "exclusiveMinimum": 1.5, "maximum": 1000},
     ["2", "10", "999", "1000"], ["1", "1001", "-2"]),
    ({"type": "integer", "minimum": 100}, ["100", "123456"], ["99", "-100", "12"]),
    ({"type": "integer", "exclusiveMaximum": 0}, ["-1", "-99"], ["0", "1"]),
    ({"type": "number"}, ["0", "-1.5", "2e10", "1.25E-3"], [".5", "1.", "1e999", "NaN"]),
    ({"type": "number", "minimum": 0, "maximum": 1}, ["0", "1", "0.5", "1.00"], ["1.01", "-0.1",
     "2"]),
    ({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 0.25},
     ["0.1", "0.2499", "0.001"], ["0", "0.0", "0.25", "0.3"]),
    ({"type": "number", "minimum": -1.5}, ["-1.5", "-1.499", "0.1", "123"], ["-1.51", "-2"]),
    ({"type": ["string", "null"]}, ['"a"', "null"], ["1", "true"]),
    ({"type": "boolean"}, ["true", "false"], ["null", "True"]),
    ({"enum": ["a", "ab", 1, None, {"k": [1]}]}, ['"a"', '"ab"', "1", "null", '{"k": [1]}'],
     ['"b"', "2"]),
    ({"enum": ["a", 1, 2.5], "type": "string"}, ['"a"'], ["1", "2.5"]),
    ({"const": 'say "hi"\n'}, ['"say \\"hi\\"\\n"'], ['"say"']),
    (POINT, ["{}", '{"x": 1}', '{"x":1,"y":2}', '{"y": 2}'], ['{"y":2,"x":1}', '{"z": 1}',
     '{"x": "1"}']),
    (POINT | {"required": ["y"]}, ['{"y": 1}', '{ "x": 1, "y": 2 }'], ["{}", '{"x": 1}']),
    (POINT | {"additionalProperties": {"type": "null"}},
     ['{"x": 1, "z": null}', '{"z": null, "xx": null}'], ['{"z": 1}', '{"x": null}',
     '{"\\u0078": null}']),
    (POINT | {"additionalProperties": True}, ['{"x": 1, "z": [1]}'], ['{"z": 1, "x": "a"}']),
    ({"type": "object"}, ["{}", '{"a": 1}'], ["[]"]),
    ({"type": "object", "additionalProperties": {"type": "integer"}}, ['{"a": 1}'], ['{"a": "b"}']),
    ({"required": ["a"]}, ['{"a": [null]}'], ["{}", "1"]),
    ({"properties": {"a": False, "b": True}}, ['{"b": 1}', "{}"], ['{"a": 1}']),
    ({"type": "array"}, ["[]", '[1, "a"]'], ["{}"]),
    ({"items": {"type": "integer"}, "minItems": 1, "maxItems": 3}, ["[1]", "[ 1,2, 3 ]"], ["[]",
     "[1,2,3,4]"]),
    ({"prefixItems": [{"type": "integer"}, {"type": "string"}], "items": False, "minItems": 1},
     ["[1]", '[1, "a"]'], ["[]", '["a"]', '[1, "a", 2]']),
    ({"prefixItems": [{"type": "integer"}], "items": {"type": "null"}, "minItems": 2},
     ["[1, null]", "[1, null, null]"], ["[1]", "[1, 1]"]),
    ({"type": "array", "maxItems": 0}, ["[]"], ["[1]"]),
    ({"anyOf": [{"type": "integer"}, {"type": "null"}, False]}, ["1", "null"], ["true"]),
    ({"type": "object", "properties": {"a": True, "b": True}, "anyOf": [{"required": ["a"]},
     {"required": ["b"]}]},
     ['{"a": 1}', '{"b": 1}', '{"a": 1, "b": 2}'], ["{}"]),
    ({"allOf": [POINT, {"properties": {"x": {"minimum": 5}}, "required": ["x"]}]}, ['{"x": 5}'],
     ['{"x": 4}', "{}"]),
    ({"allOf": [{"properties": {"a": True}, "additionalProperties": False},
     {"properties": {"b": True}}]},
     ['{"a": 1}', "{}"], ['{"b": 1}']),
    (SHAPES, ['{"kind": "circle", "radius": 2}'], ['{"kind": "circle", "side": 2}',
     '{"kind": "circle"}']),
    (LIST, ['{"value": 1, "next": {"value": 2, "next": null}}'], ['{"value": 1}', "null"]),
    ({"type": "array", "items": {"$ref": "#"}}, ["[]", "[[], [[]]]"], ["[1]"]),
    ({"definitions": {"a/b": {"type": "null"}}, "$ref": "#/definitions/a~1b"}, ["null"], ["1"]),
    ({"$defs": {"n": {"type": "integer"}}, "$ref": "#/$defs/n", "minimum": 5}, ["5"], ["4"]),
    ({"type": "string", "format": "date"}, ['"2024-02-29"', '"2025-12-31"'], ['"2023-02-29"',
     '"2024-04-31"', '"1900-02-29"']),
    ({"type": "string", "format": "date-time"}, ['"2024-02-29T23:59:59.5Z"'],
     ['"2024-02-29 23:59:59Z"', '"2024-02-29T24:00:00Z"']),
    ({"type": "string", "format": "time"}, ['"01:02:03+02:00"'], ['"01:02"', '"01:60:00Z"']),
    ({"type": "string", "format": "uuid"}, ['"00000000-0000-0000-0000-00000000beef"'], ['"beef"']),
    ({"type": "string", "format": "email"}, ['"a.b+c@d-e.org"'], ['"a@"', '"@b.c"', '"a b@c.d"']),
    ({"type": "string", "format": "hostname"}, ['"anything at all"'], ["1"]),
    ({"type": "string", "pattern": "^[a-c]{2}$"}, ['"ab"'], ['"a"', '"abc"', '"zz"']),
    ({"type": "string", "pattern": "b+"}, ['"abba"', '"b"'], ['"a"', '""']),
    ({"type": "string", "pattern": "^(?:x|\\d{2,3}-)*[^a-z\"]$"}, ['"x12-x!"', '"A"'], ['"xa"',
     '"\\""']),
    ({"type": "string", "pattern": "^a$|^\\\\\\t\"$"}, ['"a"', '"\\\\\\t\\""'], ['"b"']),
    ({"type": "string", "pattern": "^$"}, ['""'], ['"a"']),
]  # fmt: skip


def test_texts_of_known_schemas_are_taken_and_others_are_not():
    work = []
    for schema, good, bad in ACCEPTED:
        source = to_gbnf(schema)
        walk = Walk(source)
        assert [walk.accepts(text) for text in good] == [True] * len(good), schema
        assert [walk.accepts(text) for text in bad] == [False] * len(bad), schema
        if not schema.keys() <= {"title", "description"}:
            assert all(is_valid(schema, text) for text in good), schema
        work.append((source, [*good, *bad]))
    expected = [[True] * len(good) + [False] * len(bad) for _, good, bad in ACCEPTED]
    gbnf_native.agree(work, expected)


REFUSED = [
    ({"properties": {"age": {"type": "integer", "multipleOf": 3}}},
     "/properties/age/multipleOf: is not"),
    ({"type": "array", "items": {}, "uniqueItems": True}, "/uniqueItems: is not supported"),
    ({"not": {"type": "string"}}, "/not: is not supported"),
    ({"if": {}, "then": {}}, "/if: is not supported"),
    ({"patternProperties": {"a": {}}}, "/patternProperties: is not supported"),
    ({"propertyNames": {"maxLength": 2}}, "/propertyNames: is not supported"),
    ({"type": "object", "minProperties": 1}, "/minProperties: is only supported"),
    ({"properties": {"a": True, "b": True}, "maxProperties": 1},
     "/maxProperties: is not supported"),
    ({"type": "array", "contains": {}}, "/contains: is not supported"),
    ({"properties": {"a": {"dependentRequired": {}}}}, "/properties/a/dependentRequired"),
    ({"unevaluatedProperties": False}, "/unevaluatedProperties"),
    ({"maxlength": 3}, "/maxlength: is not supported"),
    ({"type": "string", "nullable": True}, "/nullable: is not a keyword of JSON schema"),
    ({"type": "text"}, "/type: must be of object, array"),
    ({"type": []}, "/type: must be of"),
    ({"type": [{}]}, "/type: must be of"),
    ({"enum": []}, "/enum: must be a list"),
    ({"enum": [5], "type": "string"}, "/: nothing is valid under it"),
    ({"enum": [1, 2], "minimum": 2}, "/minimum: is not supported beside enum"),
    ({"type": "string", "minLength": "2"}, "/minLength: must be a whole number"),
    ({"type": "string", "minLength": -1}, "/minLength: must be a whole number"),
    ({"type": "string", "maxLength": True}, "/maxLength: must be a whole number"),
    ({"type": "string", "maxLength": 5000}, "/maxLength: is above 2000"),
    ({"type": "string", "minLength": 3, "maxLength": 2}, "/: nothing is valid under it"),
    ({"type": "string", "pattern": "a", "maxLength": 2}, "/pattern: cannot be combined"),
    ({"type": "integer", "minimum": "1"}, "/minimum: must be a number"),
    ({"type": "integer", "minimum": 5, "maximum": 4}, "/: nothing is valid under it"),
    ({"type": "integer", "maximum": 1e300}, "/maximum: has more than 30 digits"),
    ({"type": "number", "minimum": 0.1234567890123456}, "/minimum: needs more than 15 digits"),
    ({"properties": []}, "/properties: must be an object"),
    ({"required": "a"}, "/required: must be a list"),
    ({"required": [1]}, "/required: must be a list of texts"),
    ({"properties": {"a/b~": 5}}, "/properties/a~1b~0: must be an object or a boolean"),
    ({"items": [{}]}, "/items: a list is not supported; use prefixItems"),
    ({"prefixItems": {}}, "/prefixItems: must be a list"),
    ({"items": False, "minItems": 1}, "/: nothing is valid under it"),
    ({"properties": {"a": False}, "required": ["a"]}, "/: nothing is valid under it"),
    ({"anyOf": []}, "/anyOf: must be a list of schemas"),
    ({"anyOf": [False]}, "/: nothing is valid under it"),
    ({"anyOf": [1]}, "/anyOf/0: must be an object or a boolean"),
    ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "/oneOf: its branches 0 and 1 may both"),
    ({"oneOf": [POINT, POINT | {"required": ["x"]}]}, "/oneOf: its branches 0 and 1 may both"),
    ({"$ref": "https://example.org/schema"}, "/$ref: only references to #"),
    ({"$ref": "#/$defs/a"}, "/$ref: there is no '#/$defs/a'"),
    ({"$ref": 5}, "/$ref: must be a text"),
    ({"$ref": "#"}, "/: its grammar is refused: left recursion"),
    ({"$defs": {"a": {"$ref": "#/$defs/a", "type": "null"}}, "$ref": "#/$defs/a"},
     "/$defs/a: refers to itself"),
    ({"$defs": {"a": {"properties": {"b": {"$ref": "#/$defs/a"}}, "required": ["b"]}},
     "$ref": "#/$defs/a"},
     "/: its grammar is refused: the rule 'root' can never end"),
    ({"properties": {"a": {"$id": "other"}}}, "/properties/a/$id: is only supported at the top"),
    ({"type": "string", "pattern": "(?=a)b"}, "/pattern: '(?' other than '(?:'"),
    ({"type": "string", "pattern": "(a)\\1"}, "/pattern: \\1 (near character"),
    ({"type": "string", "pattern": "\\bword"}, "/pattern: \\b"),
    ({"type": "string", "pattern": "\\p{L}"}, "/pattern: \\p"),
    ({"type": "string", "pattern": "(a*)*"}, "/pattern: a repetition of what may be empty"),
    ({"type": "string", "pattern": "a(b"}, "/pattern: a '(' without ')'"),
    ({"type": "string", "pattern": "a)b"}, "/pattern: an unexpected ')'"),
    ({"type": "string", "pattern": "[b-a]"}, "/pattern: a reversed range"),
    ({"type": "string", "pattern": "[a"}, "/pattern: a '[' without ']'"),
    ({"type": "string", "pattern": "a$b"}, "/pattern: '$' or '^' inside"),
    ({"type": "string", "pattern": "a++"}, "/pattern: a repetition of a repetition"),
    ({"type": "string", "pattern": "a" * 2000}, "/pattern: is longer than 1000"),
    ({"type": "string", "pattern": "(ab|c){3000}"}, "/: its grammar is refused: 3000 repetitions"),
]  # fmt: skip


@pytest.mark.parametrize("schema, message", REFUSED, ids=[message for _, message in REFUSED])
def test_what_cannot_be_enforced_is_refused_by_its_place(schema, message):
    assert place(schema).startswith(message)


def test_readings_that_multiply_are_refused():
    node = [
        {"properties": {"next": {"$ref": "#/$defs/n"}, "k": {"const": k}}, "required": ["k"]}
        for k in "xy"
    ]
    assert "too ambiguous" in place({"$defs": {"n": {"anyOf": node}}, "$ref": "#/$defs/n"})


def test_schemas_that_grow_without_end_are_refused_in_time():
    deep: dict[str, object] = {"type": "null"}
    for _ in range(3000):
        deep = {"items": deep}
    assert "nested more than" in place(deep)
    wide = {"properties": {f"p{i}": {} for i in range(500)}}
    assert "more than 200 properties" in place(wide)
    pairs = {
        f"d{i}": {
            "allOf": [
                {"properties": {key: {"$ref": f"#/$defs/{way}{i + 1}"} for key in "ab"}}
                for way in "de"
            ]
        }
        for i in range(40)
    }
    doubling = {**pairs, **{f"e{i}": pairs["d0"] for i in range(41)}, "d40": {}}
    assert "ways" in place({"$defs": doubling, "$ref": "#/$defs/d0"})
    choices = {"allOf": [{"anyOf": [{"minLength": i} for i in range(20)]} for _ in range(4)]}
    assert "more than 64 alternatives" in place(choices)
    words = [f"{i:x}" * 20 for i in range(4000)]
    assert "65536 allowed" in place({"enum": words})


def test_a_request_has_one_checked_source():
    assert source_of(Generation()) is None
    assert source_of(Generation(grammar='root ::= "a"')) == 'root ::= "a"'
    source = source_of(Generation(json_schema={}))
    assert source is not None
    assert source.startswith("root ::= object\n")
    assert source_of(Generation(json_schema={})) is source
    order = [{"properties": dict.fromkeys(keys, True)} for keys in ("ab", "ba")]
    first, second = (source_of(Generation(json_schema=schema)) for schema in order)
    assert first != second
    for request, field in (
        (Generation(grammar="", json_schema=None), "grammar"),
        (Generation(grammar='root ::= "a"', json_schema={}), "grammar"),
        (Generation(json_schema={"not": {}}), "json_schema"),
        (Generation(json_schema={"const": float("nan")}), "json_schema"),
        (Generation(json_schema={"const": {1, 2}}), "json_schema"),
        (Generation(json_schema={"description": "x" * 300_000}), "json_schema"),
    ):
        with pytest.raises(ValidationFailed) as caught:
            source_of(request)
        assert caught.value.details["field"] == field


KEYS = st.sampled_from(["a", "ab", "b", 'q"', "é", "", "a\\", "\n", "\ud800"])
COUNTS = st.integers(0, 4)
DECIMALS = st.integers(-400, 400).map(lambda n: n / 100) | st.integers(-200, 2000)
PATTERNS = [
    "^a",
    "b$",
    "[^x]",
    "^(ab|\\w-)+$",
    "\\s\\S",
    "^.{2,4}$",
    "^a|b$",
    "\\D\\d?",
    '^["\\\\]+$',
]


def some(**fields):
    return st.fixed_dictionaries({}, optional=fields)


def leaves():
    bounds = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
    ranges = some(**dict.fromkeys(bounds, DECIMALS))
    return st.one_of(
        some(minLength=COUNTS, maxLength=COUNTS).map(lambda s: {"type": "string"} | s),
        st.sampled_from(PATTERNS).map(lambda p: {"type": "string", "pattern": p}),
        st.sampled_from([*FORMATS]).map(lambda name: {"type": "string", "format": name}),
        ranges.map(lambda s: {"type": "integer"} | s),
        ranges.map(lambda s: {"type": "number"} | s),
        st.sampled_from([{"type": "boolean"}, {"type": ["null", "integer"]}, {}, True, False]),
        st.lists(st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3), min_size=1,
                 max_size=5).map(lambda values: {"enum": values}),
    )  # fmt: skip


def branches(inner):
    objects = some(
        properties=st.dictionaries(KEYS, inner, max_size=3),
        required=st.lists(KEYS, max_size=2),
        additionalProperties=inner,
    ).map(lambda s: {"type": "object"} | s)
    arrays = some(
        items=inner, prefixItems=st.lists(inner, max_size=2), minItems=COUNTS, maxItems=COUNTS
    ).map(lambda s: {"type": "array"} | s)
    return st.one_of(
        objects,
        arrays,
        st.lists(inner, min_size=1, max_size=3).map(lambda s: {"anyOf": s}),
        st.lists(objects, min_size=1, max_size=2).map(lambda s: {"allOf": s}),
        st.lists(inner, min_size=2, max_size=2).map(lambda s: {"allOf": s}),
        st.lists(objects | leaves(), min_size=2, max_size=2).map(lambda s: {"oneOf": s}),
        st.tuples(objects, inner).map(lambda s: s[0] | {"anyOf": [s[1], {"required": ["a"]}]}),
    )


SCHEMAS = st.recursive(leaves(), branches, max_leaves=6)
HONEST = ("nothing is valid", "may both hold", "must all hold", "another schema", "beside enum",
          "combined", "ambiguous", "can never end")  # fmt: skip


def mutated(text, dice):
    at = dice.randrange(len(text) + 1)
    extra = dice.choice(["", dice.choice('0123456789"{}[],:.-eax\\ é\n'), "null", text[:3]])
    return text[:at] + extra + text[at + dice.randrange(3) :]


def test_every_sentence_of_any_schema_is_valid_under_it():
    work, expected, refused, made = [], [], [], 0

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(SCHEMAS.filter(lambda schema: isinstance(schema, dict) and schema), st.integers(0))
    def run(schema, seed):
        nonlocal made
        try:
            source = to_gbnf(schema)
        except ValidationFailed as exc:
            refused.append(exc.message)
            return
        made += 1
        walk, dice = Walk(source), random.Random(seed)
        sentences = [walk.sentence(dice, 40) for _ in range(6)]
        for text in sentences:
            assert is_valid(schema, text), (schema, text)
        texts = [*sentences, *(mutated(text, dice) for text in sentences)]
        answers = [walk.accepts(text) for text in texts]
        assert all(answers[: len(sentences)]), (schema, sentences)
        for text, taken in zip(texts, answers, strict=True):
            assert is_valid(schema, text) or not taken, (schema, text)
        work.append((source, texts))
        expected.append(answers)

    run()
    assert made > 10
    assert [why for why in refused if not any(word in why for word in HONEST)] == []
    gbnf_native.agree(work, expected)
