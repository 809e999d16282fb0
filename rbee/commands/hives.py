"""`rbee hive list|show|status|set|scan`: the machines as the queen knows them.

Owns what is asked of her and what is printed; how it looks is `hive_tables`'s and `hive_page`'s.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, cast

from rbee.commands.common import ask
from rbee.commands.hive_page import shown
from rbee.commands.hive_tables import around, listed
from rbee.commands.places import check_hive
from rbee.commands.tables import room
from rbee.errors import InvalidRequest, ValidationFailed
from rbee.narration import Narrator, printable
from rbee.output import print_json
from rbee.protocol.base import convert
from rbee.protocol.machines import HiveChange

T = TypeVar("T")
ADDS = "`rbee hive add NAME USER@HOST` adds a machine, `rbee hive scan` shows what could be added."
_HELP = {
    "target": "Give it as USER@HOST, USER@HOST:PORT or a Host of ~/.ssh/config.",
    "path": "Give an absolute path on that machine.",
    "python": "Give the absolute path of a Python on that machine.",
    "models_dir": "Give an absolute path on that machine.",
    "labels": "Give it as --label region=attic: a name of a-z, 0-9, - and _, up to 64 characters.",
    "accept": "Give it as SHA256:… and 43 letters, as `ssh-keygen -lf` shows it.",
    "extras": "Name extras of rbee: --extra llamacpp.",
}


def listing(*, as_json: bool) -> int:
    """`rbee hive list`"""
    found = ask(lambda queen: queen.hives())
    if as_json:
        print_json({"hives": found})
        return 0
    if found:
        lines = listed(found, width=room(), now=time.time())
        sys.stdout.write("\n".join(lines) + "\n")
    if not any(hive.record for hive in found):
        none = "" if found else "No hives: this queen runs none of its own. "
        sys.stderr.write(f"{none}{ADDS}\n")
    return 0


def show(name: str, *, as_json: bool) -> int:
    """`rbee hive show NAME`"""
    _print(name, as_json=as_json)
    return 0


def status(name: str, *, as_json: bool) -> int:
    """`rbee hive status NAME`: the same; 1 unless it is online."""
    return 0 if _print(name, as_json=as_json) else 1


def change(name: str, given: Mapping[str, Any], labels: Sequence[str], *, as_json: bool) -> int:
    """`rbee hive set NAME …`: what is remembered of a machine; "" is the default again."""
    check_hive(name, flag="NAME")
    wanted = {key: value for key, value in given.items() if value is not None}
    if labels:
        wanted["labels"] = labels_of(labels)
    if not wanted:
        raise InvalidRequest("nothing to change was named", action="rbee hive set --help")
    body = checked(wanted, HiveChange)
    hive = ask(lambda queen: queen.change_hive(name, body))
    if as_json:
        print_json(hive)
        return 0
    names = ", ".join(key.replace("_", "-") for key in wanted)
    sys.stdout.write(f"{name}: {names} changed\n")
    if {"models_dir", "path", "python"} & wanted.keys():
        kept = "rbee hive install" if {"path", "python"} & wanted.keys() else "rbee hive restart"
        Narrator().say(f"{kept} {name} has it take effect")
    return 0


def scan(*, lan: bool, as_json: bool) -> int:
    """`rbee hive scan`: what ~/.ssh/config and Tailscale know; `lan`: what announces itself."""
    found = ask(lambda queen: queen.nearby(lan=lan))
    if as_json:
        print_json(found)
        return 0
    if found.machines:
        sys.stdout.write("\n".join(around(found.machines, width=room())) + "\n")
    narrator = Narrator()
    for note in found.notes:
        narrator.say(note)
    if not found.machines:
        more = "" if lan else " `rbee hive scan --lan` looks in this network."
        sys.stderr.write(f"Nothing was found. rbee hive add NAME USER@HOST adds a machine.{more}\n")
    return 0


def labels_of(given: Sequence[str]) -> dict[str, str]:
    """`NAME=TEXT` each; an empty text takes the label away. Raises InvalidRequest."""
    out: dict[str, str] = {}
    for one in given:
        name, equals, text = one.partition("=")
        if not equals:
            raise InvalidRequest(
                f"--label {printable(one)[:80]!r}: no `=` in it", action=_HELP["labels"]
            )
        out[name] = text
    return out


def checked(given: Mapping[str, Any], kind: type[T]) -> T:
    """A body or operation of what was given on the command line. Raises InvalidRequest."""
    try:
        for value in given.values():
            str(value).encode()
        return convert(dict(given), kind)
    except ValidationFailed as exc:
        field = str(exc.details.get("field", "")).partition("[")[0]
        if field not in _HELP:
            raise
        flag = {"labels": "--label", "extras": "--extra", "accept": "--fingerprint"}.get(
            field, "TARGET" if field == "target" else f"--{field.replace('_', '-')}"
        )
        value = given.get(field)
        if isinstance(value, Mapping):
            pairs = cast("Mapping[str, str]", value).items()
            value = " ".join(f"{name}={text}" for name, text in pairs)
        shown = printable(str(value))[:80]
        raise InvalidRequest(f"{flag}: {shown!r} will not do", action=_HELP[field]) from exc
    except UnicodeError as exc:
        raise InvalidRequest("an argument is not valid UTF-8") from exc


def _print(name: str, *, as_json: bool) -> bool:
    """Whether it is online."""
    check_hive(name, flag="NAME")
    hive = ask(lambda queen: queen.hive(name))
    if as_json:
        print_json(hive)
    else:
        sys.stdout.write("\n".join(shown(hive, width=room(), now=time.time())) + "\n")
    return hive.online
