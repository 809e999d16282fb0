"""The files of the simulator: found by name or path, read strictly, and wrong with a line.

Owns how TOML and JSONL become structs. Knows nothing of what is in them.
"""

from __future__ import annotations

import json
import re
import tomllib
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from rbee.errors import InvalidRequest, NotFound

T = TypeVar("T")
MOST_BYTES = 64 << 20
"""Of one file."""
_STEP = re.compile(r"\.([A-Za-z_][\w-]*)|\[(\d+|\.\.\.)\]")


class Paper(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of what is in such files: a key that is not known is an error."""


def shipped(folder: str) -> dict[str, Traversable]:
    """Name → file of what comes with rbee in that folder (`traces` or `fleets`), by name."""
    there = resources.files("rbee.sim").joinpath(folder)
    found = [f for f in there.iterdir() if f.name.endswith((".toml", ".jsonl"))]
    return {f.name.rpartition(".")[0]: f for f in sorted(found, key=lambda f: f.name)}


def read(name: str, folder: str) -> tuple[str, str]:
    """The text of a shipped file by its name, or of a file by its path; and what to call it.

    Raises NotFound, InvalidRequest.
    """
    ours = shipped(folder)
    file: Traversable = ours[name] if name in ours else Path(name)
    try:
        if isinstance(file, Path) and file.stat().st_size > MOST_BYTES:
            raise InvalidRequest(
                f"{name}: larger than {MOST_BYTES >> 20} MiB",
                action="A trace can be described instead of listed: see docs/simulation.md.",
            )
        return file.read_text("utf-8"), name if name in ours else str(file)
    except UnicodeDecodeError as exc:
        raise InvalidRequest(f"{name}: not UTF-8 text", action="Save it as UTF-8.") from exc
    except OSError as exc:
        kind = folder.removesuffix("s")
        raise NotFound(
            f"no {kind} {name!r}: {exc.strerror or exc}",
            action=f"Give a path, or one of: {', '.join(ours)}.",
        ) from exc


def from_toml(text: str, file: str, kind: type[T]) -> T:
    """One struct. Raises InvalidRequest with file, line and what."""
    raw: dict[str, Any] = {}
    try:
        raw = tomllib.loads(text)
        return msgspec.convert(raw, kind)
    except tomllib.TOMLDecodeError as exc:
        said = str(exc)
        found = re.search(r" \(at line (\d+), column \d+\)$", said)
        line = int(found[1]) if found else text.count("\n") + 1
        raise wrong(file, line, said[: found.start()] if found else said) from exc
    except msgspec.ValidationError as exc:
        what, path = _parts(exc)
        path = _named(raw, kind, path)
        raise wrong(file, _line_of(text, path, what), what, path) from exc


def from_json(line: str, file: str, number: int, kind: type[T]) -> T:
    """One struct of one line. Raises InvalidRequest with file, line and what."""
    try:
        return msgspec.convert(json.loads(line), kind)
    except (ValueError, RecursionError) as exc:
        if isinstance(exc, msgspec.ValidationError):
            what, path = _parts(exc)
            raise wrong(file, number, what, path) from exc
        raise wrong(file, number, f"not JSON: {exc}") from exc


def wrong(file: str, line: int | None, what: str, path: str = "") -> InvalidRequest:
    """The error for a file: where it is, and what."""
    where = f"{file}:{line}" if line is not None else file
    named = f"{path}: " if path else ""
    return InvalidRequest(
        f"{where}: {named}{what}", action="Correct the file; docs/simulation.md has the format."
    )


def line_of(text: str, path: str) -> int | None:
    """The line of TOML where `stream[2].every` stands, or the table it should stand in."""
    return _line_of(text, path, "")


def _parts(exc: msgspec.ValidationError) -> tuple[str, str]:
    what, _, path = str(exc).partition(" - at `")
    return what, path.rstrip("`").removeprefix("key in `").removeprefix("$").removeprefix(".")


def _named(raw: dict[str, Any], kind: type[Any], path: str) -> str:
    """`models[...].size` with the key that is meant, which msgspec leaves out."""
    table, free, rest = path.partition("[...]")
    entries: Any = raw.get(table)
    if not free or not isinstance(entries, dict):
        return path
    for key, value in entries.items():
        try:
            msgspec.convert(raw | {table: {key: value}}, kind)
        except msgspec.ValidationError as exc:
            if _parts(exc)[1] == path:
                return f"{table}.{key}{rest}"
    return path


def _line_of(text: str, path: str, what: str) -> int | None:
    steps: list[Any] = _STEP.findall(f".{path}" if path and not path.startswith("[") else path)
    unknown = re.search(r"unknown field `([^`]+)`", what)
    if unknown:
        steps.append((unknown[1], ""))
    lines = text.splitlines()
    at, name = 0, ""
    for key, index in steps:
        if index:
            if index != "...":
                at = _nth(lines, at, name, int(index))
            continue
        found = _key(lines, at, f"{name}.{key}" if name else key, key)
        at = found if found is not None else at
        name = f"{name}.{key}" if name else key
    return at + 1 if steps else None


def _nth(lines: list[str], start: int, name: str, index: int) -> int:
    """The header of the table of that number; `start` is on the first one."""
    header = re.compile(rf"\s*\[\[\s*{re.escape(name)}\s*\]\]")
    found = [n for n in range(start, len(lines)) if header.match(lines[n])]
    return found[index] if index < len(found) else start


def _key(lines: list[str], start: int, table: str, key: str) -> int | None:
    header = re.compile(rf"\s*\[\[?\s*{re.escape(table)}\s*\]")
    assigned = re.compile(rf"\s*\"?{re.escape(key)}\"?\s*[=.]")
    for n in range(start, len(lines)):
        if header.match(lines[n]) or assigned.match(lines[n]):
            return n
        other = re.match(r"\s*\[", lines[n])
        if other and n > start and not re.match(rf"\s*\[\[?\s*{re.escape(table)}", lines[n]):
            inside = table.rpartition(".")[0]
            if inside and not re.match(rf"\s*\[\[?\s*{re.escape(inside)}", lines[n]):
                return None
    return None
