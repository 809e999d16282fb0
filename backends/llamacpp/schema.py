"""JSON schemas as GBNF: the answer can then only be a text that is valid under the schema.

Owns what of JSON schema (2020-12) is enforced. Every text of the grammar is valid under the schema;
not every valid text is in the grammar, since an answer needs one good spelling only:

- `{}` at the top is any JSON object; elsewhere it is any JSON value.
- Properties come in the order of `properties`; optional ones may be left out. Others may only come
  when `additionalProperties` is true or a schema, or when no property is named at all.
- Keywords without `type` mean the type they are about: `minLength` alone is a string.
- `oneOf` is taken only where its branches exclude each other; `anyOf` always.
- `format` date, time, date-time, uuid and email are enforced; others are annotations, as JSON
  schema has it, and say nothing.
- Numbers have at most 15 digits, in a range no exponent; white space is short (json_gbnf.py).

What limits validity and cannot be enforced (`multipleOf`, `not`, `uniqueItems`, …) is refused by
name. llama.cpp's and llama-cpp-python's own converters pass over such words silently.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, cast

from rbee.errors import ValidationFailed

from . import gbnf
from .gbnf_syntax import MAX_REPEAT
from .json_gbnf import (
    COLON,
    FORMATS,
    MAX_DIGITS,
    RULES,
    Decimals,
    class_of,
    integers,
    json_text,
    literal,
)
from .pattern import pattern
from .schema_merge import KINDS, MAX_DEPTH, TYPES, Combined, Plain, fail, kind_of, step

MAX_RULES = 3000
MAX_PROPERTIES = 200
MAX_COUNT = MAX_REPEAT
"""Of minLength, maxLength, minItems and maxItems."""
_NAMES = re.compile(r'"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]|([a-zA-Z][a-zA-Z0-9-]*)')
_ESCAPED = frozenset({0x22, 0x5C, *range(0x20)})
"""Characters of a key that are written as escapes; lone surrogates are too."""


def to_gbnf(schema: Mapping[str, Any]) -> str:
    """A checked grammar for a schema. Raises ValidationFailed, field `json_schema`, with the place.

    The schema is a JSON document: its keys are texts and its numbers finite.
    """
    try:
        converter = _Converter(schema)
        text = converter.grammar(schema)
    except RecursionError:
        fail("", f"is nested more than {MAX_DEPTH} deep", "depth")
    try:
        gbnf.check(text)
    except ValidationFailed as exc:
        name = text.split("\n")[exc.details["line"] - 1].partition(" ")[0]  # a rule is a line
        place = converter.places.get(name, "")
        reason = exc.message.partition(": ")[2].partition(": ")[2] or exc.message
        fail(place, f"its grammar is refused: {reason}", exc.details["constraint"])
    return text


class _Converter:
    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._schemas = Combined(schema)
        self._bodies: dict[str, str] = {}
        self._known: dict[str, str] = {}
        self._references: dict[str, str] = {}
        self._depth = 0
        self.places: dict[str, str] = {}
        """JSON pointers by rule."""
        self._place = ""

    def grammar(self, schema: Mapping[str, Any]) -> str:
        found = self._schemas.alternatives(schema, "")
        free = bool(found) and not any(found)
        self._references["#"] = "root"
        root = "object" if free else self._expression(schema, "")
        if root is None:
            fail("", "nothing is valid under it", "a schema that can hold")
        bodies = {"root": root} | self._bodies
        todo = list(bodies)
        while todo:
            for name in _NAMES.findall(bodies[todo.pop()]):
                if name and name not in bodies:
                    bodies[name] = RULES[name]
                    todo.append(name)
        return "".join(f"{name} ::= {body}\n" for name, body in bodies.items())

    def _rule(self, body: str) -> str:
        """The name of a rule with this body; the same for the same body."""
        body = body if body.strip() else '""'
        if (name := self._known.get(body)) is None:
            name = self._known[body] = self._named(body)
        return name

    def _named(self, body: str) -> str:
        name = f"r{len(self._bodies)}"
        if len(self._bodies) == MAX_RULES:
            fail(self._place, f"the schema needs more than {MAX_RULES} rules", "size")
        self._bodies[name] = body
        self.places[name] = self._place
        return name

    def _value(self, schema: Any, place: str) -> str | None:
        """The name of a rule for a schema; None where nothing is valid under it."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            fail(place, f"is nested more than {MAX_DEPTH} deep", "depth")
        before, self._place = self._place, place
        body = self._expression(schema, place)
        name = body if body is None or re.fullmatch("[a-z0-9-]+", body) else self._rule(body)
        self._place = before
        self._depth -= 1
        return name

    def _expression(self, schema: Any, place: str) -> str | None:
        found = [
            self._reference(plain["$ref"], place) if "$ref" in plain else self._plain(plain, place)
            for plain in self._schemas.alternatives(schema, place)
        ]
        return " | ".join(dict.fromkeys(body for body in found if body is not None)) or None

    def _reference(self, reference: str, place: str) -> str:
        if (name := self._references.get(reference)) is None:
            target = self._schemas.target(reference, place)
            name = self._references[reference] = self._named("")
            body = self._value(target, reference[1:])
            if body is None:
                fail(reference[1:], "nothing is valid under it", "a schema that can hold")
            self._bodies[name] = body
            self.places[name] = reference[1:]
        return name

    def _plain(self, plain: Plain, place: str) -> str | None:
        kinds: list[str] | None = plain.get("type")
        if "enum" in plain:
            return self._enum(plain, kinds, place)
        if kinds is None:
            kinds = [kind for kind in TYPES if kind in {KINDS[word] for word in plain}]
        if not kinds:
            return "value"
        if "number" in kinds:
            kinds = [kind for kind in kinds if kind != "integer"]
        bodies = {
            "object": self._object,
            "array": self._array,
            "string": self._string,
            "number": self._number,
            "integer": self._integer,
        }
        found = [bodies[kind](plain, place) if kind in bodies else kind for kind in kinds]
        return " | ".join(body for body in found if body is not None) or None

    def _enum(self, plain: Plain, kinds: list[str] | None, place: str) -> str | None:
        for word in sorted(plain.keys() - {"enum", "type"}):
            if word != "format" or plain[word] in FORMATS:
                fail(step(place, word), "is not supported beside enum or const")
        found: set[str] = set()
        for value in plain["enum"]:
            kind = kind_of(value)
            if kinds is None or kind in kinds or (kind == "integer" and "number" in kinds):
                try:
                    found.add(json_text(value))
                except ValueError:
                    fail(step(place, "enum"), "has a number that JSON has no text for")
        return self._one_of(sorted(found)) if found else None

    def _one_of(self, texts: list[str]) -> str:
        """Any of these sorted, different texts; what several begin with is written once."""
        if len(texts) < 3:
            return " | ".join(literal(text) for text in texts)
        both = zip(texts[0], texts[-1], strict=False)
        same = "".join(a for a, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], both))
        rest = [text[len(same) :] for text in texts]
        groups = [list(group) for _, group in itertools.groupby(rest, key=lambda text: text[:1])]
        parts = [
            literal(group[0]) if len(group) == 1 else self._rule(self._one_of(group))
            for group in groups
        ]
        body = " | ".join(parts)
        return f"{literal(same)} {self._rule(body)}" if same else body

    def _object(self, plain: Plain, place: str) -> str | None:
        required: list[str] = plain.get("required", [])
        rest: Any = plain.get("additionalProperties")
        named: dict[str, Any] = dict(plain.get("properties", {}))
        named |= {key: True if rest is None else rest for key in required if key not in named}
        if rest is None:
            rest = not named and "properties" not in plain
        if len(named) > MAX_PROPERTIES:
            fail(place, f"has more than {MAX_PROPERTIES} properties", "size")
        members: list[tuple[str, bool]] = []
        for key, schema in named.items():
            value = self._value(schema, step(place, "properties", key))
            if value is not None:
                members.append((f"{self._key(key, place)} {COLON} {value}", key in required))
            elif key in required:
                return None
        more = None if rest is False else self._value(rest, step(place, "additionalProperties"))
        self._check_counts(plain, place, len(set(required)), None if more else len(members))
        if more is not None and not named:
            more = f"char* {literal(chr(34))} {COLON} {more}"
        elif more is not None:
            more = f"{self._other_key(list(named))} {literal(chr(34))} {COLON} {more}"
        return self._members(members, more)

    def _check_counts(self, plain: Plain, place: str, least: int, most: int | None) -> None:
        if plain.get("minProperties", 0) > least:
            reason = "is only supported up to the number of required properties"
            fail(step(place, "minProperties"), reason)
        if "maxProperties" in plain and (most is None or plain["maxProperties"] < most):
            fail(step(place, "maxProperties"), "is not supported below the number of properties")

    def _key(self, key: str, place: str) -> str:
        try:
            quoted = literal(json_text(key))
        except ValueError:
            fail(place, "has a property whose name JSON has no text for")
        return '"' + quoted.removeprefix('"\\"')  # the rule before has written the opening quote

    def _members(self, members: list[tuple[str, bool]], more: str | None) -> str:
        """An object of members in this order, (body, needed), then any number of `more`.

        The comma and the quote stand before the choice of the next member, so that the grammar
        keeps one reading while they are written.
        """
        following, after = None, ""  # what comes instead of a further member, and with its comma
        if more is not None:
            name = self._rule(more)
            after = f'("," ws "\\"" {name})*'
            following = self._rule(f"{name} {after}")
        may_end = True
        for body, needed in reversed(members):
            own = self._rule(f"{body} {after}")
            following = own if needed or following is None else self._rule(f"{own} | {following}")
            may_end = may_end and not needed
            after = self._rule(("| " if may_end else "") + f'"," ws "\\"" {following}')
        if following is None:
            return '"{" ws "}"'
        inner = f'"\\"" {following} ws'
        return f'"{{" ws ({inner})? "}}"' if may_end else f'"{{" ws {inner} "}}"'

    def _other_key(self, names: list[str]) -> str:
        """The characters of a key that is none of these, escapes left out, so that none is hidden.

        A tree of the names: after each beginning of one, whatever leaves the tree.
        """
        ends = "" in names
        codes = {ord(name[0]) for name in names if name} - _ESCAPED
        chars = [chr(code) for code in sorted(codes) if not 0xD800 <= code <= 0xDFFF]
        edges = [-1, *sorted({0x7F, 0xD800, *_ESCAPED, *map(ord, chars)}), 0x110000]
        spans = [
            (max(a + 1, 0xE000) if a == 0xD800 else a + 1, b - 1)
            for a, b in itertools.pairwise(edges)
        ]
        parts = [class_of(tuple(span for span in spans if span[0] <= span[1])) + " plain*"]
        for char in chars:
            deeper = self._other_key([name[1:] for name in names if name[:1] == char])
            parts.append(f"{literal(char)} {deeper}")
        return self._rule(("" if ends else "| ") + " | ".join(parts))

    def _array(self, plain: Plain, place: str) -> str | None:
        first: list[Any] = plain.get("prefixItems", [])
        least, most = self._counts(plain, "Items", place)
        most = math.inf if most is None else most
        ahead: list[str] = []
        rest: str | None = None
        for i, schema in enumerate(first[: int(min(most, len(first)))]):
            if (value := self._value(schema, step(place, "prefixItems", i))) is None:
                most = i
                break
            ahead.append(value)
        if most > len(ahead):
            rest = self._value(plain.get("items", True), step(place, "items"))
            most = len(ahead) if rest is None else most
        if least > most:
            return None
        if most == 0:
            return '"[" ws "]"'
        after = ""
        if rest is not None:
            ahead = ahead or [rest]
            low = max(0, least - len(ahead))
            high = "" if most == math.inf else int(most) - len(ahead)
            if high != 0:
                name = self._rule(f'"," ws {rest}')
                after = f"{name}{{{low},{high}}}"
        for i in range(len(ahead) - 1, 0, -1):
            after = self._rule(("| " if i >= least else "") + f'"," ws {ahead[i]} {after}')
        inner = f"{ahead[0]} {after} ws"
        return f'"[" ws ({inner})? "]"' if least == 0 else f'"[" ws {inner} "]"'

    def _string(self, plain: Plain, place: str) -> str | None:
        least, most = self._counts(plain, "Length", place)
        bounded = least > 0 or most is not None
        form = plain.get("format") if plain.get("format") in FORMATS else None
        source = plain.get("pattern")
        if sum((bounded, form is not None, source is not None)) > 1:
            word = "pattern" if source is not None else "format"
            fail(step(place, word), "cannot be combined with other limits on the same string")
        if source is not None:
            try:
                return f'"\\"" {self._rule(pattern(source, self._rule))} "\\""'
            except ValueError as exc:
                fail(step(place, "pattern"), str(exc))
        if form is not None:
            return f'"\\"" {form} "\\""'
        if most is not None and most < least:
            return None
        if not bounded:
            return "string"
        return f'"\\"" char{{{least},{"" if most is None else most}}} "\\""'

    def _counts(self, plain: Plain, what: str, place: str) -> tuple[int, int | None]:
        for word in (f"min{what}", f"max{what}"):
            if plain.get(word, 0) > MAX_COUNT:
                fail(step(place, word), f"is above {MAX_COUNT}, the most that is enforced", "size")
        most = plain.get(f"max{what}")
        return int(plain.get(f"min{what}", 0)), None if most is None else int(most)

    def _bounds(
        self, plain: Plain, place: str
    ) -> tuple[tuple[Decimal, bool] | None, tuple[Decimal, bool] | None]:
        """The tightest lower and upper bound, each with whether it is left out itself."""
        found: list[tuple[Decimal, bool] | None] = []
        for word, choose in (("inimum", max), ("aximum", min)):
            kinds = ((f"m{word}", False), (f"exclusiveM{word}", True))
            bounds = [(_decimal(plain[key]), out) for key, out in kinds if key in plain]
            for bound, _ in bounds:
                if not bound.is_finite() or abs(bound.adjusted()) > MAX_DIGITS:
                    fail(step(place, f"m{word}"), f"has more than {MAX_DIGITS} digits", "size")
            tight = choose((bound for bound, _ in bounds), default=None)
            found.append(None if tight is None else (tight, (tight, True) in bounds))
        return found[0], found[1]

    def _integer(self, plain: Plain, place: str) -> str | None:
        low, high = self._bounds(plain, place)
        if low is None and high is None:
            return "integer"
        least = None if low is None else _whole(low[0], math.ceil, 1 if low[1] else 0)
        most = None if high is None else _whole(high[0], math.floor, -1 if high[1] else 0)
        return " | ".join(integers(least, most)) or None

    def _number(self, plain: Plain, place: str) -> str | None:
        low, high = self._bounds(plain, place)
        if low is None and high is None:
            return "number"
        least, above = low or (None, False)
        most, below = high or (None, False)
        try:
            found = Decimals(least, most, above=above, below=below).alternatives()
        except ValueError as exc:
            fail(step(place, "minimum" if low else "maximum"), str(exc))
        return " | ".join(found) or None


def _decimal(bound: float) -> Decimal:
    """What the document says, not the binary fraction beside it."""
    return Decimal(bound) if isinstance(bound, int) else Decimal(repr(bound))


def _whole(bound: Decimal, towards: Any, beyond: int) -> int:
    """The first integer within a bound; `beyond` is added where the bound itself is left out."""
    whole = cast("int", towards(bound))
    return whole + beyond if whole == bound else whole
