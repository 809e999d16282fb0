"""Whether the queen who is said to be at an address is this user's own, and still lives.

What shows that somebody may do everything is not for whoever has taken the port of a queen that was
killed. So her state file names her process and when that began, and both must be so now: a number
alone is given to another process soon, and to any after the machine was started anew.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from rbee.paths import Paths

_START = 19
"""Of the fields behind the name in /proc/PID/stat: the 22nd of all, proc_pid_stat(5)."""


class _Said(msgspec.Struct):
    url: str
    pid: int
    born: str = ""


def our_url(paths: Paths) -> str | None:
    """Where this user's own queen is; None when none runs."""
    try:
        said = msgspec.json.decode(paths.state_file.read_bytes(), type=_Said)
    except (OSError, msgspec.MsgspecError):
        return None
    return said.url.rstrip("/") if is_that(said.pid, said.born) else None


def is_that(pid: int, born: str) -> bool:
    """Whether a process lives and is the one that began then (`born_of`)."""
    return born != "" and born_of(pid) == born


def born_of(pid: int) -> str:
    """When a process began, comparable for equality on this machine only; empty: there is none."""
    if Path("/proc/self/stat").exists():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2]
        except OSError:
            return ""
        state, *_ = told = fields.split()
        return "" if state == "Z" else told[_START]
    import psutil  # 15 ms

    try:
        process = psutil.Process(pid)
        return "" if process.status() == psutil.STATUS_ZOMBIE else str(process.create_time())
    except psutil.Error:
        return ""
