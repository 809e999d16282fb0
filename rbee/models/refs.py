"""How a model is named: `pkg:name`, `file:/abs/path`, `hf:org/repo…`, or an alias for one of them.

Owns the grammar of references. Never touches the disk or the network: whether a reference leads
anywhere is the library's business, or the hub's.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from rbee.errors import InvalidRequest, ModelNotFound
from rbee.models.aliases import TABLE

ALIASES: Mapping[str, str] = {name: alias.ref for name, alias in TABLE.items()}
"""Short names everybody has → what they stand for."""

FORMS = "pkg:NAME, file:/absolute/path, hf:org/repo[:QUANT], or an alias"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")
_SEGMENT = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_HUB = re.compile(
    rf"(?P<repo>{_SEGMENT}/{_SEGMENT})"
    r"(?::(?P<quant>[A-Za-z0-9][A-Za-z0-9_-]{0,31})"
    r"|@(?P<revision>[A-Za-z0-9][A-Za-z0-9._/-]{0,127})(?:::(?P<file>[^\\:]{1,512}))?)?"
)


@dataclass(frozen=True)
class PackageRef:
    """`pkg:name`: a model inside an installed Python package."""

    name: str

    def __str__(self) -> str:
        return f"pkg:{self.name}"


@dataclass(frozen=True)
class FileRef:
    """`file:/abs/path`: a file of this machine."""

    path: Path

    def __str__(self) -> str:
        return f"file:{self.path}"


@dataclass(frozen=True)
class HubRef:
    """`hf:org/repo`, `hf:org/repo:QUANT`, `hf:org/repo@revision`, `hf:org/repo@revision::file`."""

    repo: str
    quant: str | None = None
    revision: str | None = None
    file: str | None = None

    def __str__(self) -> str:
        if self.revision is not None:
            return f"hf:{self.repo}@{self.revision}" + (f"::{self.file}" if self.file else "")
        return f"hf:{self.repo}" + (f":{self.quant}" if self.quant else "")


Ref: TypeAlias = PackageRef | FileRef | HubRef


def parse(text: str, aliases: Mapping[str, str] | None = None) -> Ref:
    """A reference or alias as a Ref; `aliases` come before the built-in ones.

    Raises InvalidRequest for what is no reference, ModelNotFound for a name that is no alias.
    """
    table = {**ALIASES, **(aliases or {})}
    if text not in table:
        return _parse(text, table)
    target = table[text]
    try:
        return _parse(target, {})
    except ModelNotFound as exc:
        raise InvalidRequest(
            f"the alias {text!r} stands for {target!r}, which is no model reference",
            action=f"Correct `models.aliases` in the settings; a reference is {FORMS}.",
        ) from exc


def unknown(name: str, known: Iterable[str]) -> ModelNotFound:
    """The error for a name nobody knows, with the nearest known names."""
    if _HUB.fullmatch(name):
        return ModelNotFound(
            f"no model is called {name!r} here",
            action=f"`rbee model list` shows those that are; on the hub it would be hf:{name}",
            model=name,
        )
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    return ModelNotFound(
        f"no model is called {name!r} here",
        action=f"Did you mean {' or '.join(near)}?"
        if near
        else f"Known names: {', '.join(names) or 'none'}; a file is named file:/absolute/path.",
        model=name,
    )


def _parse(text: str, names: Mapping[str, str]) -> Ref:
    if any(ord(char) < 32 or ord(char) == 127 for char in text):
        raise InvalidRequest(
            f"{text!r} is not a model reference: it has control characters",
            action=f"Name a model as {FORMS}.",
        )
    scheme, colon, rest = text.partition(":")
    if colon and scheme == "pkg":
        return _package(text, rest)
    if colon and scheme == "file":
        return _file(text, rest)
    if colon and scheme == "hf":
        return _hub(text, rest)
    if text.startswith(("/", "./", "../", "~")):
        raise InvalidRequest(
            f"{text!r} is a path, not a model reference",
            action=f"Write it as file:{os.path.abspath(os.path.expanduser(text))}",
        )
    if _NAME.fullmatch(text.lower()) is None and _HUB.fullmatch(text) is None:
        raise InvalidRequest(
            f"{text!r} is not a model reference", action=f"Name a model as {FORMS}."
        )
    raise unknown(text, names)


def _package(text: str, name: str) -> PackageRef:
    if _NAME.fullmatch(name) is None:
        raise InvalidRequest(
            f"{text!r}: a packaged model's name has lower-case letters, digits, '.', '_' and '-'"
        )
    return PackageRef(name)


def _file(text: str, path: str) -> FileRef:
    if not path:
        raise InvalidRequest(f"{text!r} names no file", action="Write file:/absolute/path.")
    if not Path(path).is_absolute():
        raise InvalidRequest(
            f"{text!r}: the path must be absolute", action="Write file:/absolute/path."
        )
    if ".." in Path(path).parts:
        raise InvalidRequest(f"{text!r}: the path must not contain '..'")
    return FileRef(Path(path))


def _hub(text: str, rest: str) -> HubRef:
    match = _HUB.fullmatch(rest)
    if match is None or not is_repo(match["repo"]) or not _is_revision(match["revision"] or "main"):
        raise InvalidRequest(
            f"{text!r} is not a hub reference",
            action="Write hf:org/repo, hf:org/repo:Q4_K_M or hf:org/repo@revision::file.gguf.",
        )
    if match["file"] is not None and not _is_inside(match["file"]):
        raise InvalidRequest(f"{text!r}: the file must lie inside the repository")
    return HubRef(match["repo"], match["quant"], match["revision"], match["file"])


def is_repo(name: str) -> bool:
    """Whether the hub would take it for `org/repo`: its own rules, huggingface_hub's validators."""
    plain = re.fullmatch(rf"{_SEGMENT}/{_SEGMENT}", name) is not None
    return plain and ".." not in name and "--" not in name and not name.endswith(".git")


def _is_revision(name: str) -> bool:
    return ".." not in name and "//" not in name and not name.endswith(("/", "."))


def _is_inside(file: str) -> bool:
    return file.isprintable() and not {"", ".", ".."} & set(file.split("/"))
