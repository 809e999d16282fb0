"""The command `rbee-hive` on another machine: how it is called there, and what it says.

Owns the words of both; never connects.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from rbee.errors import (
    BY_CODE,
    HostKeyChanged,
    HostKeyRevoked,
    HostKeyUnknown,
    RbeeError,
    RemoteCommandFailed,
    ValidationFailed,
)
from rbee.protocol.base import decode
from rbee.protocol.hives import HiveUp

if TYPE_CHECKING:
    from rbee.ssh.session import Done

ABSENT = 113
"""The status of REMOTE where rbee is not installed."""
REMOTE = f"""
root=$1; version=$2; shift 2
[ -n "$root" ] || root=${{XDG_DATA_HOME:-$HOME/.local/share}}/rbee
[ -x "$root/$version/bin/rbee-hive" ] || exit {ABSENT}
exec "$root/$version/bin/rbee-hive" "$@"
"""
"""sh: runs the installed hive's command; $1 is where rbee is, empty for the usual place; $2 the
folder of a version in it."""
LAST_WORDS = 4096
"""Bytes of what it said last in which an error is looked for."""
ABOUT_KEYS = (HostKeyUnknown, HostKeyChanged, HostKeyRevoked)
"""Errors that a user answers with trust; what a machine says of itself is none of them."""
_SAID = re.compile(r"error (?P<code>[A-Z_]+): (?P<message>.*)(?:\n  → (?P<action>.*))?")


def words(root: str | None, *flags: str, version: str = "") -> list[str]:
    """The command line; `root`: where rbee is, None for the usual place; `version`: the name of
    one that is installed there, in place of the one in use."""
    place = f"versions/{version}" if version else "current"
    return ["sh", "-c", REMOTE, "sh", root or "", place, *flags]


def read(done: Done, name: str) -> HiveUp:
    """The hive that it told of. Raises RemoteCommandFailed for anything else."""
    for line in reversed(done.stdout.decode("utf-8", "replace").splitlines()):
        if line.startswith("rbee-hive {"):
            return _checked(line.removeprefix("rbee-hive "), name)
    lines = ["…" if "token" in line else line for line in done.last_lines]
    raise _nonsense(name, f"it said {lines[-1][:200] if lines else 'nothing'}", lines)


def port_of(url: str) -> int:
    """The port of a loopback address; 0 where there is none in it."""
    try:
        return urlsplit(url).port or 0
    except ValueError:
        return 0


def _checked(text: str, name: str) -> HiveUp:
    """Its line has the hive's token: no error tells it."""
    try:
        up = decode(text, HiveUp)
    except ValidationFailed as exc:
        raise _nonsense(name, exc.message, []) from exc
    if up.name != name:
        raise _nonsense(name, f"it calls itself {up.name[:80]!r}", [])
    if not port_of(up.url):
        raise _nonsense(name, f"{up.url[:80]!r} is no address of a hive", [])
    return up


def _nonsense(name: str, why: str, tail: list[str]) -> RemoteCommandFailed:
    return RemoteCommandFailed(
        f"rbee-hive on {name} did not tell where its hive is: {why}",
        action=f"Put it there anew: rbee hive install {name}",
        tail=tail,
    )


def said(done: Done, name: str) -> RbeeError:
    """What `rbee-hive` said on its way out."""
    text = done.stderr[-LAST_WORDS:].decode("utf-8", "replace")
    found = _SAID.search(text)
    if found is None:
        last = done.last_lines[-1] if done.last_lines else f"status {done.status}"
        return RemoteCommandFailed(
            f"rbee-hive on {name} failed: {last}", status=done.status, tail=done.last_lines
        )
    kind = BY_CODE.get(found["code"], RemoteCommandFailed)
    kind = RemoteCommandFailed if issubclass(kind, ABOUT_KEYS) else kind
    return kind(f"{name}: {found['message'].strip()}", action=found["action"])
