"""The command `rbee-hive` on another machine: how it is called there, and what it says.

Owns the words of both; never connects.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from rbee.errors import RbeeError, RemoteCommandFailed
from rbee.protocol.base import decode
from rbee.protocol.hives import HiveUp

if TYPE_CHECKING:
    from rbee.ssh.session import Done

ABSENT = 113
"""The status of REMOTE where rbee is not installed."""
REMOTE = f"""
root=$1; shift
[ -n "$root" ] || root=${{XDG_DATA_HOME:-$HOME/.local/share}}/rbee
[ -x "$root/current/bin/rbee-hive" ] || exit {ABSENT}
exec "$root/current/bin/rbee-hive" "$@"
"""
"""sh: runs the installed hive's command; $1 is where rbee is, empty for the usual place."""
_SAID = re.compile(r"error (?P<code>[A-Z_]+): (?P<message>.*)(?:\n  → (?P<action>.*))?")


def words(root: str | None, *flags: str) -> list[str]:
    """The command line; `root`: where rbee is, None for the usual place."""
    return ["sh", "-c", REMOTE, "sh", root or "", *flags]


def read(done: Done, name: str) -> HiveUp:
    for line in reversed(done.stdout.decode("utf-8", "replace").splitlines()):
        if line.startswith("rbee-hive {"):
            return decode(line.removeprefix("rbee-hive "), HiveUp)
    raise RemoteCommandFailed(
        f"the hive of {name} was not told of",
        action=f"rbee hive logs {name}",
        tail=done.last_lines,
    )


def said(done: Done, name: str) -> RbeeError:
    """What `rbee-hive` said on its way out."""
    text = done.stderr.decode("utf-8", "replace")
    found = _SAID.search(text)
    if found is None:
        last = done.last_lines[-1] if done.last_lines else f"status {done.status}"
        return RemoteCommandFailed(
            f"rbee-hive on {name} failed: {last}", status=done.status, tail=done.last_lines
        )
    details = {"suggested_action": found["action"]} if found["action"] else {}
    message = f"{name}: {found['message'].strip()}"
    body = {"error": {"code": found["code"], "message": message, "details": details}}
    return RbeeError.from_body(body, 502)
