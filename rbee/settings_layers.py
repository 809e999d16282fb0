"""The layers settings are read from: file, environment, command line.

Owns finding the place (file:line, variable, flag) a value stands at and checking it there; never
knows which settings there are (they are handed in) and never decides which layer wins.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from rbee.errors import SettingsError

SECRET = frozenset({"queen.api_key"})
"""Settings whose value is never shown."""


@dataclass(frozen=True)
class Field:
    """One setting as documentation and loading need it."""

    section: str
    key: str
    kind: Any
    default: Any
    description: str

    @property
    def name(self) -> str:
        """`queen.port`"""
        return f"{self.section}.{self.key}"

    @property
    def variable(self) -> str:
        """`RBEE_QUEEN_PORT`"""
        return f"RBEE_{self.section}_{self.key}".upper()

    @property
    def flag(self) -> str:
        """`--port`; those of `log` carry their section."""
        name = f"log-{self.key}" if self.section == "log" else self.key
        return "--" + name.replace("_", "-")


def file_layer(path: Path, known: Mapping[str, Field]) -> Iterator[tuple[str, Any, str]]:
    """(name, checked value, file:line) of each setting in a TOML file; nothing without a file.

    Raises SettingsError for what is no TOML, an unknown table or key, and a bad value. Entries of
    the free table `keys` come as `keys.ACTION`.
    """
    sections = _sections(known)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return
    except (OSError, UnicodeDecodeError) as exc:
        raise SettingsError(f"{path}: cannot be read: {exc}") from exc
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        where = re.search(r"at line (\d+)", str(exc))
        line = where.group(1) if where else str(len(text.splitlines()) or 1)
        raise SettingsError(
            f"{path}:{line}: not valid TOML: {exc}", action=f"Correct line {line} of {path}."
        ) from exc
    lines = _lines(text)
    for section, body in table.items():
        here = f"{path}:{lines.get(section, _first_under(lines, section))}"
        if section not in sections:
            raise unknown_setting(section, sections, here)
        if not isinstance(body, dict):
            raise SettingsError(f"{here}: {section} is a table: write it as [{section}]")
        for key, value in body.items():
            name = f"{section}.{key}"
            origin = f"{path}:{lines.get(name, _first_under(lines, name))}"
            if section == "keys":
                if not isinstance(value, str):
                    raise SettingsError(f"{origin}: {name}: expected the name of a key in quotes")
                yield name, value, origin
                continue
            if name not in known:
                raise unknown_setting(name, tuple(known), origin)
            yield name, _convert(known[name], value, origin, strict=True), origin


def env_layer(env: Mapping[str, str], known: Mapping[str, Field]) -> Iterator[tuple[str, str, str]]:
    """(name, text, variable) of each setting in the environment.

    Raises SettingsError for a variable that starts like a setting's (`RBEE_QUEEN_`) and is none.
    """
    by_variable = {field.variable: field.name for field in known.values()}
    prefixes = tuple(f"RBEE_{section.upper()}_" for section in _sections(known))
    for variable in sorted(env):
        if variable in by_variable:
            yield by_variable[variable], env[variable], variable
        elif variable.startswith("RBEE_KEYS_"):
            raise SettingsError(f"{variable}: keys are set in the file only, under [keys]")
        elif variable.startswith(prefixes):
            raise unknown_setting(variable, tuple(by_variable), "the environment")


def flag_layer(
    flags: Mapping[str, str], known: Mapping[str, Field]
) -> Iterator[tuple[str, str, str]]:
    """(name, text, flag) of each setting given as a flag. Raises SettingsError for unknown ones."""
    for name, text in flags.items():
        if name not in known:
            raise unknown_setting(name, tuple(known), "the command line")
        yield name, text, known[name].flag


def parse(field: Field, text: str, origin: str) -> Any:
    """A value from text: lists are `a,b`, tables `a=b,c=d`. SettingsError names `origin`."""
    value: Any = text
    if isinstance(field.default, list):
        value = [part.strip() for part in text.split(",") if part.strip()]
    elif isinstance(field.default, dict):
        pairs = (part.partition("=") for part in text.split(",") if part.strip())
        value = {key.strip(): item.strip() for key, _, item in pairs}
    return _convert(field, value, origin, strict=False)


_PLAIN = {
    "Expected `float`, got `str`": "Expected a number",
    "Expected `int`, got `str`": "Expected a whole number",
    "Expected `bool`, got `str`": "Expected true or false",
}


def _convert(field: Field, value: Any, origin: str, *, strict: bool) -> Any:
    try:
        return msgspec.convert(value, field.kind, strict=strict)
    except msgspec.ValidationError as exc:
        reason = str(exc).split(" - at ", 1)[0]
        reason = _PLAIN.get(reason, reason)
        shown = "…" if field.name in SECRET else repr(value)
        raise SettingsError(
            f"{origin}: {field.name} = {shown}: {reason[0].lower()}{reason[1:]}",
            action=f"{field.description} The default is {field.default!r}.",
            setting=field.name,
        ) from exc


def _sections(known: Mapping[str, Field]) -> tuple[str, ...]:
    return (*dict.fromkeys(field.section for field in known.values()), "keys")


def unknown_setting(name: str, known: tuple[str, ...], origin: str) -> SettingsError:
    """The error for a name that none of `known` is, with the nearest."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
    return SettingsError(
        f"{origin}: unknown setting {name}",
        action=f"Did you mean {near}? `rbee config show` prints every setting.",
        setting=name,
        nearest=near,
    )


_HEAD = re.compile(r"\s*\[\s*([^\[\]]+?)\s*\]")
_PART = r"""(?:[\w-]+|"[^"]*"|'[^']*')"""
_ENTRY = re.compile(rf"\s*({_PART}(?:\s*\.\s*{_PART})*)\s*=")


def _lines(text: str) -> dict[str, int]:
    """First line of each table and key; values that span lines are not looked into."""
    found: dict[str, int] = {}
    table = ""
    for number, line in enumerate(text.splitlines(), 1):
        if head := _HEAD.match(line):
            table = _plain(head.group(1))
            found.setdefault(table, number)
        elif entry := _ENTRY.match(line):
            key = _plain(entry.group(1))
            found.setdefault(f"{table}.{key}" if table else key, number)
    return found


def _plain(dotted: str) -> str:
    return ".".join(part.strip().strip("\"'") for part in dotted.split("."))


def _first_under(lines: Mapping[str, int], prefix: str) -> int:
    return min((n for name, n in lines.items() if name.startswith(f"{prefix}.")), default=1)
